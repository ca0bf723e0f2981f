"""One run of the model, operation by operation.

Every call of a torch function or method is noticed on its way: what the rules say of it becomes labels on the tensors, and the call
itself a node of a graph from which a forward can be written anew. Functions without a rule are opened into their ATen operations.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gracile.channels.calls import (
    QUESTIONS,
    READS,
    SAME,
    Shape,
    in_place,
    is_leaf,
    leaves,
    of_batch,
    paths,
    user_line,
    with_shapes,
    without_sizes,
)
from gracile.channels.op import Op
from gracile.channels.records import Choice, Dims, Ledger, Record, Step, Var
from gracile.channels.rectangles import carry
from gracile.channels.sizes import COMPARISONS, Attribute, Labels, Measured, Mode, Size
from gracile.channels.table import RULES, canonical, module_rule
from gracile.channels.tensors import Tensors, as_dims, sized
from gracile.channels.writing import Writer
from gracile.core.errors import InputError
from gracile.core.outputs import tensors_in


class Recorder(TorchFunctionMode):
    """The run of one model.

    Attributes:
        writer: the graph, and per node what the rules said.
        tensors: what is known of each tensor.
        records: operations in order.
        dead_ends: labels of what is computed and not used, where the model's own forward goes on computing it.
        missing: operations without a rule, with the lines they come from.
        modules: the model's modules with their paths.
        outputs: what the run gave back.
    """

    def __init__(self, model: nn.Module, ledger: Ledger, strict: bool) -> None:
        super().__init__()
        self.model, self.ledger, self.strict = model, ledger, strict
        self.writer = Writer()
        self.tensors = Tensors(model, ledger, self.writer)
        self.writer.var = self.tensors.var
        self.records: list[Record] = []
        self.missing: dict[str, list[str]] = defaultdict(list)
        self.dead_ends: list[Labels] = []
        self.modules = {module: name for name, module in reversed(list(model.named_modules(remove_duplicate=False)))}
        self.outputs: list[Tensor] = []
        self._inside = ""  # the path of the module that is called whole
        self._paused = False

    # What Python calls.

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        key = canonical(func)
        if key in ("shape", "size") and args and isinstance(args[0], Tensor):
            return self._shape(args, kwargs)
        if key in ("numel", "nelement"):
            return Shape(self._shape(args[:1], {})).numel()
        args, kwargs = with_shapes(args), with_shapes(kwargs)
        if key in QUESTIONS:
            return func(*without_sizes(args), **without_sizes(kwargs))
        if name in READS:
            self._read(name, args)
            return func(*without_sizes(args), **without_sizes(kwargs))
        if key == "len":
            self._counted(args[0])
            return func(*args)
        return self._call(key, name, func, args, kwargs)

    def module(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A call of a module."""
        path = self.modules.get(module)
        if self._paused or self.tensors.inside is not None or path is None or module is self.model:
            return original(module, *args, **kwargs)
        rule = module_rule(module)
        if rule is None and not is_leaf(module):
            return self._passed_through(path, module, args, kwargs, original(module, *args, **kwargs))
        step = self.writer.module(path, args, kwargs)
        if rule is None:
            self.tensors.inside, self._inside = step, path
            try:
                result = original(module, *without_sizes(args), **without_sizes(kwargs))
            finally:
                self.tensors.inside, self._inside = None, ""
            for one in leaves(result):
                if isinstance(one, Tensor) and one is not module:
                    self.tensors.var(one)
        else:
            operands = self.tensors.vars(args), self.tensors.vars(kwargs)
            self._paused = True
            try:
                result = original(module, *without_sizes(args), **without_sizes(kwargs))
            finally:
                self._paused = False
            self._apply(
                rule, Op(type(module).__name__, path, operands, step, self.ledger, module, module=module), result
            )
        self._settle(step, result)
        return result

    def scripted(self, original: Callable[..., Any], function: Any, args: Any, kwargs: Any) -> Any:
        """A call of a scripted function, which torch's modes pass over: its ATen operations are looked at."""
        if self._paused:
            return original(function, *args, **kwargs)
        self._breaks(f"a scripted function is called at {user_line()}")

        def called(*given: Any, **named: Any) -> Any:
            return original(function, *given, **named)

        called.__name__ = f"scripted {function.name}"  # which no rule is named by
        return self._call(called.__name__, called.__name__, called, with_shapes(args), with_shapes(kwargs))

    def is_opened(self, module: nn.Module) -> bool:
        """Whether a module's own code is looked into, rather than the module called whole."""
        scripted = isinstance(module, torch.jit.ScriptModule)
        return not scripted and module_rule(module) is None and not is_leaf(module)

    def _passed_through(self, path: str, module: nn.Module, args: Any, kwargs: Any, result: Any) -> Any:
        """A result; where a module without tensors hands back what it was given, as stochastic depth does in evaluation, it is called.

        What it gives is another tensor then, for in training it is.
        """
        if (
            not isinstance(result, Tensor)
            or len(args) != 1
            or result is not args[0]
            or next(module.children(), None) is not None
        ):
            return result
        var = self.tensors.known(result)
        if var is None or var.node is None or var.param is not None or module._parameters or module._buffers:
            return result
        operands = self.tensors.vars(args), self.tensors.vars(kwargs)
        step = self.writer.module(path, args, kwargs)
        with _quiet(self):
            result = result.detach()
        op = Op("dropout", path, operands, step, self.ledger, lambda one, **_kwargs: one, module=module)
        self._apply(RULES["dropout"], op, result)
        self._settle(step, result)
        return result

    # Operations.

    def _call(self, key: str, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        rule = RULES.get(key)
        given = leaves((args, kwargs))
        tensors = any(isinstance(one, Tensor) for one in given)
        plain_args, plain_kwargs = without_sizes(args), without_sizes(kwargs)
        if rule is None and not tensors:
            result = func(*plain_args, **plain_kwargs)
            if not any(isinstance(one, Tensor) for one in leaves(result)):
                return result
        operands = self.tensors.vars(args), self.tensors.vars(kwargs)
        step = self.tensors.inside
        if step is None:
            step = self.writer.call(name, func, *self._with_mode(key, args, kwargs))
        result: Any = None
        if rule is None and tensors:
            for one in given:
                if isinstance(one, Size):
                    self._depends(one)
            result = self._opened(key, func, plain_args, plain_kwargs, step)
            if key == "multi_head_attention_forward":  # it checks shapes against each other
                for one in leaves(operands):
                    for labels in one.dims if isinstance(one, Var) else ():
                        self.ledger.pin(labels, f"'{key}' at {user_line()} takes their number for given")
        elif tensors or rule is not None:
            result = func(*plain_args, **plain_kwargs)
        writes = in_place(name, args, kwargs)
        op = Op(key, self._inside or step.node.name, operands, step, self.ledger, func)
        self._apply(rule or _fixed, op, result, args if writes else ())
        if self.tensors.inside is None:
            self._settle(step, result if name != "__setitem__" else args[0])
        return result

    def _with_mode(self, key: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Arguments of a batch-norm of its own class, whose choice of statistics follows its module even where code came between."""
        if key != "batch_norm" or len(args) < 2 or not isinstance(args[1], Tensor):
            return args, kwargs
        name, _, _ = (self.tensors.var(args[1]).param or ("", ()))[0].rpartition(".")
        if not name or not isinstance(self.model.get_submodule(name), nn.modules.batchnorm._NormBase):
            return args, kwargs
        if len(args) > 5 and args[5] is False:
            return (*args[:5], Mode(name), *args[6:]), kwargs
        return args, {**kwargs, "training": Mode(name)} if kwargs.get("training") is False else kwargs

    def _apply(self, rule: Any, op: Op, result: Any, written: Any = ()) -> None:
        """Ask a rule, and put what it says onto the result's tensors.

        Args:
            rule: of the operation.
            op: as it was called.
            result: what it gave.
            written: its arguments, where it changes the first of them in place.
        """
        target = written[0] if written and isinstance(written[0], Tensor) else None
        tensors = [one for one in leaves(result) if isinstance(one, Tensor)] if target is None else [target]
        known = [self.tensors.known(one) is not None for one in tensors]
        if not tensors or (rule is _fixed and target is None and all(known)):
            return  # opened, its last operation left the labels
        op.results = [tuple(one.shape) for one in tensors]
        for one in op.operands:
            if one.holds is not None:
                self.ledger.pin(*one.holds)
        with _quiet(self):
            made = as_dims(rule(op), op.results)
        sizes = [one for one in op.given if isinstance(one, Size)]
        for size in sizes:
            if id(size) not in op.used:  # no size of the result, but a number that the function depends on
                self._depends(size)
        varies = any(one.varies for one in op.operands) or of_batch(sizes)
        for one, dims, seen in zip(tensors, made, known, strict=True):
            if seen and target is None and op.key in SAME:
                continue  # handed back as it is
            var = self._result(op, one, dims)
            var.varies = varies
            self.tensors.tag(one, var)
        record = op.record
        if record.outputs:
            carry(op)
        if record.layer is not None:
            record.layer.result = record.outputs[0] if record.outputs else None
        if target is not None:
            self.tensors.overwritten(target, record.outputs[0])
        self.records.append(record)

    def _result(self, op: Op, tensor: Tensor, dims: Dims) -> Var:
        """One result; an identity or a permutation of a parameter is still that parameter."""
        record = op.record
        var = Var(None, tuple(tensor.shape), sized(dims, tensor, self.ledger), record=record)
        var.floating = any(operand.floating for operand in op.operands)
        var.boolean = tensor.dtype in (torch.bool, torch.uint8)
        source = op.operands[0].param if op.operands and not op.operands[0].varies else None
        if source is not None and op.key in SAME:
            var.param = source
        elif source is not None and record.order is not None:
            var.param = (source[0], tuple(source[1][axis] for axis in record.order))
        var.holds = op.holding if record.outputs else None
        record.outputs.append(var)
        return var

    def _opened(self, key: str, func: Any, args: Any, kwargs: Any, step: Step) -> Any:
        """Run a function that has no rule, its ATen operations one by one."""
        with ExitStack() as stack:
            if key in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
                stack.callback(torch._C._set_mkldnn_enabled, torch._C._get_mkldnn_enabled())
                torch._C._set_mkldnn_enabled(False)  # its recurrent layers are one operation each
            stack.enter_context(_Opened(self, key, step))
            return func(*args, **kwargs)

    def unknown(self, key: str, step: Step, operands: Any) -> str:
        """Note an operation without a rule."""
        where = step.node.meta.get("where", "")
        if self.strict:
            what = (
                f"The module '{self._inside}'" if self._inside else f"The function '{key}' at node '{step.node.name}'"
            )
            raise InputError(
                f"{what}, {where}: there is no rule that says what {key} does to channels.",
                f"Add one with gracile.channels.register_rule('{key}'), or trace without strict=True to leave them as they are.",
            )
        self.missing[key].append(where or step.node.name)
        return f"'{key}' at {where or step.node.name} has no rule"

    def escaped(self, size: Size) -> None:
        """A size was used as a number in the model's code, or two of them were compared."""
        if self._paused:
            return  # inside a rule, or a module whose rule answers for it
        if isinstance(size.origin, tuple) and size.origin[0] in COMPARISONS:
            self._compared(size, size.origin[1])
            return
        self._depends(size)
        if any(_fixed_leaf(leaf) for leaf in size.leaves()):
            self._breaks(f"a size is used as a number at {user_line()}")

    def _breaks(self, reason: str) -> None:
        """No forward can be generated, unless this happens in a module that is called whole."""
        if self.tensors.inside is None:
            self.writer.broken = self.writer.broken or reason

    def _compared(self, size: Size, pair: tuple[Any, ...]) -> None:
        """A comparison of sizes, whose outcome may be another once channels are gone, or for other inputs."""
        if self.tensors.inside is not None:
            return  # a module that is called whole looks at its own numbers, which follow
        leaves = list(size.leaves())
        fixed = any(_fixed_leaf(leaf) for leaf in leaves)
        if any(not (isinstance(leaf, Measured) and leaf.labels is None) for leaf in leaves):
            self.ledger.choices.append(Choice(size, user_line()))
        if not fixed:
            return
        both = all(isinstance(one, Size) and any(_fixed_leaf(leaf) for leaf in one.leaves()) for one in pair)
        if any(isinstance(leaf, Measured) and not leaf.fixed for leaf in leaves) or (
            both and size.origin[0] not in (operator.eq, operator.ne)  # type: ignore[index]
        ):
            self._breaks(f"a size is used as a number at {user_line()}")  # such as the larger of two
        else:
            self.writer.compared(size)

    def _depends(self, size: Size) -> None:
        """What a size was read from must stay."""
        for leaf in size.leaves():
            if isinstance(leaf, Attribute):
                self.ledger.frozen.add(leaf)
            else:
                self.ledger.pin(leaf.labels, f"their number is used as a value at {user_line()}")

    def _shape(self, args: Any, kwargs: Any) -> Any:
        tensor = args[0]
        var = self.tensors.var(tensor)
        sizes = tensor.size()
        made = Shape(
            Size(size, Measured(var.dims[axis] if axis < len(var.dims) else None, var.node, axis), self.escaped)
            for axis, size in enumerate(sizes)
        )
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        return made if dim is None else made[int(dim)]

    def _counted(self, tensor: Tensor) -> None:
        sizes = self._shape((tensor,), {})
        if sizes:
            self.escaped(sizes[0])

    def _read(self, name: str, args: Any) -> None:
        for one in leaves(args):
            if not isinstance(one, Tensor):
                continue
            var = self.tensors.var(one)
            if var.floating:
                raise InputError(
                    f"{user_line()} reads a value ({name.strip('_')}) that depends on the input, so that the forward may differ from "
                    "one input to the next.",
                    "Rewrite that line without control flow on tensors, or put it into a module and register a rule for it; "
                    "grouping='input_channel' trains without a graph.",
                )
            if var.varies:
                self._breaks(f"values of an input are read at {user_line()}")
            for labels in var.dims:
                self.ledger.pin(labels, f"its values are read at {user_line()}")

    def placeholder(self, name: str, tensor: Tensor) -> None:
        """An input of the network."""
        node = self.writer.placeholder(name)
        dims: list[Labels | None] = [None] * tensor.dim()
        if tensor.is_floating_point() and tensor.dim() in (2, 4, 5):
            dims[1] = self.ledger.fresh(tensor.shape[1])
            self.ledger.pin(dims[1], "it is an input of the network")
        var = Var(node, tuple(tensor.shape), Dims(dims), True, floating=tensor.is_floating_point())
        var.record = Record([], [var], None)
        self.tensors.tag(tensor, var)
        self.writer.steps[node] = Step(node, var.shape, [], [var])

    def output(self, result: Any) -> None:
        """What the network gives back stays."""
        flat = tensors_in(result)
        self.outputs = [one.detach() for one in flat]
        for one in flat:
            var = self.tensors.var(one)
            for labels in var.dims:
                self.ledger.pin(labels, "it is an output of the network")
            if var.holds is not None:
                self.ledger.pin(*var.holds)
        self.writer.output(result, [self.tensors.var(one) for one in flat])

    def _settle(self, step: Step, result: Any) -> None:
        """Give the result's tensors their nodes."""
        flat = tensors_in(result)
        if isinstance(result, Tensor):
            var = self.tensors.var(result)
            made = step.node.op == "call_module" or var.record in self.records[-1:]
            if var.node is None or (made and var.param is None):
                var.node = step.node
            step.shape, step.vars = tuple(result.shape), [var]
            return
        step.vars = [self.tensors.var(one) for one in flat]
        for path, one in paths(result):
            var = self.tensors.var(one)
            if var.node is not None:
                continue
            var.node = self.writer.part(step.node, path, tuple(one.shape), var)


class _Opened(TorchDispatchMode):
    """The ATen operations of a function without a rule."""

    def __init__(self, recorder: Recorder, name: str, step: Step) -> None:
        super().__init__()
        self.recorder, self.name, self.step = recorder, name, step

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket.__name__
        key = canonical(packet)
        recorder = self.recorder
        operands = recorder.tensors.vars(args), recorder.tensors.vars(kwargs)
        with _quiet(recorder):
            result = func(*args, **kwargs)
        rule = RULES.get(key)
        if rule is None:
            rule = self._unknown
        written = args if packet.endswith("_") and not packet.startswith("_") else []
        if any(isinstance(one, Tensor) for one in leaves(result)):
            name = recorder._inside or self.step.node.name
            op = Op(key, name, operands, self.step, recorder.ledger, func, opened=True)
            recorder._apply(rule, op, result, written)
        return result

    def _unknown(self, op: Op) -> list[Dims]:
        name = self.name if self.name == op.key else f"{self.name} ({op.key})"
        op.pin_all(self.recorder.unknown(name, self.step, op))
        return [Dims([None] * len(one)) for one in op.results]


class _quiet:
    """The recorder notices nothing."""

    __slots__ = ("before", "recorder")

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __enter__(self) -> None:
        self.before, self.recorder._paused = self.recorder._paused, True

    def __exit__(self, *_error: object) -> None:
        self.recorder._paused = self.before


def _fixed_leaf(leaf: Measured | Attribute) -> bool:
    return isinstance(leaf, Measured) and leaf.fixed


def _fixed(op: Op) -> list[Dims]:
    """What a function without a rule and without tensors gives."""
    return [Dims([None] * len(one)) for one in op.results]
