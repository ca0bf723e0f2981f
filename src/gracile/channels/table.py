"""The rules: one function an operation, found by module type, function or method name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from gracile.channels.op import Op, Slots, describe
from gracile.core.errors import InputError, pick

Rule = Callable[[Op], Slots | list[Slots]]

RULES: dict[Any, Rule] = {}
# Rules a module's class may name in its attribute `channel_rule`; such a class need not know this room.
NAMED: dict[str, Rule] = {}


def register_rule(*keys: Any) -> Callable[[Rule], Rule]:
    """Decorate a rule for one or more operations; a later rule replaces an earlier one.

    Args:
        keys: module types (such modules are then not traced into), functions, or names of tensor methods.

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
            RULES[key] = rule
        return rule

    return decorate


def module_rule(module: nn.Module) -> Rule | None:
    """The rule of a module: the one its class names, or the one of its type.

    A subclass is covered by its parent's rule only where it keeps the parent's `forward`.
    """
    named = getattr(type(module), "channel_rule", None)
    if named is not None:
        return pick(NAMED, named, "channel rule")
    for parent in type(module).__mro__:
        if parent in RULES and type(module).forward is parent.forward:
            return RULES[parent]
    return None


def find(node: fx.Node, module: nn.Module | None) -> Rule:
    """The rule of a node.

    Raises:
        InputError: there is none.
    """
    rule = module_rule(module) if module is not None else RULES.get(node.target)
    if rule is None:
        key = type(module).__name__ if module is not None else getattr(node.target, "__name__", repr(node.target))
        raise InputError(
            f"{describe(node, module)}: there is no rule that says what it does to channels.",
            f"Add one with gracile.channels.register_rule({key}), or train with grouping='input_channel'.",
        )
    return rule
