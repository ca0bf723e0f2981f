"""Small networks on which the statements are shown, one per row; all are float64 and without biases unless they say so."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gracile.core.errors import pick
from gracile.core.seeding import generator


class FreeBlock(nn.Module):
    """``U s(Y x) + Z x``, all three learned.

    Args:
        inputs: width of x.
        hidden: width of ``Y x``.
        outputs: width of the result.
        activation: s; the identity by default.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.y = _linear(inputs, hidden)
        self.u = _linear(hidden, outputs)
        self.z = _linear(inputs, outputs)
        self.activation = activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.u(self.activation(self.y(x))) + self.z(x)


class SkipBlock(nn.Module):
    """``U Y x + x``, or ``U Y x + d * x`` with a learned factor per neuron."""

    def __init__(self, width: int, hidden: int, *, diagonal: bool) -> None:
        super().__init__()
        self.y = _linear(width, hidden)
        self.u = _linear(hidden, width)
        self.d = nn.Parameter(torch.ones(width)) if diagonal else None

    def forward(self, x: Tensor) -> Tensor:
        return self.u(self.y(x)) + (x if self.d is None else self.d * x)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 2, bias=False)


VECTOR, IMAGE = (5,), (2, 4, 4)
Builder = Callable[[], nn.Module]
NETWORKS: dict[str, tuple[tuple[int, ...], Builder]] = {
    "linear": (VECTOR, lambda: nn.Sequential(_linear(5, 6), _linear(6, 5), _linear(5, 4), _linear(4, 1))),
    "linear-biases": (VECTOR, lambda: nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(5, 1))),
    "free-blocks": (VECTOR, lambda: nn.Sequential(_linear(5, 5), FreeBlock(5, 4, 5), FreeBlock(5, 3, 5), _linear(5, 1))),
    "free-block-tail": (VECTOR, lambda: nn.Sequential(_linear(5, 5), FreeBlock(5, 4, 5), _linear(5, 4), _linear(4, 1))),
    "convolutions": (IMAGE, lambda: nn.Sequential(_conv(2, 3), _conv(3, 3), nn.Flatten(), _linear(12, 4), _linear(4, 1))),
    "convolution-block": (IMAGE, lambda: nn.Sequential(_conv(2, 3), nn.Flatten(), FreeBlock(27, 4, 5), _linear(5, 1))),
    "identity-skips": (VECTOR, lambda: nn.Sequential(
        _linear(5, 4), SkipBlock(4, 3, diagonal=False), SkipBlock(4, 3, diagonal=False), _linear(4, 1))),
    "diagonal-skips": (VECTOR, lambda: nn.Sequential(
        _linear(5, 4), SkipBlock(4, 3, diagonal=True), SkipBlock(4, 3, diagonal=True), _linear(4, 1))),
    "relu": (VECTOR, lambda: nn.Sequential(_linear(5, 8), nn.ReLU(), _linear(8, 6), nn.ReLU(), _linear(6, 1))),
    "relu-linear-tail": (VECTOR, lambda: nn.Sequential(
        _linear(5, 8), nn.ReLU(), _linear(8, 6), nn.ReLU(), _linear(6, 5), _linear(5, 4), _linear(4, 1))),
}  # fmt: skip


def network(name: str, seed: int) -> nn.Module:
    """A row of `NETWORKS`, its weights drawn from the seed (normal, variance 1 / fan-in, times 0.64)."""
    _, build = pick(NETWORKS, name, "network")
    model = build().double()
    draw = generator(seed, "weights", name)
    with torch.no_grad():
        for one in model.parameters():
            fan = max(1, one[0].numel()) if one.dim() > 1 else 1
            one.copy_(0.8 * torch.randn(one.shape, generator=draw, dtype=torch.float64) / fan**0.5)
    return model


def regression(name: str, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets (n, 1) that no linear map fits."""
    shape, _ = pick(NETWORKS, name, "network")
    draw = generator(seed, "regression")
    x = torch.randn(number, *shape, generator=draw, dtype=torch.float64)
    return x, 2 * torch.randn(number, 1, generator=draw, dtype=torch.float64)


def separable(name: str, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs and labels +-1 (n,), linearly separable with a margin of at least 1/2."""
    shape, _ = pick(NETWORKS, name, "network")
    draw = generator(seed, "separable")
    x = torch.randn(number, *shape, generator=draw, dtype=torch.float64)
    direction = torch.randn(*shape, generator=draw, dtype=torch.float64)
    direction /= direction.norm()
    labels = torch.where((x * direction).flatten(1).sum(1) >= 0, 1.0, -1.0).double()
    return x + 0.5 * labels.reshape(-1, *[1] * len(shape)) * direction, labels
