"""The proof that the smaller network computes what the larger one did."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import Tensor, nn

from gracile.channels import Example
from gracile.channels.running import unchanged
from gracile.channels.tracing import inputs_of, mapped
from gracile.core.errors import GracileError, InputError, NonFiniteError
from gracile.core.outputs import tensors_in
from gracile.core.seeding import generator


class ParityError(GracileError, ArithmeticError):
    """The smaller network's outputs differ from the larger one's."""


def default_tolerance(model: nn.Module) -> float:
    """1e-5 of the largest output; in half precision ten times its rounding."""
    return max([1e-5, *(10 * torch.finfo(one.dtype).eps for one in model.parameters() if one.is_floating_point())])


def largest_difference(model: nn.Module, lean: nn.Module, inputs: Example) -> float:
    """The largest difference of outputs in evaluation, relative to the largest output.

    Args:
        model: the larger network, left in the mode it is in.
        lean: the smaller one, likewise.
        inputs: a batch, as for `shrink`.

    Raises:
        NonFiniteError: the larger network's own outputs are not finite.
        InputError: its outputs hold no tensor, so that nothing can be compared.
    """
    return _difference(_outputs(model, inputs), _outputs(lean, inputs))


def _difference(theirs: list[Tensor], ours: list[Tensor]) -> float:
    largest = 0.0
    if not theirs:
        raise InputError(
            "The model's output holds no tensor.", "Return tensors, or lists, dictionaries or dataclasses of them."
        )
    if len(theirs) != len(ours):
        return float("inf")
    for one, other in zip(theirs, ours, strict=True):
        finite = one.isfinite()
        if not bool(finite.all()):
            # Masks give minus infinity to logits on purpose; a NaN is a fault.
            if bool(one.isnan().any()) or not bool(finite.any()):
                raise NonFiniteError(
                    "The model's outputs are not finite, so nothing can be compared.", "Mend its weights first."
                )
            if one.shape != other.shape or not torch.equal(one[~finite], other[~finite]):
                return float("inf")
            one, other = one[finite], other[finite]
        if one.shape != other.shape:
            return float("inf")
        if not one.numel():
            continue
        scale = one.abs().max().item() or 1.0
        # A NaN of the smaller network must not pass as a small difference.
        largest = max(largest, torch.nan_to_num((one - other).abs().max(), nan=float("inf")).item() / scale)
    return largest


def _outputs(model: nn.Module, inputs: Example) -> list[Tensor]:
    positional, named = inputs_of(inputs)
    if any(one.is_cuda for one in (*positional, *named.values())):
        # Accelerators round products of single precision to fewer bits, by other paths for other sizes.
        model = copy.deepcopy(model).double()
        positional, named = inputs_of(mapped(inputs, _doubled))
    modes = [module for module in model.modules() if module.training]
    if modes:
        model.eval()
    try:
        with unchanged(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            result: Any = model(*positional, **named)
    finally:
        for module in modes:
            module.training = True
    return [one.detach().double() for one in tensors_in(result)]


def shown_and_drawn(example: Example) -> Example:
    """Two samples: the example's first, and one of normal noise; what is not floating-point is the first again."""
    return mapped(example, lambda one: torch.cat([one[:1], _drawn(one[:1], generator(0, "parity"))]))


def agrees(lean: nn.Module, pair: Example, outputs: list[Tensor], tolerance: float) -> bool:
    """Whether a smaller network gives on three samples what the larger one gave on two of them.

    It spares the larger network's runs. Where it does not agree nothing is said, and `check` is to be asked: noise cannot stand for
    words, outputs may have no dimension of samples, and a batch of another size may be treated otherwise.

    Args:
        lean: the smaller network.
        pair: two samples.
        outputs: of the larger network, on these two.
        tolerance: as for `check`.
    """
    positional, named = inputs_of(pair)
    shown = (*positional, *named.values())
    if any(one.is_cuda or not one.is_floating_point() for one in shown):
        return False
    if not outputs or any(one.shape[:1] != (2,) for one in outputs):
        return False
    try:
        ours = _outputs(lean, mapped(pair, lambda one: torch.cat([one, one[:1]])))
        return _difference([torch.cat([one, one[:1]]).double() for one in outputs], ours) <= tolerance
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError):
        return False


def _drawn(one: Tensor, source: torch.Generator) -> Tensor:
    """Normal noise in place of floating-point numbers."""
    return torch.randn(one.shape, generator=source).to(one) if one.is_floating_point() else one


def _doubled(one: Tensor) -> Tensor:
    return one.double() if one.is_floating_point() else one


def _in_double(model: nn.Module, lean: nn.Module, inputs: list[Example]) -> float:
    """The largest difference of both networks in double precision; infinite where they do not run in it."""
    try:
        larger, smaller = (copy.deepcopy(one).double() for one in (model, lean))
        return max(largest_difference(larger, smaller, mapped(batch, _doubled)) for batch in inputs)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, ArithmeticError):
        return float("inf")


def _not_two(model: nn.Module, shown: Example) -> Example:
    """The samples, in a batch of another size than was traced, where the larger network takes one."""
    positional, named = inputs_of(shown)
    if any(len(one) == 2 for one in (*positional, *named.values())):
        more = mapped(shown, lambda one: torch.cat([one, one[:1]]) if len(one) == 2 else one)
        with contextlib.suppress(RuntimeError, ValueError, TypeError, AssertionError, IndexError):
            _outputs(model, more)
            return more
    return shown


def check(model: nn.Module, lean: nn.Module, example: Example, tolerance: float) -> float:
    """Compare on the example and on random inputs of its shape.

    What exceeds the tolerance is compared in double precision before it counts: batch-norms of channels that hardly vary make rounding of
    single precision hundreds of times as large each, in the larger network alone as well.

    Returns:
        The largest relative difference.

    Raises:
        ParityError: it is beyond `tolerance`, or the smaller network does not run.
    """
    source = generator(0, "parity")
    shown = _not_two(model, mapped(example, lambda one: one[:4]))
    drawn = mapped(shown, lambda one: _drawn(one, source))
    try:
        difference = max(largest_difference(model, lean, batch) for batch in (shown, drawn))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        if isinstance(error, GracileError):
            raise
        raise ParityError(
            f"The smaller network does not run: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}.",
            "A size in the model's code does not follow its channels: register a rule that pins them (op.pin) for its module.",
        ) from error
    if difference > tolerance:
        difference = min(difference, _in_double(model, lean, [shown, drawn]))
    if difference > tolerance:
        raise ParityError(
            f"The smaller network's outputs differ by {difference:.2g} of the largest output, beyond {tolerance:g}.",
            "Switch off noise in evaluation if the model adds any; else a rule for one of its operations is wrong.",
        )
    return difference
