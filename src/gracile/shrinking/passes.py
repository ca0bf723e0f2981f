"""Passes that leave out what is dead, while the network keeps its shape and its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gracile.channels import Example, trace
from gracile.channels.tracing import suits
from gracile.core.errors import InputError
from gracile.core.outputs import tensors_of
from gracile.shrinking.build import Builder
from gracile.shrinking.parity import check, default_tolerance
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
        ParityError: the passes give other outputs than the network.

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
        self._cuts = {name: _indices(cuts.get(name, {})) for name in names}
        self._modes = [
            (module, model.get_submodule(name)) for name, module in lean.named_modules() if _has_submodule(model, name)
        ]
        self.training = model.training
        check(model, self, example, default_tolerance(model))

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
            if cuts and self.training:
                wholes[name][_grid(wholes[name], cuts)] = one
            elif one is not before[name]:
                wholes[name].copy_(one)


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
