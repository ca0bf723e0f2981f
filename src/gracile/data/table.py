"""The table of data sources: one file and one row each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gracile.core.errors import DataError, nearest
from gracile.data import csv_table, digits, folder, hub, named, npz, parquet
from gracile.data.named import KNOWN
from gracile.data.source import COLUMNAR, Opened, Request


@dataclass(frozen=True)
class Row:
    """A source.

    Attributes:
        summary: what a user writes to reach it, for help texts.
        recognises: whether a name or path belongs to it; the first row that says yes is taken.
        opens: its module's ``open_source``.
    """

    summary: str
    recognises: Callable[[str], bool]
    opens: Callable[[Request], Opened]


def _is_columnar(name: str) -> bool:
    path = Path(name)
    if path.is_file():
        return path.suffix.lower() in COLUMNAR
    return path.is_dir() and any(file.suffix.lower() in COLUMNAR for file in path.rglob("*"))


def _is_file(name: str, *suffixes: str) -> bool:
    return name.lower().endswith(suffixes) and Path(name).is_file()


def _is_table(name: str) -> bool:
    if not Path(name).is_dir():
        return _is_file(name, *csv_table.SUFFIXES)
    # A table that lies beside class folders lists the images.
    entries = [entry for entry in Path(name).iterdir() if not entry.name.startswith(".")]
    return not any(entry.is_dir() for entry in entries) and any(
        entry.name.lower().endswith(csv_table.SUFFIXES) for entry in entries
    )


def _is_numpy(name: str) -> bool:
    path = Path(name)
    return _is_file(name, ".npz", ".npy") or (path.is_dir() and next(path.glob("*.npy"), None) is not None)


def _is_repository(name: str) -> bool:
    # What is on the disk is never sent to the hub as a name, and a path that ends like a file is a misspelt path.
    readable = name.lower().endswith((*COLUMNAR, *csv_table.SUFFIXES, ".npz", ".npy"))
    return not readable and not Path(name).exists() and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*){1,2}", name) is not None


NAMES = ("digits", *KNOWN)


SOURCES = {
    "digits": Row("digits (comes with scikit-learn)", lambda name: name == "digits", digits.open_source),
    "named": Row("mnist, fashion-mnist, cifar10, cifar100, letter", lambda name: name in KNOWN, named.open_source),
    "parquet": Row("a .parquet, .arrow or .feather file, or a folder of them", _is_columnar, parquet.open_source),
    "csv": Row("a .csv or .tsv file, .gz of one, or a folder with train.csv", _is_table, csv_table.open_source),
    "npz": Row("a .npz file with x and y, or x.npy and y.npy", _is_numpy, npz.open_source),
    "folder": Row("a folder of images, a folder per class", lambda name: Path(name).is_dir(), folder.open_source),
    "hub": Row("owner/name on the Hugging Face hub", _is_repository, hub.open_source),
}


def open_source(request: Request) -> Opened:
    """Find the row that recognises a request and open it.

    A name that is none of the table's but stands under the root is taken as that path.

    Raises:
        DataError: no row recognises it; the message names the nearest name, or says that the path does not exist.
    """
    name = os.path.expanduser(request.name)
    if name not in NAMES and not Path(name).exists() and request.root is not None and (request.root / name).exists():
        name = str(request.root / name)
    for row in SOURCES.values():
        if row.recognises(name):
            try:
                return row.opens(replace(request, name=name))
            except OSError as error:
                raise DataError(
                    f"{error.filename or name} cannot be read: {error.strerror or error}.",
                    "Check its permissions and its disk.",
                ) from error
    path = Path(name)
    if path.is_file():
        raise DataError(
            f"{path} ends in '{path.suffix}', which no data source reads.",
            f"Give {', '.join(row.summary for row in SOURCES.values())}.",
        )
    if path.suffix or len(path.parts) > 1 or name.startswith(".") or name.endswith(("/", os.sep)):
        raise DataError(f"The path {path} does not exist.", "Check its spelling, and from where it is relative.")
    raise DataError(f"There is no data set named '{request.name}'.", nearest(request.name, NAMES))
