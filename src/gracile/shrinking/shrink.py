"""Removes dead channels for good."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gracile.channels import ChannelGraph, Example, trace
from gracile.channels.tracing import suits, traced
from gracile.core.errors import InputError
from gracile.core.garbage import put_off
from gracile.shrinking.build import Builder
from gracile.shrinking.gathered import Gathered
from gracile.shrinking.lean import remember
from gracile.shrinking.multiples import Multiple
from gracile.shrinking.parity import agrees, check, default_tolerance, shown_and_drawn
from gracile.shrinking.plan import Plan, allowed, planned, structure


def shrink(
    model: nn.Module,
    example: Example,
    *,
    dead: str = "refuse",
    gather: bool = False,
    multiple_of: Multiple = 1,
    strict: bool = False,
    tolerance: float | None = None,
) -> nn.Module:
    """A smaller network with the same outputs: channels whose every reader is zero are gone from weights, norms and sums.

    Channels that are constant are removed as well where each reader's bias can take the constant exactly (not across zero padding).

    Args:
        model: with exact zeros where channels are to go; not changed.
        example: a batch of inputs, a tuple of them, or a dictionary of them by the names of forward's arguments.
        dead: a layer with no channel left is an error with ``"refuse"``; ``"fold"`` puts the constant it computes in its place.
        gather: select, in front of a layer, the inputs it reads where others read the rest (see `Plan.describe`).
        multiple_of: round numbers of channels up to multiples, see `plan`.
        strict: refuse an operation without a rule, instead of keeping the channels it works on.
        tolerance: the largest difference of outputs allowed, relative to the largest output; 1e-5 by default, in half precision ten
            times its rounding. Compared in evaluation, on one sample of the example and one of normal noise, in a batch of another
            size than was traced; where that does not settle it, on four samples of each, and at last in double precision, where rounding
            of single precision is told from another function.

    Returns:
        A deep copy with smaller layers; a `torch.fx.GraphModule` with the same modules where the model's own code names numbers of
        channels or a branch became a constant. It can be trained, copied, compiled and saved with `save_lean`.

    Raises:
        InputError: see `plan`.
        ParityError: the outputs differ, or the smaller network does not run.
    """
    allowed(model, dead)
    tolerance = default_tolerance(model) if tolerance is None else tolerance
    with put_off():
        graph, pair, outputs = _traced(model, example, strict)
        made = planned(graph, dead=dead, gather=gather, multiple_of=multiple_of)
        shape = structure(made)
        lean = Builder(made.graph, shape).build()
        fill(lean, made)
        if not agrees(lean, pair, outputs, tolerance):
            check(model, lean, example, tolerance)
        remember(lean, model, shape)
    return lean


def _traced(model: nn.Module, example: Example, strict: bool) -> tuple[ChannelGraph, Example, list[Tensor]]:
    """The channel graph from a run on a sample of the example and one of noise, with what the model gave for them.

    Where noise makes the model fail, from a run on the example alone; then there are no outputs to be compared.
    """
    suits(model, example)
    pair = shown_and_drawn(example)
    try:
        graph, outputs = traced(model, pair, strict=strict)
    except InputError:
        graph, outputs = trace(model, example, strict=strict), []
    return graph, pair, outputs


def fill(lean: nn.Module, made: Plan) -> None:
    """Write the plan's constants into biases and buffers."""
    with torch.no_grad():
        biases = {layer.name: layer.bias or f"{layer.name}.bias" for layer in made.graph.layers}
        for name, addition in made.biases.items():
            owner, _, leaf = biases[name].rpartition(".")
            module = lean.get_submodule(owner)
            bias = getattr(module.layer if isinstance(module, Gathered) else module, leaf)
            assert isinstance(bias, Tensor)
            bias += addition
        steps = {f"constant_{step.node.name}": step for step in made.graph.steps}
        for name, buffer in lean.named_buffers():
            step = steps.get(name)
            values = made.live.values.get(step.vars[0]) if step is not None and step.vars else None
            if step is None or values is None:
                continue
            value = values.value
            for axis, labels in enumerate(step.vars[0].dims):
                if labels is not None:
                    kept = np.flatnonzero(made.live.kept(labels))
                    value = value.index_select(axis, torch.as_tensor(kept, device=value.device))
            buffer.copy_(value)
