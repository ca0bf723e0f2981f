"""The proof that the smaller network computes what the larger one did."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gracile.core.errors import GracileError, NonFiniteError
from gracile.core.seeding import generator


class ParityError(GracileError, ArithmeticError):
    """The smaller network's outputs differ from the larger one's."""


def largest_difference(model: nn.Module, lean: nn.Module, inputs: Sequence[Tensor]) -> float:
    """The largest difference of outputs in evaluation, relative to the largest output.

    Args:
        model, lean: left in the mode they are in.
        inputs: a batch, one tensor an input.

    Raises:
        NonFiniteError: the larger network's own outputs are not finite.
    """
    largest = 0.0
    for one, other in zip(_outputs(model, inputs), _outputs(lean, inputs), strict=True):
        if not bool(one.isfinite().all()):
            raise NonFiniteError(
                "The model's outputs are not finite, so nothing can be compared.", "Mend its weights first."
            )
        if one.shape != other.shape:
            return float("inf")
        scale = one.abs().max().item() or 1.0
        # A NaN of the smaller network must not pass as a small difference.
        largest = max(largest, torch.nan_to_num((one - other).abs().max(), nan=float("inf")).item() / scale)
    return largest


def _outputs(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    if any(one.is_cuda for one in inputs):
        # Accelerators round products of single precision to fewer bits, by other paths for other sizes.
        model = copy.deepcopy(model).double()
        inputs = [one.double() if one.is_floating_point() else one for one in inputs]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            result: Any = model(*inputs)
    finally:
        for module, training in modes:
            module.training = training
    return [one.detach().double() for one in tree_leaves(result) if isinstance(one, Tensor)]


def check(model: nn.Module, lean: nn.Module, inputs: Sequence[Tensor], tolerance: float) -> float:
    """Compare on the example and on random inputs of its shape.

    Returns:
        The largest relative difference.

    Raises:
        ParityError: it is beyond `tolerance`.
    """
    shown = [one[:4] for one in inputs]
    source = generator(0, "parity")
    drawn = [torch.randn(one.shape, generator=source).to(one) if one.is_floating_point() else one for one in shown]
    difference = max(largest_difference(model, lean, batch) for batch in (shown, drawn))
    if difference > tolerance:
        raise ParityError(
            f"The smaller network's outputs differ by {difference:.2g} of the largest output, beyond {tolerance:g}.",
            "Switch off noise in evaluation if the model adds any; else a rule for one of its operations is wrong.",
        )
    return difference
