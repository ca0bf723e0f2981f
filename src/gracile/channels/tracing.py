"""From a model and an example to its channel graph."""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn

from gracile.channels import (  # noqa: F401  (their rules register themselves)
    elementwise,
    joining,
    layers,
    pooling,
    products,
    shapes,
    slicing,
)
from gracile.channels.graph import ChannelGraph
from gracile.channels.recording import Recorder
from gracile.channels.resolving import resolve
from gracile.channels.running import record
from gracile.core.errors import InputError
from gracile.core.garbage import put_off
from gracile.core.outputs import tensors_of

Example: TypeAlias = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


def trace(model: nn.Module, example: Example, *, strict: bool = False) -> ChannelGraph:
    """Find out which slices of which weights are the same channel.

    Args:
        model: any module; not changed. It runs twice on one sample. The graph refers to it and reads its weights when asked to count.
        example: one batch of inputs, first dimension the batch; a tuple for several, or a dictionary by the names of forward's
            arguments. Only one sample of it is used.
        strict: refuse an operation without a rule; otherwise the channels it works on stay, and `ChannelGraph.reasons` says why.

    Returns:
        The channel graph.

    Raises:
        InputError: the example does not fit (shape, device), or the forward depends on values computed from the input. The message names
            the line.
    """
    suits(model, example)
    return traced(model, mapped(example, _twice), strict=strict)[0]


@put_off()
def traced(model: nn.Module, pair: Example, *, strict: bool = False) -> tuple[ChannelGraph, list[Tensor]]:
    """As `trace`, on a batch of two samples that are its example's or drawn like them; also what the model gave back for them.

    Raises:
        InputError: as for `trace`; that the example fits has been looked at.
    """
    positional, named = inputs_of(pair)
    recorder = record(model, positional, named, strict=strict)
    writer = recorder.writer
    ordered = list(writer.graph.nodes)
    dropped = prune(writer.graph) if not writer.broken else set()
    steps = [writer.steps[node] for node in ordered if node not in dropped]
    unused = any(writer.steps[node].tensors for node in dropped)
    if writer.broken:
        _keep_dead_ends(recorder)
    labels, pinned = resolve(recorder.ledger, steps, can_write=not writer.broken)
    shown = [(tuple(one.shape[1:]), one.dtype) for one in (*positional, *named.values())]
    graph = ChannelGraph(model, recorder, steps, labels, pinned, example=shown, names=list(named), unused=unused)
    graph.traced_with = pair, strict
    return graph, recorder.outputs


def _traced_again(model: nn.Module, pair: Example, strict: bool) -> ChannelGraph:
    return traced(model, pair, strict=strict)[0]


def _reduced(graph: ChannelGraph) -> tuple[Callable[..., ChannelGraph], tuple[nn.Module, Example, bool]]:
    return _traced_again, (graph.model, *graph.traced_with)


# What the rules said are closures, which no pickle holds: a graph that is copied or pickled is traced anew.
copyreg.pickle(ChannelGraph, _reduced)


def inputs_of(example: Example) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """An example as inputs by position and inputs by name."""
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    return tuple(example), {}


def mapped(example: Example, function: Callable[[Tensor], Tensor]) -> Example:
    """An example with each of its tensors changed."""
    positional, named = inputs_of(example)
    return {name: function(one) for name, one in named.items()} if named else tuple(function(one) for one in positional)


def _twice(one: Tensor) -> Tensor:
    """Two samples, so that the batch is told from dimensions of size 1."""
    return torch.cat([one[:1], one[:1]])


def _keep_dead_ends(recorder: Recorder) -> None:
    """What no output depends on runs all the same in a model that is cut in place."""
    read = {id(one) for made in recorder.records for one in made.inputs}
    for made in recorder.records:
        for one in made.outputs:
            if id(one) not in read:
                recorder.dead_ends += [labels for labels in one.dims if labels is not None]


def prune(graph: fx.Graph, replaced: Collection[fx.Node] = ()) -> set[fx.Node]:
    """Take out what no output depends on; returns what was taken.

    What works in place stays, unless it is among the nodes that were `replaced`.
    """
    gone = set()
    for node in reversed(list(graph.nodes)):
        lasting = node.op in ("placeholder", "output") or "assert" in str(node.target)
        lasting |= in_place(node) and node not in replaced
        if not node.users and not lasting:
            gone.add(node)
            graph.erase_node(node)
    return gone


def in_place(node: fx.Node) -> bool:
    """Whether a node changes its first argument."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op == "call_module":
        owner = node.graph.owning_module
        return bool(getattr(owner.get_submodule(name), "inplace", False)) if owner is not None else False
    return (
        node.kwargs.get("inplace", False) is True
        or (node.op == "call_method" and name.endswith("_") and not name.endswith("__"))
        or name in ("iadd", "isub", "imul", "itruediv", "relu_", "setitem")
    )


def suits(model: nn.Module, example: Example) -> None:
    """Refuse a model that wraps another, and an example that is no batch or lies on another device."""
    positional, named = inputs_of(example)
    inputs: tuple[Any, ...] = (*positional, *named.values())
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(model, "_orig_mod"):
        raise InputError(f"{type(model).__name__} wraps the model to be traced.", "Pass the model inside it.")
    compiled = [name for name, one in model.named_modules() if isinstance(one, torch.jit.ScriptModule)]
    if compiled:
        what = f"The module '{compiled[0]}'" if compiled[0] else "The model"
        raise InputError(
            f"{what} was scripted or traced by torch.jit, and cannot be looked into.",
            "Pass the module it was made from.",
        )
    if isinstance(model, fx.GraphModule) and "train" in vars(model):  # which torch.export puts there, to refuse
        raise InputError(
            "The model was exported by torch.export, and its layers have no modules.",
            "Pass the module it was made from.",
        )
    if not inputs or not all(isinstance(one, Tensor) and one.dim() and len(one) for one in inputs):
        raise InputError(
            "The example holds no batch.", "Pass a tensor whose first dimension is the batch, with at least one sample."
        )
    devices = {tensor.device for _, tensor in tensors_of(model)}
    for one in inputs:
        if devices and one.device not in devices:
            raise InputError(
                f"The example is on {one.device}, the model on {', '.join(map(str, devices))}.",
                "Move one of them with .to(device).",
            )
