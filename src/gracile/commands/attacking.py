"""Robust accuracy of networks and exported files: what `gracile attack` and `gracile compress --eps` share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gracile.attacks import ENTRIES, Robustness, evaluate
from gracile.core.errors import InputError, pick
from gracile.core.files import write_json, write_text
from gracile.core.provenance import environment
from gracile.core.seeding import generator
from gracile.data import Dataset, Splits, batches
from gracile.export.samples import feed
from gracile.export.sessions import run, session

log = logging.getLogger("gracile")

QUICK = {
    "cw": {"steps": 20},
    "nattack": {"steps": 80},
    "square": {"steps": 1000},
    "autoattack": {"steps": 20, "search_steps": 1000},
}
FEWER = "a fifth of the steps (--quick), so robustness is overstated"
# What is tried on every form of a compressed network; enough to compare forms, less than a report of one network.
BRIEF = ("pgd", "cw", "square")
BRIEF_OPTIONS = {"cw": {"steps": 20}, "square": {"steps": 500}}


def attack(
    networks: Mapping[str, nn.Module],
    splits: Splits,
    out: Path,
    *,
    eps: float,
    norm: str,
    attacks: Sequence[str],
    samples: int,
    nattack_samples: int,
    draws: int,
    quick: bool,
    seed: int,
    device: str,
) -> str:
    """Evaluate networks on the test split and leave ``attack.json`` and ``table.md``.

    Args:
        networks: by name; the first is the surrogate whose adversarial examples are tried on the others.
        splits: the test split is attacked, the validation split where there is no other.
        out: the folder.
        eps, norm, attacks, draws, seed: see `gracile.attacks.evaluate`.
        samples: drawn from the split; 0 for all.
        nattack_samples: of which NAttack is tried on.
        quick: fewer steps.
        device: where the networks run.

    Returns:
        The tables as Markdown.

    Raises:
        InputError: an argument that cannot be used, data that are no images, or a device that is not there.
    """
    for name in attacks:
        pick(ENTRIES, name, "attack")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("There is no CUDA device.", "Leave --device out.")
    split = "test" if len(splits.test) else "validation"
    x, y = draw(splits.test if len(splits.test) else splits.validation, samples)
    found: dict[str, Robustness] = {}
    surrogate: nn.Module | None = None
    for name, network in networks.items():
        network.to(device)
        found[name] = evaluate(
            network, x.to(device), y.to(device), eps=eps, norm=norm, attacks=attacks, surrogate=surrogate,
            options=QUICK if quick else None, limits={"nattack": nattack_samples}, draws=draws, seed=seed,
            progress=lambda line, name=name: print(f"{name}: {line}", flush=True),
        )  # fmt: skip
        surrogate = surrogate or network
    note = splits.test.note or splits.train.note
    text = "\n\n".join(
        f"{name}: {len(x)} {split} samples of {splits.train.name}, {norm} ball of {eps:.4g}"
        f"{'; ' + note if note else ''}{'; ' + FEWER if quick else ''}\n\n{one}"
        for name, one in found.items()
    )
    write_text(out / "table.md", f"{text}\n")
    content = {"data": splits.train.name, "note": note, "split": split, "quick": quick}
    networks_found = {name: one.to_json() for name, one in found.items()}
    write_json(out / "attack.json", {**content, "networks": networks_found, "environment": environment()})
    return text


def compressed(
    networks: Mapping[str, nn.Module], int8: Path | None, data: Dataset, *, eps: float, samples: int
) -> tuple[dict[str, Robustness], list[str]]:
    """Robust accuracy of each form of a network, and what a reader must know.

    The int8 file runs in onnxruntime, where no gradient flows. It is attacked by transfer from the last of `networks`, which it
    was made from, and by black-box Square.

    Args:
        networks: dense, sparse, shrunk, ...
        int8: the file of the last one in int8, if there is one.
        data: the split attacked.
        eps: l-inf ball.
        samples: drawn from it; 0 for all.
    """
    x, y = draw(data, samples)
    settings: dict[str, Any] = {"eps": eps, "options": BRIEF_OPTIONS}
    found = {name: evaluate(network, x, y, attacks=BRIEF, **settings) for name, network in networks.items()}
    what = ", ".join(ENTRIES[name].title for name in BRIEF)
    notes = [f"robust %: worst case a sample of {what} in an l-inf ball of {eps:.4g}, on {len(x)} samples"]
    if int8 is not None:
        last = list(networks.values())[-1]
        found["shrunk + int8"] = evaluate(asked(int8), x, y, attacks=("square",), surrogate=last, **settings)
        notes.append(
            "robust % of int8: onnxruntime gives no gradients, so this is what PGD transferred from the float network and black-box "
            "Square leave standing; an attack with gradients of its own may break more"
        )
    for name, one in found.items():
        notes += [f"{name}: {warning}" for warning in one.warnings]
    return found, notes


def asked(file: Path) -> Any:
    """An ONNX file as a function from inputs to logits."""
    loaded = session(file, threads=1)

    def logits(x: Tensor) -> Tensor:
        return torch.from_numpy(run(loaded, feed((x,)))[0]).to(x.device)

    return logits


def draw(data: Dataset, samples: int) -> tuple[Tensor, Tensor]:
    """A fixed draw of images in [0, 1] and their labels.

    Raises:
        InputError: the data are no images, or there are none.
    """
    if not len(data):
        raise InputError(f"There are no test samples in '{data.name}'.", "Give data with a test split.")
    if not data.is_image:
        raise InputError(
            f"'{data.name}' holds features, not images, and attacks speak of pixels in [0, 1].",
            "Scale the features to [0, 1] and call gracile.attacks on tensors.",
        )
    if samples < 0:
        raise InputError(f"--samples is {samples}.", "Give a number of samples, 0 for all.")
    order = torch.randperm(len(data), generator=generator(0, "attacked"))
    chosen = data.subset(order[: samples or len(data)])
    return next(batches(chosen, len(chosen)))


def fraction(option: str, text: str) -> float:
    """A number such as ``0.03`` or ``8/255``.

    Raises:
        InputError: it is neither.
    """
    above, slash, below = text.partition("/")
    try:
        return float(above) / (float(below) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{option} takes a number, not '{text}'.", f"Write {option} 8/255 or {option} 0.03.") from None
