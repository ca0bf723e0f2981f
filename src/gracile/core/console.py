"""What the person at the terminal sees while something runs: warnings, and what `told` says."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator

# Of all that is logged, the lines that are worth a glance while one waits; the rest goes to the log file.
told = logging.getLogger("gracile.told")


def show_progress(*, quiet: bool = False, worded: Callable[[str], str] = lambda text: text) -> None:
    """Print warnings, and the lines of `told`, on standard error; a program calls it once, the library never.

    Args:
        quiet: print warnings only.
        worded: what a warning's advice is called where it is printed.
    """
    handler = _Console()
    handler.worded = worded
    # What stops a run is printed once, by the command line itself.
    handler.addFilter(lambda record: record.levelno == logging.WARNING or (record.name == told.name and not quiet))
    logger = logging.getLogger("gracile")
    logger.setLevel(logging.INFO)
    for old in [one for one in logger.handlers if isinstance(one, _Console)]:
        logger.removeHandler(old)
    logger.addHandler(handler)


def show_warnings() -> None:
    """Print Python's warnings as one line, without the place in the code that raised them; for programs, as above."""
    warnings.showwarning = lambda message, *_, **__: logging.getLogger("gracile").warning("%s", message)  # pyright: ignore[reportAttributeAccessIssue]


@contextlib.contextmanager
def muted(silent: bool = True) -> Iterator[None]:
    """Drop what the library logs meanwhile, where it was said before or will be said again; nothing where `silent` is False."""
    logger = logging.getLogger("gracile")
    drop = lambda record: not silent
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


class _Console(logging.Handler):
    worded: Callable[[str], str]

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        # Standard error as it is now: who captures it may have put another in its place.
        print(
            f"{record.levelname}: {self.worded(text)}" if record.levelno >= logging.WARNING else text,
            file=sys.stderr,
            flush=True,
        )
