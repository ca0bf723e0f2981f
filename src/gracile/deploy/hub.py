"""Smaller networks on the Hugging Face hub: one file of weights, how the dense network was built, and a card.

Nothing that comes from the hub is executed: `from_pretrained` builds the network from gracile's own models, or takes the
dense one that its user built.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gracile.core.errors import GracileError, InputError, StorageError
from gracile.core.files import write_json, write_text
from gracile.core.version import VERSION
from gracile.models import build, normalized
from gracile.shrinking import load_lean, save_lean
from gracile.shrinking.lean import recall, remembered, shapes

FORMAT = 1
WEIGHTS, CONFIG, CARD = "lean.safetensors", "config.json", "README.md"
# What the hub's client lets through, by its version, of the library that carries its requests; others raise an OSError.
TRANSPORTS = ("httpx", "httpx2")
# No configuration of ours comes near it.
LARGEST = 2**20


@dataclass(frozen=True)
class Architecture:
    """How a dense network is built, in words that can be kept.

    Attributes:
        model: a row of `gracile.models.MODELS`.
        settings: what its factory takes.
        normalize: how many numbers its first layer standardises inputs with; 0 where there is no such layer.
    """

    model: str
    settings: Mapping[str, Any]
    normalize: int = 0

    def build(self) -> nn.Module:
        """The dense network, with weights that do not matter.

        Raises:
            InputError: no such model, or a setting it does not take.
        """
        network = build(self.model, **self.settings)
        if not self.normalize:
            return network
        # Wherever the rest is built: its numbers are looked at.
        with torch.device("cpu"):
            return normalized(network, torch.zeros(self.normalize), torch.ones(self.normalize))


def save_pretrained(
    model: nn.Module,
    folder: Path | str,
    *,
    architecture: Architecture | None = None,
    classes: tuple[str, ...] = (),
    card: str = "",
) -> Path:
    """Write what `from_pretrained` reads.

    Args:
        model: made by `gracile.shrink`, trained further or not.
        folder: for ``lean.safetensors``, ``config.json`` and ``README.md``; made if absent.
        architecture: of the dense network; without it, who loads the network has to build the dense one.
        classes: their names, in the order of the outputs.
        card: Markdown, with the hub's header or without.

    Raises:
        InputError: the network was not made by `shrink`, or `architecture` builds another one.
        StorageError: a file cannot be written.
    """
    place, note = Path(folder), recall(model)
    if note is not None and architecture is not None:
        with torch.device("meta"):
            built = shapes(architecture.build())
        if built != note["dense"]:
            raise InputError(
                f"The model '{architecture.model}' with these settings is not the network that was shrunk.",
                "Describe it as it was built, or leave architecture= out.",
            )
    save_lean(model, place / WEIGHTS)
    write_json(place / CONFIG, {
        "format": FORMAT, "gracile": VERSION, "architecture": None if architecture is None else asdict(architecture),
        "classes": list(classes),
    })  # fmt: skip
    write_text(place / CARD, card)
    return place


def from_pretrained(
    name: str | Path,
    *,
    model: nn.Module | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> nn.Module:
    """A smaller network from the hub, or from a folder that `save_pretrained` wrote.

    What lies on the disk under this name is read there; the hub is asked only for what does not.

    Args:
        name: ``owner/name`` on the hub, or a folder.
        model: the dense network, built as before it was shrunk, where gracile does not know its architecture; its weights do not
            matter.
        revision: a branch, tag or commit of the hub's repository.
        token: for a private repository; by default the one that ``hf auth login`` left.

    Returns:
        The network with its weights, on the processor and in evaluation mode.

    Raises:
        InputError: there is no such network, it cannot be fetched, or `model` is missing or another one.
        StorageError: the files are damaged or not ones of `save_pretrained`.

    Example:
        >>> import gracile, tempfile, torch
        >>> x = torch.rand(2, 1, 8, 8)
        >>> lean = gracile.shrink(gracile.models.mlp(image_size=8), x)
        >>> place = tempfile.mkdtemp()
        >>> shape = gracile.deploy.Architecture("mlp", {"image_size": 8})
        >>> _ = gracile.deploy.save_pretrained(lean, place, architecture=shape)
        >>> bool(torch.equal(gracile.from_pretrained(place).eval()(x), lean.eval()(x)))
        True
    """
    place = Path(name)
    if not place.exists():
        place = _fetched(str(name), revision, token)
    dense = model if model is not None else _dense(place)
    return load_lean(dense, place / WEIGHTS).eval()


def _dense(place: Path) -> nn.Module:
    """The dense network that a folder's configuration tells of."""
    file = place / CONFIG
    told = _read(file)
    if told is None:
        raise InputError(
            f"{place} does not say how its dense network is built.",
            "Build it as it was before it was shrunk, and pass it as model=.",
        )
    damaged = StorageError(f"{file} tells of no network of this version.", "Fetch it again, or pass the dense model=.")
    try:
        architecture = Architecture(**told)
        # Without memory at first: what a damaged file asks for may be of any size.
        with torch.device("meta"):
            expected = shapes(architecture.build())
    except GracileError as error:
        raise StorageError(f"{file}: {error.cause}", error.remedy) from error
    except Exception as error:
        # Whatever a factory makes of settings that nobody checked.
        raise damaged from error
    if expected != remembered(place / WEIGHTS):
        raise StorageError(f"{file} and {WEIGHTS} beside it speak of different networks.", "Fetch both again.")
    return architecture.build()


