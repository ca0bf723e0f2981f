"""Reinforcements f(m): how strongly an edge crossed m times in a row holds the walk.

The next step crosses the edge again with probability q0(m) = (1 + f(m)) / (2d + f(m)), so f >= -1 (Holmes and Sakai).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from gracile.core.errors import InputError

Array = NDArray[np.float64]

# What is known of f beyond the terms that are summed one by one, and so how the rest may be bounded:
# "concave" nondecreasing and concave, "increasing" nondecreasing, "unknown" only its ceiling.
Shape = Literal["concave", "increasing", "unknown"]


class Reinforcement(Protocol):
    """What a reinforcement must tell."""

    def __call__(self, m: Array) -> Array:
        """f(m) for whole m >= 1, given as floats of any shape."""
        ...

    def shape_beyond(self, m: float, dim: int) -> Shape:
        """What is known of f on [m, infinity)."""
        ...

    def ceiling(self, m: float) -> float:
        """An upper bound of f on [m, infinity), infinity where there is none."""
        ...


@dataclass(frozen=True)
class LinearReinforcement:
    """f(m) = C m; C = 1 is the identity.

    Args:
        c: C >= 0; 0 is the simple random walk.

    Raises:
        InputError: C is negative or not finite: f would fall below -1.
    """

    c: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.c) and self.c >= 0):
            raise InputError(
                f"The linear reinforcement C m has C = {self.c}; probabilities would leave [0, 1].", "Give C >= 0."
            )

    def __call__(self, m: Array) -> Array:
        return self.c * m

    def shape_beyond(self, m: float, dim: int) -> Shape:
        return "concave"

    def ceiling(self, m: float) -> float:
        return math.inf if self.c > 0 else 0.0


@dataclass(frozen=True)
class ConstantReinforcement:
    """f(m) = c for every m.

    Args:
        c: at least -1; -1 never crosses an edge twice in a row.

    Raises:
        InputError: c < -1 or not finite.
    """

    c: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.c) and self.c >= -1):
            raise InputError(
                f"The constant reinforcement is {self.c}; a probability would leave [0, 1].", "Give a number >= -1."
            )

    def __call__(self, m: Array) -> Array:
        return np.full_like(m, self.c)

    def shape_beyond(self, m: float, dim: int) -> Shape:
        return "concave"

    def ceiling(self, m: float) -> float:
        return self.c


@dataclass(frozen=True)
class PowerReinforcement:
    """f(m) = C m^p.

    Args:
        c: at least -1; at least 0 where p > 0.
        p: the exponent. Without perturbation p > 1 keeps the walk on one edge for ever with positive probability.

    Raises:
        InputError: f would fall below -1.
    """

    c: float = 1.0
    p: float = 1.0

    def __post_init__(self) -> None:
        least = 0.0 if self.p > 0 else -1.0
        if not (math.isfinite(self.c) and math.isfinite(self.p) and self.c >= least):
            raise InputError(
                f"The power reinforcement {self.c} m^{self.p} falls below -1; probabilities would leave [0, 1].",
                f"Give C >= {least:g}.",
            )

    def __call__(self, m: Array) -> Array:
        with np.errstate(over="ignore"):
            return self.c * m**self.p

    def shape_beyond(self, m: float, dim: int) -> Shape:
        if self.p <= 0:
            return "concave" if self.c <= 0 else "unknown"
        if self.p <= 1:
            return "concave"
        # 1 / (2d + C m^p) is convex, and q0 concave, once C m^p (p + 1) >= 2d (p - 1).
        return "concave" if self(np.array(m)) * (self.p + 1) >= 2 * dim * (self.p - 1) else "increasing"

    def ceiling(self, m: float) -> float:
        if self.c <= 0:
            return 0.0
        return math.inf if self.p > 0 else float(self(np.array(m)))


@dataclass(frozen=True)
class CustomReinforcement:
    """Any reinforcement, with what its author vouches for.

    Args:
        function: takes an array of whole m >= 1, as floats, and returns f(m) >= -1 of the same shape.
        shape: "concave" (nondecreasing and concave), "increasing" (nondecreasing) or "unknown". It is what lets sums
            over 1/delta traversals be bounded from few values; it is checked on the values seen, not beyond.
    """

    function: Callable[[Array], Array]
    shape: Shape = "unknown"

    def __call__(self, m: Array) -> Array:
        values = np.asarray(self.function(m), dtype=float)
        return np.broadcast_to(values, m.shape) if values.shape != m.shape else values

    def shape_beyond(self, m: float, dim: int) -> Shape:
        return self.shape

    def ceiling(self, m: float) -> float:
        return math.inf


def reinforcement(given: object) -> Reinforcement:
    """Understand what a user gave: None or "identity" is f(m) = m, a number C is C m, a callable is itself.

    Raises:
        InputError: none of these.
    """
    if given is None or given == "identity":
        return LinearReinforcement(1.0)
    if isinstance(given, (LinearReinforcement, ConstantReinforcement, PowerReinforcement, CustomReinforcement)):
        # C m^1 and C m^0 have closed forms under their own names.
        if isinstance(given, PowerReinforcement) and given.p in (0.0, 1.0):
            return ConstantReinforcement(given.c) if given.p == 0 else LinearReinforcement(given.c)
        return given
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return LinearReinforcement(float(given))
    if callable(given):
        return CustomReinforcement(cast(Callable[[Array], Array], given))
    raise InputError(
        f"{given!r} is not a reinforcement.",
        "Give 'identity', a number C for C m, LinearReinforcement, ConstantReinforcement, PowerReinforcement, or a callable f(m).",
    )
