"""Half of all channels removed by this library and by others, each as its documentation says.

A tool is given a model, which it may change, and one sample. It returns the smaller network, the larger one of which it should be the same
function, and what else it knows. None for the larger one leaves it to `references.larger`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

import gracile
from gracile.channels import ChannelGraph, trace
from gracile.channels.survey import of_graph
from gracile.core.errors import GracileError
from gracile.core.outputs import tensors_in
from gracile.shrinking import shrink
from tests.models.zeros import zero_groups

Inputs = tuple[Tensor, ...]


class Refused(Exception):
    """The tool says in its own words that it cannot treat this model."""


@dataclass
class Made:
    """What a tool made.

    Attributes:
        lean: the smaller network.
        reference: the larger one with zeros where channels were removed; None where these are to be found out.
        seconds: processor time.
        facts: more columns.
    """

    lean: nn.Module
    reference: nn.Module | None
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)


def ours(model: nn.Module, inputs: Inputs) -> Made:
    """Zero half of the groups, never all that a layer reads, and shrink."""
    start = time.process_time()
    try:
        graph = trace(model, inputs)
        spent = time.process_time() - start
        zero_half(model, graph)
        start = time.process_time()
        lean = shrink(model, inputs, dead="fold")
        spent += time.process_time() - start
    except GracileError as error:
        raise Refused(str(error)) from error
    found, counts = of_graph(graph), graph.count()
    facts = {
        "macs": counts.macs / max(graph.dense().macs, 1),
        "pinned": 1 - found.parameters,
        "groups": found.groups,
        "no rule": sorted(found.missing),
    }
    return Made(lean, model, spent, facts)


def zero_half(model: nn.Module, graph: ChannelGraph) -> None:
    """Zero half of the groups at random, but never all that a layer reads."""
    zero = torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(0)) < 0.5
    for index in graph.group_index().values():
        groups = index.unique()
        groups = groups[groups >= 0]
        if len(groups) and bool(zero[groups].all()) and not bool((index < 0).any()):
            zero[groups[0]] = False
    zero_groups(model, graph, zero)


def torch_pruning(model: nn.Module, inputs: Inputs) -> Made:
    """Its magnitude pruner at a ratio of one half; the last layer is spared, and heads are named where layers say how many they have."""
    import torch_pruning as tp

    start = time.process_time()
    heads = {child: module.num_heads for module, child in _projections(model)}
    pruner = tp.pruner.MagnitudePruner(
        model, inputs if len(inputs) > 1 else inputs[0], importance=tp.importance.MagnitudeImportance(p=1), pruning_ratio=0.5,
        ignored_layers=_last(model, inputs), num_heads=heads, output_transform=tensors_in,
    )  # fmt: skip
    pruner.step()
    for module, child in _projections(model):  # as its examples for vision transformers do
        if hasattr(module, "head_dim") and getattr(module, "qkv", None) is child:
            module.num_heads = pruner.num_heads[child]
            module.head_dim = child.out_features // (3 * module.num_heads)
    return Made(model, None, time.process_time() - start)


def _projections(model: nn.Module) -> list[tuple[Any, nn.Linear]]:
    found = []
    for module in model.modules():
        if type(getattr(module, "num_heads", None)) is int:
            for name in ("qkv", "query", "key", "value", "q", "k", "v"):
                child = getattr(module, name, None)
                if isinstance(child, nn.Linear):
                    found.append((module, child))
    return found


def _last(model: nn.Module, inputs: Inputs) -> list[nn.Module]:
    """Layers that make as many channels as there are outputs."""
    with torch.no_grad():
        sizes = {one.shape[axis] for one in tensors_in(model(*inputs)) for axis in (1, -1) if one.dim() > 1}
    return [
        module
        for module in model.modules()
        if getattr(module, "out_features", None) in sizes or getattr(module, "out_channels", None) in sizes
    ]


def torch_kirigami(model: nn.Module, inputs: Inputs) -> Made:
    """Its greedy strategy by magnitude, half of each layer's channels; where that has no plan, half or a quarter of all."""
    from torch_kirigami import DependencyGraph, KirigamiError
    from torch_kirigami.pruning import ChannelRatio, Greedy, GroupMagnitude, PlanningError, Pruner

    start = time.process_time()
    try:
        graph = DependencyGraph.build(model, args=inputs)
        pruner = Pruner(model, graph=graph)
        space = pruner.discover_candidates()
        for ratio, scope in ((0.5, "local"), (0.5, "global"), (0.25, "global")):
            try:
                plan = pruner.plan(space, budget=ChannelRatio(ratio, scope=scope), strategy=Greedy(GroupMagnitude(p=2)))
                break
            except PlanningError as error:
                said = error
        else:
            raise said
        model, _ = pruner.apply(plan)
    except (KirigamiError, PlanningError) as error:
        raise Refused(str(error)) from error
    return Made(model, None, time.process_time() - start)


def model_optimizer(model: nn.Module, inputs: Inputs) -> Made:
    """The smallest network in FastNAS's search space, which is let go down to one half of each layer's channels, one by one."""
    import modelopt.torch.nas as mtn
    from modelopt.torch.opt.conversion import ApplyModeError
    from modelopt.torch.prune.fastnas import FastNASConfig
    from modelopt.torch.prune.pruning import PruneModeRegistry

    start = time.process_time()
    config = FastNASConfig().model_dump()
    for rule in config.values():
        for one in rule.values() if isinstance(rule, dict) else ():
            if isinstance(one, dict):
                for key in one:
                    if key.endswith("_ratio"):
                        one[key] = (0.5, 1.0)
                    elif key.endswith("_divisor"):
                        one[key] = 1
    try:
        model = mtn.convert(model, mode=[("fastnas", config)], registry=PruneModeRegistry)
    except ApplyModeError as error:
        raise Refused(str(error)) from error
    mtn.sample(model, sample_func=min)
    model = mtn.export(model)
    return Made(model, None, time.process_time() - start)


@dataclass(frozen=True)
class Tool:
    """A row: how it removes, its distribution for the version, and what to import before processes are forked."""

    run: Callable[[nn.Module, Inputs], Made]
    distribution: str
    imports: str

    @property
    def version(self) -> str:
        """As installed; this library's own as it is imported, since it may be run from a checkout."""
        return gracile.__version__ if self.distribution == "gracile" else version(self.distribution)


TOOLS = {
    "ours": Tool(ours, "gracile", "gracile.shrinking"),
    "torch-pruning": Tool(torch_pruning, "torch-pruning", "torch_pruning"),
    "torch-kirigami": Tool(torch_kirigami, "torch-kirigami", "torch_kirigami.pruning"),
    "modelopt": Tool(model_optimizer, "nvidia-modelopt", "modelopt.torch.nas"),
}
