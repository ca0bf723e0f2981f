"""What a benchmark is, and how it is measured: contenders that alternate in one process, ratios within a round, a floor beside.

A benchmark is a function that yields cases; ``table.py`` has a row for each. A case names what a user would pick instead, its
base. Every contender takes its turn in every round, and each begins as many rounds as the others, so that a machine that slows
down slows all of them; the ratio is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """What a contender cannot do without.

    Attributes:
        flops: operations.
        bytes: read and written.
        beyond_base: whether this comes on top of all that the base does.
    """

    flops: float = 0.0
    bytes: float = 0.0
    beyond_base: bool = False


@dataclass(frozen=True)
class Case:
    """Contenders for one piece of work.

    Attributes:
        title: the network, the data, the batch.
        base: the contender that a user would pick instead.
        contenders: name to a call that does the work once.
        goals: contender to the largest share of the base's time it may take.
        units: contender to pieces of work that one call does; 1 where it is left out. Times are for one piece.
        floors: contender to what it cannot do without, for one piece.
        clock: ``wall``, or ``cores``: processor time of all cores, which other programs hardly change.
        rounds: at most so many, for calls that take long.
    """

    title: str
    base: str
    contenders: Mapping[str, Call]
    goals: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, float] = field(default_factory=dict)
    floors: Mapping[str, Work] = field(default_factory=dict)
    clock: Literal["wall", "cores"] = "wall"
    rounds: int | None = None


@dataclass(frozen=True)
class Growth:
    """How time or memory grows with a size.

    Attributes:
        title: what is done.
        against: the size's name.
        sizes: in rising order, at least three.
        prepare: a size to the call that is measured.
        theory: the exponent of what the algorithm does.
        measure: ``time``, or ``memory``: the most that torch holds during a call beyond what it held before.
    """

    title: str
    against: str
    sizes: Sequence[int]
    prepare: Callable[[int], Call]
    theory: float
    measure: Literal["time", "memory"] = "time"


@dataclass(frozen=True)
class Memory:
    """The most memory of a call, as a multiple of something.

    Attributes:
        title: what is done.
        call: that is measured.
        of: bytes it is told in multiples of.
        goal: at most so many.
    """

    title: str
    call: Call
    of: int
    goal: float


Entry = Case | Growth | Memory
Benchmark = Callable[[bool], Iterator[Entry]]


@dataclass(frozen=True)
class Machine:
    """What the machine can do, measured.

    Attributes:
        flops: operations a second of a float32 matrix product.
        bytes: a second, read and written, of a copy.
    """

    flops: float
    bytes: float

    def seconds(self, work: Work, base: float) -> float:
        """The least time for some work."""
        return max(work.flops / self.flops, work.bytes / self.bytes) + (base if work.beyond_base else 0.0)


def machine(small: bool = False) -> Machine:
    """Measure this machine: the best of several products of square matrices, and of copies far larger than its caches."""
    size, length = (256, 2**20) if small else (2048, 2**26)
    a, b = torch.rand(size, size), torch.rand(size, size)
    one, two = torch.rand(length), torch.empty(length)
    out = torch.empty(size, size)
    best = lambda call: min(_seconds(call, time.perf_counter) for _ in range(5))
    return Machine(2 * size**3 / best(lambda: torch.mm(a, b, out=out)), 8 * length / best(lambda: two.copy_(one)))


def measured(entry: Entry, rounds: int, here: Machine) -> list[dict[str, Any]]:
    """The rows of one entry, as JSON values.

    Args:
        entry: a case, a growth or a memory.
        rounds: turns of every contender.
        here: the machine, for floors.
    """
    if isinstance(entry, Growth):
        return [_growth(entry, rounds)]
    if isinstance(entry, Memory):
        return [_memory(entry)]
    return _case(entry, rounds, here)


def _case(case: Case, rounds: int, here: Machine) -> list[dict[str, Any]]:
    clock = time.perf_counter if case.clock == "wall" else time.process_time
    names = [case.base, *(name for name in case.contenders if name != case.base)]
    times: dict[str, list[float]] = {name: [] for name in names}
    for call in case.contenders.values():
        call()
    for number in range(min(rounds, case.rounds or rounds)):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(_seconds(case.contenders[name], clock) / case.units.get(name, 1))
    middle = {name: statistics.median(found) for name, found in times.items()}
    rows = []
    for name in names:
        ratios = [own / other for own, other in zip(times[name], times[case.base], strict=True)]
        row: dict[str, Any] = {
            "case": case.title, "contender": name, "base": case.base, "clock": case.clock, "rounds": len(ratios),
            "seconds": middle[name], "ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
        }  # fmt: skip
        if name in case.goals:
            row |= {"goal": case.goals[name], "met": row["ratio"] <= case.goals[name]}
        if name in case.floors:
            floor = here.seconds(case.floors[name], middle[case.base])
            row |= {"floor_seconds": floor, "floor_ratio": floor / middle[case.base]}
        rows.append(row)
    return rows


def _growth(growth: Growth, rounds: int) -> dict[str, Any]:
    calls = [growth.prepare(size) for size in growth.sizes]
    if growth.measure == "memory":
        from gracile.core.memory import peak_bytes

        values = [float(peak_bytes(call)) for call in calls]
    else:
        times: list[list[float]] = [[] for _ in calls]
        for call in calls:
            call()
        for _ in range(rounds):
            for found, call in zip(times, calls, strict=True):
                found.append(_seconds(call, time.process_time))
        values = [statistics.median(found) for found in times]
    return {
        "case": growth.title, "against": growth.against, "sizes": list(growth.sizes), "measure": growth.measure,
        "values": values, "exponent": exponent(growth.sizes, values), "theory": growth.theory,
    }  # fmt: skip


def _memory(memory: Memory) -> dict[str, Any]:
    from gracile.core.memory import peak_bytes

    times = peak_bytes(memory.call) / memory.of
    return {"case": memory.title, "times_its_size": times, "goal": memory.goal, "met": times <= memory.goal}


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of a straight line through the logarithms, by least squares."""
    x, y = [math.log(size) for size in sizes], [math.log(max(value, 1e-12)) for value in values]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def _seconds(call: Call, clock: Callable[[], float]) -> float:
    began = clock()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - began


def times(call: Call, number: int) -> Call:
    """A call that does another so many times: for work far below a millisecond."""

    def repeated() -> None:
        for _ in range(number):
            call()

    return repeated
