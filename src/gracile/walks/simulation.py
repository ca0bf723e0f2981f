"""Many walkers at once: step by step, from edge to edge, or many edges at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gracile.core.errors import InputError
from gracile.walks import plain
from gracile.walks.batches import Batches, Runner
from gracile.walks.series import survival
from gracile.walks.staying import Staying
from gracile.walks.visits import TauLaw

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Method = Literal["auto", "steps", "edges", "batches"]
METHODS = ("auto", "steps", "edges", "batches")
LONGEST = 10**15
# Walkers go in groups with a seed each, so that results do not depend on the number of threads.
GROUP = 5000
# Visits a walker draws at once when it goes from edge to edge.
AHEAD = 64
# Fewer edges than this in all are not worth the tables of `Batches`.
WORTH_TABLES = 2e7


@dataclass(frozen=True)
class Simulation:
    """What a simulation saw.

    Attributes:
        times: (r,) the recorded numbers of steps.
        mean_square: (r,) mean of |S_n|^2 over walkers.
        standard_error: (r,) of that mean.
        ends: (walkers, d) positions at the last time.
        method: "steps", "edges" or "batches".
        law_error: a bound on the total variation distance between the law of all that was drawn and the exact law,
            apart from the generator and the roundings of single hazards; 0 but for "batches".
        seed: as given.
    """

    times: Ints
    mean_square: Floats
    standard_error: Floats
    ends: Ints
    method: str
    law_error: float
    seed: int

    @property
    def nu(self) -> float:
        """mean_square / n at the last time: the simulated diffusion constant, up to a bias of order 1/n."""
        return float(self.mean_square[-1] / self.times[-1])

    @property
    def nu_error(self) -> float:
        """Its standard error."""
        return float(self.standard_error[-1] / self.times[-1])


def simulate(
    staying: Staying,
    steps: int,
    walkers: int,
    seed: int,
    *,
    by_walk: bool,
    records: int | Sequence[int],
    method: Method,
    workers: int,
) -> Simulation:
    """Simulate the walk with a law of staying; see `SenileWalk.simulate`.

    Args:
        staying: the dimension, and the probabilities to stay.
        steps: see `SenileWalk.simulate`, as for the rest.
        walkers: how many.
        seed: of the generators.
        by_walk: whether the law depends on the step of the walk instead of the crossings of an edge.
        records: the times to record, or how many.
        method: how to go.
        workers: threads.

    Raises:
        InputError: sizes that are no sizes; a method that this walk does not admit.
    """
    times = _times(steps, records)
    for value, what in ((walkers, "walkers"), (workers, "workers")):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise InputError(f"The number of {what} is {value!r}.", "Give a whole number of 1 or more.")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"The seed is {seed!r}.", "Give a whole number of 0 or more.")
    chosen = _choose(staying, by_walk, int(steps), int(walkers), method)
    group = _group(staying, by_walk, chosen, times)
    sizes = [min(GROUP, walkers - begin) for begin in range(0, walkers, GROUP)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))
    jobs = [(size, np.random.Generator(np.random.SFC64(child))) for size, child in zip(sizes, seeds, strict=True)]
    if workers == 1:
        parts = [group(*job) for job in jobs]
    else:
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(lambda job: group(*job), jobs))
    total = np.sum([part[0] for part in parts], axis=0)
    mean = total / walkers
    # Around the mean: the sum of squares of |S_n|^2 would cancel.
    spread = np.sum(
        [part[1] + size * (part[0] / size - mean) ** 2 for part, size in zip(parts, sizes, strict=True)], axis=0
    )
    error = np.sqrt(spread / max(walkers - 1, 1) / walkers)
    return Simulation(
        times,
        mean,
        error,
        np.concatenate([part[2] for part in parts]),
        chosen,
        sum(part[3] for part in parts),
        int(seed),
    )


def _times(steps: int, records: int | Sequence[int]) -> Ints:
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or not 1 <= steps <= LONGEST:
        raise InputError(f"The number of steps is {steps!r}.", "Give a whole number from 1 to 10^15.")
    if isinstance(records, (int, np.integer)):
        if records < 1:
            raise InputError(f"The number of records is {records}.", "Give 1 or more, or the times themselves.")
        spaced = np.geomspace(min(10, steps), steps, int(records)) if records > 1 else np.array([steps], dtype=float)
        times = np.unique(np.append(np.round(spaced[:-1]).astype(np.int64), np.int64(steps)))
        return times[times <= steps]
    times = np.array(records, dtype=np.int64)
    if times.ndim != 1 or len(times) == 0 or times[0] < 1 or (np.diff(times) <= 0).any() or times[-1] > steps:
        raise InputError("The times to record are not increasing numbers from 1 to the number of steps.", "Sort them.")
    # Whatever is recorded, the ends are those after `steps`.
    return times if times[-1] == steps else np.append(times, np.int64(steps))


def _choose(staying: Staying, by_walk: bool, steps: int, walkers: int, method: str) -> str:
    if method not in METHODS:
        raise InputError(f"There is no method '{method}'.", f"Choose one of: {', '.join(METHODS)}.")
    if by_walk:
        if method in ("edges", "batches"):
            raise InputError(
                f"With clock='walk' visits of edges are not alike, so method='{method}' would not have the right law.",
                "Use method='steps'.",
            )
        return "steps"
    refusal = _no_batches(staying)
    if method == "batches" and refusal:
        raise InputError(refusal, "Use method='edges'.")
    if method != "auto":
        return method
    if refusal:
        return "edges"
    # E[min(tau, steps)] is between 1 and about 2 log(steps) for the identity.
    mean = float(np.sum(survival(staying.leave(np.arange(1.0, min(steps, 1 << 15))))))
    return "batches" if steps / mean * walkers > WORTH_TABLES and steps > 10_000 else "edges"


def _no_batches(staying: Staying) -> str | None:
    if staying.dim > 3:
        return f"Batches of visits are known in d = 1 to 3, not in d = {staying.dim}."
    leave = staying.leave(np.array([1.0, 2.0]))
    if leave[0] > 1 - 1e-9 or (1 - leave[0]) * leave[1] < 1e-9:
        return "Batches need both parities of tau, and here one of them next to never occurs."
    return None


Part = tuple[Floats, Floats, Ints, float]


def _group(staying: Staying, by_walk: bool, method: str, times: Ints) -> Callable[[int, np.random.Generator], Part]:
    """How to run one group of walkers: sums of |S_n|^2, their spread, the ends and the law's error."""
    steps = int(times[-1])
    if method == "steps":
        return lambda size, rng: _collect(
            size,
            times,
            staying.dim,
            lambda record: plain.run(staying, size, times, rng, record, by_walk=by_walk),
        )
    law = TauLaw(staying, steps + 1)
    if method == "edges":
        return lambda size, rng: _collect(
            size, times, staying.dim, lambda record: _edges(law, staying.dim, size, times, rng, record)
        )
    batches = Batches(law, steps)

    def run(record: Callable[[int, Ints], None], size: int, rng: np.random.Generator) -> float:
        runner = Runner(batches, size, rng)
        for index, time in enumerate(times):
            record(index, runner.advance(int(time)))
        return runner.error

    return lambda size, rng: _collect(size, times, staying.dim, lambda record: run(record, size, rng))


