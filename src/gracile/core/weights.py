"""A network's weights as one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from gracile.core.files import write_atomically


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's plain state dict.

    Args:
        model: on any device.
        path: the file; replaced if there is one.
        metadata: for the file's header.

    Raises:
        StorageError: the file cannot be written.
    """
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    header = None if metadata is None else dict(metadata)
    write_atomically(path, lambda temporary: save_file(state, temporary, metadata=header))
