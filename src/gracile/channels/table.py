"""The rules: one an operation, whatever its form.

A module, its functional form, the method of a tensor, the operator and the ATen operation share one name (``add`` for ``x + y``,
``x += y``, ``torch.add`` and ``aten.add``) and with it one rule. Modules of the user's own may have a rule by their type.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from gracile.core.errors import pick

Rule = Callable[..., Any]

RULES: dict[Any, Rule] = {}
# Rules a module's class may name in its attribute `channel_rule`; such a class need not know this room.
NAMED: dict[str, Rule] = {}


def register_rule(*keys: Any) -> Callable[[Rule], Rule]:
    """Decorate a rule for one or more operations; a later rule replaces an earlier one.

    Args:
        keys: module types (such modules are then not looked into), functions, or names of operations.

    Example:
        >>> import torch
        >>> from gracile.channels import register_rule
        >>> class Double(torch.nn.Module):
        ...     def forward(self, x):
        ...         return 2 * x
        >>> @register_rule(Double)
        ... def double(op):
        ...     return op.x.channels  # every channel passes through
    """

    def decorate(rule: Rule) -> Rule:
        for key in keys:
            RULES[key if isinstance(key, type | str) else canonical(key)] = rule
        return rule

    return decorate


def module_rule(module: nn.Module) -> Rule | None:
    """The rule of a module that is not looked into: the one its class names, or the one of its type.

    A subclass is covered by its parent's rule only where it keeps the parent's `forward`.
    """
    kind = type(module)
    named = getattr(kind, "channel_rule", None)
    if named is not None:
        return pick(NAMED, named, "channel rule")
    own = kind.forward
    for parent in kind.__mro__:
        if parent in RULES and own is parent.forward:
            return RULES[parent]
    return None


# Names under which the same operation goes.
ALIASES = {
    "truediv": "div", "divide": "div", "true_divide": "div", "multiply": "mul", "subtract": "sub", "negative": "neg", "concat": "cat",
    "concatenate": "cat", "swapaxes": "transpose", "swapdims": "transpose", "_unsafe_view": "view", "unsafe_chunk": "chunk",
    "unsafe_split": "split", "split_with_sizes": "split", "unsafe_split_with_sizes": "split", "alias": "detach", "data": "detach",
    "conv1d": "convolution", "conv2d": "convolution", "conv3d": "convolution", "_convolution": "convolution",
    "mkldnn_convolution": "convolution", "_softmax": "softmax", "_log_softmax": "log_softmax", "matrix_multiply": "matmul",
    "absolute": "abs", "clip": "clamp", "moveaxis": "movedim", "greater": "gt", "less": "lt", "greater_equal": "ge", "less_equal": "le",
    "not_equal": "ne", "_to_copy": "to", "type_as": "to", "adaptive_avg_pool2d_with_indices": "adaptive_avg_pool2d",
    "native_batch_norm": "batch_norm", "_native_batch_norm_legit_no_training": "batch_norm", "view_as": "reshape_as",
    "arccos": "acos", "special_expit": "sigmoid", "linalg_vector_norm": "vector_norm", "lshift": "bitwise_left_shift",
}  # fmt: skip


@functools.lru_cache(maxsize=4096)
def canonical(function: Any) -> str:
    """The one name of an operation in all its forms."""
    name = function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)
    if name == "__get__" and not isinstance(function, str):  # a tensor's attribute
        name = str(function.__self__.__name__)
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        if name[:1] == "i" and name[1:] in ("add", "sub", "mul", "truediv", "div", "and", "or", "xor", "pow"):
            name = name[1:]
    elif name.endswith("_") and not name.startswith("_"):
        name = name[:-1]
    return ALIASES.get(name, name)
