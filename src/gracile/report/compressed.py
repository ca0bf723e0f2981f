"""What ``gracile compress`` and ``gracile attack`` measured: files in a run's folder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Under:
    """Accuracy under one attack.

    Attributes:
        title: what the attack is called.
        accuracy: percent.
        low: lower end of its interval of 95 % confidence.
        high: upper end of it.
        samples: how many were attacked.
    """

    title: str
    accuracy: float
    low: float | None
    high: float | None
    samples: float | None

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" ({self.low:.1f} to {self.high:.1f})"
        return f"{self.accuracy:.2f}{interval}"


@dataclass(frozen=True)
class Attacked:
    """What attacks left of a network's accuracy.

    Attributes:
        name: of the network.
        ball: norm and size.
        scores: by attack, clean first and the worst case last.
        warnings: signs that the numbers claim too much.
        quick: whether attacks took a fifth of their steps.
    """

    name: str
    ball: str
    scores: dict[str, Under]
    warnings: list[str]
    quick: bool = False


@dataclass(frozen=True)
class Variant:
    """One form of a network.

    Attributes:
        name: ``dense``, ``sparse``, ``shrunk``, ``shrunk + int8``.
        bytes: of its ONNX file.
        macs: multiply-adds per sample.
        accuracy: percent of the test split, of the validation split where there is no other.
        robust: what attacks found of it, if it was attacked.
    """

    name: str
    bytes: float | None = None
    macs: float | None = None
    accuracy: float | None = None
    robust: Attacked | None = None


@dataclass(frozen=True)
class Timing:
    """How long a variant takes for one batch.

    Attributes:
        name: the variant.
        p50: the median, in milliseconds.
        p10: what a tenth of the calls undercut, in milliseconds.
        batch: samples.
        threads: that worked on it.
    """

    name: str
    p50: float
    p10: float | None
    batch: int
    threads: int


@dataclass(frozen=True)
class Measured:
    """An arm's variants and their timings.

    Attributes:
        variants: in the order they were made, each from the one before.
        timings: one a variant and setting.
        split: the data that the accuracies speak of.
        notes: what a reader must know.
    """

    variants: list[Variant]
    timings: list[Timing]
    split: str = ""
    notes: list[str] = field(default_factory=list)

    def settings(self) -> list[tuple[int, int]]:
        """(batch, threads) that were timed."""
        return sorted({(timing.batch, timing.threads) for timing in self.timings})

    def timing(self, name: str, batch: int, threads: int) -> Timing | None:
        """A variant's timing under a setting."""
        key = (name, batch, threads)
        return next((one for one in self.timings if (one.name, one.batch, one.threads) == key), None)


def measured(found: dict[str, Any]) -> Measured:
    """Read the file's content; what is missing or not a number is left out."""
    table = _table(found.get("measured"))
    accuracies = {name: _table(row) for name, row in _table(found.get("accuracy")).items()}
    split = next((key for key in ("test %", "validation %") if any(key in row for row in accuracies.values())), "")
    files = {str(row.get("name")): row for row in _rows(table.get("files"))}
    robust = _table(found.get("robust"))
    variants = [
        Variant(
            name,
            bytes=number(files.get(name, {}).get("bytes")),
            macs=number(files.get(name, {}).get("macs")),
            accuracy=number(accuracies.get(name, {}).get(split)),
            robust=attacked(name, robust[name]) if name in robust else None,
        )
        for name in dict.fromkeys([*files, *accuracies])
    ]
    timings = []
    for row in _rows(table.get("rows")):
        p50, batch, threads = (number(row.get(key)) for key in ("p50", "batch", "threads"))
        if p50 is not None and p50 > 0 and batch is not None and threads is not None:
            timings.append(Timing(str(row.get("name")), p50, number(row.get("p10")), int(batch), int(threads)))
    notes = [str(note) for source in (found, table) for note in _list(source.get("notes"))]
    return Measured(variants, timings, split.removesuffix(" %"), notes)


def attacked(name: str, found: Any) -> Attacked:
    """Read what ``gracile attack`` or ``gracile compress --eps`` found of one network; what does not fit is left out."""
    found = _table(found)
    scores = {}
    for row in _rows(found.get("scores")):
        accuracy, title = number(row.get("accuracy")), str(row.get("title") or row.get("name"))
        if accuracy is not None:
            scores[str(row.get("name"))] = Under(
                title, accuracy, *(number(row.get(key)) for key in ("low", "high", "samples"))
            )
    eps = number(found.get("eps"))
    ball = "" if eps is None else f"{found.get('norm', '')} {eps:.4g} ({eps * 255:.3g}/255)"
    return Attacked(name, ball, scores, [str(one) for one in _list(found.get("warnings"))])


def attacked_networks(found: dict[str, Any]) -> list[Attacked]:
    """The networks of an ``attack.json``."""
    networks = [attacked(name, one) for name, one in _table(found.get("networks")).items()]
    return [replace(one, quick=found.get("quick") is True) for one in networks]


def number(value: Any) -> float | None:
    """A finite number, or None: what is missing and what is not finite cannot be drawn."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _rows(value: Any) -> Iterator[dict[str, Any]]:
    return (row for row in _list(value) if isinstance(row, dict))
