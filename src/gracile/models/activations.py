"""The activations of multi-layer perceptrons, each with its derivative written out: one row each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError

# @klambauer2017, eq. 2; the same digits as torch's.
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


class SquaredExponential(nn.Module):
    """``exp(-h^2 / (2 s2))``, each element by itself; 1 at 0 and nowhere negative.

    Args:
        s2: squared length scale, positive; 0.05 in the study.

    Raises:
        InputError: `s2` is not positive.
    """

    channel_rule = "pointwise"  # tells the channel graph, without knowing it, what this does to channels

    def __init__(self, s2: float = 0.05) -> None:
        super().__init__()
        if not s2 > 0:
            raise InputError(f"A squared length scale of {s2} makes no squared exponential.", "Make s2 positive.")
        self.s2 = s2

    def forward(self, h: Tensor) -> Tensor:
        return torch.exp(h.square() * (-0.5 / self.s2))

    def extra_repr(self) -> str:
        return f"s2={self.s2}"


# From h, z = f(h) and a gradient by z, all (n, units), the gradient by h: f's Jacobian, transposed, times it.
Pull = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Activation:
    """An activation.

    Attributes:
        module: makes it.
        pull: takes a gradient by its outputs back to one by its inputs, by formula.
    """

    module: Callable[[], nn.Module]
    pull: Pull


def _gelu(h: Tensor, z: Tensor, delta: Tensor) -> Tensor:
    density = torch.exp(-0.5 * h.square()) / math.sqrt(2 * math.pi)
    return (0.5 * (1 + torch.erf(h / math.sqrt(2))) + h * density) * delta


def _silu(h: Tensor, z: Tensor, delta: Tensor) -> Tensor:
    gate = torch.sigmoid(h)
    return (gate + z * (1 - gate)) * delta


def _selu(h: Tensor, z: Tensor, delta: Tensor) -> Tensor:
    return torch.where(h > 0, SELU_SCALE, z + SELU_SCALE * SELU_ALPHA) * delta


def _softmax(h: Tensor, z: Tensor, delta: Tensor) -> Tensor:
    """The full Jacobian ``diag(z) - z z^T``."""
    return z * (delta - (z * delta).sum(dim=1, keepdim=True))


def _squared_exponential(s2: float) -> Pull:
    return lambda h, z, delta: h * z * delta * (-1 / s2)


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(nn.ReLU, lambda h, z, delta: (h > 0) * delta),
    "gelu": Activation(nn.GELU, _gelu),
    "silu": Activation(nn.SiLU, _silu),
    "selu": Activation(nn.SELU, _selu),
    "tanh": Activation(nn.Tanh, lambda h, z, delta: (1 - z.square()) * delta),
    "sigmoid": Activation(nn.Sigmoid, lambda h, z, delta: z * (1 - z) * delta),
    "leaky_relu": Activation(nn.LeakyReLU, lambda h, z, delta: torch.where(h > 0, delta, 0.01 * delta)),
    "squared_exponential": Activation(SquaredExponential, _squared_exponential(0.05)),
    "softmax": Activation(lambda: nn.Softmax(dim=1), _softmax),
    "linear": Activation(nn.Identity, lambda h, z, delta: delta),
}
