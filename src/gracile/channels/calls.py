"""Calls of torch functions as the recorder tells them apart: what they ask, read or change, and what is among their arguments."""

from __future__ import annotations

import functools
import linecache
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from gracile.channels.records import Var
from gracile.channels.sizes import Measured, Mode, Size, plain

SKIPPED = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
# Code from which models are run: lines outside it are not the model's.
OUTERMOST: set[CodeType] = set()
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


# What holds nothing else: told apart first, for torch's own search through containers is slow.
LEAVES = (Tensor, Var, int, float, str, type(None))
# The commonest of them, whose type alone tells.
KEPT = {Tensor, nn.Parameter, Var, int, float, str, bool, type(None)}


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
    while frame is not None and frame.f_code not in OUTERMOST:
        file = frame.f_code.co_filename
        if not file.startswith(SKIPPED) or "<eval_with_key>" in file:
            return f"{file}:{frame.f_lineno} `{linecache.getline(file, frame.f_lineno).strip()}`"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


@functools.cache
def methods() -> dict[Any, str]:
    """The methods of tensors, with their names."""
    names = sorted(dir(Tensor), key=lambda name: name.startswith("__"), reverse=True)
    return {
        getattr(Tensor, name): name for name in names if callable(getattr(Tensor, name, None)) and name != "__class__"
    }


def is_leaf(module: nn.Module) -> bool:
    """Modules of torch without others inside them are called whole, where nothing is hooked into them."""
    return (
        not module._modules
        and type(module).__module__.startswith("torch.nn.modules")
        and not (module._forward_hooks or module._forward_pre_hooks)
    )


def in_place(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a call of a function of this name changes its first argument."""
    if name == "__setitem__" or kwargs.get("inplace") is True:
        return True
    if (
        name.startswith("__i")
        and name.endswith("__")
        and name not in ("__invert__", "__iter__", "__int__", "__index__")
    ):
        return True
    return name.endswith("_") and not name.endswith("__") and name != "requires_grad_"


def with_shapes(value: Any) -> Any:
    """A shape whose sizes are kept, in place of torch's."""
    return Shape(value) if type(value) is torch.Size else value


def without_sizes(value: Any) -> Any:
    """Arguments as torch takes them."""
    kind = type(value)
    if kind in KEPT:
        return value
    if kind is tuple or kind is list:
        return kind([one if type(one) in KEPT else without_sizes(one) for one in value])
    if kind is dict:
        return {name: without_sizes(one) for name, one in value.items()} if value else {}
    if kind is Size or kind is Mode:
        return plain(value)
    if kind is Shape:
        return torch.Size(plain(one) for one in value)
    if kind is slice:
        return slice(without_sizes(value.start), without_sizes(value.stop), without_sizes(value.step))
    return value


def leaves(value: Any) -> list[Any]:
    """All that lists, dictionaries, slices and other containers hold."""
    found: list[Any] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[Any]) -> None:
    kind = type(value)
    if kind in KEPT:
        found.append(value)
    elif kind is tuple or kind is list or isinstance(value, tuple | list):
        for one in value:
            if type(one) in KEPT:
                found.append(one)
            else:
                _collect(one, found)
    elif isinstance(value, LEAVES):
        found.append(value)
    elif isinstance(value, Mapping):
        for one in value.values():
            _collect(one, found)
    elif isinstance(value, slice):
        _collect((value.start, value.stop, value.step), found)
    else:
        found.extend(tree_leaves(value))


def with_tensors(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same containers, with what `function` gives in each tensor's place."""
    kind = type(value)
    if kind is Tensor or kind is nn.Parameter:
        return function(value)
    if kind in KEPT:
        return value
    if kind is tuple or kind is list:
        return kind([with_tensors(one, function) for one in value])
    if isinstance(value, Tensor):
        return function(value)
    if kind is dict:
        return {name: with_tensors(one, function) for name, one in value.items()}
    if isinstance(value, LEAVES):
        return value
    return tree_map(lambda one: function(one) if isinstance(one, Tensor) else one, value)


def of_batch(sizes: Sequence[Size]) -> bool:
    """Whether one of these arguments is a size of the first dimension of a tensor, so that the result is as large as the batch."""
    return any(isinstance(leaf, Measured) and leaf.dim == 0 for one in sizes for leaf in one.leaves())


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """Tensors in a result, each with the indices that lead to it."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, tuple | list):
        for index, one in enumerate(value):
            yield from paths(one, (*path, index))
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from paths(one, (*path, name))
