"""What can go, what cannot and why, before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn

from gracile.channels import ChannelGraph, Counts, Example, trace
from gracile.channels.liveness import Folded, Liveness, folded
from gracile.channels.records import Layer
from gracile.core.errors import InputError
from gracile.shrinking.build import Builder
from gracile.shrinking.gathered import Gathered
from gracile.shrinking.multiples import Multiple, round_up


@dataclass(frozen=True)
class Row:
    """One layer of a plan.

    Attributes:
        layer: the module's path.
        inputs: channels read before and after.
        outputs: channels made before and after.
        parameters: weights before and after.
        macs: multiply-adds before and after.
        zero_inputs: inputs that are all zero here and stay.
        gather_saves: multiply-adds that selecting the other inputs would save (or saves, with ``gather=True``).
        reason: why what is zero stays, and what becomes of constants.
    """

    layer: str
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    zero_inputs: int = 0
    gather_saves: int = 0
    reason: str = ""


@dataclass(eq=False, repr=False)
class Plan:
    """What `shrink` will do.

    Attributes:
        graph: the model's channel graph.
        live: which channels stay.
        folded: which nodes become constants.
        before: the network's size.
        after: its size when shrunk.
        rows: one a layer.
        gathers: layer to the inputs it selects, counted among those that stay.
        biases: layer to what its bias takes over, one number an output that stays.
    """

    graph: ChannelGraph
    live: Liveness
    folded: Folded
    before: Counts
    after: Counts
    rows: list[Row] = field(default_factory=list)
    gathers: dict[str, list[int]] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)

    def describe(self) -> str:
        """A table of the layers and the sums below it."""
        table = [
            {
                "layer": row.layer,
                "in": _arrow(row.inputs),
                "out": _arrow(row.outputs),
                "weights": _arrow(row.parameters),
                "multiply-adds": _arrow(row.macs),
                "zero inputs kept": row.zero_inputs or "",
                "gather saves": f"{row.gather_saves:,}" if row.gather_saves else "",
                "note": row.reason,
            }
            for row in self.rows
        ]
        saves = sum(row.gather_saves for row in self.rows)
        lines = [
            tabulate(table, headers="keys", tablefmt="github"),
            "",
            f"groups {self.before.channels:,} -> {self.after.channels:,}, "
            f"parameters {_arrow((self.before.parameters, self.after.parameters))} "
            f"({_ratio(self.before.parameters, self.after.parameters)}), "
            f"multiply-adds {_arrow((self.before.macs, self.after.macs))} "
            f"({_ratio(self.before.macs, self.after.macs)})",
        ]
        if saves and not self.gathers:
            lines.append(f"Selecting inputs before layers (gather=True) would save {saves:,} more multiply-adds.")
        lines += [
            f"No rule for '{name}' at {', '.join(dict.fromkeys(where))}: what it works on stays."
            for name, where in self.graph.missing.items()
        ]
        absent = self.graph.uncalled()
        if absent:
            lines.append(f"Not called on this example, so that they stay as they are: {', '.join(absent)}.")
        return "\n".join(lines)

    def mapping(self) -> dict[str, dict[int, list[int]]]:
        """From old parameters to new: name to, for each dimension that is cut, the old indices in their new order.

        Parameters and buffers that are not named come back whole, or not at all where their layer goes (see `rows`).
        """
        return {
            name: {int(dim): indices for dim, indices in dims.items()} for name, dims in structure(self)["kept"].items()
        }


def _arrow(pair: tuple[int, int]) -> str:
    return f"{pair[0]:,}" if pair[0] == pair[1] else f"{pair[0]:,} -> {pair[1]:,}"


def _ratio(before: int, after: int) -> str:
    return f"{before / after:.2f}x" if after else "all"


def plan(
    model: nn.Module,
    example: Example,
    *,
    dead: str = "refuse",
    gather: bool = False,
    multiple_of: Multiple = 1,
    strict: bool = False,
) -> Plan:
    """Find out what `shrink` would remove.

    Args:
        model: with exact zeros where channels are to go; not changed.
        example: a batch of inputs, or a tuple of them.
        dead: what to do with a layer that has no channel left: ``"refuse"`` or ``"fold"`` it to the constant it
            computes.
        gather: select, in front of a layer, the inputs it reads, where others read the rest; fewer multiply-adds for a copy.
        multiple_of: round the numbers of channels left up to a multiple where there are enough, as hardware may want; a number, or
            one for each kind of layer, such as ``{"conv": 8, "linear": 16}``.
        strict: refuse an operation without a rule, instead of keeping the channels it works on.

    Raises:
        InputError: the model cannot be traced (see `gracile.channels.trace`), a layer has no channel left and `dead` is "refuse", or
            `multiple_of` is no positive number.
    """
    allowed(model, dead)
    return planned(trace(model, example, strict=strict), dead=dead, gather=gather, multiple_of=multiple_of)


def allowed(model: nn.Module, dead: str) -> None:
    """Refuse what no plan can be made for."""
    if dead not in ("refuse", "fold"):
        raise InputError(f"dead='{dead}' is not known.", "Choose 'refuse' or 'fold'.")
    gathered = [name for name, module in model.named_modules() if isinstance(module, Gathered)]
    if gathered:
        raise InputError(
            f"The model was shrunk with gather=True already (module '{gathered[0]}').",
            "Shrink without gather until the last time, or start from the dense model.",
        )


def planned(graph: ChannelGraph, *, dead: str, gather: bool, multiple_of: Multiple) -> Plan:
    """As `plan`, of a model that is traced already."""
    live = graph.liveness()
    round_up(graph, live, multiple_of)
    fold = folded(graph, live)
    if dead == "refuse":
        _refuse_dead(graph, live)
    made = Plan(graph, live, fold, graph.dense(), graph.sizes(live, fold))
    for layer in graph.layers:
        made.rows.append(_row(made, layer))
        if layer.inputs is not None and _computed(made, layer):
            _fold_and_gather(made, layer, gather)
    if gather:
        made.after = _with_gathers(made)
    if Builder(graph, structure(made)).generates:
        made.after = replace(made.after, parameters=made.after.parameters - _uncalled(graph))
    return made


def _refuse_dead(graph: ChannelGraph, live: Liveness) -> None:
    for layer in graph.layers:
        sides = {"inputs": layer.inputs, "outputs": layer.outputs}
        for side, dims in sides.items():
            if dims is not None and np.isin(live.labels[dims[1]][live.kept(dims[1])], live.held).all():
                raise InputError(
                    f"The layer '{layer.name}' has none of its {len(dims[1])} {side} left.",
                    "Pass dead='fold' to replace what it computes by a constant, or train with keep_last=True.",
                )


def _row(made: Plan, layer: Layer) -> Row:
    graph, live = made.graph, made.live
    weight = graph.parameter(layer.weight)
    rows = live.kept(layer.outputs[1])
    outputs = (len(rows), int(rows.sum()))
    if layer.inputs is None:
        inputs = outputs if weight.shape[1] == 1 else (weight.shape[1], weight.shape[1])
        after = weight.numel() // len(rows) * outputs[1]
        macs = (weight.numel() * layer.positions, after * layer.positions_left(live.count))
        return Row(layer.name, inputs, outputs, (weight.numel(), after), macs, reason=_kept_outputs(made, layer))
    kept = live.kept(layer.inputs[1])
    inputs = (len(kept), int(kept.sum()))
    each = weight.numel() // (len(rows) * len(kept))
    after = each * outputs[1] * inputs[1]
    idle = _idle(made, layer)
    # A layer keeps one input at least: without any it would be a dead layer, which is a matter of `dead`.
    idle_count = min(int(idle.sum()), max(inputs[1] - 1, 0))
    notes = [_kept_inputs(made, layer, idle), _kept_outputs(made, layer)]
    if layer.node in made.folded.constant:
        after, idle_count = 0, 0
        notes = ["dead: folded to a constant"]
    elif not _computed(made, layer):
        after, idle_count = 0, 0
        notes = ["gone"]
    elif layer.name in made.folded.biases:
        notes.append("constants of removed inputs moved into its bias")
    return Row(
        layer.name,
        inputs,
        outputs,
        parameters=(weight.numel(), after),
        macs=(weight.numel() * layer.positions, after * layer.positions_left(live.count)),
        zero_inputs=int(idle.sum()),
        gather_saves=each * outputs[1] * idle_count * layer.positions_left(live.count),
        reason="; ".join(filter(None, notes)),
    )


def _computed(made: Plan, layer: Layer) -> bool:
    """Whether a layer is still there."""
    return layer.node in made.folded.needed and layer.node not in made.folded.constant


def _idle(made: Plan, layer: Layer) -> np.ndarray:
    """Inputs that stay although no remaining filter of this layer needs them."""
    assert layer.inputs is not None
    rows = made.live.kept(layer.outputs[1])
    return made.live.kept(layer.inputs[1]) & ~made.live.needed[layer][rows].any(0)


def _kept_inputs(made: Plan, layer: Layer, idle: np.ndarray) -> str:
    assert layer.inputs is not None
    if not idle.any():
        return ""
    classes = made.graph.labels[layer.inputs[1][idle]]
    for one in classes:
        if int(one) in made.graph.reasons:
            return f"zero inputs stay: {made.graph.reasons[int(one)]}"
    for other in made.graph.readers:
        assert other.inputs is not None
        rows = made.live.kept(other.outputs[1])
        needs = made.live.needed[other][rows].any(0)
        if np.isin(made.graph.labels[other.inputs[1][needs]], classes).any():
            return f"zero inputs stay: '{other.name}' reads them"
    return "zero inputs stay: joined with channels that are read"


def _kept_outputs(made: Plan, layer: Layer) -> str:
    """Constant outputs that stay, and which reader stops them."""
    known = made.live.made(layer)
    if known is None:
        return ""
    constant = known.cpu().numpy() & made.live.kept(layer.outputs[1])
    number = int(constant.sum())
    if not number:
        return ""
    classes = made.graph.labels[layer.outputs[1][constant]]
    for other in made.graph.readers:
        assert other.inputs is not None
        rows = made.live.kept(other.outputs[1])
        read = made.live.read(other)
        known = read[1].cpu().numpy() if read is not None else np.zeros(len(other.inputs[1]), bool)
        hit = np.isin(made.graph.labels[other.inputs[1]], classes) & made.live.nonzero[other][rows].any(0)
        if (hit & known).any() and not other.folds:
            return f"{number} constant outputs stay: zero padding in '{other.name}' makes them differ at the border"
        if hit.any():
            return f"{number} constant outputs stay: they are joined with others before '{other.name}'"
    return f"{number} constant outputs stay"


def _fold_and_gather(made: Plan, layer: Layer, gather: bool) -> None:
    assert layer.inputs is not None
    live, graph = made.live, made.graph
    rows, kept = live.kept(layer.outputs[1]), live.kept(layer.inputs[1])
    if not rows.any() or not kept.any():
        return
    unread = ~kept
    idle = _idle(made, layer)
    if gather and layer.module and idle.any():
        selected = kept & ~idle
        if not selected.any():
            selected[np.flatnonzero(kept)[0]] = True
        if selected.sum() < kept.sum():
            made.gathers[layer.name] = np.flatnonzero(selected[kept]).tolist()
            unread = ~selected
    read = live.read(layer)
    if read is None or not layer.folds:
        return
    value, known = read
    weight = graph.parameter(layer.weight).detach()
    columns = torch.as_tensor(unread, device=weight.device) & known & (value != 0)
    taken = weight[torch.as_tensor(rows, device=weight.device)]
    if taken.dim() > 2:
        taken = taken.flatten(2).sum(2)
    addition = (taken[:, columns] * value[columns]).sum(1)
    if bool((taken[:, columns] != 0).any()):
        made.biases[layer.name] = addition


def _with_gathers(made: Plan) -> Counts:
    """The size with the layers' own selections."""
    parameters, macs, seen = made.after.parameters, made.after.macs, set[str]()
    for layer, row in zip(made.graph.layers, made.rows, strict=True):
        if row.layer not in made.gathers:
            continue
        macs -= row.gather_saves
        if layer.weight in seen:  # a module that is called again
            continue
        seen.add(layer.weight)
        parameters -= row.gather_saves // max(layer.positions_left(made.live.count), 1)
        if row.layer in made.biases and row.layer not in made.folded.biases and not layer.biased:
            parameters += row.outputs[1]
    return Counts(made.after.channels, parameters, macs)


