"""Many visits at once, exactly in law.

How far n visits lead and how many of them are even is drawn by `gracile.walks.ways`. *Given* that number E the time they take is a
sum of n - E independent draws of tau given odd and E given even, whatever their order. Those sums have tables: the law of
2^j draws, by repeated convolution, and the binary digits of the counts say which to draw from.

Visits longer than the table are no part of a batch: how many shorter ones come before the next is geometric, and it is
drawn by itself.

A batch that ends beyond the time wanted is not thrown away, which would bias, nor used: the law of the walk given that
the batch is that long is drawn by halves, recursively, rejecting pairs of halves that fall short. The rarer it was to
come here, the more attempts it takes: rare redraws are long, and the time of a run varies with its seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from gracile.walks.visits import TauLaw
from gracile.walks.ways import ways

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EPS = float(np.finfo(float).eps)
# Convolutions are done in long doubles, where the platform has longer ones: their error doubles with every level.
EXTENDED = float(np.finfo(np.longdouble).eps)
# A batch has at most 2^TOP visits: tables of times grow with the square root, and none is faster for longer.
TOP = 20
# Below 2^SMALL visits they are drawn one by one.
SMALL = 5
NEVER = 1 << 62
# Probability cut from each end of a table.
TRIM = 1e-17
# A rejection round draws about this many candidates.
CANDIDATES = 4096


@dataclass(frozen=True)
class Table:
    """The law of a sum on first, first + 1, ...

    Attributes:
        cumulative: its distribution function.
        error: a bound on the total variation distance to the exact law.
    """

    first: int
    cumulative: Floats
    error: float

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        u = rng.random(count)
        if count < 64:
            return self.first + np.searchsorted(self.cumulative, u, side="right")
        # Sorted look-ups run through the table in order; a shuffle makes the draws independent again.
        u.sort()
        found = self.first + np.searchsorted(self.cumulative, u, side="right")
        rng.shuffle(found)
        return found


class Sums:
    """Sums of independent copies of Y >= 0 with a given law.

    Args:
        law: P(Y = 0), P(Y = 1), ..., adding up to 1.
        error: a bound on its total variation error.
        levels: tables for 1, 2, 4, ..., 2^levels copies.
    """

    def __init__(self, law: NDArray[Any], error: float, levels: int) -> None:
        self.tables = []
        first, p = 0, law.astype(np.longdouble)
        p = p / p.sum()
        for level in range(levels + 1):
            if level:
                size = int(cast(Any, fft.next_fast_len(2 * len(p) - 1, real=True)))
                squared = fft.irfft(cast(Any, fft.rfft(p, size)) ** 2, size)[: 2 * len(p) - 1]
                # The rounding of each entry by the bound of @percival2003: under 14 unit roundoffs a level of the
                # transform.
                error = 2 * error + len(squared) * 7 * math.log2(size) * EXTENDED * float(np.sum(p * p))
                p, first = np.maximum(squared, 0.0), 2 * first
            low = int(np.searchsorted(np.cumsum(p), TRIM))
            high = len(p) - int(np.searchsorted(np.cumsum(p[::-1]), TRIM))
            error += 2 * TRIM
            p, first = p[low:high], first + low
            p = p / p.sum()
            cumulative = np.cumsum(p).astype(float)
            cumulative[-1] = 1.0
            # A look-up compares doubles: at most one rounding an entry.
            self.tables.append(Table(first, cumulative, error + (high - low) * EPS / 2))

    def draw(self, rng: np.random.Generator, counts: Ints) -> tuple[Ints, float]:
        """Sums of `counts` copies each, and the law's error summed over all draws."""
        total = np.zeros(len(counts), dtype=np.int64)
        error = 0.0
        for level, table in enumerate(self.tables[:-1]):
            chosen = np.flatnonzero((counts >> level) & 1)
            total[chosen] += table.draw(rng, len(chosen))
            error += len(chosen) * table.error
        table, left = self.tables[-1], counts >> (len(self.tables) - 1)
        chosen = np.flatnonzero(left)
        while len(chosen):
            total[chosen] += table.draw(rng, len(chosen))
            error += len(chosen) * table.error
            left[chosen] -= 1
            chosen = chosen[left[chosen] > 0]
        return total, error


