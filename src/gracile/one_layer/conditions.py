"""Which hypotheses of theorems 3.1 and 3.2 a setting meets, and the largest coefficients that would meet them.

The theorems leave constants open; what stands here in their place is proved in the comments and tested. The filter's
norm is bounded below by what the radial part of the update does: with ``r = (1 - 1/k)/pi`` it is at least ``(1 - lr (h
+ beta)) |w| + lr r``, h the largest curvature, so that |w| never falls below ``min(|w0|, r/(h + beta))``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy.optimize import root_scalar
from tabulate import tabulate

from gracile.core.errors import InputError
from gracile.one_layer.binary import coarse_slope
from gracile.one_layer.risk import largest_curvature

Theorem = Literal["3.1", "3.2"]
# Where delta sin(delta) is largest on [0, pi]: tan(delta) = -delta.
PEAK = 2.028757838110434
# Limits that were themselves computed to be met exactly are met but for rounding.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Condition:
    """One hypothesis.

    Attributes:
        name: its place in the theorem.
        claim: what must hold, in words.
        value: the number that the hypothesis bounds.
        limit: its bound; an upper one but for the count of patches.
        met: whether it holds.
    """

    name: str
    claim: str
    value: float
    limit: float
    met: bool


@dataclass(frozen=True)
class Conditions:
    """The hypotheses of a theorem, and what would be admissible.

    Attributes:
        theorem: ``3.1`` or ``3.2``.
        delta: the theorem's delta: as given, else the least that admits beta, for which the conclusion is strongest;
            NaN if none does.
        conditions: the hypotheses.
        largest_beta: over all delta that admit the start (or at the one given).
        largest_lam: at this beta.
        largest_lr: by the theorem, at this beta.
        sufficient_lr: up to which the Lagrangian and the angle descend by a sharper count of curvature
            (`docs/one_layer.md`).
    """

    theorem: Theorem
    delta: float
    conditions: tuple[Condition, ...]
    largest_beta: float
    largest_lam: float
    largest_lr: float
    sufficient_lr: float

    @property
    def met(self) -> bool:
        """Whether all hold."""
        return all(condition.met for condition in self.conditions)

    @property
    def violated(self) -> list[str]:
        """The names of those that do not hold."""
        return [condition.name for condition in self.conditions if not condition.met]

    def require(self) -> None:
        """Go on only if all hold.

        Raises:
            InputError: some do not; the message names them and what would be admissible.
        """
        if not self.met:
            broken = "; ".join(f"{c.name}: {c.claim}" for c in self.conditions if not c.met)
            raise InputError(
                f"Theorem {self.theorem} does not cover this setting ({broken}).",
                f"From this start it admits beta up to {self.largest_beta:.4g}; at this beta lam below "
                f"{self.largest_lam:.4g} and lr up to {self.largest_lr:.4g}.",
            )

    def __str__(self) -> str:
        rows = [(c.name, c.claim, c.value, c.limit, "met" if c.met else "VIOLATED") for c in self.conditions]
        table = tabulate(rows, headers=["theorem " + self.theorem, "hypothesis", "value", "limit", ""], floatfmt=".4g")
        return (
            f"{table}\nlargest admissible: beta {self.largest_beta:.4g}, lam {self.largest_lam:.4g}, "
            f"lr {self.largest_lr:.4g} (lr {self.sufficient_lr:.4g} suffices)"
        )


def least_delta(theorem: Theorem, beta: float, k: int) -> float:
    """The least delta with ``beta <= delta sin(delta)/(k pi)`` (3.1) or ``beta <= k sin(delta)/(2 sqrt(2 pi))`` (3.2).

    Returns:
        In [0, pi); NaN where no delta admits this beta.
    """
    if theorem == "3.2":
        ratio = beta / coarse_slope(k)
        return math.asin(ratio) if ratio <= 1 else math.nan
    size = k * math.pi * beta
    if size > PEAK * math.sin(PEAK):
        return math.nan
    return float(root_scalar(lambda delta: delta * math.sin(delta) - size, bracket=(0.0, PEAK), xtol=1e-15).root)


def norm_bound(beta: float, k: int, norm: float = 1.0) -> float:
    """What |w| never falls below from a start of this norm, for ``lr <= 1/(h + beta)`` and a unit teacher."""
    return min(norm, (1 - 1 / k) / math.pi / (largest_curvature(k) + beta))


def check_conditions(
    theorem: Theorem,
    *,
    k: int,
    d: int,
    lam: float,
    beta: float,
    lr: float,
    theta: float,
    norm: float = 1.0,
    delta: float | None = None,
) -> Conditions:
    """Hold a setting against the hypotheses of theorem 3.1 (`rvsm`) or 3.2 (`rvscgd`), for a unit teacher.

    Args:
        theorem: ``3.1`` or ``3.2``.
        k: patches.
        d: their dimension.
        lam: weight of the penalty, at least 0.
        beta: strength of the coupling, above 0.
        lr: step size, above 0.
        theta: angle in [0, pi] between the start and the teacher; of many starts the largest.
        norm: ``|w0|``, above 0; `rvscgd` keeps it 1.
        delta: the theorem's delta; the least that admits beta by default.

    Raises:
        InputError: no such theorem, or an argument out of range.
    """
    if theorem not in ("3.1", "3.2"):
        raise InputError(f"There is no theorem '{theorem}' here.", "Choose 3.1 (rvsm) or 3.2 (rvscgd).")
    if not (lam >= 0 and beta > 0 and lr > 0 and norm > 0 and 0 <= theta <= math.pi and k >= 1 and d >= 1):
        raise InputError(
            f"The setting lam={lam}, beta={beta}, lr={lr}, theta={theta}, norm={norm}, k={k}, d={d} is out of range.",
            "lam is at least 0, beta, lr and norm are above 0, theta is in [0, pi].",
        )
    if delta is not None and not 0 < delta < math.pi:
        raise InputError(f"delta={delta} is not between 0 and pi.", "It is an angle in radians, or None for the least.")
    least = least_delta(theorem, beta, k) if delta is None else delta
    return (_theorem_31 if theorem == "3.1" else _theorem_32)(k, d, lam, beta, lr, theta, norm, delta, least)


def _most(name: str, claim: str, value: float, limit: float) -> Condition:
    return Condition(name, claim, value, limit, value <= limit + ROUNDING * abs(limit))


def _start(name: str, theta: float, delta: float) -> Condition:
    return _most(name, "the first angle is at most pi - delta", theta, math.pi - delta)


def _theorem_31(
    k: int, d: int, lam: float, beta: float, lr: float, theta: float, norm: float, given: float | None, delta: float
) -> Conditions:
    admitted = given if given is not None else min(math.pi - theta, PEAK)
    beta_limit = admitted * math.sin(admitted) / (k * math.pi)
    # What delta is to be is settled by beta itself: where none fits, by the largest there is.
    limit = beta_limit if given is not None else PEAK * math.sin(PEAK) / (k * math.pi)
    lowest = norm_bound(beta, k, norm)
    # Lemma 5's constant on the region that the filter never leaves.
    lr_limit = 1 / (beta + 1 + 3 / lowest) if lowest > 0 else 0.0
    lam_limit = beta / math.sqrt(d)
    conditions = (
        _most("(i) step", "lr <= 1/(beta + L), L = 1 + 3/M where |w| >= M", lr, lr_limit),
        _start("(ii) start", theta, delta),
        Condition("(iii) patches", "k >= 2", k, 2, k >= 2),
        _most("(iii) coupling", "beta <= delta sin(delta)/(k pi)", beta, limit),
        Condition("(iii) penalty", "lam/beta < 1/sqrt(d)", lam / beta, 1 / math.sqrt(d), lam < lam_limit),
        # The proof takes |u| <= 1, which is |w| <= 1 at the start and is not said there.
        _most("(proof) norm", "|u| <= 1, so |w0| <= 1", norm, 1.0),
    )
    return Conditions("3.1", delta, conditions, beta_limit, lam_limit, lr_limit, 1 / (beta + largest_curvature(k)))


def _theorem_32(
    k: int, d: int, lam: float, beta: float, lr: float, theta: float, norm: float, given: float | None, delta: float
) -> Conditions:
    slope = coarse_slope(k)
    admitted = given if given is not None else min(math.pi - theta, math.pi / 2)
    beta_limit = slope * math.sin(admitted)
    limit = beta_limit if given is not None else slope
    lam_limit = slope / math.sqrt(d)
    # L of lemma 10: between unit filters k theta/pi falls at least as fast as its coarse gradient says for L = c, as long
    # as the angle descends, because k theta/pi + c cos(theta) rises with theta. And |E g| <= 2c, |w - u| <= lam sqrt(d)/beta.
    moved = 2 * slope + min(beta, lam * math.sqrt(d))
    lr_limit = min(1 / (beta + slope), 0.5 / moved)
    conditions = (
        _start("(i) start", theta, delta),
        _most("(ii) coupling", "beta <= k sin(delta)/(2 sqrt(2 pi))", beta, limit),
        Condition("(ii) penalty", "lam < k/(2 sqrt(2 pi d))", lam, lam_limit, lam < lam_limit),
        _most("(iii) step", "lr <= 1/(beta + L), L = k/(2 sqrt(2 pi)), and lr |E g + beta (w - u)| <= 1/2", lr, lr_limit),
        Condition("(iterates) norm", "|w0| = 1, as after every step", norm, 1.0, abs(norm - 1) <= ROUNDING),
    )  # fmt: skip
    return Conditions("3.2", delta, conditions, beta_limit, lam_limit, lr_limit, 1 / (beta + slope))