def _read(file: Path) -> dict[str, Any] | None:
    """The architecture in a configuration; None where it tells none."""
    remedy = "Name a folder or a repository that gracile push wrote."
    if not file.is_file():
        raise StorageError(f"There is no {file.name} in {file.parent}.", remedy)
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError("it is too long")
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"{file} cannot be read: {error}.", remedy) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise StorageError(f"{file} is no configuration of gracile in format {FORMAT}.", remedy)
    told = found.get("architecture")
    if told is not None and not (
        isinstance(told, dict)
        and told.keys() == {"model", "settings", "normalize"}
        and isinstance(told["model"], str)
        and isinstance(told["settings"], dict)
        and isinstance(told["normalize"], int)
        and 0 <= told["normalize"] <= LARGEST
    ):
        raise StorageError(f"{file} tells of no architecture.", remedy)
    return told


def _fetched(name: str, revision: str | None, token: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=[CONFIG, WEIGHTS]))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"There is no folder '{name}' here and no public network of that name on the Hugging Face hub.",
            "Check the spelling; for a private one, log in with `hf auth login`.",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InputError(
            f"The network '{name}' cannot be fetched from the Hugging Face hub: {reason(error)}.",
            "Check the network (and HF_HUB_OFFLINE) and the revision, or pass the path of a folder.",
        ) from error


def upload(folder: Path, name: str, *, private: bool = False, token: str | None = None, message: str = "") -> str:
    """Send a folder of `save_pretrained` to the hub; the repository is made if there is none.

    Args:
        folder: all its files are sent.
        name: ``owner/name``.
        private: whether a repository that is made is private.
        token: by default the one that ``hf auth login`` left.
        message: of the commit.

    Returns:
        The address of the repository's page.

    Raises:
        InputError: the name is none or lies on this disk, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    check_name(name)
    login = "Log in with `hf auth login`, or set HF_TOKEN, with a token that may write there."
    api = HfApi(token=token)
    try:
        url = str(api.create_repo(name, private=private, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=message or "Upload by gracile")
    except LocalTokenNotFoundError as error:
        raise InputError("You are not logged in to the hub.", login) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        raise InputError(
            f"The hub does not take '{name}': {reason(error)}.", login if status in (401, 403) else "Try again later."
        ) from error
    except (RuntimeError, ValueError) as error:
        # What the storage of large files answers, the client wraps in one of these.
        first = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise InputError(f"The hub did not take the files of '{name}': {reason(first)}.", "Try again later.") from error
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in TRANSPORTS:
            raise
        raise InputError(f"The hub cannot be reached: {reason(error)}.", "Check the network.") from error
    return url


def check_name(name: str) -> None:
    """Refuse what cannot be sent to, before anything is made.

    Args:
        name: of a repository.

    Raises:
        InputError: it is no ``owner/name``, or lies on this disk.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if Path(name).exists():
        raise InputError(
            f"'{name}' lies on this disk, so it is not sent to the hub as a name.",
            "Name the repository as OWNER/NAME, or work in another folder.",
        )
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"'{name}' cannot be the name of a repository.", "Name it OWNER/NAME.") from error


def reason(error: Exception) -> str:
    """The first sentence of an error of the hub's client."""
    return str(error).split("\n")[0].split(". ")[0].rstrip(".").removeprefix("Got: ")
