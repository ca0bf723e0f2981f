"""What a network gives back, whatever it is put into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


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
