"""One file a page: that of a run, or the one that compares several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from gracile.core.errors import InputError
from gracile.core.files import write_text
from gracile.report.comparison import compare
from gracile.report.page import show
from gracile.report.reading import Run, read


def write_report(folders: Path | str | Iterable[Path | str], path: Path | str | None = None) -> Path:
    """Write the page of these runs; one is shown whole, several are compared.

    Args:
        folders: a run's folder, or several, finished or not.
        path: the HTML file; by default ``report.html`` in the folder of a single run, ``comparison.html`` here for
            several.

    Returns:
        The file.

    Raises:
        InputError: a folder holds no run, a file in it cannot be read, or one is named twice.
        StorageError: the page cannot be written.
    """
    runs = [Path(one) for one in ([folders] if isinstance(folders, Path | str) else folders)]
    twice = [str(folder) for folder, count in Counter(folder.resolve() for folder in runs).items() if count > 1]
    if twice:
        raise InputError(f"The run {twice[0]} is named twice.", "Name each run once.")
    if path is None:
        path = runs[0] / "report.html" if len(runs) == 1 else Path("comparison.html")
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, and a page is one file.", f"Write to {path / 'report.html'}.")
    write_text(path, render([read(folder) for folder in runs]))
    return path


def render(runs: Sequence[Run]) -> str:
    """The page as text, with everything it shows inside it.

    Raises:
        InputError: there is no run to show.
    """
    if not runs:
        raise InputError("There is no run to show.", "Name one at least.")
    return show(runs[0]) if len(runs) == 1 else compare(runs)