class Batches:
    """Draws what 2^k visits do that are all in the table.

    Args:
        law: of tau.
        horizon: the longest time to simulate, which decides how large batches are of use.
    """

    def __init__(self, law: TauLaw, horizon: int) -> None:
        self.law = law
        p = law.probabilities()
        odd, even = p[0::2], p[1::2]
        # The odds of an odd tau and of a long one; both come from sums of positive terms.
        self.p_even = float(even.sum() / p.sum())
        self.long = law.beyond
        self.ways = ways(law.walk.dim, self.p_even)
        self.top = max(SMALL, min(TOP, math.ceil(math.log2(max(2.0, horizon / law.mean_below)))))
        # Hazards have relative errors of about 4 roundings, which moves the law by as much; products are in long
        # doubles.
        self.error = self.ways.roundings * EPS
        error = self.error / min(self.p_even, 1 - self.p_even)
        self.odd = Sums(odd, error, self.top)
        self.even = Sums(even, error, self.top)
        # Where a batch of each level usually ends; any number here leaves the law as it is.
        pilot = np.random.default_rng(0)
        self.usual = [math.inf] * (self.top + 1)
        for level in range(SMALL, self.top + 1):
            self.usual[level] = float(np.quantile(self.draw(pilot, level, 400)[2], 0.95))

    def draw(self, rng: np.random.Generator, level: int, count: int) -> tuple[Ints, Ints, Ints, float]:
        """`count` batches of 2^level visits, level >= 1.

        Returns:
            (count, d) displacements where the first visit leads ahead on axis 0, directions of the next visit after them,
            see `gracile.walks.ways.Ways`, durations, and the law's error summed over draws.
        """
        visits = 1 << level
        moved, turned, evens = self.ways.draw(rng, visits, count)
        odds = visits - evens
        odd_sum, odd_error = self.odd.draw(rng, odds)
        even_sum, even_error = self.even.draw(rng, evens)
        time = odds + 2 * (evens + odd_sum + even_sum)
        error = odd_error + even_error + count * visits * self.error
        return moved, turned, time, error


