"""Weights in the folders of parts."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from gracile.core.files import write_atomically


def save_weights(network: nn.Module, path: Path) -> None:
    """A plain state dict as safetensors."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    write_atomically(path, lambda temporary: save_file(state, temporary))
