"""From a model and an example to its channel graph."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg

from gracile.channels import elementwise, layers, shapes  # noqa: F401  (their rules register themselves)
from gracile.channels.graph import ChannelGraph
from gracile.channels.op import Ledger, Op, Slots, Step, Traced, Values, describe
from gracile.channels.table import find, module_rule
from gracile.core.errors import InputError

Example = Tensor | Sequence[Tensor]


class _Tracer(fx.Tracer):
    """Traces into everything but modules that have a rule; remembers source lines."""

    record_stack_traces = True
    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or module_rule(m) is not None


def trace(model: nn.Module, example: Example) -> ChannelGraph:
    """Find out which slices of which weights are the same channel.

    Args:
        model: any module that torch.fx can trace; not changed. The graph refers to it and reads its weights when
            asked to count.
        example: one batch of inputs, first dimension the batch; a tuple for several. Only one sample of it is used.

    Returns:
        The channel graph.

    Raises:
        InputError: the model cannot be traced, uses an operation without a rule, shares weights between layers, or
        the example does
            not fit (shape, device). The message names the line or node.
    """
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    _check(model, inputs)
    traced = symbolic(model)
    unused = prune(traced)
    modules = dict(model.named_modules())
    inputs = tuple(one[:1].expand(2, *one.shape[1:]) for one in inputs)
    results = _run(model, traced, inputs)
    ledger = Ledger()
    steps: dict[fx.Node, Step] = {}
    for node in traced.nodes:
        steps[node] = _step(node, modules, steps, results, ledger)
    shown = [(tuple(one.shape[1:]), one.dtype) for one in inputs]
    return ChannelGraph(model, list(steps.values()), *_classes(ledger), example=shown, unused=unused)


def symbolic(model: nn.Module) -> fx.Graph:
    """The model's graph, as in evaluation.

    Raises:
        InputError: torch.fx cannot follow the model's code; the message names the line.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return _Tracer().trace(model)
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} cannot be traced: {_user_line(error)}{type(error).__name__}: {error}.",
            "Rewrite that line without control flow on tensors, or put it into a module and register a rule for it; "
            "grouping='input_channel' trains without a graph.",
        ) from error
    finally:
        for module, training in modes:
            module.training = training


def prune(graph: fx.Graph, replaced: Collection[fx.Node] = ()) -> bool:
    """Take out what no output depends on; returns whether a module was among it.

    What works in place stays, unless it is among the nodes that were `replaced`.
    """
    modules = False
    for node in reversed(list(graph.nodes)):
        lasting = node.op in ("placeholder", "output") or "assert" in str(node.target)
        lasting |= _in_place(node, None) and node not in replaced
        if not node.users and not lasting:
            modules |= node.op == "call_module"
            graph.erase_node(node)
    return modules


def _user_line(error: BaseException) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/torch/" not in frame.filename and not frame.filename.endswith("gracile/channels/tracing.py")
    ]
    if not frames:
        return ""
    frame = frames[-1]
    line = frame.line or linecache.getline(frame.filename, frame.lineno or 0).strip()
    return f"{frame.filename}:{frame.lineno} `{line}`: "


