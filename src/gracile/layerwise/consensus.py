"""Least squares over workers that each see their own samples: consensus by the alternating direction method of multipliers.

    minimise sum_m f_m(O_m) + g(Z)  subject to  O_m = Z

with f_m half the squared error of worker m and g a ridge or a norm ball. A worker factorises its Gram matrix once for
each problem; an iteration then costs it two products with n x n matrices and the network one mean of an n x Q matrix.

Source: section 6.4 of the thesis; S. Boyd et al., "Distributed Optimization and Statistical Learning via the
Alternating Direction Method of Multipliers" (2011), sections 3.4.3 (over-relaxation) and 7.1; B. Wohlberg, "ADMM Penalty
Parameter Selection by Residual Balancing" (2017), section 4 (relative residuals, which do not depend on units).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.network import Network
from gracile.core.seeding import derive_seed
from gracile.layerwise.least_squares import NormBall, exact, project
from gracile.layerwise.statistics import Dual, Statistics

METHODS = ("admm", "gram")
EVERY = 5  # Iterations between two looks at the residuals, which cost a mean of four numbers.
BALANCED = 100  # Iterations in which the penalty may change.


@dataclass(frozen=True)
class Consensus:
    """How a network of workers solves least squares.

    Attributes:
        network: the workers.
        method: "admm", or "gram": the workers' Gram matrices are added up, once for each layer, and everyone solves the
            whole problem. Exact, and it tells everyone the second moments of all features.
        rounds: gossip rounds for each mean of ADMM; None takes exact means. Single numbers, and each layer's solution
            at its end, are always agreed on exactly, so that all workers build the same next layer.
        iterations: of ADMM, at most.
        tolerance: ADMM ends when its residuals, relative to what they are differences of, are below. As it is, a ridge
            regression on MNIST, spread evenly over six workers, comes within 1e-5 of the least cost.
        relaxation: over-relaxation, from 1 (none) to below 2.
        penalty: ADMM's first one; None takes the mean eigenvalue of the workers' Gram matrices. It is balanced later.
    """

    network: Network
    method: str = "admm"
    rounds: int | None = None
    iterations: int = 500
    tolerance: float = 1e-4
    relaxation: float = 1.7
    penalty: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"There is no method '{self.method}'.", f"Choose one of: {', '.join(METHODS)}.")
        if (self.rounds is not None and self.rounds < 1) or self.iterations < 1:
            raise InputError(
                f"rounds = {self.rounds} and iterations = {self.iterations} must be from 1 up.", "Correct them."
            )
        if not 1 <= self.relaxation < 2:
            raise InputError(f"relaxation = {self.relaxation} is out of range.", "Take it from 1 to below 2.")

    @property
    def hosted(self) -> int:
        """Workers in this process."""
        return len(self.network.local)

    def total(self, value: Tensor) -> Tensor:
        """The exact sum over all processes of a value each of them holds, the same bits everywhere."""
        rows = (value / self.hosted).expand(self.hosted, *value.shape).contiguous()
        return self.network.average(rows)[0] * self.network.workers

    def moments(self, count: int, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance over all processes' samples, from each process's own count, mean and variance."""
        counts = self.total(torch.tensor(float(count), dtype=torch.float64))
        joint = (self.total(torch.from_numpy(count * mean)) / counts).numpy()
        around = torch.from_numpy(count * (variance + (mean - joint) ** 2))
        return joint, (self.total(around) / counts).numpy()

    def agree(self, what: str, *parts: object) -> None:
        """Check that all processes give the same.

        Raises:
            InputError: they do not.
        """
        # 40 bits: sums over thousands of workers stay exact in float64.
        own = float(derive_seed(0, "agree", *parts) >> 23)
        mean = self.network.average(torch.full((self.hosted, 1), own, dtype=torch.float64))
        if bool((mean != own).any()):
            raise InputError(f"The workers do not agree on {what}.", "Give every process the same ones.")


def consensus(workers: Network | Consensus | None) -> Consensus | None:
    """A network with the settings it comes without."""
    return workers if workers is None or isinstance(workers, Consensus) else Consensus(workers)


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
        """argmin |T - Y O|^2 + lam |O|^2 (n, Q)."""

        def shrink(mean: Tensor, penalty: float) -> Tensor:
            total = self.workers.network.workers * penalty
            return mean * (total / (total + lam))

        return self._admm(shrink, torch.zeros_like(self.cross))

    def in_ball(self, eps: float, start: Tensor) -> NormBall:
        """argmin |T - Y O|^2 in the ball |O|_F <= eps; the multiplier is not found.

        Args:
            eps: radius.
            start: (n, Q), of which nothing but speed depends.
        """
        found = project(self._admm(lambda mean, _: project(mean, eps), project(start, eps)), eps)
        return NormBall(found, math.nan, self.cost(found))

    def _with(self, parts: list[Statistics]) -> Shared:
        return Shared(parts, self.workers, self.dtype, self.energy, self.count)

    def _admm(self, proximal: Callable[[Tensor, float], Tensor], start: Tensor) -> Tensor:
        """Consensus ADMM.

        Args:
            proximal: argmin over Z of g(Z) + penalty/2 sum_m |Z - mean|^2, from the mean and the penalty.
            start: the first Z (n, Q).
        """
        settings, network = self.workers, self.workers.network
        factors = [torch.linalg.eigh(part.gram) for part in self.parts]
        values = torch.stack([found.eigenvalues.clamp(min=0) for found in factors])[:, :, None]
        basis = torch.stack([found.eigenvectors for found in factors])
        target = basis.mT @ torch.stack([part.cross for part in self.parts])
        penalty = settings.penalty or float(self._mean([values.mean((1, 2))])) or 1.0
        z = start.expand(len(self.parts), *start.shape)
        dual = torch.zeros_like(target)
        for iteration in range(1, settings.iterations + 1):
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
                # Without an end to it convergence would not be certain.
                if iteration <= BALANCED and min(primal, moved, size, force) > 0:
                    factor = min(max(math.sqrt((primal / size) / (moved / force)), 0.2), 5.0)
                    penalty, dual = penalty * factor, dual / factor
        return network.average(z.to(self.dtype))[0].double()

    def _mean(self, numbers: list[Tensor]) -> Tensor:
        """Means over all workers of numbers each worker has (hosted,)."""
        return self.workers.network.average(torch.stack(numbers, 1))[0]


def _square(matrices: Tensor) -> Tensor:
    return matrices.square().sum((1, 2))


def in_ball(problem: Statistics | Dual | Shared, eps: float, start: Tensor) -> NormBall:
    """The exact solution where all samples are in one place, else consensus from `start`."""
    return problem.in_ball(eps, start) if isinstance(problem, Shared) else exact(problem, eps)
