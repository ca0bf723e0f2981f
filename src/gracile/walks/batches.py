"""Many visits at once in d = 1, exactly in law.

In d = 1 an odd tau carries the walk on and an even one turns it back. Between two turns lies a geometric number of odd visits, so 2^k turns
move the walk by the difference of two negative binomial numbers, N+ - N-; and *given* N+ + N- = K the time they take is a sum of K
independent draws of tau given odd and 2^k draws of tau given even, whatever their order. Those sums have tables: the law of 2^j draws, by
repeated convolution, and the binary digits of K say which to draw from. Draws longer than the table are counted by a binomial number and
drawn one by one.

A batch that ends beyond the time wanted is not thrown away, which would bias, nor used: the law of the walk given that the batch is that
long is drawn by halves, recursively, rejecting pairs of halves that fall short. An attempt is rejected with the probability that brought
us here, so that on average one redraw per level suffices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from gracile.walks.visits import TauLaw

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EPS = float(np.finfo(float).eps)
# A batch has at most 2^TOP turns; beyond it tables would grow with the square root of the time.
TOP = 14
# Below 2^SMALL turns visits are drawn one by one.
SMALL = 4
# Probability cut from each end of a table.
TRIM = 1e-15
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

    def __init__(self, law: Floats, error: float, levels: int) -> None:
        self.tables = []
        first, p = 0, law / law.sum()
        for level in range(levels + 1):
            if level:
                size = fft.next_fast_len(2 * len(p) - 1, real=True)
                squared = fft.irfft(fft.rfft(p, size) ** 2, size)[: 2 * len(p) - 1]
                # The rounding of each entry by the bound of Percival (2003), about 14 roundings a level of the transform.
                error = 2 * error + len(squared) * 14 * math.log2(size) * EPS * float(np.sum(p * p))
                p, first = np.maximum(squared, 0.0), 2 * first
            cumulative = np.cumsum(p)
            low = int(np.searchsorted(cumulative, TRIM))
            high = int(np.searchsorted(cumulative, cumulative[-1] - TRIM)) + 1
            # A look-up resolves doubles below 1: at most one rounding an entry.
            error += 2 * TRIM + (high - low) * EPS / 2
            p, first = p[low:high], first + low
            p = p / p.sum()
            cumulative = np.cumsum(p)
            cumulative /= cumulative[-1]
            self.tables.append(Table(first, cumulative, error))

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
    """Draws the displacement and duration of 2^k turns.

    Args:
        law: of tau.
        p_odd: P(tau odd), exact.
        p_odd_error: its bound.
        horizon: the longest time to simulate, which decides how large batches are of use.
    """

    def __init__(self, law: TauLaw, p_odd: float, p_odd_error: float, horizon: int) -> None:
        self.law = law
        self.p_even = 1 - p_odd
        self.p_error = p_odd_error + EPS
        p = law.probabilities()
        odd, even = p[0::2], p[1::2]
        complete = law.beyond == 0
        # Given the parity, how likely a visit is longer than the table.
        self.long_odd = 0.0 if complete else max(0.0, 1 - float(odd.sum()) / p_odd)
        self.long_even = 0.0 if complete else max(0.0, 1 - float(even.sum()) / self.p_even)
        typical = float(np.sum(law.survival)) / self.p_even
        self.top = max(SMALL, min(TOP, math.ceil(math.log2(max(2.0, horizon / typical)))))
        # Entries of the table have relative errors of about n roundings; weighted with the law that is E[tau] roundings.
        error = (float(np.sum(law.survival)) + 4) * EPS + 2 * p_odd_error / min(p_odd, self.p_even)
        more = max(0, math.ceil(math.log2(p_odd / self.p_even))) + 1
        self.odd = Sums(odd, error, min(self.top + more, TOP + 1))
        self.even = Sums(even, error, self.top)
        # Where a batch of each level usually ends; any number here leaves the law as it is.
        pilot = np.random.default_rng(0)
        self.usual = [math.inf] * (self.top + 1)
        for level in range(SMALL, self.top + 1):
            self.usual[level] = float(np.quantile(self.draw(pilot, level, 400)[1], 0.95))

    def draw(self, rng: np.random.Generator, level: int, count: int) -> tuple[Ints, Ints, float]:
        """Displacements (along the first direction) and durations of `count` batches of 2^level turns, level >= 1; the law's error."""
        turns = 1 << level
        ahead = rng.negative_binomial(turns // 2, self.p_even, count)
        back = rng.negative_binomial(turns // 2, self.p_even, count)
        odds, evens = ahead + back, np.full(count, turns, dtype=np.int64)
        time = (odds + 2 * turns).astype(np.int64)
        error = count * turns * self.p_error / self.p_even
        for sums, counts, share, parity in (
            (self.odd, odds, self.long_odd, 1),
            (self.even, evens, self.long_even, 0),
        ):
            if share > 0:
                long = rng.binomial(counts, share)
                counts = counts - long
                # Each visit of a table counts 2 Y + its least value, which stands in `time` already.
                longs, wrong = self._long(rng, long, parity)
                time += longs - (2 - parity) * long
                error += wrong
            found, wrong = sums.draw(rng, counts)
            time += 2 * found
            error += wrong
        return ahead - back, time, error

    def _long(self, rng: np.random.Generator, counts: Ints, parity: int) -> tuple[Ints, float]:
        """Sums of `counts` visits each that exceed the table and have this parity; the law's error."""
        total = int(counts.sum())
        values = np.empty(total)
        left = np.arange(total)
        cut = 0
        while len(left):
            tau = self.law.draw_long(rng, len(left))
            # Beyond the horizon the parity is a fair coin up to half of the hazard there, and its only use is to share them out.
            beyond = tau >= self.law.cap
            fits = np.where(beyond, rng.random(len(left)) < 0.5, (tau & 1) == parity)
            cut += int(beyond.sum())
            values[left[fits]] = tau[fits]
            left = left[~fits]
        # Doubles are exact below 2^53; a longer sum is beyond every horizon.
        sums = np.bincount(np.repeat(np.arange(len(counts)), counts), weights=values, minlength=len(counts))
        return np.minimum(sums, 2.0**60).astype(np.int64), cut * self.law.hazard_at_cap


class Runner:
    """Some walkers on their way, in d = 1.

    Args:
        batches: the tables.
        walkers: how many.
        rng: theirs alone.
    """

    def __init__(self, batches: Batches, walkers: int, rng: np.random.Generator) -> None:
        self.batches, self.rng = batches, rng
        # Where, in which direction and when the next visit starts.
        self.x = np.zeros(walkers, dtype=np.int64)
        self.e = rng.integers(0, 2, walkers) * 2 - 1
        self.t = np.zeros(walkers, dtype=np.int64)
        # The visit before it.
        self.last_x, self.last_e, self.last_t = self.x.copy(), self.e.copy(), self.t.copy()
        self.error = 0.0
        self.visits = 0

    def advance(self, time: int) -> Ints:
        """Positions at `time`, which is not before the last one asked for."""
        batches = self.batches
        rest = time - self.t
        # The level of the batch that is known to end beyond `time`; 0 while none is.
        known = np.zeros(len(rest), dtype=np.int64)
        for level in range(batches.top, SMALL - 1, -1):
            chosen = np.flatnonzero((rest >= batches.usual[level]) & (known == 0))
            while len(chosen):
                moved, took, error = batches.draw(self.rng, level, len(chosen))
                self.error += error
                fits = took <= rest[chosen]
                self._move(chosen[fits], moved[fits], took[fits], rest)
                known[chosen[~fits]] = level
                chosen = chosen[fits]
                chosen = chosen[rest[chosen] >= batches.usual[level]]
        for level in range(batches.top, SMALL, -1):
            self._halve(np.flatnonzero(known == level), level, rest)
            known[known == level] = level - 1
        self._visit(np.flatnonzero(known == SMALL), rest, 1 << SMALL)
        self._visit(np.flatnonzero((known == 0) & (rest >= 0)), rest, None)
        inside = ((time - self.last_t) & 1) * (time < self.t)
        return np.where(time < self.t, self.last_x + self.last_e * inside, self.x)

    def _move(self, who: Ints, moved: Ints, took: Ints, rest: Ints) -> None:
        self.x[who] += self.e[who] * moved
        self.t[who] += took
        rest[who] -= took

    def _halve(self, who: Ints, level: int, rest: Ints) -> None:
        """Batches of 2^level turns are known to last beyond `rest`: keep the first half where it does not, and know it of the other."""
        while len(who):
            copies = max(1, CANDIDATES // len(who))
            limit = np.repeat(rest[who], copies)
            moved, first, error = self.batches.draw(self.rng, level - 1, len(limit))
            _, second, other = self.batches.draw(self.rng, level - 1, len(limit))
            self.error += error + other
            hit = (first + second > limit).reshape(-1, copies)
            done = hit.any(axis=1)
            pick = np.flatnonzero(done) * copies + hit[done].argmax(axis=1)
            found, kept = who[done], first[pick] <= limit[pick]
            self._move(found[kept], moved[pick][kept], first[pick][kept], rest)
            who = who[~done]

    def _visit(self, who: Ints, rest: Ints, turns: int | None) -> None:
        """Visit by visit beyond `rest`; with `turns`, given that so many turns last that long."""
        while len(who):
            copies = max(1, CANDIDATES // len(who)) if turns else 1
            owner = np.repeat(np.arange(len(who)), copies)
            limit, e = rest[who][owner], self.e[who][owner]
            x, t, seen = np.zeros_like(e), np.zeros_like(e), np.zeros_like(e)
            end = np.full_like(e, -1)
            live = np.arange(len(owner))
            while len(live):
                tau = self.batches.law.draw(self.rng, len(live))
                self.visits += len(live)
                over = t[live] + tau > limit[live]
                end[live[over]] = tau[over]
                live, tau = live[~over], tau[~over]
                odd = (tau & 1) == 1
                t[live] += tau
                x[live[odd]] += e[live[odd]]
                turning = live[~odd]
                e[turning] = -e[turning]
                seen[turning] += 1
                if turns:
                    live = live[seen[live] < turns]
            hit = (end > 0).reshape(-1, copies)
            done = hit.any(axis=1)
            pick = np.flatnonzero(done) * copies + hit[done].argmax(axis=1)
            found, tau = who[done], end[pick]
            self.last_x[found] = self.x[found] + x[pick]
            self.last_e[found], self.last_t[found] = e[pick], self.t[found] + t[pick]
            odd = tau & 1
            self.x[found] = self.last_x[found] + self.last_e[found] * odd
            self.e[found] = self.last_e[found] * (2 * odd - 1)
            self.t[found] = self.last_t[found] + tau
            who = who[~done]