def _collect(size: int, times: Ints, dim: int, run: Callable[[Callable[[int, Ints], None]], float | None]) -> Part:
    total, spread = np.zeros(len(times)), np.zeros(len(times))
    ends = np.zeros((size, dim), dtype=np.int64)

    def record(index: int, x: Ints) -> None:
        # As doubles: squares of positions at 10^15 steps are beyond 64 bits.
        square = np.sum(x.astype(float) ** 2, axis=1)
        total[index] = square.sum()
        spread[index] = np.sum((square - square.mean()) ** 2)
        if index == len(times) - 1:
            ends[:] = x

    error = run(record)
    return total, spread, ends, error or 0.0


def _edges(
    law: TauLaw, dim: int, size: int, times: Ints, rng: np.random.Generator, record: Callable[[int, Ints], None]
) -> None:
    """From edge to edge, `AHEAD` visits of every walker at a time.

    With directions 0 .. 2d-1, k + d opposite to k, the edge is left forbidding direction k + d after an odd tau (the
    way back) and k after an even one. So the next direction is k + d [tau odd] + r mod 2d with r uniform on 1 .. 2d-1,
    and all of them are running sums.
    """
    x = np.zeros((size, dim), dtype=np.int64)
    direction = rng.integers(0, 2 * dim, size)
    t = np.zeros(size, dtype=np.int64)
    found = np.zeros((len(times), size, dim), dtype=np.int64) if len(times) * size * dim <= 1 << 24 else None
    if found is None:
        raise InputError("That many times are too many to record from edge to edge.", "Ask for fewer records.")
    live = np.arange(size)
    while len(live):
        shape = (len(live), AHEAD)
        tau = law.draw(rng, len(live) * AHEAD).reshape(shape)
        odd = tau & 1
        turn = dim * odd + (rng.integers(1, 2 * dim, shape) if dim > 1 else 1)
        heading = np.cumsum(np.concatenate([direction[live, None], turn], axis=1), axis=1) % (2 * dim)
        clock = np.cumsum(np.concatenate([t[live, None], tau], axis=1), axis=1)
        step = np.where(heading[:, :-1] < dim, odd, -odd)
        places = np.zeros((len(live), AHEAD + 1, dim), dtype=np.int64)
        axis = heading[:, :-1] % dim
        for k in range(dim):
            np.cumsum(np.where(axis == k, step, 0) if dim > 1 else step, axis=1, out=places[:, 1:, k])
        places += x[live, None, :]
        first, last = np.searchsorted(times, clock[:, 0].min()), np.searchsorted(times, clock[:, -1].max())
        for index in range(first, last):
            rows = np.flatnonzero((clock[:, 0] <= times[index]) & (times[index] < clock[:, -1]))
            # The visit during which the time falls.
            column = np.sum(clock[rows] <= times[index], axis=1) - 1
            here = places[rows, column]
            inside = (times[index] - clock[rows, column]) & 1
            way = heading[rows, column]
            here[np.arange(len(rows)), way % dim] += np.where(way < dim, inside, -inside)
            found[index, live[rows]] = here
        x[live], direction[live], t[live] = places[:, -1], heading[:, -1], clock[:, -1]
        live = live[t[live] <= times[-1]]
    for index in range(len(times)):
        record(index, found[index])
