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

    @classmethod
    def of(cls, found: Any) -> Answer:
        """What a function of the library returned: its words, its plain values and, where it has one, its status."""
        return cls(str(found), found.to_json(), getattr(found, "status", 0))
