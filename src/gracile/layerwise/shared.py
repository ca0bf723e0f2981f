"""Least squares over workers that each see their own samples.

    minimise sum_m |T_m - Y_m Z|^2 + g(Z)

with g a ridge or a norm ball, by consensus (the alternating direction method of multipliers), by conjugate gradients, or by
adding the workers' Gram matrices up. A worker factorises its own Gram matrix once for each problem; an iteration then costs
it a few products with n x n matrices, and the network one mean of an n x Q matrix (two for conjugate gradients).

Whatever the method, the end is measured: with r = sum_m Y_m'T_m - (sum_m G_m + lam) Z, the cost is too high by
r'(sum_m G_m + lam)^-1 r, which is at most the mean over the workers of r'(M G_m + lam)^-1 r (the harmonic mean of positive
matrices is below the arithmetic one). Each worker knows its own term, so the bound costs two means.

Source: [@javid2021, section 6.4; @boyd2011, sections 3.4.1 (a penalty that changes less and less), 3.4.3 (over-relaxation) and 7.1;
@wohlberg2017, section 4 (relative residuals, which do not depend on units); @zhang2015 (an approximate inverse beside the product).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from gracile.layerwise.consensus import Consensus
from gracile.layerwise.least_squares import NormBall, exact, project
from gracile.layerwise.statistics import Dual, Statistics

EVERY = 5  # Iterations between two looks at the residuals, which cost a mean of four numbers.
BALANCED = 100  # Iterations in which the penalty may change freely; from then on less and less, so that ADMM converges.
# Conjugate gradients go this much below the tolerance: their last steps cost little.
CLOSER = 0.01
# The smallest multiplier of a ball, as a share of the mean eigenvalue, and how many are tried.
LEAST, MULTIPLIERS = 1e-6, 30
MOST = 5.0  # The factor by which it may change at once.


def joined(parts: Sequence[Statistics], workers: Consensus, dtype: torch.dtype) -> Statistics | Shared:
    """The problem of all workers, from the sums of those hosted here.

    Args:
        parts: one for each of them.
        workers: the network.
        dtype: of the messages.
    """
    energy, count = workers.total(torch.tensor([sum(p.energy for p in parts), sum(p.count for p in parts)]).double())
    if workers.method == "gram":
        return _added_up(parts, workers, dtype, float(energy), int(count))
    return Shared(parts, workers, dtype, float(energy), int(count))


def _added_up(
    parts: Sequence[Statistics], workers: Consensus, dtype: torch.dtype, energy: float, count: int
) -> Statistics:
    n = len(parts[0].cross)
    above = torch.triu_indices(n, n, device=parts[0].cross.device)
    packed = torch.stack([torch.cat((part.gram[above[0], above[1]], part.cross.flatten())) for part in parts])
    found = workers.network.average(packed.to(dtype))[0].double() * workers.network.workers
    return Statistics.of(_symmetric(found[: above.shape[1]], n), found[above.shape[1] :].reshape(n, -1), energy, count)


def _symmetric(above: Tensor, n: int) -> Tensor:
    rows, columns = torch.triu_indices(n, n, device=above.device)
    full = above.new_empty(n, n)
    full[rows, columns] = above
    full[columns, rows] = above
    return full


class Shared:
    """A least-squares problem whose samples lie with many workers; answers as `Statistics` does.

    Every process has to ask the same questions in the same order.

    Args:
        parts: the sums of each worker hosted here.
        workers: the network.
        dtype: of the messages.
        energy, count: of all workers' samples: |T|^2 and their number.
    """

    def __init__(
        self, parts: Sequence[Statistics], workers: Consensus, dtype: torch.dtype, energy: float, count: int
    ) -> None:
        self.parts, self.workers, self.dtype, self.energy, self.count = parts, workers, dtype, energy, count
        # Found when first asked for. functools.cached_property would hold a lock over all instances while messages travel.
        self._known: dict[str, Any] = {}

    @property
    def cross(self) -> Tensor:
        """Y'T of one hosted worker (n, Q), for its shape and device."""
        return self.parts[0].cross

    def leading(self, width: int) -> Shared:
        """The problem of the first `width` features alone."""
        return self._with([part.leading(width) for part in self.parts])

    def scaled(self, factors: Tensor) -> Shared:
        """The problem of features multiplied by `factors` (n,)."""
        return self._with([part.scaled(factors) for part in self.parts])

    def cost(self, weights: Tensor) -> float:
        """|T - Y O|_F^2 over all workers' samples."""
        own = sum(part.cost(weights) for part in self.parts)
        return float(self.workers.total(torch.tensor([own], dtype=torch.float64)))

    def ridge(self, lam: float) -> Tensor:
        """The minimiser O (n, Q) of |T - Y O|^2 + lam |O|^2."""
        if self._krylov:
            found = self._conjugate(lam, torch.zeros_like(self.cross))
            self._judge(found, lam)
            return found

        def shrink(mean: Tensor, penalty: float) -> Tensor:
            total = self.workers.network.workers * penalty
            return mean * (total / (total + lam))

        found = self._admm(shrink, torch.zeros_like(self.cross))
        self._judge(found, lam)
        return found

    def in_ball(self, eps: float, start: Tensor) -> NormBall:
        """The minimiser O of |T - Y O|^2 in the ball |O|_F <= eps; the multiplier is not found.

        Args:
            eps: radius.
            start: (n, Q), of which nothing but speed depends.
        """
        if self.workers.method == "cg":
            found = self._on_the_ball(eps, start)
            return NormBall(found, math.nan, self._judge(found, eps=eps))
        found = project(self._admm(lambda mean, _: project(mean, eps), project(start, eps)), eps)
        if self._krylov and self._bound(found, eps=eps)[0] > self.workers.tolerance:
            # From there conjugate gradients go the rest of the way.
            found = self._on_the_ball(eps, found)
        return NormBall(found, math.nan, self._judge(found, eps=eps))

    @property
    def _krylov(self) -> bool:
        return self.workers.method != "admm" and self.workers.rounds is None

    @property
    def _spectra(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (hosted, n, 1) and eigenvectors (hosted, n, n) of the workers' Gram matrices."""
        if "spectra" not in self._known:
            factors = [torch.linalg.eigh(part.gram) for part in self.parts]
            values = torch.stack([found.eigenvalues.clamp(min=0) for found in factors])[:, :, None]
            self._known["spectra"] = values, torch.stack([found.eigenvectors for found in factors])
        return self._known["spectra"]

    def _products(self, matrix: Tensor) -> Tensor:
        """G_m times one matrix (n, Q) for each hosted worker (hosted, n, Q)."""
        values, basis = self._spectra
        return basis @ (values * (basis.mT @ matrix))

    def _inverses(self, matrix: Tensor, lam: float) -> Tensor:
        """(M G_m + lam)^-1 times one matrix (n, Q) for each hosted worker (hosted, n, Q)."""
        values, basis = self._spectra
        scaled = self.workers.network.workers * values
        floor = torch.finfo(values.dtype).eps * values.shape[1] * scaled.amax(1, keepdim=True)
        return basis @ ((basis.mT @ matrix) / torch.maximum(scaled + lam, floor))

    def _sum(self, rows: Tensor) -> Tensor:
        """The exact sum over all workers, the same bits everywhere, of one matrix per hosted worker."""
        return self.workers.network.average(rows.to(self.dtype))[0].double() * self.workers.network.workers

    @property
    def _target(self) -> Tensor:
        """sum_m Y_m'T_m (n, Q)."""
        if "target" not in self._known:
            self._known["target"] = self._sum(torch.stack([part.cross for part in self.parts]))
        return self._known["target"]

    def _conjugate(self, lam: float, start: Tensor, target: Tensor | None = None) -> Tensor:
        """Conjugate gradients for (sum G_m + lam) Z = target (n, Q), each column for itself.

        Preconditioned by the mean over the workers of (M G_m + lam)^-1, whose products with the residual are the bound on
        what the cost is too high by; it ends where they are well below the tolerance.
        """
        own = target is None
        target, z = self._target if target is None else target, start
        residual = target
        if bool(start.any()):
            residual = residual - self._sum(self._products(z)) - lam * z
        steered = self._sum(self._inverses(residual, lam)) / self.workers.network.workers
        direction, before = steered, (residual * steered).sum(0)
        aim = self.workers.tolerance * (CLOSER if own else 1.0)
        for _ in range(self.workers.steps):
            # Of the problem's own solution in units of its cost; of another target in those of the energy of the solution.
            scale = self.energy - float((z * (target + residual)).sum()) if own else float((z * target).sum())
            if float(before.sum()) <= aim * max(scale, 0.0):
                break
            product = self._sum(self._products(direction)) + lam * direction
            step = _ratio(before, (direction * product).sum(0))
            z, residual = z + step * direction, residual - step * product
            steered = self._sum(self._inverses(residual, lam)) / self.workers.network.workers
            after = (residual * steered).sum(0)
            direction, before = steered + _ratio(after, before) * direction, after
        return z

    def _on_the_ball(self, eps: float, start: Tensor) -> Tensor:
        """The solution on the ball, its multiplier by Newton's method on 1/|O(lam)| = 1/eps [@more1983].

        The multiplier is kept between the largest that is known to be too small and the smallest too large; |O(lam)| and its
        slope are found by conjugate gradients.
        """
        mean = self.workers.network.workers * float(self._mean([self._spectra[0].mean((1, 2))]))
        low, high = 0.0, math.inf
        lam, found = LEAST * mean, project(start, eps)
        for _ in range(MULTIPLIERS):
            found = self._conjugate(lam, found)
            size, cost = float(found.norm()), self.energy - float((found * self._target).sum())
            if abs(lam * (size**2 - eps**2)) <= CLOSER * self.workers.tolerance * max(cost, 0.0):
                break
            low, high = (lam, high) if size > eps else (low, lam)
            if high < math.inf and high - low <= LEAST * high:
                break
            slope = float((found * self._conjugate(lam, torch.zeros_like(found), found)).sum())
            lam += (size / eps - 1) * size**2 / slope
            if not low < lam < high:
                lam = math.sqrt(max(low, LEAST**2 * mean) * high) if high < math.inf else 10 * low
        return project(found, eps)

    def _bound(self, weights: Tensor, lam: float = 0.0, eps: float | None = None) -> tuple[float, float]:
        """By what share of itself the whole cost is above the least, at most; and |T - Y O|^2 over all samples.

        Args:
            weights: (n, Q), the same everywhere.
            lam: ridge strength.
            eps: radius of the ball they lie in; then lam is the multiplier that fits best.
        """
        rows = torch.stack([part.cross for part in self.parts]) - self._products(weights)
        total = self.workers.network.average(rows)[0] * self.workers.network.workers
        misfit, size, slack = self.cost(weights), float(weights.square().sum()), 0.0
        whole = misfit + lam * size
        if eps is not None:
            lam = max(0.0, float((weights * total).sum()) / size) if size else 0.0
            slack = lam * max(0.0, eps**2 - size)
        left = total - lam * weights
        bound = slack + float(self._mean([(self._inverses(left, lam) * left).sum((1, 2))])[0])
        if eps is not None:
            # By a linear lower bound alone, which needs no eigenvalue to be away from zero.
            bound = min(bound, 2 * max(0.0, eps * float(total.norm()) - float((weights * total).sum())))
        return bound / whole if whole else 0.0, misfit

    def _judge(self, weights: Tensor, lam: float = 0.0, eps: float | None = None) -> float:
        """|T - Y O|^2 over all samples; warns where the bound on the cost is beyond the tolerance. See `_bound`."""
        bound, misfit = self._bound(weights, lam, eps)
        if bound > self.workers.tolerance:
            exact = "" if self.workers.rounds is None else "take exact means (rounds=None), "
            warnings.warn(
                f"Learning over workers ended after at most {self.workers.steps} steps with a cost that may be "
                f"{bound:.1g} of itself above that of one place. Raise steps or lam, {exact}"
                'or add the Gram matrices up (Consensus(..., method="gram")).',
                ConvergenceWarning,
                stacklevel=2,
            )
        return misfit

    def _with(self, parts: list[Statistics]) -> Shared:
        return Shared(parts, self.workers, self.dtype, self.energy, self.count)

    def _admm(self, proximal: Callable[[Tensor, float], Tensor], start: Tensor) -> Tensor:
        """Consensus ADMM.

        Args:
            proximal: argmin over Z of g(Z) + penalty/2 sum_m |Z - mean|^2, from the mean and the penalty.
            start: the first Z (n, Q).
        """
        settings, network = self.workers, self.workers.network
        values, basis = self._spectra
        target = basis.mT @ torch.stack([part.cross for part in self.parts])
        penalty = settings.penalty or float(self._mean([values.mean((1, 2))])) or 1.0
        z = start.expand(len(self.parts), *start.shape)
        dual = torch.zeros_like(target)
        for iteration in range(1, settings.steps + 1):
            local = basis @ ((target + penalty * (basis.mT @ (z - dual))) / (values + penalty))
            relaxed = settings.relaxation * local + (1 - settings.relaxation) * z
            mean = network.average((relaxed + dual).to(self.dtype), settings.rounds).double()
            before, z = z, torch.stack([proximal(row, penalty) for row in mean])
            dual = dual + relaxed - z
            if iteration % EVERY == 0:
                primal, moved, size, force = (
                    math.sqrt(float(number))
                    for number in self._mean([_square(local - z), _square(z - before), _square(z), _square(dual)])
                )
                if primal <= settings.tolerance * size and moved <= settings.tolerance * force:
                    break
                if min(primal, moved, size, force) > 0:
                    # The products of all later factors stay finite, without which convergence would not be certain.
                    most = 1 + (MOST - 1) * min(1.0, BALANCED / iteration) ** 2
                    factor = min(max(math.sqrt((primal / size) / (moved / force)), 1 / most), most)
                    penalty, dual = penalty * factor, dual / factor
        return network.average(z.to(self.dtype))[0].double()

    def _mean(self, numbers: list[Tensor]) -> Tensor:
        """Means over all workers of numbers each worker has (hosted,)."""
        return self.workers.network.average(torch.stack(numbers, 1))[0]


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Quotient of the two, and 0 where a column is solved already."""
    return torch.where(below > 0, above / below.clamp(min=torch.finfo(below.dtype).tiny), 0)


def _square(matrices: Tensor) -> Tensor:
    return matrices.square().sum((1, 2))


def in_ball(problem: Statistics | Dual | Shared, eps: float, start: Tensor) -> NormBall:
    """The exact solution where all samples are in one place, else consensus from `start`."""
    return problem.in_ball(eps, start) if isinstance(problem, Shared) else exact(problem, eps)
