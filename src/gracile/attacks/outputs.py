"""Where the logits are in what a network returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gracile.core.errors import InputError


def logits_of(output: Any, samples: int) -> Tensor:
    """The logits (n, classes) in a network's output.

    Args:
        output: logits; an object with an attribute ``logits``, such as a transformers ModelOutput; a mapping with an entry
            ``logits``; or a mapping, tuple or list in which one tensor alone has the shape of logits.
        samples: n.

    Raises:
        InputError: there are none, or several tensors could be them.
    """
    if isinstance(output, Tensor):
        if not _fits(output, samples):
            raise InputError(
                f"The network's output has shape {tuple(output.shape)} for {samples} samples.",
                "Attack a classifier that gives logits (n, classes).",
            )
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return logits_of(named, samples)
    parts = (
        list(output.values()) if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else []
    )
    found = [part for part in parts if isinstance(part, Tensor) and _fits(part, samples)]
    if len(found) == 1:
        return found[0]
    many = f", in which {len(found)} tensors could be logits" if found else ""
    raise InputError(
        f"The network returns a {type(output).__name__}{many}.",
        "Attack a module whose forward picks the logits (n, classes) from it.",
    )


def _fits(tensor: Tensor, samples: int) -> bool:
    return tensor.ndim == 2 and len(tensor) == samples and tensor.is_floating_point()
