"""ReLU and its leaky kin, watched and held: which side of their kink every unit is on, for every example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Function to (default slope below zero, whether it works in place).
_KINKED: dict[Any, tuple[float, bool]] = {
    F.relu: (0.0, False),
    torch.relu: (0.0, False),
    Tensor.relu: (0.0, False),
    F.relu_: (0.0, True),
    torch.relu_: (0.0, True),
    Tensor.relu_: (0.0, True),
    F.leaky_relu: (0.01, False),
    F.leaky_relu_: (0.01, True),
}


class Switches(TorchFunctionMode):
    """While active, every ReLU called notes its input, and switches as `held` says instead of by the input's sign.

    With the switches held the network is a polynomial of its weights, so that an adaptive solver meets no kink.

    Args:
        held: one boolean tensor per call, in the order of the calls; None lets the signs decide.
    """

    def __init__(self, held: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.held = held
        self.inputs: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _KINKED:
            return func(*args, **kwargs)
        slope, in_place = _KINKED[func]
        x = args[0] if args else kwargs["input"]
        if slope:
            slope = float(args[1] if len(args) > 1 else kwargs.get("negative_slope", slope))
            in_place = in_place or bool(args[2] if len(args) > 2 else kwargs.get("inplace", False))
        else:
            in_place = in_place or bool(args[1] if len(args) > 1 else kwargs.get("inplace", False))
        number = len(self.inputs)
        self.inputs.append(x.detach().clone() if in_place else x.detach())
        on = x > 0 if self.held is None else self.held[number]
        result = torch.where(on, x, slope * x)
        return x.copy_(result) if in_place else result


def switched(run: Callable[[], Any]) -> list[Tensor]:
    """The inputs of every ReLU that `run` calls, without gradients.

    Returns:
        One tensor per call, in order.
    """
    with torch.no_grad(), Switches() as watched:
        run()
    return watched.inputs
