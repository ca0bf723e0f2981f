"""One module a command: `configure(parser)` says its options, `run(args) -> Answer` calls the library and tells what to print."""

from __future__ import annotations

from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What a command found.

    Attributes:
        text: for a person.
        values: the same for a program, printed with ``--json``.
        status: the exit status: 0 done, 1 done but a criterion fixed beforehand was missed.
    """

    text: str
    values: Any
    status: int = 0
