"""One run of the model, operation by operation.

The model runs as it is, on two samples, and every call of a torch function or method is noticed on its way: what the rules say of it
becomes labels on the tensors, and the call itself a node of a graph from which a forward can be written anew. Control flow on shapes,
optional arguments and modules of any kind need no care, since Python itself runs them. Parameters are known by identity, whichever way
they are read. Functions without a rule are opened into the ATen operations they consist of.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import operator
import sys
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from gracile.channels.op import Dims, Labels, Ledger, Op, Record, Slots, Step, Var
from gracile.channels.sizes import Attribute, Measured, Size
from gracile.channels.table import RULES, canonical, module_rule
from gracile.core.errors import GracileError, InputError
from gracile.core.outputs import tensors_in

_SKIPPED = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
# What is asked of a tensor without computing: neither operations nor values.
QUESTIONS = {
    "dim", "ndim", "ndimension", "dtype", "device", "layout", "requires_grad", "is_floating_point", "is_complex", "is_cuda",
    "is_contiguous",
    "stride", "storage_offset", "data_ptr", "element_size", "grad", "grad_fn", "is_leaf", "names", "is_sparse", "is_quantized", "is_mkldnn",
    "untyped_storage", "storage", "type", "get_device", "is_meta", "is_nested", "is_cpu", "is_xpu", "is_mps", "itemsize", "nbytes",
    "is_same_size", "is_signed", "result_type", "is_inference", "is_conj", "is_neg", "has_names", "_version", "is_tensor", "requires_grad_",
    "is_shared", "dense_dim", "sparse_dim", "repr", "hash", "format", "is_grad_enabled", "set_grad_enabled", "can_cast", "promote_types",
    "finfo", "iinfo", "is_vulkan", "is_maia", "is_ipu", "is_xla", "is_mtia", "output_nr", "backward_hooks", "_backward_hooks",
}  # fmt: skip
READS = {"__bool__", "item", "tolist", "__int__", "__float__", "__index__", "numpy", "__array__", "is_nonzero", "equal", "allclose",
         "__contains__"}  # fmt: skip
OPERATORS = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "add_": operator.iadd, "sub_": operator.isub,
    "mul_": operator.imul, "div_": operator.itruediv, "__truediv__": operator.truediv, "neg": operator.neg, "matmul": operator.matmul,
    "__getitem__": operator.getitem, "__iadd__": operator.iadd, "__isub__": operator.isub, "__imul__": operator.imul,
    "__itruediv__": operator.itruediv,
}  # fmt: skip
# An identity keeps a parameter what it is for those who read it.
SAME = {
    "detach",
    "contiguous",
    "to",
    "float",
    "double",
    "half",
    "bfloat16",
    "clone",
    "lift_fresh",
    "cpu",
    "cuda",
    "requires_grad",
}


class Shape(tuple[int, ...]):
    """A tensor's shape whose sizes know where they come from."""

    def numel(self) -> int:
        """Numbers in the tensor."""
        made: int = 1
        for one in self:
            made = one * made
        return made


