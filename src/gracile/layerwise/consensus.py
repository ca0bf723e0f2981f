"""How a network of workers solves least squares together; the problem itself is `gracile.layerwise.shared`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.network import Network
from gracile.core.seeding import derive_seed

METHODS = ("admm", "cg", "gram")


@dataclass(frozen=True)
class Consensus:
    """How a network of workers solves least squares.

    Attributes:
        network: the workers.
        method: "admm"; "cg", preconditioned conjugate gradients, with exact means: far fewer of them where features are
            nearly collinear; or "gram": the workers' Gram matrices are added up, once for each layer, and
            everyone solves the whole problem, exactly, but it tells everyone the second moments of all features. None takes
            "cg" for a ridge, and "admm" for balls, which "cg" brings to an end where it has not come to the tolerance;
            with gossip "admm" alone.
        rounds: gossip rounds for each mean of ADMM; None takes exact means. Single numbers, and each layer's solution
            at its end, are always agreed on exactly, so that all workers build the same next layer.
        steps: of ADMM or conjugate gradients, at most.
        tolerance: how much higher the cost may be than the central solution's, as a share of it; also the relative
            residuals at which ADMM may end. Where the bound on it is higher in the end, a
            `sklearn.exceptions.ConvergenceWarning` says so.
        relaxation: over-relaxation, from 1 (none) to below 2.
        penalty: ADMM's first one; None takes the mean eigenvalue of the workers' Gram matrices. It is balanced later.
    """

    network: Network
    method: str | None = None
    rounds: int | None = None
    steps: int = 500
    tolerance: float = 1e-4
    relaxation: float = 1.7
    penalty: float | None = None

    def __post_init__(self) -> None:
        if self.method is not None and self.method not in METHODS:
            raise InputError(f"There is no method '{self.method}'.", f"Choose one of: {', '.join(METHODS)}.")
        if (self.rounds is not None and self.rounds < 1) or self.steps < 1:
            raise InputError(
                f"rounds = {self.rounds} and steps = {self.steps} make no consensus.",
                "Give whole numbers from 1 up, or rounds=None for exact means.",
            )
        if self.method == "cg" and self.rounds is not None:
            raise InputError("Conjugate gradients need exact means.", 'Leave out rounds, or take method="admm".')
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
