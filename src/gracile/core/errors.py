"""Errors that carry their remedy.

What a user did wrong is a `GracileError`: one sentence that names the cause, one that names the remedy. The command
line prints it without a traceback and exits with status 2; any other exception is a bug of ours and keeps its
traceback.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")
# Letters of one sentence.
LONGEST = 1500


class GracileError(Exception):
    """A failure the user can mend.

    Whatever a message quotes from a file, it is one line of bounded length.

    Args:
        cause: what is wrong, naming the file, key, layer or value.
        remedy: what to do about it.
    """

    def __init__(self, cause: str, remedy: str) -> None:
        self.cause, self.remedy = _line(cause), _line(remedy)
        super().__init__(f"{self.cause} {self.remedy}")

    def __reduce__(self) -> tuple[type[GracileError], tuple[str, str]]:
        # From a process of a run to the one that started it.
        return type(self), (self.cause, self.remedy)


def _line(text: str) -> str:
    """Line breaks and other control characters as they are written in code; of a long text beginning and end."""
    if not text.isprintable():
        text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST * 2 // 3]} ... {text[-LONGEST // 4 :]}"


class InputError(GracileError, ValueError):
    """An argument, recipe key or option that cannot be used."""


class DataError(GracileError, ValueError):
    """Data that cannot be read, or that does not mean what it should."""


class NonFiniteError(GracileError, ArithmeticError):
    """NaN or infinity where a finite number is needed."""


class StorageError(GracileError, OSError):
    """A file that cannot be written or read back."""


class MissingDependencyError(GracileError, ImportError):
    """An optional package is needed and not installed."""


class CollapseWarning(UserWarning):
    """A layer lost its last group or weight."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ``Did you mean 'momentum'?``, or the list of known names.

    Args:
        name: what was given.
        known: what would have been understood.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Choose one of: {', '.join(known)}."


def pick(table: Mapping[str, T], name: str, what: str) -> T:
    """Look up a row of a room's table.

    Args:
        table: the room's table, name to member.
        name: the row asked for.
        what: what the table holds, in the singular, for the message ("penalty").

    Raises:
        InputError: no such row; the message names the nearest one.
    """
    if name not in table:
        shown = f"'{name}'" if name.isprintable() else repr(name)
        raise InputError(f"There is no {what} named {shown}.", nearest(name, table))
    return table[name]


def matching(table: Iterable[str], pattern: str, what: str) -> list[str]:
    """The rows of a table that a name or a pattern of names such as ``*_50`` stands for, in the table's order.

    Args:
        table: the names there are.
        pattern: a name, or one with ``*``, ``?`` or ``[...]``.
        what: what the table holds, in the singular, for the message ("arm").

    Raises:
        InputError: no row; the message names the nearest one.
    """
    names = list(table)
    found = fnmatch.filter(names, pattern)
    if not found:
        pick(dict.fromkeys(names), pattern, what)
    return found


def refuse_unknown(options: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse options that are not known.

    Args:
        options: what was given.
        known: what would have been understood.
        what: whose options they are, for the message ("The method 'rvsm'").

    Raises:
        InputError: one is unknown; the message names the nearest.
    """
    known = list(known)
    for key in options:
        if key not in known:
            raise InputError(f"{what} has no option '{key}'.", nearest(key, known))


def check_state(state: Mapping[str, object], keys: Iterable[str], owner: object) -> None:
    """Whether a saved state has what its owner takes up.

    Raises:
        InputError: something is missing.
    """
    if missing := [key for key in keys if key not in state]:
        raise InputError(
            f"This is no state of {type(owner).__name__}: {', '.join(missing)} is not in it.",
            "Load what the state_dict() of the same class gave.",
        )
