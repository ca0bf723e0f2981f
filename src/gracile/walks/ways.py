"""How far n visits lead, and which of them are even: all at once, exactly in law, without their times.

In d = 1 an odd tau carries the walk on and an even one turns it back. Of n visits a binomial number E is even; the n - E odd ones
fall into the E + 1 stretches between turns, all ways alike, so that the number of steps ahead is beta-binomial.

In d = 2 and 3 the next edge is one of 2d - 1: with probability 1 / (2d - 1) it lies on the same axis, where all is as in d = 1, and
else on another, in either direction alike. So the visits fall into *runs* on one axis whose signs are independent, and a change of
axis does not ask for parities. Of n visits a binomial number is the last of its run. The others fall between the changes, all ways
alike: how many runs have more than one visit is then hypergeometric, of these how many more than two, and so on. Runs of up to
`TABLED` visits are counted by what they do, multinomially; the few longer ones go one by one. Which axes the runs lie on is
drawn by counting too, see `on_axes`.
"""

from __future__ import annotations

from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Runs of up to so many visits are counted by what they do; of longer ones there is less than one in two thousand.
TABLED = {2: 8, 3: 5}


class Ways(Protocol):
    """The visits of a walk without their times.

    Attributes:
        dim: the dimension.
        roundings: of single probabilities, in units of the machine's, that one visit depends on.
    """

    dim: int
    roundings: int

    def draw(self, rng: np.random.Generator, visits: int, count: int) -> tuple[Ints, Ints, Ints]:
        """`count` times so many visits, the first along axis 0, ahead.

        Returns:
            (count, dim) displacements; (count,) directions of the next visit, k for ahead on axis k and k + dim for back;
            (count,) numbers of even visits.
        """
        ...


def ways(dim: int, p_even: float) -> Ways:
    """Those of a dimension from 1 to 3, whose visits are even with a probability."""
    return Line(p_even) if dim == 1 else Lattice(dim, p_even)