def _uncalled(graph: ChannelGraph) -> int:
    """Numbers in parameters that a generated forward does not hold, as no output depends on them."""
    held = graph.held()
    return sum(one.numel() for one in graph.model.parameters() if id(one) not in held)


def resumed(graph: ChannelGraph, alive: np.ndarray, shape: dict[str, Any]) -> Plan:
    """A plan for a model whose channels that stay are known: `shape` as `structure` gives it, its constants from this model."""
    live = graph.liveness()
    live.classes = alive
    made = Plan(graph, live, folded(graph, live), graph.dense(), graph.sizes(live))
    for layer in graph.readers:
        if layer.name in shape["biases"]:
            _fold_and_gather(made, layer, layer.name in shape["gathers"])
    return made


def structure(made: Plan) -> dict[str, Any]:
    """The plan's shape without its numbers, as JSON values: enough to build the smaller network from a dense one."""
    kept: dict[str, dict[str, list[int]]] = {}
    for name, dims in made.graph.tensors.items():
        for dim, labels in dims.items():
            stays = made.live.kept(labels)
            if not stays.all():
                kept.setdefault(name, {})[str(dim)] = np.flatnonzero(stays).tolist()
    return {
        "inputs": [[list(shape), str(dtype).removeprefix("torch.")] for shape, dtype in made.graph.example],
        "names": made.graph.names,
        "kept": kept,
        "biases": sorted(made.biases),
        "gathers": made.gathers,
        "constants": sorted(node.name for node in made.folded.constant),
    }
