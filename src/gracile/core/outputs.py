"""What a network holds, and what it gives back, whatever that is put into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def tensors_of(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Every parameter and buffer with its full name, one that is shared under each of its names; modules are gone through once."""
    found: list[tuple[str, Tensor]] = []
    for path, module in model.named_modules(remove_duplicate=False):
        start = f"{path}." if path else ""
        for kept in (module._parameters, module._buffers):
            found += [(start + name, tensor) for name, tensor in kept.items() if tensor is not None]
    return found


def opened_up(value: Any) -> Any:
    """Dataclasses of outputs, and lists, tuples and dictionaries of them, as lists and dictionaries."""
    if isinstance(value, Mapping):
        return {name: opened_up(one) for name, one in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return {name: opened_up(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, list | tuple):
        return [opened_up(one) for one in value]
    return value


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor of an output, in order."""
    if isinstance(value, Tensor):
        return [value]
    return [one for one in tree_leaves(opened_up(value)) if isinstance(one, Tensor)]
