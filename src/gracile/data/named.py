"""Data sets known by name: found in a folder of their own under the data root, else fetched from the hub."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gracile.core.errors import DataError
from gracile.data import parquet
from gracile.data.source import Opened, Part, Request


@dataclass(frozen=True)
class Known:
    """What is known of a named data set.

    Attributes:
        repository: ``owner/name`` on the hub, "" where there is none.
        label: its label column, where there is a choice.
        train_rows: of a set in one piece, how many of its first rows are customarily for training.
    """

    repository: str
    label: str | None = None
    train_rows: int | None = None


KNOWN = {
    "mnist": Known("ylecun/mnist"),
    "fashion-mnist": Known("zalando-datasets/fashion_mnist"),
    "cifar10": Known("uoft-cs/cifar10"),
    "cifar100": Known("uoft-cs/cifar100", label="fine_label"),
    "letter": Known("", train_rows=16_000),
}


def open_source(request: Request) -> Opened:
    """Open a named data set.

    Raises:
        DataError: it is not under the root, and the hub does not have it or cannot be reached.
    """
    name, known = request.name, KNOWN[request.name]
    request = replace(request, label=request.label or known.label)
    folder = local_folder(request.root, name)
    if folder is not None:
        opened = parquet.open_source(replace(request, name=str(folder)))
    elif known.repository:
        from gracile.data import hub

        try:
            opened = hub.open_source(replace(request, name=known.repository))
        except hub.UnreachableError as error:
            raise DataError(
                f"{name} is not in {_searched(request.root, name)} and the hub cannot be reached: {error.reason}.",
                _REMEDY,
            ) from error
    else:
        raise DataError(f"{name} is not in {_searched(request.root, name)}.", _REMEDY)
    if known.train_rows is not None and "test" not in opened.parts:
        opened = _cut(opened, known.train_rows)
    return replace(opened, name=name)


_REMEDY = "Put its parquet files there, or name the folder above it with root= or the variable GRACILE_DATA."


def local_folder(root: Path | None, name: str) -> Path | None:
    """The folder of a data set under the root, None where there is none."""
    if root is None:
        return None
    for spelling in (name, name.replace("-", "_"), name.replace("-", "")):
        if (root / spelling).is_dir():
            return root / spelling
    return None


def _searched(root: Path | None, name: str) -> str:
    return str(root / name) if root is not None else f"a folder '{name}' under a data root (none is set)"


def _cut(opened: Opened, rows: int) -> Opened:
    """Cut a set in one piece into its customary training and test rows."""
    whole = opened.parts["train"]
    if len(whole.labels) <= rows:
        raise DataError(
            f"{opened.name} has {len(whole.labels)} rows, and its first {rows} are customarily for training.",
            "Fetch the complete data set.",
        )
    note = "; ".join(part for part in (opened.note, f"the first {rows} rows are for training, as is customary") if part)
    parts = {"train": _rows_of(whole, 0, rows), "test": _rows_of(whole, rows, len(whole.labels))}
    return replace(opened, parts=parts, note=note)


def _rows_of(whole: Part, start: int, stop: int) -> Part:
    def read(rows: np.ndarray | None):
        return whole.read(np.arange(start, stop) if rows is None else rows + start)

    return replace(whole, labels=whole.labels[start:stop], read=read, options=f"{whole.options} rows {start} to {stop}")
