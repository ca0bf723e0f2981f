"""The first matrix of a single-layer network optimised with the last, under the rank that keeps all information.

``y = relu(V A x)`` gives x back as long as A has the rank of its inputs, whatever A is. So A may be learned:
``min over A and O of |T - O y|^2 + lam |O|^2 subject to rank(A) = P`` [@javid2021, eq. 6.25], by turns: O in closed form for the A at
hand, then a step of A down the gradient at that O.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.estimators import whole
from gracile.layerwise.flow import signed_relu

# The least singular value of A's columns for inputs stays above this share of the greatest: rank P, and in rounding too.
LEAST = 1e-3
# A step that does not lower the cost is halved so often; the next one tries twice the length.
HALVINGS = 30


@dataclass(frozen=True)
class Alternated:
    """What was learned.

    Attributes:
        first: A with its offsets, (m, P + 1).
        last: O (Q, 2 m).
        costs: ``|T - O y|^2 + lam |O|^2`` with the best O before each step of A and after the last; never rises.
    """

    first: Tensor
    last: Tensor
    costs: list[float]

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (samples, Q) of inputs (samples, P)."""
        return _hidden(self.first, x) @ self.last.T


def alternate(first: Tensor, x: Tensor, targets: Tensor, lam: float, steps: int = 100) -> Alternated:
    """Learn A and O by turns.

    Since O is the best for every A, the gradient in A at that O is the gradient of what is left, and a step is taken only where
    it lowers that: costs fall.

    Args:
        first: A to begin with, its offsets in the last column, (m, P + 1) with m >= P; that drawn by an SLFN, say.
        x: inputs (samples, P).
        targets: (samples, Q).
        lam: ridge strength of O, above 0.
        steps: of A at most; fewer where none lowers the cost any more.

    Returns:
        Both in float64, and the costs.

    Raises:
        InputError: fewer rows than inputs, a rank below P, shapes that do not fit, lam not above 0.

    >>> x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> a = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    >>> costs = alternate(a, x, x.prod(1, keepdim=True), lam=1e-2).costs
    >>> costs[-1] < costs[0]
    True
    """
    whole("steps", steps)
    a, x, targets = first.double(), x.double(), targets.double()
    inputs = x.shape[1]
    if a.shape[1] != inputs + 1 or len(a) < inputs or len(targets) != len(x) or not lam > 0:
        raise InputError(
            f"A {tuple(a.shape)}, inputs {tuple(x.shape)}, targets {tuple(targets.shape)} and lam = {lam} make no problem.",
            "Give A (m, P + 1) with m >= P, x (samples, P), targets (samples, Q) and lam > 0.",
        )
    if not _keeps_rank(a):
        raise InputError(f"A has no rank of {inputs} to begin with.", "Draw its entries at random.")
    last, cost = _best_last(a, x, targets, lam)
    costs, length = [cost], 1.0
    for _ in range(steps):
        slope = _slope(a, last, x, targets)
        norm = float(slope.norm())
        for _ in range(HALVINGS):
            moved = a - length * a.norm() / max(norm, 1e-300) * slope
            if _keeps_rank(moved):
                found, lower = _best_last(moved, x, targets, lam)
                if lower < cost:
                    a, last, cost = moved, found, lower
                    break
            length /= 2
        else:
            break
        costs.append(cost)
        length *= 2
    return Alternated(a, last, costs)


def _hidden(a: Tensor, x: Tensor) -> Tensor:
    return signed_relu(x.double() @ a[:, :-1].T + a[:, -1])


def _best_last(a: Tensor, x: Tensor, targets: Tensor, lam: float) -> tuple[Tensor, float]:
    """The ridge solution for this A, and its cost."""
    y = _hidden(a, x)
    gram = y.T @ y
    gram.diagonal().add_(lam)
    last = torch.cholesky_solve(y.T @ targets, torch.linalg.cholesky(gram)).T
    return last, float((targets - y @ last.T).square().sum() + lam * last.square().sum())


def _slope(a: Tensor, last: Tensor, x: Tensor, targets: Tensor) -> Tensor:
    """The gradient of the cost in A at this O."""
    z = x @ a[:, :-1].T + a[:, -1]
    back = -2 * (targets - signed_relu(z) @ last.T) @ last
    up, down = back.chunk(2, 1)
    inner = up * (z > 0) - down * (z < 0)
    return torch.cat((inner.T @ x, inner.sum(0)[:, None]), 1)


def _keeps_rank(a: Tensor) -> bool:
    values = torch.linalg.svdvals(a[:, :-1])
    return bool(values[-1] > LEAST * values[0])
