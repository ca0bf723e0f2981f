"""What groups of weights are worth to the loss, from the gradients of the run itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gracile.core.shards import sum_over_parts


class Worth:
    """A running mean of the squared derivative of the loss along each group's gate.

    The gate of a group is a number, 1, that multiplies all of its weights; the loss's derivative along it is ``sum_g w dL/dw``,
    which costs nothing, since the gradients are there. For a channel that several layers read it is the derivative along the
    channel itself, whatever the scale of one layer against the next. Its mean square over batches is in proportion to the
    Fisher information of the gate, half of which is what the loss rises by, to second order, when the gate is closed
    [@theis2018; @molchanov2019], so that groups of all layers can be compared.

    Args:
        groups: how many there are.
        horizon: steps over which it is averaged, at least 1.

    Attributes:
        mean: the mean square, ``(groups,)``; 0 before the first step.
        seen: steps taken in.
    """

    def __init__(self, groups: int, horizon: float) -> None:
        self.mean = torch.zeros(groups)
        self.seen = 0
        self.horizon = max(1.0, horizon)
        # The derivatives of the step under way, by whom they are summed over: one of several optimisers may have stepped.
        self._open: dict[Any, Tensor] = {}

    def add(self, index: Tensor, weight: Tensor, gradient: Tensor, scale: float | Tensor, shared_by: Any) -> None:
        """Take in one weight's part of the derivatives.

        Args:
            index: the number of the group that each slice belongs to, broadcastable to the weight; ``groups`` for none.
            weight: the part of it that lies here.
            gradient: of the same shape.
            scale: what the gradient is still multiplied by.
            shared_by: the processes among which the weight lies in parts; None if it is whole.
        """
        dims = [dim for dim in range(weight.ndim) if index.shape[dim] == 1 and weight.shape[dim] > 1]
        kind = torch.float64 if weight.dtype == torch.float64 else torch.float32
        part = (weight.to(kind) * gradient).to(kind)
        part = part.sum(dim=dims, keepdim=True) if dims else part
        if isinstance(scale, Tensor) or scale != 1.0:
            part = part / scale
        if shared_by not in self._open:
            self._open[shared_by] = torch.zeros(len(self.mean) + 1, dtype=kind, device=weight.device)
        if weight.numel():
            self._open[shared_by].index_add_(0, index.reshape(-1), part.reshape(-1))

    def end_step(self) -> None:
        """A step of the run is over; one with a derivative that is not finite is left out."""
        if not self._open:
            return
        squares = sum_over_parts(self._open)[:-1].square()
        self._open = {}
        finite = squares.isfinite().all()
        self.seen += 1
        weight = max(1 / self.seen, 1 / self.horizon)
        self.mean = self.mean.to(squares)
        self.mean = torch.where(finite, self.mean.lerp(squares, weight), self.mean)

    def state_dict(self) -> dict[str, Any]:
        """The mean and how many steps it is of."""
        return {"mean": self.mean, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.mean, self.seen = state["mean"], int(state["seen"])