class Runner:
    """Some walkers on their way.

    Args:
        batches: the tables.
        walkers: how many.
        rng: theirs alone.
    """

    def __init__(self, batches: Batches, walkers: int, rng: np.random.Generator) -> None:
        self.batches, self.rng = batches, rng
        self.dim = batches.ways.dim
        # Where, in which direction (k ahead on axis k, k + d back) and when the next visit starts.
        self.x = np.zeros((walkers, self.dim), dtype=np.int64)
        self.e = 2 * self.dim - 1 - rng.integers(0, 2 * self.dim, walkers)
        self.t = np.zeros(walkers, dtype=np.int64)
        # How many visits of the table come before one that is longer.
        self.before_long = self._draw_before_long(walkers)
        # The visit before the next one.
        self.last_x, self.last_e, self.last_t = self.x.copy(), self.e.copy(), self.t.copy()
        self.error = 0.0

    def _draw_before_long(self, count: int) -> Ints:
        if self.batches.long == 0:
            return np.full(count, NEVER, dtype=np.int64)
        return self.rng.geometric(self.batches.long, count) - 1

    def advance(self, time: int) -> Ints:
        """Positions at `time`, which is not before the last one asked for."""
        batches = self.batches
        rest = time - self.t
        # The level of the batch that is known to end beyond `time`; 0 while none is.
        known = np.zeros(len(rest), dtype=np.int64)
        while True:
            for level in range(batches.top, SMALL - 1, -1):
                self._batches(level, rest, known)
            # What is left of the time, or of the visits before a long one, is worth no batch: visit by visit up to
            # either end.
            waiting = np.flatnonzero((known == 0) & (rest >= 0))
            if not len(waiting):
                break
            self._visit(waiting, rest, None)
        for level in range(batches.top, SMALL, -1):
            self._halve(np.flatnonzero(known == level), level, rest)
            known[known == level] = level - 1
        self._visit(np.flatnonzero(known == SMALL), rest, 1 << SMALL)
        place = np.where((time < self.t)[:, None], self.last_x, self.x)
        self._step(place, np.arange(len(place)), self.last_e, (time < self.t) & ((time - self.last_t) & 1))
        return place

    def _step(self, x: Ints, rows: Ints, direction: Ints, steps: Ints) -> None:
        """Go so many steps along directions, in place."""
        x[rows, direction % self.dim] += np.where(direction < self.dim, steps, -steps)

    def _turn(self, direction: Ints, odd: Ints) -> Ints:
        """The direction of the visit after one, all that are allowed alike: never back over the same edge."""
        turn = self.dim * (1 - odd) if self.dim == 1 else self.dim * odd + self.rng.integers(1, 2 * self.dim, len(odd))
        return (direction + turn) % (2 * self.dim)

    def _batches(self, level: int, rest: Ints, known: Ints) -> None:
        usual, visits = self.batches.usual[level], 1 << level
        chosen = np.flatnonzero((rest >= usual) & (known == 0) & (self.before_long >= visits))
        while len(chosen):
            moved, turned, took, error = self.batches.draw(self.rng, level, len(chosen))
            self.error += error
            fits = took <= rest[chosen]
            self._move(chosen[fits], moved[fits], turned[fits], took[fits], visits, rest)
            known[chosen[~fits]] = level
            chosen = chosen[fits]
            chosen = chosen[(rest[chosen] >= usual) & (self.before_long[chosen] >= visits)]

    def _move(self, who: Ints, moved: Ints, turned: Ints, took: Ints, visits: int | Ints, rest: Ints) -> None:
        # Batches begin ahead on axis 0; axes are taken around, and all but the first are symmetric.
        axis, back = self.e[who] % self.dim, self.e[who] >= self.dim
        for k in range(self.dim):
            self._step(self.x, who, (axis + k) % self.dim + (self.dim * back if k == 0 else 0), moved[:, k])
        back = (turned >= self.dim) ^ (back & (turned % self.dim == 0))
        self.e[who] = (axis + turned) % self.dim + self.dim * back
        self.t[who] += took
        self.before_long[who] -= visits
        rest[who] -= took

    def _halve(self, who: Ints, level: int, rest: Ints) -> None:
        """Batches of 2^level visits last beyond `rest`: keep first halves that do not, and know it of the others."""
        while len(who):
            copies = max(1, CANDIDATES // len(who))
            limit = np.repeat(rest[who], copies)
            moved, turned, first, error = self.batches.draw(self.rng, level - 1, len(limit))
            _, _, second, other = self.batches.draw(self.rng, level - 1, len(limit))
            self.error += error + other
            hit = (first + second > limit).reshape(-1, copies)
            done = hit.any(axis=1)
            pick = np.flatnonzero(done) * copies + hit[done].argmax(axis=1)
            keep = first[pick] <= limit[pick]
            pick, found = pick[keep], who[done][keep]
            self._move(found, moved[pick], turned[pick], first[pick], 1 << (level - 1), rest)
            who = who[~done]

    def _visit(self, who: Ints, rest: Ints, known: int | None) -> None:
        """Visit by visit.

        Without `known`: until `rest` is exceeded, or a long visit has passed. With it: until `rest` is exceeded, given
        that so many visits of the table last that long.
        """
        law = self.batches.law
        while len(who):
            copies = max(1, CANDIDATES // len(who)) if known else 1
            owner = np.repeat(np.arange(len(who)), copies)
            limit, e = rest[who][owner], self.e[who][owner]
            left = np.full(len(owner), known) if known else self.before_long[who] + 1
            x, t, seen = np.zeros((len(e), self.dim), dtype=np.int64), np.zeros_like(e), np.zeros_like(e)
            end = np.full_like(e, -1)
            live = np.arange(len(owner))
            while len(live):
                tau = law.draw_short(self.rng, len(live))
                if not known:
                    long = np.flatnonzero(seen[live] == left[live] - 1)
                    tau[long] = law.draw_long(self.rng, len(long))
                over = t[live] + tau > limit[live]
                end[live[over]] = tau[over]
                live, tau = live[~over], tau[~over]
                odd = tau & 1
                t[live] += tau
                self._step(x, live, e[live], odd)
                e[live] = self._turn(e[live], odd)
                seen[live] += 1
                live = live[seen[live] < left[live]]
            crossed = end > 0
            if known:
                hit = crossed.reshape(-1, copies)
                done = hit.any(axis=1)
                pick = np.flatnonzero(done) * copies + hit[done].argmax(axis=1)
                who, again = who[done], who[~done]
            else:
                # A long visit that ended in time: the count to the next one starts anew.
                pick, again = np.arange(len(who)), who[:0]
            over = crossed[pick]
            tau = np.where(over, end[pick], 0)
            self.last_x[who] = np.where(over[:, None], self.x[who] + x[pick], self.last_x[who])
            self.last_e[who] = np.where(over, e[pick], self.last_e[who])
            self.last_t[who] = np.where(over, self.t[who] + t[pick], self.last_t[who])
            odd = tau & 1
            self.x[who] += x[pick]
            self._step(self.x, who, e[pick], odd)
            self.e[who] = np.where(over, self._turn(e[pick], odd), e[pick])
            self.t[who] += t[pick] + tau
            rest[who] -= t[pick] + tau
            self.before_long[who] -= seen[pick] + over
            spent = who[self.before_long[who] < 0]
            self.before_long[spent] = self._draw_before_long(len(spent))
            who = again
