"""What a penalty is, and the checks its proximal maps share.

A penalty P has a value and a proximal map ``prox(w, mu) = argmin_u 1/2 |u - w|^2 + mu P(u)``, in closed form.
Elementwise penalties act on
tensors of any shape. Group penalties depend on the l2 norms of groups, and perhaps on an l1 norm besides; they act on
``(groups, members)``, one group a row, and offer the factor ``scale(norms, mu)`` by which each group is multiplied, which
is all that training needs. Constraints are penalties that are 0 on a set and infinite off it; they act on
``(vectors, members)``, and their proximal map is the projection onto the set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gracile.core.errors import InputError, NonFiniteError


@runtime_checkable
class Penalty(Protocol):
    """A penalty on single weights.

    A penalty of your own needs no more than this. With `Steered` a `Dial` can set lam and the collapse warning can say how to
    lower it; with `Unchecked` training need not look for NaN at every step. Rows of the table have both, and `convex`, whether
    P is convex, so that its proximal map is firmly non-expansive.
    """

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


@runtime_checkable
class Unchecked(Protocol):
    """A penalty or constraint whose proximal map can be had without its checks."""

    def unchecked_prox(self, w: Tensor, mu: float) -> Tensor:
        """`prox` without its checks: NaN stays NaN and nothing waits for the device."""
        ...


@runtime_checkable
class Steered(Protocol):
    """A penalty that says which mu zeroes what."""

    def critical_mu(self, size: Tensor) -> Tensor:
        """The smallest mu at which a weight of absolute value `size`, or every group of this l2 norm, becomes 0.

        With an l1 norm inside P, groups of many entries go before.
        """
        ...


@runtime_checkable
class GroupPenalty(Protocol):
    """A penalty on the l2 norms of groups of weights: ``P(w) = entrywise |w|_1 + sum_g N(|w_g|_2)``.

    Whatever N is, the minimiser's groups point where the soft-thresholded ones do: with s the soft threshold of w at
    ``mu entrywise``, ``prox(w, mu)_g = scale(|s_g|, mu) s_g``.

    `Steered`, `Unchecked` and `convex` are as for `Penalty`.

    Attributes:
        entrywise: weight in [0, 1] of the l1 norm inside P; 0 for penalties on norms alone.
    """

    @property
    def entrywise(self) -> float: ...

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

    def scale(self, norms: Tensor, mu: float | Tensor) -> Tensor:
        """The factor in [0, 1] on each group, from the l2 norms (any shape) of the soft-thresholded groups.

        NaN stays NaN.
        """
        ...

    def norm_values(self, norms: Tensor) -> Tensor:
        """``N``, each group's part of P beside the l1 norm, from the groups' l2 norms (any shape)."""
        ...


@runtime_checkable
class Constraint(Protocol):
    """A set that each vector of weights must lie in, as the penalty that is 0 there and infinite elsewhere.

    ``mu > 0`` does not matter, and with ``mu = 0`` there is no penalty: the proximal map is then the identity.

    Attributes:
        block: how many consecutive inputs make a vector; None for the whole weight of a layer, 0 for what each output reads.
    """

    @property
    def block(self) -> int | None: ...

    def value(self, w: Tensor) -> Tensor:
        """0 or infinity, a scalar tensor, for ``w: (vectors, members)``."""
        ...

    def prox(self, w: Tensor, mu: float) -> Tensor:
        """The nearest point of the set for each row of ``w: (vectors, members)``, shaped like `w`; the first of equals stays.

        Raises:
            NonFiniteError: `w` holds NaN.
            InputError: ``mu < 0``, or `w` is not a matrix.
        """
        ...


def soft_threshold(w: Tensor, mu: float | Tensor) -> Tensor:
    """``sign(w) max(|w| - mu, 0)``, the proximal map of ``mu |.|``, for `w` of any shape [@donoho1995].

    Args:
        w: weights.
        mu: at least 0; a tensor broadcastable to `w` thresholds each entry by its own.
    """
    if not isinstance(mu, Tensor):
        # A bound that the weights' precision cannot hold clips nothing it can hold either.
        mu = min(mu, torch.finfo(w.dtype).max)
    # w minus its clipped part: one pass less than sign and maximum, and NaN stays NaN.
    return w - w.clamp(-mu, mu)  # pyright: ignore[reportArgumentType, reportCallIssue] - bounds are both of one kind


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
    if penalty.entrywise:
        w = soft_threshold(w, mu * penalty.entrywise)
    return w * penalty.scale(row_norms(w), mu)[:, None]


def critical_mu(penalty: Penalty | GroupPenalty) -> Callable[[Tensor], Tensor]:
    """The penalty's `critical_mu`.

    Raises:
        InputError: it has none.
    """
    if not isinstance(penalty, Steered):
        raise InputError(
            f"lam cannot be steered: the penalty {type(penalty).__name__} has no critical_mu.",
            "Give it critical_mu(size), the smallest mu at which a weight, or a group, of this size becomes 0; or set lam yourself.",
        )
    return penalty.critical_mu


def unchecked(penalty: Penalty | Constraint) -> Callable[[Tensor, float], Tensor]:
    """The proximal map without its checks, where the penalty has it; else with them."""
    return penalty.unchecked_prox if isinstance(penalty, Unchecked) else penalty.prox


def project(constraint: Constraint, w: Tensor, mu: float) -> Tensor:
    """Project each row of ``w: (vectors, members)``.

    Raises:
        NonFiniteError, InputError: as `check`; and `w` must be a matrix.
    """
    check(w, mu)
    if w.ndim != 2:
        raise InputError(
            f"A constraint acts on (vectors, members), not on {w.ndim} dimensions.",
            "Arrange one vector a row: for all entries together, w.reshape(1, -1).",
        )
    return unchecked(constraint)(w, mu)


def positive(value: float, what: str, name: str, meaning: str) -> float:
    """A positive finite setting of a penalty.

    Raises:
        InputError: it is not.
    """
    if not (value > 0 and math.isfinite(value)):
        raise InputError(f"{what} needs a finite {name} > 0, not {value}.", f"It is {meaning}.")
    return float(value)


def share(value: float, what: str, name: str) -> float:
    """A setting in (0, 1].

    Raises:
        InputError: it is not.
    """
    if not 0 < value <= 1:
        raise InputError(f"{what} needs {name} in (0, 1], not {value}.", "It is a share.")
    return float(value)


def row_norms(w: Tensor) -> Tensor:
    """l2 norms of the rows of ``w: (groups, members)``, without overflow or underflow in the squares."""
    if w.shape[1] == 0:
        return w.new_zeros(len(w))
    largest = w.abs().amax(dim=1, keepdim=True)
    safe = torch.where((largest > 0) & torch.isfinite(largest), largest, torch.ones_like(largest))
    return torch.linalg.vector_norm(w / safe, dim=1) * safe[:, 0]
