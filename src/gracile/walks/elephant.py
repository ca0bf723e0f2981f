"""The elephant random walk with stops, the earlier model of sub-diffusion that small perturbations make diffusive."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gracile.core.errors import InputError
from gracile.walks.walk import Growth

Floats = NDArray[np.float64]
# Probabilities such as 0.7 and 0.2 + 0.1 add up to what is meant but for this.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Moments:
    """Exact second moments after 1, ..., n steps.

    Attributes:
        mean_square: (n,) E S_t^2.
        moved: (n,) the expected number of steps that were no stop.
    """

    mean_square: Floats
    moved: Floats


@dataclass(frozen=True)
class ElephantWalk:
    """A walk on the integers that remembers all of its steps.

    The first step is +1 or -1, equally likely. Later ones look at an earlier step drawn uniformly from all: it is repeated
    with probability p, reversed with q, and else the walk stops for one step; a stop that is remembered is a stop again. With
    probability `eps` a step ignores all memory and is +1 or -1, equally likely.

    Args:
        p: probability to repeat.
        q: probability to reverse; p + q at most 1.
        eps: probability of a step of the simple random walk in place of the elephant's, in [0, 1].

    Raises:
        InputError: these are no probabilities.

    Source:
        [@kumar2010]; with eps and its exact moments [@lyu2018], to which [@dinh2020, section 1.1] refers.

    >>> ElephantWalk(0.25, 0.25, eps=0.5).diffusivity()
    0.6666666666666666
    """

    p: float
    q: float
    eps: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.p, self.q, self.eps)
        if not all(0 <= one <= 1 for one in numbers) or self.p + self.q > 1 + ROUNDING:
            raise InputError(
                f"p = {self.p}, q = {self.q} and eps = {self.eps} are no probabilities to repeat, to reverse and to forget.",
                "Give numbers from 0 to 1, with p + q at most 1.",
            )

    @property
    def drift(self) -> float:
        """(1 - eps) (p - q): the next step's mean is this times S_t / t."""
        return (1 - self.eps) * (self.p - self.q)

    @property
    def moving(self) -> float:
        """(1 - eps) (p + q): the next step moves with this times the share of steps that did, plus eps."""
        total = self.p + self.q
        return (1 - self.eps) * (1.0 if math.isclose(total, 1, abs_tol=ROUNDING) else total)

    def moments(self, steps: int) -> Moments:
        """E S_t^2 and the expected number of moves for t = 1, ..., `steps`.

        With N_t the number of moves so far, both follow from conditioning on the past,
        ``E N_(t+1) = (1 + b/t) E N_t + eps`` and ``E S_(t+1)^2 = (1 + 2 a/t) E S_t^2 + b E N_t / t + eps``, where a is `drift` and b
        `moving`.

        Raises:
            InputError: `steps` is no whole number of 1 or more.
        """
        _check_whole("steps", steps)
        square = moved = 1.0
        squares, counts = [square], [moved]
        for t in range(1, steps):
            square += 2 * self.drift * square / t + self.moving * moved / t + self.eps
            moved += self.moving * moved / t + self.eps
            squares.append(square)
            counts.append(moved)
        return Moments(np.array(squares), np.array(counts))

    def growth(self) -> Growth:
        """The leading term of E S_n^2, exact."""
        a, b, eps = 2 * self.drift, self.moving, self.eps
        if eps == 0:
            if math.isclose(a, b, abs_tol=ROUNDING):
                return Growth(b / math.gamma(1 + b), b, 1.0) if b > 0 else Growth(1.0, 0.0)
            coefficient = b / (b - a) / math.gamma(1 + b) if a < b else a / (a - b) / math.gamma(1 + a)
            return Growth(coefficient, max(a, b))
        moves = eps / (1 - b)
        if math.isclose(a, 1, abs_tol=ROUNDING):
            return Growth(moves, 1.0, 1.0)
        if a < 1:
            return Growth(moves / (1 - a), 1.0)
        # Of the solution that a source of order t leaves free, what the first step fixes.
        free = 1 - moves / (1 - a) - b * (1 - moves) / (b - a)
        return Growth(free / math.gamma(1 + a), a)

    def diffusivity(self) -> float:
        """The limit of E S_n^2 / n: ``eps / ((1 - b) (1 - 2 a))`` for eps > 0 and 2 a < 1, 0 below diffusion and infinity above it."""
        growth = self.growth()
        if growth.exponent == 1 and growth.log_exponent == 0:
            return growth.coefficient
        return 0.0 if growth.exponent < 1 else math.inf

    def simulate(self, steps: int, walkers: int = 1000, seed: int = 0) -> NDArray[np.int64]:
        """Where walkers are after `steps` steps, ``(walkers,)``.

        What a walker remembers of its path enters by the numbers of its steps up and down alone.

        Raises:
            InputError: a number that is no whole one of 1 or more.
        """
        _check_whole("steps", steps)
        _check_whole("walkers", walkers)
        draw = np.random.default_rng(np.random.SeedSequence(seed))
        up = draw.integers(0, 2, walkers)
        down = 1 - up
        for t in range(1, steps):
            forget = draw.random(walkers) < self.eps
            rising = np.where(forget, 0.5, (self.p * up + self.q * down) / t)
            falling = np.where(forget, 0.5, (self.p * down + self.q * up) / t)
            point = draw.random(walkers)
            up, down = up + (point < rising), down + ((point >= rising) & (point < rising + falling))
        return (up - down).astype(np.int64)


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"The number of {name} is {value!r}.", "Give a whole number of 1 or more.")
