"""What a penalty is, and the checks its proximal maps share.

A penalty P has a value and a proximal map ``prox(w, mu) = argmin_u 1/2 |u - w|^2 + mu P(u)``, in closed form.
Elementwise penalties act on
tensors of any shape. Group penalties depend on the l2 norms of groups alone; they act on ``(groups, members)``, one
group a row, and offer the factor
``scale(norms, mu)`` by which each group is multiplied, which is all that training needs.
"""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from gracile.core.errors import InputError, NonFiniteError


@runtime_checkable
class Penalty(Protocol):
    """A penalty on single weights.

    Attributes:
        name: its row in `gracile.penalties.TABLE`.
        convex: whether P is convex, so that its proximal map is firmly non-expansive.
    """

    name: ClassVar[str]
    convex: ClassVar[bool]

    def value(self, w: Tensor) -> Tensor:
        """P(w), a scalar tensor, for `w` of any shape."""
        ...

    def prox(self, w: Tensor, mu: float) -> Tensor:
        """The minimiser of ``1/2 |u - w|^2 + mu P(u)``, shaped like `w`; 0 where two minimisers tie.

        Raises:
            NonFiniteError: `w` holds NaN.
            InputError: ``mu < 0``.
        """
        ...

    def shadow(self, w: Tensor, mu: float) -> Tensor:
        """`prox` without its checks: NaN stays NaN and nothing waits for the device."""
        ...

    def critical_mu(self, size: Tensor) -> Tensor:
        """The smallest mu at which a weight of absolute value `size` becomes 0."""
        ...


@runtime_checkable
class GroupPenalty(Protocol):
    """A penalty on the l2 norms of groups of weights.

    Attributes:
        name: its row in `gracile.penalties.TABLE`.
        convex: whether P is convex, so that its proximal map is firmly non-expansive.
    """

    name: ClassVar[str]
    convex: ClassVar[bool]

    def value(self, w: Tensor) -> Tensor:
        """P(w), a scalar tensor, for ``w: (groups, members)``."""
        ...

    def prox(self, w: Tensor, mu: float) -> Tensor:
        """The minimiser of ``1/2 |u - w|^2 + mu P(u)`` for ``w: (groups, members)``, shaped like `w`.

        Raises:
            NonFiniteError: `w` holds NaN.
            InputError: ``mu < 0``, or `w` is not a matrix.
        """
        ...

    def scale(self, norms: Tensor, mu: float) -> Tensor:
        """The factor in [0, 1] on each group, from the groups' l2 norms (any shape); NaN stays NaN."""
        ...

    def norm_values(self, norms: Tensor) -> Tensor:
        """Each group's part of P, from the groups' l2 norms (any shape)."""
        ...

    def critical_mu(self, size: Tensor) -> Tensor:
        """The smallest mu at which a group of l2 norm `size` becomes 0."""
        ...


def check(w: Tensor, mu: float) -> None:
    """Refuse what no proximal map is defined for.

    Raises:
        NonFiniteError: `w` holds NaN.
        InputError: `mu` is negative or not a number.
    """
    if not mu >= 0:
        raise InputError(f"A proximal map needs mu >= 0, not {mu}.", "mu is lam / beta: make both positive.")
    if torch.isnan(w).any():
        raise NonFiniteError(
            "The weights hold NaN.", "Lower the learning rate, or resume from the last good checkpoint."
        )


def group_prox(penalty: GroupPenalty, w: Tensor, mu: float) -> Tensor:
    """Multiply each row of ``w: (groups, members)`` by its factor.

    Raises:
        NonFiniteError, InputError: as `check`; and `w` must be a matrix.
    """
    check(w, mu)
    if w.ndim != 2:
        raise InputError(
            f"A group penalty acts on (groups, members), not on {w.ndim} dimensions.",
            "Arrange one group a row: for the input channels of a convolution, w.transpose(0, 1).flatten(1).",
        )
    return w * penalty.scale(row_norms(w), mu)[:, None]


def row_norms(w: Tensor) -> Tensor:
    """l2 norms of the rows of ``w: (groups, members)``, without overflow or underflow in the squares."""
    largest = w.abs().amax(dim=1, keepdim=True)
    safe = torch.where((largest > 0) & torch.isfinite(largest), largest, torch.ones_like(largest))
    return torch.linalg.vector_norm(w / safe, dim=1) * safe[:, 0]
