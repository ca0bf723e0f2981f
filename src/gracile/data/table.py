"""The table of data sources: one file and one row each."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from gracile.core.errors import DataError, nearest
from gracile.data.named import KNOWN
from gracile.data.source import Opened, Request


@dataclass(frozen=True)
class Row:
    """A source.

    Attributes:
        summary: what a user writes to reach it, for help texts.
        recognises: whether a name or path belongs to it; the first row that says yes is taken.
        module: has ``open_source(request) -> Opened``.
    """

    summary: str
    recognises: Callable[[str], bool]
    module: str


class _Module(Protocol):
    def open_source(self, request: Request) -> Opened: ...


def _is_parquet(name: str) -> bool:
    path = Path(name)
    return path.suffix == ".parquet" if path.is_file() else path.is_dir() and next(path.rglob("*.parquet"), None) is not None


def _is_repository(name: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*){1,2}", name) is not None and not Path(name).suffix


SOURCES = {
    "digits": Row("digits (comes with scikit-learn)", lambda name: name == "digits", "gracile.data.digits"),
    "named": Row("mnist, fashion-mnist, cifar10, cifar100, letter", lambda name: name in KNOWN, "gracile.data.named"),
    "parquet": Row("a .parquet file or a folder of them", _is_parquet, "gracile.data.parquet"),
    "hub": Row("owner/name on the Hugging Face hub", _is_repository, "gracile.data.hub"),
}


def open_source(request: Request) -> Opened:
    """Find the row that recognises a request and open it.

    Raises:
        DataError: none does; the message names the nearest, or says that the path does not exist.
    """
    for row in SOURCES.values():
        if row.recognises(request.name):
            return cast(_Module, importlib.import_module(row.module)).open_source(request)
    raise DataError(f"There is no data set named '{request.name}'.", nearest(request.name, ["digits", *KNOWN]))