def _check(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(model, "_orig_mod"):
        raise InputError(f"{type(model).__name__} wraps the model to be traced.", "Pass the model inside it.")
    if not inputs or not all(isinstance(one, Tensor) and one.dim() and len(one) for one in inputs):
        raise InputError(
            "The example holds no batch.", "Pass a tensor whose first dimension is the batch, with at least one sample."
        )
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    for one in inputs:
        if devices and one.device not in devices:
            raise InputError(
                f"The example is on {one.device}, the model on {', '.join(map(str, devices))}.",
                "Move one of them with .to(device).",
            )
    owners: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = owners.setdefault(id(parameter), name)
        if other != name:
            raise InputError(
                f"'{other}' and '{name}' are one parameter, so their channels cannot be told apart.",
                "Give each its own, or train with grouping='input_channel'.",
            )


def _run(model: nn.Module, graph: fx.Graph, inputs: tuple[Tensor, ...]) -> dict[fx.Node, Any]:
    """Every node's result on the example, tensors as their shapes."""
    results: dict[fx.Node, Any] = {}
    modes = [(module, module.training) for module in model.modules()]

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            try:
                result = super().run_node(n)
            except Exception as error:
                module = self.submodules.get(str(n.target)) if n.op == "call_module" else None
                shapes = ", ".join(str(tuple(one.shape[1:])) for one in inputs)
                raise InputError(
                    f"The model does not run on samples of shape {shapes}: {describe(n, module)} says '{error}'.",
                    "Pass an example as the model is trained on.",
                ) from error
            results[n] = map_aggregate(result, lambda one: _Shape(tuple(one.shape)) if isinstance(one, Tensor) else one)  # type: ignore[arg-type]
            return result

    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            interpreter = Recorder(fx.GraphModule(model, graph))
            interpreter.extra_traceback = False
            interpreter.run(*inputs)
    finally:
        for module, training in modes:
            module.training = training
    return results


@dataclass(frozen=True)
class _Shape:
    """A tensor's shape, to tell it from a tuple the model computed itself."""

    sizes: tuple[int, ...]


def _step(
    node: fx.Node,
    modules: dict[str, nn.Module],
    steps: dict[fx.Node, Step],
    results: dict[fx.Node, Any],
    ledger: Ledger,
) -> Step:
    result = results[node]
    shape = result.sizes if isinstance(result, _Shape) else None
    if node.op == "placeholder":
        slots = None
        if shape is not None and len(shape) > 1:
            slots = Slots(1, ledger.fresh(shape[1]))
            ledger.pins.append((slots.labels, "it is an input of the network"))
        return Step(node, shape, slots)
    if node.op == "output":
        for source in node.all_input_nodes:
            for slots in [steps[source].slots, *(steps[source].parts or [])]:
                if slots is not None:
                    ledger.pins.append((slots.labels, "it is an output of the network"))
        return Step(node, None, None, list(node.all_input_nodes))
    if node.op == "get_attr":
        return _attribute(node, modules, shape, ledger)
    if not _holds_tensors(result):
        return Step(node, None, None, list(node.all_input_nodes))
    module = modules[str(node.target)] if node.op == "call_module" else None
    _refuse_second_call(node, module, steps)
    args, kwargs = map_arg((node.args, node.kwargs), lambda one: _operand(one, steps, results))  # type: ignore[misc]
    op = Op(node, module, args, kwargs, shape, ledger)
    made = find(node, module)(op)
    step = op.step
    if isinstance(made, list):
        step.parts = made
    else:
        step.slots = made
    if _in_place(node, module) and len(op.x.node.users) > 1:
        steps[op.x.node].constants = None  # what its other users see is the changed tensor
    return step


def _holds_tensors(result: Any) -> bool:
    """Whether a node's result is a tensor or holds some; sizes and other numbers need no rule."""
    found = False

    def look(one: Any) -> Any:
        nonlocal found
        found |= isinstance(one, _Shape)
        return one

    if isinstance(result, _Shape):
        return True
    map_aggregate(result, look)
    return found


def _operand(node: fx.Node, steps: dict[fx.Node, Step], results: dict[fx.Node, Any]) -> Any:
    step = steps[node]
    if step.shape is None and step.parts is None:
        return results[node]
    return Traced(node, step.shape or (), step.slots, step.parts)


def _in_place(node: fx.Node, module: nn.Module | None) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return (
        getattr(module, "inplace", False)
        or node.kwargs.get("inplace", False) is True
        or (node.op == "call_method" and name.endswith("_"))
        or name in ("iadd", "isub", "imul", "itruediv", "relu_")
    )


def _refuse_second_call(node: fx.Node, module: nn.Module | None, steps: dict[fx.Node, Step]) -> None:
    if module is None or next(module.parameters(), None) is None:
        return
    for other in steps:
        if other.op == "call_module" and other.target == node.target:
            raise InputError(
                f"{describe(node, module)} is called twice (nodes '{other.name}' and '{node.name}'), sharing weights.",
                "Make one module for each call, or train with grouping='input_channel'.",
            )


def _attribute(node: fx.Node, modules: dict[str, nn.Module], shape: tuple[int, ...] | None, ledger: Ledger) -> Step:
    """A parameter or buffer used by itself: its one dimension larger than 1 holds channels."""
    step = Step(node, shape, None)
    owner, _, name = str(node.target).rpartition(".")
    module = modules[owner]
    if shape is None:
        return step

    def constants(_inputs: Sequence[Values]) -> Values:
        value = getattr(module, name).detach().reshape(-1)
        return Values(value, torch.ones_like(value, dtype=torch.bool))

    long = [axis for axis, size in enumerate(shape) if size > 1]
    if not long and len(shape) > 1:
        long = [1]  # a single channel
    if len(long) == 1:
        step.slots = Slots(long[0], ledger.fresh(shape[long[0]]))
        step.tensors[str(node.target)] = {long[0]: step.slots.labels}
        step.constants = constants
    elif not long:
        step.constants = constants
    return step


def _classes(ledger: Ledger) -> tuple[np.ndarray, dict[int, str]]:
    """Label to class of labels that are one channel, and why the classes that must stay do."""
    first = np.concatenate([pair[0] for pair in ledger.pairs] or [np.empty(0, int)])
    second = np.concatenate([pair[1] for pair in ledger.pairs] or [np.empty(0, int)])
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(ledger.size, ledger.size))
    _, classes = connected_components(links, directed=False)
    pinned: dict[int, str] = {}
    for labels, reason in ledger.pins:
        for one in np.unique(classes[labels]):
            pinned.setdefault(int(one), reason)
    return classes.astype(np.int64), pinned
