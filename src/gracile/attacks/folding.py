"""Batch-norm folded into the convolutions before it, for as long as a network is only asked and its weights stand still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

# How far answers of the folded network may be from those of the network, of the largest number in them: rounding.
ROUNDING = 1e-4

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


@contextmanager
def folded(model: nn.Module, x: Tensor) -> Iterator[int]:
    """Ask a network without its batch-norms where a convolution before can do their work; afterwards it is as it was.

    In evaluation mode batch-norm is an affine map a channel, and a pass over the activations that need not be. Which batch-norm
    follows which convolution is seen in one pass over a few samples, so that any network will do, and another pass, whose
    answers must be the same but for rounding, is the judge: of all together, or, where that fails, of each.

    Args:
        model: in evaluation mode.
        x: (n, ...) a few samples.

    Yields:
        How many batch-norms are folded: 0 where none can be, or answers would differ.
    """
    devices = [x.device] if x.is_cuda else []
    # All passes begin with the same random numbers, so that networks which draw some can be compared too.
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        pairs, before = _pairs(model, x)

    def same(chosen: list[Pair]) -> bool:
        with torch.no_grad(), torch.random.fork_rng(devices=devices), _fold(chosen):
            return torch.allclose(before, model(x), rtol=0.0, atol=ROUNDING * float(before.abs().amax()))

    if pairs and not same(pairs):
        # One whose convolution's output is used elsewhere too must not keep the others; a coarse dtype cannot tell.
        pairs = [pair for pair in pairs if same([pair])]
        pairs = pairs if same(pairs) else []
    with _fold(pairs):
        yield len(pairs)


def compiled(model: nn.Module) -> bool:
    """Whether anything in it is compiled, which would be compiled anew if its modules changed."""
    return any(name.endswith("_orig_mod") for name, _ in model.named_modules())


def _pairs(model: nn.Module, x: Tensor) -> tuple[list[Pair], Tensor]:
    """Batch-norms that are given a convolution's output as it is, each module used once; and the network's answer."""
    if compiled(model):
        return [], x
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    found: list[Pair] = []
    calls: dict[nn.Module, int] = {}

    def after_convolution(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        assert isinstance(module, nn.Conv2d)
        # The tensor is kept, so that its address is not given to another.
        made[id(output)] = module, output

    def before_norm(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        assert isinstance(module, nn.BatchNorm2d)
        if len(given) == 1 and id(given[0]) in made:
            found.append((made[id(given[0])][0], module))

    with ExitStack() as stack:
        for module in model.modules():
            if not _plain(module):
                continue
            if isinstance(module, nn.Conv2d):
                stack.callback(module.register_forward_hook(after_convolution).remove)
            else:
                stack.callback(module.register_forward_pre_hook(before_norm).remove)
        answer = model(x)
    if not isinstance(answer, Tensor):
        return [], x
    return [pair for pair in found if all(calls[module] == 1 for module in pair)], answer


def _plain(module: nn.Module) -> bool:
    """Whether a convolution or batch-norm is nothing but that: no subclass, no hooks, no parametrisation, statistics at hand."""
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    if hooked or "forward" in vars(module) or type(module) not in (nn.Conv2d, nn.BatchNorm2d):
        return False
    return not module.training and (isinstance(module, nn.Conv2d) or module.running_var is not None)


@contextmanager
def _fold(pairs: list[Pair]) -> Iterator[None]:
    """Give convolutions the weights that do their batch-norm's work, and take them back."""
    kept = [(convolution, convolution.weight, convolution.bias) for convolution, _ in pairs]
    try:
        for convolution, norm in pairs:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            fused = fuse_conv_bn_weights(
                convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )  # fmt: skip
            convolution.weight, convolution.bias = (nn.Parameter(one.detach(), requires_grad=False) for one in fused)
            vars(norm)["forward"] = _as_it_is
        yield
    finally:
        for (convolution, weight, bias), (_, norm) in zip(kept, pairs, strict=True):
            convolution.weight, convolution.bias = weight, bias
            vars(norm).pop("forward", None)


def _as_it_is(x: Tensor) -> Tensor:
    return x
