"""Interval and linear bounds on logits: proofs of robustness for small networks."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gracile.attacks.victim import attacking
from gracile.core.errors import InputError

Bound = Literal["interval", "linear"]
# The network answers in float32, the bound is computed in float64: what rounding could turn is not proven.
ROUNDING = 1e-5


def proven(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float = 8 / 255, bound: Bound = "linear", chunk: int = 32
) -> Tensor:
    """Which samples provably keep their label in the whole l-inf ball, cut to [0, 1].

    Where it is True no attack can succeed; where it is False nothing is known. Bounds loosen with depth and eps, so they serve small
    networks, or networks trained for them. Intervals [@gowal2018] cost two passes; linear bounds [@zhang2018crown, with
    intervals inside] cost a backward pass a class besides, and are never looser here, since the better of the two counts.

    Args:
        model: a chain, also nested, of `nn.Sequential` with linear layers, 2-d convolutions, batch-norm, average pooling, flattening,
            dropout and ReLU; it is taken in evaluation mode and left as found.
        x: (n, ...), in [0, 1].
        y: int64 (n,), labels.
        eps: radius of the ball.
        bound: ``interval`` or ``linear``.
        chunk: samples bounded at once.

    Returns:
        bool (n,).

    Raises:
        InputError: an argument that cannot be used, or a layer that has no bounds here.
    """
    if bound not in get_args(Bound):
        raise InputError(f"bound is '{bound}'.", "Give 'interval' or 'linear'.")
    with attacking(model, x, y, eps=eps, draws=1, chunk=chunk, channels_last=False) as (victim, x, y):
        layers = _chain(copy.deepcopy(model).double())
        logits = victim.logits(x)
        # Rows e_y - e_j for each other class j, a sample: (n, classes - 1, classes).
        eye = torch.eye(logits.shape[1], device=x.device, dtype=torch.float64)
        others = torch.stack([torch.cat([eye[:label], eye[label + 1 :]]) for label in y.tolist()])
        margins = eye[y][:, None] - others
        with torch.no_grad():
            found = [
                _least(layers, part.double(), rows, eps, linear=bound == "linear")
                for part, rows in zip(x.split(chunk), margins.split(chunk), strict=True)
            ]
        return torch.cat(found).amin(dim=1) > ROUNDING * logits.abs().amax(dim=1).clamp_min(1.0)


def _chain(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, nn.Sequential):
        return [layer for child in module for layer in _chain(child)]
    if isinstance(module, (nn.Dropout, nn.Dropout2d, nn.Identity)):
        return []
    if type(module) in (nn.ReLU, *ABSOLUTE):
        return [module]
    raise InputError(
        f"There are no bounds for a layer of type {type(module).__name__}.",
        "Certify the network by gracile.attacks.smoothed, which asks for answers alone.",
    )


def _least(layers: list[nn.Module], x: Tensor, margins: Tensor, eps: float, *, linear: bool) -> Tensor:
    """Lower bounds (n, k) on ``margins @ logits`` over the ball; `margins` are (n, k, classes)."""
    lower, upper = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
    middle, radius = (lower + upper) / 2, (upper - lower) / 2
    at, spread, before = middle, radius, []
    for layer in layers:
        before.append((at - spread, at + spread))
        if isinstance(layer, nn.ReLU):
            low, high = (end.clamp_min(0) for end in before[-1])
            at, spread = (low + high) / 2, (high - low) / 2
        else:
            at, spread = layer(at), _absolute(layer)(spread)
    least = (margins @ at[:, :, None] - margins.abs() @ spread[:, :, None]).squeeze(2)
    if not linear:
        return least
    # From the logits back to the input: margins @ logits >= slope . activation + offset.
    slope, offset = margins, torch.zeros_like(least)
    for layer, (low, high) in zip(reversed(layers), reversed(before), strict=True):
        slope, level = (_through_relu if isinstance(layer, nn.ReLU) else _through_affine)(layer, slope, low, high)
        offset = offset + level
    slope = slope.flatten(2)
    ends = (slope @ middle.flatten(1)[:, :, None] - slope.abs() @ radius.flatten(1)[:, :, None]).squeeze(2)
    return torch.maximum(least, ends + offset)


def _through_affine(layer: nn.Module, slope: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """For ``slope . layer(a)``: the slope on a (n, k, ...), and the level that does not depend on a (n, k)."""
    n, k = slope.shape[:2]
    zero = torch.zeros_like(low[:1])
    flat = slope.flatten(2)
    level = flat @ layer(zero).flatten()
    # The transposed map is what backpropagation applies, to all n k rows at once.
    back = torch.func.vjp(layer, zero.expand(n * k, *low.shape[1:]))[1]
    return back(slope.reshape(n * k, *slope.shape[2:]))[0].view(n, k, *low.shape[1:]), level


def _through_relu(layer: nn.Module, slope: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The same for a ReLU between its chord and a line below it, for activations in [low, high]."""
    chord = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, high / (high - low).clamp_min(1e-300)))
    below = torch.where((low < 0) & (high > 0), (high > -low).double(), chord)
    up, down = slope.clamp_min(0), slope.clamp_max(0)
    level = (down * (-low.clamp_max(0) * chord)[:, None]).flatten(2).sum(dim=2)
    return up * below[:, None] + down * chord[:, None], level


def _absolute(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """How a layer maps the radius of an interval: with absolute weights and no bias."""
    return functools.partial(ABSOLUTE[type(layer)], layer)


def _of_linear(layer: nn.Linear, radius: Tensor) -> Tensor:
    return F.linear(radius, layer.weight.abs())


def _of_convolution(layer: nn.Conv2d, radius: Tensor) -> Tensor:
    if layer.padding_mode != "zeros":
        raise InputError(f"Bounds know no padding '{layer.padding_mode}'.", "Certify it by gracile.attacks.smoothed.")
    return F.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _of_normalisation(layer: nn.Module, radius: Tensor) -> Tensor:
    zero = torch.zeros_like(radius)
    return (layer(radius) - layer(zero)).abs()  # one factor a channel


def _as_it_is(layer: nn.Module, radius: Tensor) -> Tensor:
    return layer(radius)


# By type of affine layer.
ABSOLUTE: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Linear: _of_linear,
    nn.Conv2d: _of_convolution,
    nn.BatchNorm1d: _of_normalisation,
    nn.BatchNorm2d: _of_normalisation,
    nn.AvgPool2d: _as_it_is,
    nn.AdaptiveAvgPool2d: _as_it_is,
    nn.Flatten: _as_it_is,
}
