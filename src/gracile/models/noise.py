"""Gaussian noise inside a network, which can be drawn anew, held fixed or switched off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError, nearest
from gracile.core.seeding import generator

NoiseMode = Literal["fresh", "fixed", "off"]

SCALINGS = ("sample", "batch", "none")


class GaussianNoise(nn.Module):
    """``x + level * std(x) * z`` with z standard normal, in training and in evaluation.

    Its mode, changed by `set_noise`, is ``fresh``: drawn from torch's global generator, as dropout draws; ``fixed``:
    one field z, a function of seed, stream and shape, for every sample of every pass, which makes the network a
    function again; or ``off``. No gradient goes through the deviation: multiplied by z it has mean zero, and following
    it would double the cost.

    Args:
        level: the coefficient, at least 0.
        scaling: of what the deviation is taken: ``sample``; ``batch``, as in the authors' code, where a prediction
            depends on the rest of its batch; or ``none``, which puts 1 in its place.
        stream: tells this layer's fixed noise from that of others.

    Raises:
        InputError: a negative level, or no such scaling.
    """

    channel_rule = "elementwise"  # tells the channel graph, without knowing it, what this does to channels

    def __init__(self, level: float = 0.1, scaling: str = "sample", stream: int = 0) -> None:
        super().__init__()
        if not 0 <= level < float("inf"):
            raise InputError(f"The noise level is {level}.", "Give a number from 0 on; the authors use 0.1.")
        if scaling not in SCALINGS:
            raise InputError(f"There is no scaling of noise '{scaling}'.", nearest(scaling, SCALINGS))
        self.level, self.scaling, self.stream = float(level), scaling, stream
        self.mode: NoiseMode = "fresh"
        self.seed = 0
        self._drawn: tuple[tuple[int, ...], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return add_noise([self], x)

    def field(self, *shape: int) -> Tensor:
        """The fixed noise of activations (channels, height, width), on the CPU; drawn once, so that it can be exported."""
        key = (self.seed, *shape)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, torch.randn(1, *shape, generator=generator(self.seed, "noise", self.stream))
        return self._drawn[1]

    def extra_repr(self) -> str:
        return f"level={self.level}, scaling={self.scaling!r}, mode={self.mode!r}"


def add_noise(layers: Sequence[GaussianNoise], x: Tensor) -> Tensor:
    """What the noise layers of several networks do to activations that lie one network after the other.

    Args:
        layers: one per network, alike in all but the stream.
        x: (n, networks * channels, height, width).

    Returns:
        The same shape.
    """
    first, models = layers[0], len(layers)
    if first.mode == "off" or first.level == 0:
        return x
    if first.mode == "fresh":
        noise = _normal_like(x)
    else:
        fields = [one.field(x.shape[1] // models, *x.shape[2:]) for one in layers]
        noise = torch.cat(fields, dim=1).to(device=x.device, dtype=x.dtype)
    if first.scaling == "none":
        return x + first.level * noise
    parts = [_deviation(part, first.scaling) for part in x.detach().chunk(models, dim=1)]
    if models > 1:
        parts = [part.expand(len(x), x.shape[1] // models, *part.shape[2:]) for part in parts]
    return torch.addcmul(x, noise, torch.cat(parts, dim=1), value=first.level)


def _deviation(x: Tensor, scaling: str) -> Tensor:
    """Standard deviations of (n, ...), with as many dimensions; a fiftieth of the time of `Tensor.std`."""
    dims = tuple(range(scaling == "sample", x.ndim))
    centred = x - x.mean(dim=dims, keepdim=True)
    number = x[0].numel() if scaling == "sample" else x.numel()
    return torch.linalg.vector_norm(centred, dim=dims, keepdim=True) / max(1, number - 1) ** 0.5


def _normal_like(x: Tensor) -> Tensor:
    """As `torch.randn_like`, which for activations laid out channels-last takes six times as long on a CPU."""
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.randn_like(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return torch.randn_like(x)


def set_noise(model: nn.Module, mode: NoiseMode, *, seed: int = 0) -> int:
    """Change the mode of every noise layer of a network.

    Args:
        model: changed in place.
        mode: ``fresh``, ``fixed`` or ``off``; see `GaussianNoise`.
        seed: of the fixed noise.

    Returns:
        How many noise layers there are.

    Raises:
        InputError: no such mode.
    """
    if mode not in get_args(NoiseMode):
        raise InputError(f"There is no mode of noise '{mode}'.", f"Choose among {', '.join(get_args(NoiseMode))}.")
    found = [module for module in model.modules() if isinstance(module, GaussianNoise)]
    for module in found:
        module.mode, module.seed = mode, seed
    return len(found)


def draws_noise(model: nn.Module) -> bool:
    """Whether answers differ from pass to pass because some layer draws its noise fresh."""
    return any(one.mode == "fresh" and one.level > 0 for one in model.modules() if isinstance(one, GaussianNoise))
