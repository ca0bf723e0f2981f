"""Data sets of the Hugging Face hub, by ``owner/name``: their parquet files, fetched once by huggingface_hub."""

from __future__ import annotations

from pathlib import Path

from gracile.core.errors import DataError
from gracile.data import parquet
from gracile.data.source import Opened, Request


class UnreachableError(DataError):
    """The hub cannot be reached and nothing was fetched before."""

    def __init__(self, repository: str, reason: str) -> None:
        super().__init__(
            f"The data set '{repository}' cannot be fetched from the Hugging Face hub: {reason}.",
            "Check the network (and HF_HUB_OFFLINE), or pass the path of a local folder with its parquet files.",
        )
        self.reason = reason


# Where the hub keeps its own parquet copy of data sets stored in other formats.
CONVERTED = "refs/convert/parquet"


def open_source(request: Request) -> Opened:
    """Fetch and open ``owner/name``, or ``owner/name/configuration`` where a data set has several.

    Raises:
        DataError: there is no such data set, it has no parquet files, or several configurations.
        UnreachableError: no network.
    """
    owner, name, *rest = request.name.split("/")
    repository, configuration = f"{owner}/{name}", "/".join(rest)
    folder = _fetch(repository, None)
    if not any(folder.rglob("*.parquet")):
        folder = _fetch(repository, CONVERTED)
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise DataError(f"The data set '{repository}' on the hub has no parquet files.", "Choose one that has.")
    files = _of_one_configuration(files, repository, configuration)
    return parquet.open_splits(parquet.by_split(files, folder), request, name=name)


def _fetch(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns="*.parquet")
    except GatedRepoError as error:
        raise DataError(
            f"The data set '{repository}' asks for an agreement first.",
            f"Accept it at https://huggingface.co/datasets/{repository} and log in with `hf auth login`.",
        ) from error
    except RevisionNotFoundError as error:
        raise DataError(
            f"The data set '{repository}' on the hub has no parquet files.", "Choose one that has, or convert it."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise DataError(
            f"There is no path '{repository}' here and no public data set of that name on the Hugging Face hub.",
            "Check the spelling.",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).split("\n")[0].split(". ")[0].rstrip(".").removeprefix("Got: ")
        raise UnreachableError(repository, reason) from error
    return Path(folder)


def _of_one_configuration(files: list[Path], repository: str, wanted: str) -> list[Path]:
    """Files of one configuration: the folder they stand in, or the one above where each split has a folder."""
    by_name: dict[str, list[Path]] = {}
    for file in files:
        folder = file.parent.parent if file.parent.name in parquet.SPLITS else file.parent
        by_name.setdefault(folder.name, []).append(file)
    if wanted:
        if wanted not in by_name:
            raise DataError(
                f"'{repository}' has no configuration '{wanted}': it has {', '.join(sorted(by_name))}.",
                "Name one of them.",
            )
        return by_name[wanted]
    if len(by_name) > 1:
        raise DataError(
            f"'{repository}' has several configurations: {', '.join(sorted(by_name))}.",
            f"Choose one, as in '{repository}/{sorted(by_name)[0]}'.",
        )
    return files