def along(rng: np.random.Generator, odds: Ints, evens: Ints) -> Ints:
    """The displacement of visits that all lie on one axis, the first of them ahead.

    Args:
        rng: the generator.
        odds: (n,) how many of the visits are odd.
        evens: (n,) how many are even.
    """
    back = (evens + 1) // 2
    share = np.ones(len(evens))
    turned = np.flatnonzero(back)
    share[turned] = rng.beta(evens[turned] // 2 + 1, back[turned])
    return 2 * rng.binomial(odds, share) - odds


class Line:
    """Visits in d = 1; see `Ways`."""

    dim, roundings = 1, 4

    def __init__(self, p_even: float) -> None:
        self.p_even = p_even

    def draw(self, rng: np.random.Generator, visits: int, count: int) -> tuple[Ints, Ints, Ints]:
        evens = rng.binomial(visits, self.p_even, count)
        return along(rng, visits - evens, evens)[:, None], evens & 1, evens


class Lattice:
    """Visits in d = 2 or 3; see `Ways`."""

    roundings = 40

    def __init__(self, dim: int, p_even: float) -> None:
        self.dim, self.p_even = dim, p_even
        self.change = (2 * dim - 2) / (2 * dim - 1)
        # Of a run of each length: what it may do, as its displacement and its even visits, and how likely.
        self.moves: list[Ints] = []
        self.evens: list[Ints] = []
        self.chances: list[Floats] = []
        for length in range(1, TABLED[dim] + 1):
            found: dict[tuple[int, int], np.longdouble] = {}
            for run in product((0, 1), repeat=length):
                turns = np.cumsum((0, *run[:-1]))
                moved = abs(int(np.sum((1 - np.array(run)) * (-1) ** turns)))
                chance = np.longdouble(p_even) ** sum(run) * (1 - np.longdouble(p_even)) ** (length - sum(run))
                found[moved, sum(run)] = found.get((moved, sum(run)), np.longdouble(0)) + chance
            self.moves.append(np.array([moved for moved, _ in found]))
            self.evens.append(np.array([evens for _, evens in found]))
            chances = np.array(list(found.values()))
            self.chances.append((chances / chances.sum()).astype(float))

    def draw(self, rng: np.random.Generator, visits: int, count: int) -> tuple[Ints, Ints, Ints]:
        moved, rows = np.zeros((count, self.dim), dtype=np.int64), np.arange(count)
        # The first run, whose sign is known.
        first = rng.geometric(self.change, count)
        alone = first > visits
        first = np.minimum(first, visits)
        evens = rng.binomial(first, self.p_even)
        moved[:, 0] = along(rng, first - evens, evens)
        ahead = 1 - 2 * (evens & 1)
        # Runs that end in time, and one that goes on: of a change at the very end it is the next visit alone.
        left = visits - first
        runs = rng.binomial(left, self.change)
        rest = left - runs
        some = np.flatnonzero((runs > 0) & (rest > 0))
        going = rest.copy()
        going[some] = rng.binomial(rest[some], rng.beta(1.0, runs[some]))
        rest -= going
        on, axis = on_axes(rng, runs, self.dim)
        spread = np.zeros_like(on)
        for k in range(self.dim):
            others = on[:, k + 1 :].sum(axis=1)
            both = np.flatnonzero((on[:, k] > 0) & (others > 0) & (rest > 0))
            spread[:, k] = np.where(on[:, k] > 0, rest, 0)
            spread[both, k] = rng.binomial(rest[both], rng.beta(on[both, k], others[both]))
            rest -= spread[:, k]
        run_moves, run_evens = self._runs(rng, on.ravel(), spread.ravel())
        moved += run_moves.reshape(on.shape)
        evens += run_evens.reshape(on.shape).sum(axis=1)
        sign = 2 * rng.integers(0, 2, count) - 1
        last = rng.binomial(going, self.p_even)
        moved[rows, axis] += sign * along(rng, going - last, last)
        evens += last
        axis, sign = np.where(alone, 0, axis), np.where(alone, ahead, sign * (1 - 2 * (last & 1)))
        return moved, axis + self.dim * (sign < 0), evens

    def _runs(self, rng: np.random.Generator, runs: Ints, rest: Ints) -> tuple[Ints, Ints]:
        """What runs do, of a visit each and a rest of visits that falls to them, all ways alike; signs are independent."""
        evens, total = np.zeros_like(runs), np.zeros_like(runs)
        by_move = np.zeros((TABLED[self.dim] + 1, len(runs)), dtype=np.int64)
        for moves, even, chances in zip(self.moves, self.evens, self.chances, strict=True):
            longer = _nonempty(rng, runs, rest)
            counts = rng.multinomial(runs - longer, chances)
            evens += counts @ even
            np.add.at(by_move, moves, counts.T)
            rest, runs = rest - longer, longer
        for move in range(1, len(by_move)):
            total += move * (2 * rng.binomial(by_move[move], 0.5) - by_move[move])
        length, live = len(self.moves), np.flatnonzero(runs)
        while len(live):
            length += 1
            longer = _nonempty(rng, runs[live], rest[live])
            owner = np.repeat(live, runs[live] - longer)
            even = rng.binomial(length, self.p_even, len(owner))
            sign = 2 * rng.integers(0, 2, len(owner)) - 1
            np.add.at(evens, owner, even)
            np.add.at(total, owner, sign * along(rng, length - even, even))
            rest[live] -= longer
            runs = runs.copy()
            runs[live] = longer
            live = live[longer > 0]
        return total, evens


def _nonempty(rng: np.random.Generator, boxes: Ints, items: Ints) -> Ints:
    """How many boxes hold one or more of some items, where all ways to fill the boxes with items that look alike are alike."""
    return rng.hypergeometric(boxes, np.maximum(items - 1, 0), items)


def on_axes(rng: np.random.Generator, runs: Ints, dim: int, start: Ints | None = None) -> tuple[Ints, Ints]:
    """On which axes runs lie, each on another than the one before, and all others alike.

    In the plane axes alternate. In space runs are taken in pairs. After a pair the walk is back on its axis or on one of the
    others with probability 1/2 each: the pairs that lead away are again a walk from axis to axis, of half as many steps, and how
    often it takes each axis follows from the same draw, how often each edge between two axes from that. The other pairs
    are spread over its stays, all ways alike.

    Args:
        rng: the generator.
        runs: (n,) how many.
        dim: 2 or 3.
        start: (n,) the axis before the first of them; 0 if left out.

    Returns:
        (n, dim) runs on each axis; (n,) the axis after them, of one more step.
    """
    if dim == 2:
        return np.stack([runs // 2, (runs + 1) // 2], axis=1), (runs + 1) % 2
    start = np.zeros_like(runs) if start is None else start
    found, at = _around(rng, runs, start)
    return found, (at + rng.integers(1, 3, len(runs))) % 3


def _around(rng: np.random.Generator, steps: Ints, start: Ints) -> tuple[Ints, Ints]:
    """A walk on three places, each step to one of the two others: (n, 3) arrivals at each, and where it ends."""
    rows = np.arange(len(steps))
    arrivals, at = np.zeros((len(steps), 3), dtype=np.int64), start
    pairs = steps // 2
    if pairs.any():
        away = rng.binomial(pairs, 0.5)
        stops, at = _around(rng, away, start)
        stays = stops.copy()
        stays[rows, start] += 1
        # Each stop is met by two steps away, but for the first and the last place.
        met = stops + stays
        met[rows, at] -= 1
        # Of three places the step between two passes the third, and pairs end where the walk of pairs arrives.
        arrivals += (met.sum(axis=1, keepdims=True) - 2 * met) // 2 + stops
        left = pairs - away
        for place in range(3):
            others = stays[:, place + 1 :].sum(axis=1)
            here = np.where(stays[:, place] > 0, left, 0)
            both = np.flatnonzero((stays[:, place] > 0) & (others > 0) & (left > 0))
            here[both] = rng.binomial(left[both], rng.beta(stays[both, place], others[both]))
            left = left - here
            one = rng.binomial(here, 0.5)
            arrivals[:, place] += here
            arrivals[:, (place + 1) % 3] += one
            arrivals[:, (place + 2) % 3] += here - one
    odd = np.flatnonzero(steps % 2)
    at = at.copy()
    at[odd] = (at[odd] + rng.integers(1, 3, len(odd))) % 3
    arrivals[odd, at[odd]] += 1
    return arrivals, at
