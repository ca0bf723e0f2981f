"""The gradient of a network's first convolution towards images: what an attack asks for at every step, and libraries are slow at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gracile.attacks.folding import compiled

# Convolutions of so few channels in: kernels made for training leave most of a processor's lanes empty there (three to four times
# the seconds of the forward pass on colour images, nine on gray ones, where this takes the same to three).
FEW = 4


@contextmanager
def quick_stems(model: nn.Module) -> Iterator[int]:
    """Let convolutions with at most `FEW` input channels compute their input's gradient by one matrix product.

    It is the same gradient up to rounding; weights that need one of their own are left to the library.

    Args:
        model: on a CPU.

    Yields:
        How many there are.
    """
    stems = [] if compiled(model) else [one for one in model.modules() if isinstance(one, nn.Conv2d) and _is_stem(one)]
    for stem in stems:
        vars(stem)["forward"] = partial(_convolved, stem)
    try:
        yield len(stems)
    finally:
        for stem in stems:
            del vars(stem)["forward"]


def _is_stem(module: nn.Conv2d) -> bool:
    if type(module) is not nn.Conv2d or "forward" in vars(module):
        return False
    plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    return plain and not isinstance(module.padding, str) and module.in_channels <= FEW


def _convolved(stem: nn.Conv2d, x: Tensor) -> Tensor:
    if x.ndim != 4 or not x.requires_grad or stem.weight.requires_grad or x.dtype != stem.weight.dtype:
        return nn.Conv2d.forward(stem, x)
    return cast(Tensor, _Convolution.apply(x, stem.weight, stem.bias, stem.stride, stem.padding))


class _Convolution(torch.autograd.Function):
    """A convolution whose backward pass goes to its input alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.stride, ctx.padding = inputs
        ctx.shape, ctx.layout = x.shape, _layout(x)
        ctx.save_for_backward(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        found = towards_input(gradients[0], weight, ctx.shape, ctx.stride, ctx.padding)
        # Laid out like the input, so that what is added to it keeps its layout too.
        return found.contiguous(memory_format=ctx.layout), None, None, None, None


def _layout(x: Tensor) -> torch.memory_format:
    """How images (n, c, h, w) lie in memory; those of one channel are both ways at once."""
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def towards_input(
    gradient: Tensor, weight: Tensor, shape: torch.Size, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """What a convolution's output gradient (n, out, h', w') is worth at its input, of this shape (n, in, h, w).

    One product gives what each output hands to each place of the kernel, and the places' planes are added where they lie.
    """
    n, channels, high, wide = shape
    filters, _, height, width = weight.shape
    rows, columns = gradient.shape[2:]
    planes = weight.flatten(1).t() @ gradient.permute(0, 2, 3, 1).reshape(-1, filters).t()
    planes = planes.view(channels, height, width, n, rows, columns)
    # Strides may leave the last rows untouched, so that outputs do not reach all of the padded image.
    padded = gradient.new_zeros(channels, n, high + 2 * padding[0], wide + 2 * padding[1])
    for i in range(height):
        for j in range(width):
            reach = padded[:, :, i : i + stride[0] * rows : stride[0], j : j + stride[1] * columns : stride[1]]
            reach += planes[:, i, j]
    return padded[:, :, padding[0] : padding[0] + high, padding[1] : padding[1] + wide].transpose(0, 1)
