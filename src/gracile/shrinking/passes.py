"""Passes that leave out what is dead, while the network keeps its shape and its parameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gracile.channels import Example, trace
from gracile.channels.tracing import inputs_of, mapped, suits
from gracile.core.errors import InputError
from gracile.core.outputs import tensors_in, tensors_of
from gracile.shrinking.build import Builder
from gracile.shrinking.parity import ParityError, check, default_tolerance, shown_and_drawn
from gracile.shrinking.plan import allowed, planned, structure


class LeanPasses(nn.Module):
    """The same network, whose passes cost what the shrunk one's do: for the part of a run in which the choice is final.

    Each pass cuts the parameters to what stays and runs the smaller network of `shrink` with them. Gradients arrive at the whole
    parameters, zero at what was left out, and running statistics are written back, so that optimiser, splitting, averages and
    checkpoints go on as they are. Up to rounding and to what dropout draws, training is the same. `gracile.fit` does this by itself; in
    a loop of your own take it as soon as `settled` of the dial, or of the method, says that the zeros stay. Hooks on the network's modules
    see nothing of such a pass.

    Args:
        model: with exact zeros in its own weights where channels are gone, and staying gone; held, not copied.
        example: one input batch, as for `shrink`.

    Attributes:
        left: share in (0, 1] of the multiply-adds that a pass takes.
        saved: multiply-adds that it saves, for one sample.

    Raises:
        InputError: see `plan`; or channels that are constant without being zero, whose constants other layers' biases would have to learn.
        ParityError: the passes give other outputs than the network, in evaluation or in training, as where its forward asks
            ``if self.training``.

    >>> import torch
    >>> from gracile.shrinking import LeanPasses
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> with torch.no_grad():
    ...     _ = model[2].weight[:, 2:].zero_()
    >>> passes = LeanPasses(model, torch.randn(3, 4))
    >>> passes.left
    0.25
    >>> passes(torch.randn(3, 4)).sum().backward()
    >>> model[0].weight.grad.shape
    torch.Size([8, 4])
    """

    def __init__(self, model: nn.Module, example: Example) -> None:
        super().__init__()
        allowed(model, "refuse")
        suits(model, example)
        made = planned(trace(model, example), dead="refuse", gather=False, multiple_of=1)
        if made.biases or made.folded.constant:
            where = next(iter(made.biases), "") or next(iter(made.folded.constant)).name
            raise InputError(
                f"What is constant and not zero is read by '{where}', and would be left out of what it learns.",
                "Train through the network itself, or zero each slice of a channel: grouping='coupled'.",
            )
        self.left, self.saved = made.after.macs / made.before.macs, made.before.macs - made.after.macs
        lean = Builder(made.graph, structure(made)).build()
        # The name that wrappers of torch give it, by which parameters are found. The smaller network's own tensors are never looked at.
        self._orig_mod = model
        self._lean = (lean,)
        cuts = made.mapping()
        names = [name for name, _ in (*lean.named_parameters(), *lean.named_buffers())]
        own = set(names) - {name for name, _ in tensors_of(model)}
        if own:
            raise InputError(
                f"The smaller network has a tensor '{min(own)}' that the whole one has not.",
                "Train through the network itself.",
            )
        self._cuts = {name: _indices(cuts.get(name, {})) for name in names}
        self._modes = [
            (module, model.get_submodule(name)) for name, module in lean.named_modules() if _has_submodule(model, name)
        ]
        self.training = model.training
        check(model, self, example, default_tolerance(model))
        _check_training(self, example)

    @property
    def whole(self) -> nn.Module:
        """The network itself."""
        return self._orig_mod

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """As the network's own."""
        [lean] = self._lean
        for module, whole in self._modes:
            module.training = whole.training
        wholes = dict(tensors_of(self._orig_mod))
        given = {name: _cut(wholes[name], cuts) for name, cuts in self._cuts.items()}
        passed = dict(given)
        outputs = functional_call(lean, given, inputs, named)
        buffers = [name for name, one in given.items() if not isinstance(wholes[name], nn.Parameter)]
        self._write_back({name: given[name] for name in buffers}, wholes, passed)
        return outputs

    @torch.no_grad()
    def _write_back(
        self, now: Mapping[str, Tensor], wholes: Mapping[str, Tensor], before: Mapping[str, Tensor]
    ) -> None:
        """Put the buffers as the pass left them, running statistics above all, into the network's own."""
        for name, one in now.items():
            cuts = self._cuts[name]
            if cuts:
                wholes[name][_grid(wholes[name], cuts)] = one
            elif one is not before[name]:
                wholes[name].copy_(one)


def _check_training(passes: LeanPasses, example: Example) -> None:
    """Compare with the whole network in training mode: in number and shape of outputs, and in value where no dropout draws."""
    lean = copy.deepcopy(passes).double()
    inputs = mapped(shown_and_drawn(example), lambda one: one.double() if one.is_floating_point() else one)
    devices = sorted({one.device.index for one in lean.parameters() if one.is_cuda})

    def outputs(network: nn.Module) -> tuple[list[Tensor], bool]:
        """What it gives, and whether it drew random numbers for it."""
        positional, named = inputs_of(inputs)
        states = lambda: [torch.get_rng_state(), *(torch.cuda.get_rng_state(one) for one in devices)]
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            before = states()
            result = tensors_in(network.train()(*positional, **named))
            drew = any(not torch.equal(one, other) for one, other in zip(before, states(), strict=True))
        return result, drew

    try:
        theirs, drew = outputs(lean.whole)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError):
        # A network that does not train on two samples in double precision.
        return
    try:
        ours, _ = outputs(lean)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError):
        ours = []
    same = [one.shape for one in ours] == [one.shape for one in theirs]
    if not same or not (
        drew or all(torch.allclose(one, other, 1e-6, 1e-6) for one, other in zip(ours, theirs, strict=True))
    ):
        raise ParityError(
            "In training mode the smaller network does not give the outputs of the whole one.",
            "Train through the network itself: its forward does something else in training that a smaller one leaves out.",
        )


def _indices(cuts: Mapping[int, list[int]]) -> list[tuple[int, Tensor]]:
    return [(dim, torch.tensor(kept)) for dim, kept in cuts.items()]


def _cut(tensor: Tensor, cuts: list[tuple[int, Tensor]]) -> Tensor:
    cut = tensor
    for dim, kept in cuts:
        cut = cut.index_select(dim, kept.to(tensor.device))
    if cuts and tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return cut.contiguous(memory_format=torch.channels_last)
    return cut


def _grid(tensor: Tensor, cuts: list[tuple[int, Tensor]]) -> tuple[Tensor, ...]:
    """What addresses the cut part of a tensor."""
    along = {dim: kept.to(tensor.device) for dim, kept in cuts}
    whole = [along.get(dim, torch.arange(size, device=tensor.device)) for dim, size in enumerate(tensor.shape)]
    return torch.meshgrid(*whole, indexing="ij")


def _has_submodule(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True
