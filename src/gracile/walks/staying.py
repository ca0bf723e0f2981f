"""The annealed probability q(m) to stay on an edge crossed m times in a row, and the hazard 1 - q(m) to leave it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gracile.core.errors import InputError
from gracile.walks.noise import Noise
from gracile.walks.reinforcement import Reinforcement, Shape

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)


@dataclass(frozen=True)
class Staying:
    """q(m) = E max(q0(m) - delta xi, 0) = q0(m) - lost(q0(m)), with q0 = (1 + f) / (2d + f).

    Args:
        dim: d >= 1.
        f: the reinforcement.
        delta: the strength; may have underflowed to 0, where `log_delta` still tells it.
        log_delta: its logarithm, -infinity without perturbation.
        noise: the law of xi. A law that grows does so with m here (the count of crossings of the present edge).
    """

    dim: int
    f: Reinforcement
    delta: float
    log_delta: float
    noise: Noise

    @property
    def perturbed(self) -> bool:
        return self.log_delta > -np.inf

    def leave0(self, m: Array) -> Array:
        """1 - q0(m) = (2d - 1) / (2d + f(m)).

        Raises:
            InputError: f(m) < -1 or no number: a probability would leave [0, 1].
        """
        f = self.f(m)
        bad = ~(f >= -1)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"With f({m.flat[first]:.0f}) = {np.ravel(f)[first]} the probability to stay leaves [0, 1].",
                "Give f(m) >= -1 for every m >= 1.",
            )
        return (2 * self.dim - 1) / (2 * self.dim + f)

    def lost(self, m: Array, leave0: Array) -> Array:
        """What the perturbation takes from q0(m) on average."""
        if not self.perturbed:
            return np.zeros_like(leave0)
        return (
            self.noise.lost(1 - leave0, self.delta, self.log_delta, m) if self.noise.grows else self._fixed(1 - leave0)
        )

    def _fixed(self, c: Array) -> Array:
        # A law is asked about c > 0 only.
        return np.where(c > 0, self.noise.lost(np.maximum(c, 1e-300), self.delta, self.log_delta), 0.0)

    def leave(self, m: Array) -> Array:
        """The hazard 1 - q(m)."""
        leave0 = self.leave0(m)
        return np.minimum(leave0 + self.lost(m, leave0), 1.0)

    def leave_at_least(self, m: float) -> float:
        """A lower bound of the hazard on [m, infinity), 0 where there is none.

        q0 - lost(q0) grows with q0, so the hazard is least where f has its ceiling.
        """
        ceiling = self.f.ceiling(m)
        leave0 = np.array([(2 * self.dim - 1) / (2 * self.dim + ceiling)])
        return float((leave0 + self.lost(np.array([m]), leave0))[0])

    def leave_at_most(self, first: Array, last: Array, shape: Shape) -> Array:
        """An upper bound of the hazard on each [first, last]."""
        if shape == "unknown" or not self.noise.ordered:
            return np.ones_like(first)
        leave0 = self.leave0(first)
        if self.noise.grows:
            return np.minimum(leave0 + self.lost(last, self.leave0(last)), 1.0)
        return np.minimum(leave0 + self.lost(first, leave0), 1.0)

    def error(self, leave0: Array, lost: Array) -> Array:
        """A bound on the error of a computed hazard: rounding, the accuracy of special functions, quadrature."""
        quadrature = self.noise.lost_error(self.delta) if self.perturbed else 0.0
        return 4 * EPS * (leave0 + lost) + self.noise.accuracy * lost + quadrature
