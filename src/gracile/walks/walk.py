"""`SenileWalk`: the senile reinforced random walk and its perturbations, exactly and simulated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import mpmath
import numpy as np
from mpmath.ctx_iv import MPIntervalContext
from numpy.typing import NDArray

from gracile.core.errors import InputError
from gracile.walks import closed_form, series
from gracile.walks.noise import Fixed, LogPareto, Uniform
from gracile.walks.noise import noise as understand_noise
from gracile.walks.reinforcement import ConstantReinforcement, LinearReinforcement, PowerReinforcement
from gracile.walks.reinforcement import reinforcement as understand_reinforcement
from gracile.walks.simulation import Method, Simulation, simulate
from gracile.walks.staying import Staying

Clock = Literal["edge", "walk"]


@dataclass(frozen=True)
class Growth:
    """E|S_n|^2 ~ coefficient n^exponent (log n)^log_exponent where the walk is not diffusive."""

    coefficient: float
    exponent: float
    log_exponent: float = 0.0

    def __str__(self) -> str:
        power = "n" if self.exponent == 1 else f"n^{self.exponent:.6g}"
        logs = {-1.0: " / log n", 1.0: " log n"}.get(self.log_exponent, "")
        return f"E|S_n|^2 ~ {self.coefficient:.10g} {power}{logs}"


@dataclass(frozen=True)
class Diffusivity:
    """The diffusion constant and what it is made of.

    Attributes:
        nu: lim E|S_n|^2 / n, equation (2.1); 0 where E[tau] is infinite, infinity where the walk never turns.
        error_bound: a bound on the absolute error of `nu`: truncation, remainders, quadrature and rounding. For a
            closed form it is proved by interval arithmetic; else it takes libm and scipy at their documented accuracy,
            once over.
        mean_tau: E[tau].
        mean_tau_error: a bound on its absolute error.
        p_odd: P(tau odd).
        p_odd_error: a bound on its absolute error.
        growth: the law of E|S_n|^2 where it is not nu n.
        method: "closed form", "series", or why there was nothing to sum.
    """

    nu: float
    error_bound: float
    mean_tau: float
    mean_tau_error: float
    p_odd: float
    p_odd_error: float
    growth: Growth | None
    method: str


@dataclass(frozen=True)
class Recurrence:
    """The class by Holmes and Sakai (theorem 2.1, corollary 1).

    Attributes:
        first: "recurrent (I)" where every site is visited infinitely often almost surely, else "transient (I)".
        second: "recurrent (II)" where the expected number of visits is infinite, else "transient (II)".
        mean_tau_finite: whether E[tau] is.
        reason: the criterion that decided.
    """

    first: str
    second: str
    mean_tau_finite: bool
    reason: str


class SenileWalk:
    """A nearest-neighbour walk on Z^d whose probability to cross its last edge again is reinforced by each crossing.

    After m crossings of an edge in a row the next step crosses it again with probability q(m) = E max(q0(m) - delta xi,
    0), where q0(m) = (1 + f(m)) / (2d + f(m)); each of the other 2d - 1 neighbours is equally likely.

    Args:
        dim: d >= 1.
        reinforcement: f: "identity" (the default, f(m) = m), a number C for C m, `LinearReinforcement`,
            `ConstantReinforcement`, `PowerReinforcement`, `CustomReinforcement`, or a callable on arrays with f >= -1.
        delta: the strength of the perturbation, >= 0; a float, or an mpmath number below the smallest float.
        noise: the law of xi: None is model I (xi = 1); a row of `NOISES` such as "half-cauchy" or "pareto:0.5", a law
            object, a scipy frozen distribution or a callable x -> P(xi <= x) are model II; a row that ends in "-n" and a function
            from n to a frozen distribution are model III.
        clock: what n is in a law that depends on it. "edge": the count of crossings of the present edge, as in the
            products of the theorems; visits of edges are then independent and the diffusion constant exact. "walk": the
            step of the walk; it can only be simulated, step by step.

    Raises:
        InputError: a dimension, strength, reinforcement or noise that defines no walk.

    Source:
        Dinh and Xin, "Enhanced diffusivity in perturbed senile reinforced random walk models"; Holmes and Sakai,
        "Senile reinforced random walks".
    """

    def __init__(
        self, dim: int, reinforcement: Any = None, delta: Any = 0.0, noise: Any = None, clock: Clock = "edge"
    ) -> None:
        if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or dim < 1:
            raise InputError(
                f"A walk on Z^d needs a whole dimension of 1 or more, not {dim!r}.", "Give dim = 1, 2, 3, ..."
            )
        if isinstance(delta, (bool, str)) or not isinstance(delta, (int, float, np.number, mpmath.mpf)):
            raise InputError(
                f"delta is {delta!r}, which is no number.", "Give a float, or an mpmath.mpf for tiny values."
            )
        if not (delta >= 0 and delta < math.inf):
            raise InputError(f"delta is {delta}; a strength cannot be negative, infinite or nan.", "Give delta >= 0.")
        if clock not in ("edge", "walk"):
            raise InputError(f"There is no clock '{clock}'.", "Choose 'edge' or 'walk'.")
        self.dim = int(dim)
        self.reinforcement = understand_reinforcement(reinforcement)
        self.noise = understand_noise(noise)
        self.delta = delta if isinstance(delta, mpmath.mpf) else float(delta)
        self.clock: Clock = clock if self.noise.grows else "edge"
        log_delta = float(mpmath.log(self.delta)) if self.delta > 0 else -math.inf
        self.staying = Staying(self.dim, self.reinforcement, float(self.delta), log_delta, self.noise)
        # The first values are looked at now, so that a law that is none is refused where it is given.
        self.staying.leave0(np.arange(1.0, 257.0))

    def __repr__(self) -> str:
        return f"SenileWalk({self.dim}, {self.reinforcement}, delta={self.delta}, noise={self.noise})"

    def stay_probability(self, m: NDArray[Any] | Sequence[int] | int) -> NDArray[np.float64]:
        """q(m), the annealed probability to cross an edge again after m >= 1 crossings in a row."""
        self._needs_edge_clock("The probability to stay")
        values = np.atleast_1d(np.asarray(m, dtype=float))
        if not (values >= 1).all():
            raise InputError("Crossings are counted from 1.", "Give m >= 1.")
        self._needs_float_delta()
        return 1 - self.staying.leave(values)

    def tau_survival(self, n: int) -> NDArray[np.float64]:
        """P(tau >= 1), ..., P(tau >= n), where tau counts the crossings of an edge before it is left."""
        self._needs_edge_clock("The law of tau")
        self._needs_float_delta()
        return series.survival(self.staying.leave(np.arange(1.0, n)))

    def diffusivity(self) -> Diffusivity:
        """The diffusion constant nu = P(tau odd) / ((1 - P(tau odd) / d) E[tau]), equation (2.1), with bounds.

        Raises:
            InputError: the law depends on the step of the walk; the mean of tau cannot be decided; or delta is below
                every float where no closed form is known.
        """
        self._needs_edge_clock("The diffusion constant")
        return self._diffusivity

    @cached_property
    def _diffusivity(self) -> Diffusivity:
        if self._never_stays():
            return self._from_sums(series.Sums(1.0, 0.0, 1.0, 0.0), "tau = 1")
        f = self.reinforcement
        if self.delta == 0:
            if isinstance(f, PowerReinforcement) and f.p > 1 and f.c > 0:
                return self._localised()
            if not isinstance(f, (LinearReinforcement, ConstantReinforcement, PowerReinforcement)):
                raise InputError(
                    "Without perturbation no finite number of values of f decides whether E[tau] is finite.",
                    "Give delta > 0, or LinearReinforcement, ConstantReinforcement or PowerReinforcement.",
                )
        if not self.noise.ordered and self.delta > 0:
            return self._by_losses()
        loss, half = self._constant_loss()
        if loss is not None and isinstance(f, (LinearReinforcement, ConstantReinforcement)):
            if isinstance(f, LinearReinforcement) and f.c > 0:
                return self._from_intervals(*closed_form.linear(self.dim, f.c, loss, half))
            return self._from_intervals(*closed_form.constant(self.dim, f.c, loss, half))
        if not isinstance(self.noise, LogPareto):
            self._needs_float_delta()
        return self._from_sums(series.sums(self.staying), "series")

    def recurrence(self) -> Recurrence:
        """Recurrence and transience by the criteria of Holmes and Sakai.

        A perturbed walk is a senile walk with the reinforcement f_delta = (2d q - 1) / (1 - q) >= -1, so they apply to
        it too.

        Raises:
            InputError: the walk stays on one edge for ever with positive probability (the criteria exclude it), or
                E[tau] cannot be decided.
        """
        found = self.diffusivity()
        if found.method == "localised":
            raise InputError(
                "The walk may stay on one edge for ever; the criteria of Holmes and Sakai exclude that.",
                "Give delta > 0 or a power of at most 1.",
            )
        if self.dim == 1 and found.p_odd == 1:
            return Recurrence(
                "transient (I)",
                "transient (II)",
                True,
                "tau = 1 in d = 1: the walk never turns (the degenerate case they exclude)",
            )
        finite = math.isfinite(found.mean_tau)
        simple = "recurrent" if self.dim <= 2 else "transient"
        second = simple if finite else "recurrent"
        reason = f"as the simple random walk in d = {self.dim}"
        if not finite:
            reason += "; E[tau] is infinite, so the expected number of visits is too"
        return Recurrence(f"{simple} (I)", f"{second} (II)", finite, reason)

    def simulate(
        self,
        steps: int,
        walkers: int = 1000,
        seed: int = 0,
        *,
        records: int | Sequence[int] = 20,
        method: Method = "auto",
        workers: int = 1,
    ) -> Simulation:
        """Mean square displacement over time, and end positions.

        Args:
            steps: how long each walker goes, up to 10^15.
            walkers: how many, independent.
            seed: the same seed gives the same numbers, whatever `workers`.
            records: the times to record, or how many of them, log-spaced up to `steps`.
            method: "steps" goes step by step (the plain twin), "edges" from edge to edge, "batches" (d up to 3) many edges
                at once; "auto" takes the fastest that fits. All agree in law.
            workers: threads.

        Raises:
            InputError: sizes that are no sizes; a method that this walk does not admit.
        """
        by_walk = self.clock == "walk"
        if not by_walk:
            self._needs_float_delta()
        return simulate(
            self.staying, steps, walkers, seed, by_walk=by_walk, records=records, method=method, workers=workers
        )

    def _needs_edge_clock(self, what: str) -> None:
        if self.clock == "walk":
            raise InputError(
                f"{what} is undefined where the noise depends on the step of the walk: visits of edges are not alike.",
                "Use clock='edge' for the quantity of the theorems, or simulate.",
            )

    def _needs_float_delta(self) -> None:
        if 0 < self.delta < 1e-290:
            raise InputError(
                f"delta = {mpmath.nstr(self.delta, 3)} is too small for floats, and this model has no closed form.",
                "Take delta >= 1e-290, model I with linear reinforcement, or the noise log-pareto.",
            )

    def _never_stays(self) -> bool:
        """Whether q(1) = 0 exactly, so that tau = 1."""
        f1 = float(self.reinforcement(np.array([1.0]))[0])
        if f1 == -1:
            return True
        with mpmath.workdps(60):
            q0 = (1 + mpmath.mpf(f1)) / (2 * self.dim + mpmath.mpf(f1))
            return self.noise.least > 0 and bool(mpmath.mpf(self.delta) * self.noise.least >= q0)

    def _constant_loss(self) -> tuple[Any, bool]:
        """D and whether to halve it, where E min(delta xi, q0(m)) = D for every m; else None."""
        if self.delta == 0:
            return 0.0, False
        if isinstance(self.noise, Fixed):
            return self.delta, False
        if isinstance(self.noise, Uniform):
            top = mpmath.fmul(self.delta, self.noise.high, exact=True)
            with mpmath.workdps(60):
                f1 = mpmath.mpf(float(self.reinforcement(np.array([1.0]))[0]))
                if top < (1 + f1) / (2 * self.dim + f1):
                    return top, True
        return None, False

    def _by_losses(self) -> Diffusivity:
        """Where losses vary with n without order: nu = 0 if their sum is finite and E[tau] is infinite without them.

        Raises:
            InputError: it is not so, and no finite number of laws decides.
        """
        f = self.reinforcement
        summable = getattr(self.noise, "summable", None)
        if not (summable and isinstance(f, LinearReinforcement) and f.c > 0 and 2 * self.dim - 1 <= f.c):
            raise InputError(
                "Laws that change with n without order leave open what lies beyond those that were looked at.",
                "Look at tau_survival(n), whose sum is E[tau], or simulate.",
            )
        # P(tau >= n) falls as without perturbation, times the product of 1 - l_m / q0(m), which converges.
        first = series.head(self.staying, series.ONE_BY_ONE[-1])
        half = first.survival / 2
        return Diffusivity(
            0.0, 0.0, math.inf, 0.0, first.odd + half, first.odd_error + half, None, "the sum of losses is finite"
        )

    def _from_sums(self, found: series.Sums, method: str) -> Diffusivity:
        low_odd, high_odd = max(found.odd - found.odd_error, 0.0), min(found.odd + found.odd_error, 1.0)
        low = _nu(self.dim, low_odd, found.mean + found.mean_error)
        high = _nu(self.dim, high_odd, max(found.mean - found.mean_error, 1.0))
        nu = _nu(self.dim, found.odd, found.mean)
        bound = max(high - nu, nu - low) * (1 + 1e-12) + 1e-15 * nu if math.isfinite(nu) else 0.0
        return Diffusivity(
            nu,
            bound,
            found.mean,
            found.mean_error,
            found.odd,
            found.odd_error,
            None if nu < math.inf else Growth(1.0, 2.0),
            method,
        )

    def _from_intervals(self, mean: Any, odd: Any) -> Diffusivity:
        iv = MPIntervalContext()
        iv.prec = 200
        mean, odd = iv.make_mpf(mean._mpi_), iv.make_mpf(odd._mpi_)
        variance = odd / (1 - odd / self.dim)
        p, p_error = _rounded(odd)
        if mean.a == iv.inf:
            return Diffusivity(0.0, 0.0, math.inf, 0.0, p, p_error, self._slow(_rounded(variance)[0]), "closed form")
        nu, bound = _rounded(variance / mean)
        tau, tau_error = _rounded(mean)
        return Diffusivity(nu, bound, tau, tau_error, p, p_error, None, "closed form")

    def _slow(self, variance: float) -> Growth:
        """The law of E|S_n|^2 for f(m) = C m with infinite E[tau].

        E|S_n|^2 = variance E[number of visits by n] + lower order, by Wald for the martingale of visits. Where P(tau >=
        n) ~ K n^-kappa the number of visits is n / (K log n) for kappa = 1 and, below 1, n^kappa sin(pi kappa) / (pi
        kappa K). In d = 1 with C = 1 that is proposition 2.2.1.
        """
        assert isinstance(self.reinforcement, LinearReinforcement)
        c = self.reinforcement.c
        k = math.exp(math.lgamma(1 + 2 * self.dim / c) - math.lgamma(1 + 1 / c))
        kappa = (2 * self.dim - 1) / c
        if kappa == 1:
            return Growth(variance / k, 1.0, -1.0)
        return Growth(variance * math.sin(math.pi * kappa) / (math.pi * kappa * k), kappa)

    def _localised(self) -> Diffusivity:
        """A power above 1 without perturbation: the product of q0 converges, so tau may be infinite."""
        start = 1 << 18
        m = np.arange(1.0, start)
        leave = self.staying.leave0(m)
        g = series.survival(leave)
        odd = float(np.sum((g[:-1] * leave)[::2]))
        # P(start <= tau < infinity) <= sum of the hazards beyond <= (2d - 1) start^(1-p) / (C (p - 1)).
        assert isinstance(self.reinforcement, PowerReinforcement)
        p, c = self.reinforcement.p, self.reinforcement.c
        rest = min((2 * self.dim - 1) * float(start - 1) ** (1 - p) / (c * (p - 1)), 1.0) * float(g[-1])
        return Diffusivity(0.0, 0.0, math.inf, 0.0, odd + rest / 2, rest / 2 + 1e-12, None, "localised")


def _nu(dim: int, odd: float, mean: float) -> float:
    turn = 1 - odd / dim
    return math.inf if turn <= 0 else odd / (turn * mean)


def _rounded(x: Any) -> tuple[float, float]:
    """The middle of an interval as a double, and a bound on its distance to the interval's far end."""
    low, high = (mpmath.mp.make_mpf(end) for end in x._mpi_)
    with mpmath.workprec(300):
        value = float((low + high) / 2)
        far = max(abs(high - value), abs(low - value))
        return value, math.nextafter(float(far), math.inf)