def user_line() -> str:
    """The innermost line of the model's code that belongs neither to torch nor to this room; empty where all is torch's."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code is not record.__code__:
        file = frame.f_code.co_filename
        if not file.startswith((*_SKIPPED, "<")) or "<eval_with_key>" in file:
            return f"{file}:{frame.f_lineno} `{linecache.getline(file, frame.f_lineno).strip()}`"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


class Recorder(TorchFunctionMode):
    """The run of one model; `graph` and `steps` are what it leaves.

    Attributes:
        graph: nodes of modules, functions, methods; a forward can be generated from it where `whole` is true.
        steps: per node what the rules said.
        records: operations in order.
        parameters: per parameter or buffer its labels, by dimension.
        dead_ends: labels of what is computed and not used, where the model's own forward goes on computing it.
        broken: why no forward can be generated; empty where one can.
        missing: operations without a rule, with the lines they come from.
        attributes: whole numbers that modules keep, with the node that holds each.
    """

    def __init__(self, model: nn.Module, ledger: Ledger, strict: bool) -> None:
        super().__init__()
        self.model, self.ledger, self.strict = model, ledger, strict
        self.graph = fx.Graph()
        self.steps: dict[fx.Node, Step] = {}
        self.records: list[Record] = []
        self.parameters: dict[str, dict[int, Labels]] = {}
        self.missing: dict[str, list[str]] = defaultdict(list)
        self.broken = ""
        self.dead_ends: list[Labels] = []
        self.inputs: list[Var] = []
        self.modules = {module: name for name, module in reversed(list(model.named_modules(remove_duplicate=False)))}
        self._names = {
            id(tensor): (name, tensor)
            for name, tensor in reversed(
                [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
            )
        }
        self._params: dict[int, Var] = {}
        self._step: Step | None = None  # of the module that is called whole
        self._inside = ""
        self._paused = False
        self._owner, self._tags = object(), []
        self._by_storage: dict[int, list[tuple[weakref.ref[Tensor], Var]]] = defaultdict(list)
        self._sizes: dict[Any, fx.Node] = {}
        self.attributes: dict[Attribute, fx.Node] = {}

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
        args, kwargs = _normal(args), _normal(kwargs)
        if key in QUESTIONS:
            return func(*_plain(args), **_plain(kwargs))
        if name in READS:
            self._read(name, args)
            return func(*_plain(args), **_plain(kwargs))
        if key == "len":
            self._counted(args[0])
            return func(*args)
        return self._call(key, name, func, args, kwargs)

    def module(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A call of a module."""
        path = self.modules.get(module)
        if self._paused or self._step is not None or path is None or module is self.model:
            return original(module, *args, **kwargs)
        rule = module_rule(module)
        if rule is None and not _is_leaf(module):
            return original(module, *args, **kwargs)
        node = self._emit("call_module", path, args, kwargs)
        step = self.steps[node] = Step(node, None, self._nodes(args, kwargs))
        node.meta["where"] = user_line()
        if rule is None:
            self._step, self._inside = step, path
            try:
                result = original(module, *_plain(args), **_plain(kwargs))
            finally:
                self._step, self._inside = None, ""
            for one in tree_leaves(result):
                if isinstance(one, Tensor) and one is not module:
                    self.var(one)
        else:
            operands = self._vars(args), self._vars(kwargs)
            self._paused = True
            try:
                result = original(module, *_plain(args), **_plain(kwargs))
            finally:
                self._paused = False
            self._apply(rule, type(module).__name__, path, module, operands, result, step, module, [])
        self._settle(step, result)
        return result

    # Operations.

    def _call(self, key: str, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        rule = RULES.get(key)
        tensors = any(isinstance(one, Tensor) for one in tree_leaves((args, kwargs)))
        if rule is None and not tensors:
            result = func(*_plain(args), **_plain(kwargs))
            if not any(isinstance(one, Tensor) for one in tree_leaves(result)):
                return result
        operands = self._vars(args), self._vars(kwargs)
        step = self._step
        if step is None:
            node = self._emit_call(name, func, args, kwargs)
            node.meta["where"] = user_line()
            step = self.steps[node] = Step(node, None, self._nodes(args, kwargs))
        result: Any = None
        if rule is None and tensors:
            for one in _numbers((args, kwargs)):
                if isinstance(one, Size):
                    self.escaped(one)
            result = self._opened(key, func, args, kwargs, step)
        elif tensors or rule is not None:
            result = func(*_plain(args), **_plain(kwargs))
        writes = _in_place(name, args, kwargs)
        self._apply(
            rule or _fixed,
            key,
            self._inside or step.node.name,
            None,
            operands,
            result,
            step,
            func,
            args if writes else [],
        )
        if self._step is None:
            self._settle(step, result if name != "__setitem__" else args[0])
        return result

    def _apply(
        self,
        rule: Any,
        key: str,
        name: str,
        module: Any,
        operands: Any,
        result: Any,
        step: Step,
        call: Any,
        written: Any,
        opened: bool = False,
    ) -> None:
        """Ask a rule, and put what it says onto the result's tensors."""
        tensors = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        target = written[0] if written and isinstance(written[0], Tensor) else None
        if target is not None:
            tensors = [target]
        if not tensors:
            return
        if rule is _fixed and all(self._known(one) is not None for one in tensors) and target is None:
            return  # opened, its last operation left the labels
        where = step.node.meta.get("where", "")
        own = step.node.op != "call_module"
        args, kwargs = operands
        shapes = [tuple(one.shape) for one in tensors]
        op = Op(key, name, module, args, kwargs, shapes, step, self.ledger, where, own, call)
        op.opened = opened
        for one in op.operands:
            if one.holds is not None:
                self.ledger.pin(*one.holds)
        with _quiet(self):
            made = _as_dims(rule(op), op)
        self._values_used(op)
        record = op.record
        varies = any(one.varies for one in op.operands) or _of_batch((op.args, op.kwargs))
        for one, dims in zip(tensors, made, strict=True):
            if target is None and key in SAME and self._known(one) is not None:
                continue  # handed back as it is
            var = Var(None, tuple(one.shape), _sized(dims, one, self.ledger), varies, None, record)
            var.floating = any(operand.floating for operand in op.operands)
            var.boolean = one.dtype in (torch.bool, torch.uint8)
            source = op.operands[0].param if op.operands else None
            if source is not None and not op.operands[0].varies:
                if key in SAME:
                    var.param = source
                elif record.order is not None:
                    var.param = (source[0], tuple(source[1][axis] for axis in record.order))
            var.holds = op.holding if record.outputs else None
            record.outputs.append(var)
            self._tag(one, var)
        if record.layer is not None:
            record.layer.result = record.outputs[0] if record.outputs else None
        if target is not None:
            self._overwritten(target, record.outputs[0])
        self.records.append(record)

    def _opened(self, key: str, func: Any, args: Any, kwargs: Any, step: Step) -> Any:
        """Run a function that has no rule, its ATen operations one by one."""
        with ExitStack() as stack:
            if key in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
                stack.callback(torch._C._set_mkldnn_enabled, torch._C._get_mkldnn_enabled())
                torch._C._set_mkldnn_enabled(False)  # its recurrent layers are one operation each
            stack.enter_context(_Opened(self, key, step))
            return func(*_plain(args), **_plain(kwargs))

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

    def _values_used(self, op: Op) -> None:
        """Sizes that are no size of the result are numbers the function depends on."""
        for one in _numbers((op.args, op.kwargs)):
            if isinstance(one, Size) and id(one) not in op.used:
                self.escaped(one)

    def escaped(self, size: Size) -> None:
        """A size was used as a number: what it was read from must stay."""
        if self._paused:
            return  # inside a rule, or a module whose rule answers for it
        for leaf in size.leaves():
            if isinstance(leaf, Attribute):
                self.ledger.frozen.add(leaf)
            else:
                self.ledger.pin(leaf.labels, f"their number is used as a value at {user_line()}")

    # Tensors.

    def var(self, tensor: Tensor) -> Var:
        """What is known of a tensor."""
        known = self._known(tensor)
        if known is not None:
            return known
        named = self._names.get(id(tensor))
        if named is not None:
            return self._parameter(*named)
        made = Var(None, tuple(tensor.shape), Dims([None] * tensor.dim()), floating=False)
        made.boolean = tensor.dtype is torch.bool
        made.record = Record([], [made], None)
        made.known = tensor  # type: ignore[attr-defined]
        self._tag(tensor, made)
        return made

    def _parameter(self, name: str, tensor: Tensor) -> Var:
        var = self._params.get(id(tensor))
        if var is None:
            labels = self.parameters[name] = {axis: self.ledger.fresh(size) for axis, size in enumerate(tensor.shape)}
            for axis, size in enumerate(tensor.shape):
                if size == 1:
                    self.ledger.pin(labels[axis], "there is one only")
            dims = Dims(labels[axis] if size > 1 else None for axis, size in enumerate(tensor.shape))
            var = Var(None, tuple(tensor.shape), dims, False, (name, tuple(range(tensor.dim()))), floating=False)
            var.record = Record([], [var], None)
            self._params[id(tensor)] = var
        if self._step is not None:
            self._step.tensors[name] = self.parameters[name]
        elif var.node is None:
            var.node = self.graph.get_attr(name)
            step = self.steps[var.node] = Step(var.node, var.shape, [], [var])
            step.tensors[name] = self.parameters[name]
        return var

    def _known(self, tensor: Tensor) -> Var | None:
        tag = getattr(tensor, "_gracile_tag", None)
        return tag.var if tag is not None and tag.owner is self._owner else None

    def _tag(self, tensor: Tensor, var: Var) -> None:
        old = self._known(tensor)
        if old is not None:
            old.superseded = True
        tensor._gracile_tag = _Tag(self._owner, var)  # type: ignore[attr-defined]
        self._tags.append(tensor._gracile_tag)  # type: ignore[attr-defined]
        self._by_storage[_storage(tensor)].append((weakref.ref(tensor), var))

    def _overwritten(self, tensor: Tensor, new: Var) -> None:
        """What other views of the same memory hold is not known any more."""
        for alive, one in self._by_storage[
            _storage(tensor)
        ]:  # of tensors that are gone, the memory may serve others by now
            if one is not new and not one.superseded and alive() is not None:
                one.changed = True

    def _vars(self, value: Any) -> Any:
        return tree_map(lambda one: self.var(one) if isinstance(one, Tensor) else one, value)

    def _shape(self, args: Any, kwargs: Any) -> Any:
        tensor = args[0]
        var = self.var(tensor)
        sizes = tensor.size()
        made = Shape(
            Size(size, Measured(var.dims[axis] if axis < len(var.dims) else None, var.node, axis), self.escaped)
            for axis, size in enumerate(sizes)
        )
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        return made if dim is None else made[int(dim)]

    def _counted(self, tensor: Tensor) -> None:
        dims = self.var(tensor).dims
        if dims and dims[0] is not None:
            self.ledger.pin(dims[0], f"their number is used as a value at {user_line()}")

    def _read(self, name: str, args: Any) -> None:
        for one in tree_leaves(args):
            if not isinstance(one, Tensor):
                continue
            var = self.var(one)
            if var.floating:
                raise InputError(
                    f"{user_line()} reads a value ({name.strip('_')}) that depends on the input, so that the forward may differ from "
                    "one input to the next.",
                    "Rewrite that line without control flow on tensors, or put it into a module and register a rule for it; "
                    "grouping='input_channel' trains without a graph.",
                )
            for labels in var.dims:
                self.ledger.pin(labels, f"its values are read at {user_line()}")

    def forget(self) -> None:
        """Let go of the run's tensors."""
        for tag in self._tags:
            tag.owner = tag.var = None
        self._tags.clear()
        self._by_storage.clear()
        self._params.clear()

    # The graph.

    def placeholder(self, name: str, tensor: Tensor) -> None:
        """An input of the network."""
        node = self.graph.placeholder(name)
        dims: list[Labels | None] = [None] * tensor.dim()
        if tensor.is_floating_point() and tensor.dim() in (2, 4, 5):
            dims[1] = self.ledger.fresh(tensor.shape[1])
            self.ledger.pin(dims[1], "it is an input of the network")
        var = Var(node, tuple(tensor.shape), Dims(dims), True, floating=tensor.is_floating_point())
        var.record = Record([], [var], None)
        self._tag(tensor, var)
        self.inputs.append(var)
        self.steps[node] = Step(node, var.shape, [], [var])

    def output(self, result: Any) -> None:
        """What the network gives back stays."""
        flat = tensors_in(result)
        for one in flat:
            var = self.var(one)
            for labels in var.dims:
                self.ledger.pin(labels, "it is an output of the network")
            if var.holds is not None:
                self.ledger.pin(*var.holds)
        self.outputs = [self.var(one) for one in flat]
        try:
            node = self.graph.output(self._arguments(result))
        except _CannotWrite:
            self.broken = self.broken or f"the output is a {type(result).__name__}"
            node = self.graph.output(tuple(var.node for var in self.outputs if var.node is not None))
        self.steps[node] = Step(node, None, list(node.all_input_nodes))

    def _settle(self, step: Step, result: Any) -> None:
        """Give the result's tensors their nodes."""
        flat = tensors_in(result)
        if isinstance(result, Tensor):
            var = self.var(result)
            made = step.node.op == "call_module" or var.record in self.records[-1:]
            if var.node is None or (made and var.param is None):
                var.node = step.node
            step.shape, step.vars = tuple(result.shape), [var]
            return
        step.vars = [self.var(one) for one in flat]
        for path, one in _paths(result):
            var = self.var(one)
            if var.node is not None:
                continue
            node = step.node
            for index in path:
                node = self.graph.call_function(operator.getitem, (node, index))
                self.steps[node] = Step(node, tuple(one.shape), [step.node], [var])
            var.node = node

    def _nodes(self, *values: Any) -> list[fx.Node]:
        found = []
        for one in tree_leaves(values):
            if isinstance(one, Tensor):
                node = self.var(one).node
                if node is not None:
                    found.append(node)
        return found

    def _emit(self, kind: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        try:
            return self.graph.create_node(kind, target, self._arguments(tuple(args)), self._arguments(dict(kwargs)))
        except _CannotWrite as error:
            self.broken = self.broken or str(error)
            return self.graph.create_node(kind, target, tuple(self._nodes(args, kwargs)), {})

    def _emit_call(self, name: str, func: Any, args: Any, kwargs: Any) -> fx.Node:
        if name == "__get__":
            return self._emit("call_function", getattr, (args[0], func.__self__.__name__), {})
        method = bool(args) and isinstance(args[0], Tensor) and func in _methods()
        if method:
            name = _methods()[func]  # a few go by another name than their own
        if method and name in OPERATORS and not kwargs and len(args) <= 2:
            return self._emit("call_function", OPERATORS[name], args, kwargs)
        if method and name == "__setitem__":
            return self._emit("call_function", operator.setitem, args, kwargs)
        return (
            self._emit("call_method", name, args, kwargs) if method else self._emit("call_function", func, args, kwargs)
        )

    def _arguments(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            node = self.var(value).node
            if node is None:
                raise _CannotWrite(f"a tensor that the model keeps beside its buffers is used at {user_line()}")
            return node
        if isinstance(value, Size):
            return self._size_node(value)
        if type(value) in (tuple, list, Shape):
            made = [self._arguments(one) for one in value]
            return made if type(value) is list else tuple(made)
        if type(value) is dict:
            return {name: self._arguments(one) for name, one in value.items()}
        if isinstance(value, slice):
            return slice(*(self._arguments(one) for one in (value.start, value.stop, value.step)))
        if (
            value is None
            or value is Ellipsis
            or isinstance(
                value,
                int
                | float
                | str
                | bool
                | complex
                | torch.dtype
                | torch.device
                | torch.memory_format
                | torch.layout
                | torch.Size,
            )
        ):
            return value
        raise _CannotWrite(f"an argument of type {type(value).__name__} at {user_line()}")

    def _size_node(self, size: Size) -> Any:
        origin = size.origin
        if isinstance(origin, Attribute):
            if origin not in self._sizes:
                self._sizes[origin] = node = self.graph.call_function(int, (int(size),))
                self.steps[node] = Step(node, None)
                self.attributes[origin] = node
            return self._sizes[origin]
        if isinstance(origin, Measured):
            if origin.node is None:
                return int(size)
            key = (origin.node, origin.dim)
            if key not in self._sizes:
                self._sizes[key] = self.graph.call_method("size", key)
                self.steps[self._sizes[key]] = Step(self._sizes[key], None, [origin.node])
            return self._sizes[key]
        args = tuple(self._size_node(one) if isinstance(one, Size) else one for one in origin[1])
        if not any(isinstance(one, fx.Node) for one in args):
            return int(size)
        node = self.graph.call_function(origin[0], args)
        self.steps[node] = Step(node, None, [one for one in args if isinstance(one, fx.Node)])
        return node


class _Tag:
    """What a tensor carries while it is recorded; copies of the tensor carry nothing."""

    __slots__ = ("owner", "var")

    def __init__(self, owner: object, var: Var | None) -> None:
        self.owner, self.var = owner, var

    def __deepcopy__(self, memo: Any) -> _Tag:
        return _Tag(None, None)

    def __reduce__(self) -> Any:
        return _Tag, (None, None)


class _CannotWrite(Exception):
    """A call that cannot be written into a generated forward."""


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
        operands = recorder._vars(args), recorder._vars(kwargs)
        with _quiet(recorder):
            result = func(*args, **kwargs)
        rule = RULES.get(key)
        if rule is None:
            rule = self._unknown
        written = args if packet.endswith("_") and not packet.startswith("_") else []
        if any(isinstance(one, Tensor) for one in tree_leaves(result)):
            recorder._apply(
                rule,
                key,
                recorder._inside or self.step.node.name,
                None,
                operands,
                result,
                self.step,
                func,
                written,
                opened=True,
            )
        return result

    def _unknown(self, op: Op) -> list[Dims]:
        name = self.name if self.name == op.key else f"{self.name} ({op.key})"
        op.pin_all(self.recorder.unknown(name, self.step, op))
        return [Dims([None] * len(one)) for one in op.results]


@contextmanager
def _quiet(recorder: Recorder) -> Iterator[None]:
    paused, recorder._paused = recorder._paused, True
    try:
        yield
    finally:
        recorder._paused = paused


@functools.cache
def _methods() -> dict[Any, str]:
    """The methods of tensors, with their names."""
    names = sorted(dir(Tensor), key=lambda name: name.startswith("__"), reverse=True)
    return {
        getattr(Tensor, name): name for name in names if callable(getattr(Tensor, name, None)) and name != "__class__"
    }


def _fixed(op: Op) -> list[Dims]:
    """What a function without a rule and without tensors gives."""
    return [Dims([None] * len(one)) for one in op.results]


def _as_dims(made: Any, op: Op) -> list[Dims]:
    """What a rule gave, as the labels of each result."""
    several = made if isinstance(made, list) else [made]
    if len(several) == 1 != len(op.results):
        several = several * len(op.results)
    return [_one_dims(one, shape) for one, shape in zip(several, op.results, strict=True)]


def _one_dims(made: Any, shape: tuple[int, ...]) -> Dims:
    if isinstance(made, Slots):
        return Dims(made.labels if axis == made.axis else None for axis in range(len(shape)))
    return made if made is not None else Dims([None] * len(shape))


def _sized(dims: Dims, tensor: Tensor, ledger: Ledger) -> Dims:
    """Labels where there are several slices; a single one stays."""
    found: list[Labels | None] = []
    for labels, size in zip(dims, tensor.shape, strict=True):
        if labels is not None and len(labels) != size:
            ledger.pin(labels, "a rule gave it another size")
            labels = None
        if labels is not None and size == 1:
            ledger.pin(labels, "there is one only")
        found.append(labels)
    return Dims(found)


def _is_leaf(module: nn.Module) -> bool:
    """Modules of torch without others inside them are called whole, where nothing is hooked into them."""
    hooked = module._forward_hooks or module._forward_pre_hooks
    return (
        type(module).__module__.startswith("torch.nn.modules") and next(module.children(), None) is None and not hooked
    )


def _in_place(name: str, args: Any, kwargs: Any) -> bool:
    if name == "__setitem__" or kwargs.get("inplace") is True:
        return True
    if (
        name.startswith("__i")
        and name.endswith("__")
        and name not in ("__invert__", "__iter__", "__int__", "__index__")
    ):
        return True
    return name.endswith("_") and not name.endswith("__") and name != "requires_grad_"


def _normal(value: Any) -> Any:
    return Shape(value) if type(value) is torch.Size else value


def _plain(value: Any) -> Any:
    """Arguments as torch takes them."""
    if isinstance(value, Size):
        return int(value)
    if type(value) is Shape:
        return torch.Size(int(one) for one in value)
    if type(value) in (tuple, list):
        return type(value)(_plain(one) for one in value)
    if type(value) is dict:
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, slice):
        return slice(_plain(value.start), _plain(value.stop), _plain(value.step))
    return value


def _numbers(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _numbers(one)
    elif isinstance(value, slice):
        yield from _numbers((value.start, value.stop, value.step))
    else:
        yield value


def _of_batch(value: Any) -> bool:
    """Whether a size of the first dimension of a tensor is among these arguments, so that the result is as large as the batch."""
    return any(
        isinstance(leaf, Measured) and leaf.dim == 0
        for one in _numbers(value)
        if isinstance(one, Size)
        for leaf in one.leaves()
    )


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return id(tensor)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, tuple | list):
        for index, one in enumerate(value):
            yield from _paths(one, (*path, index))
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _paths(one, (*path, name))


@contextmanager
def _noticed(recorder: Recorder) -> Iterator[None]:
    """Module calls pass through the recorder, and the modules' whole numbers know their names."""
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return recorder.module(original, module, args, kwargs)

    kept: list[tuple[nn.Module, str, int]] = []
    for module in recorder.modules:
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name, value in vars(module).items():
            if type(value) is int and value > 1:
                kept.append((module, name, value))
    for module, name, value in kept:
        module.__dict__[name] = Size(value, Attribute(recorder.modules[module], name, value), recorder.escaped)
    nn.Module.__call__ = call  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]
        for module, name, value in kept:
            if isinstance(module.__dict__.get(name), Size):
                module.__dict__[name] = value


def record(model: nn.Module, inputs: Sequence[Tensor], named: Mapping[str, Any], *, strict: bool) -> Recorder:
    """Run the model in evaluation on these inputs, and note what it does.

    Args:
        model: left as it is.
        inputs: batches of two samples.
        named: inputs by name.
        strict: refuse an operation without a rule instead of leaving its channels as they are.

    Raises:
        InputError: the model does not run on the inputs, or reads values that depend on them.
    """
    recorder = Recorder(model, Ledger(), strict)
    parameters = [
        name for name in inspect.signature(model.forward).parameters if name not in ("args", "kwargs", *named)
    ]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for index, one in enumerate(inputs):
                recorder.placeholder(parameters[index] if index < len(parameters) else f"input_{index}", one)
            for name, one in named.items():
                recorder.placeholder(name, one)
            with _noticed(recorder), recorder:
                result = model(*inputs, **named)
            recorder._paused = True
            recorder.output(result)
    except GracileError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(one.shape[1:])) for one in (*inputs, *named.values()))
        raise InputError(
            f"The model does not run on samples of shape {shapes}: {_error_line(error, recorder)}says "
            f"'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}'.",
            "Pass an example as the model is trained on.",
        ) from error
    finally:
        recorder.forget()
        for module, training in modes:
            module.training = training
    return recorder


def _error_line(error: BaseException, recorder: Recorder) -> str:
    trace, found, module = error.__traceback__, "", ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((*_SKIPPED, "<")):
            found = f"{file}:{trace.tb_lineno} `{linecache.getline(file, trace.tb_lineno).strip()}` "
        owner = trace.tb_frame.f_locals.get("module")
        if isinstance(owner, nn.Module) and owner in recorder.modules and recorder.modules[owner]:
            module = f"The module '{recorder.modules[owner]}' "
        trace = trace.tb_next
    return module or found
