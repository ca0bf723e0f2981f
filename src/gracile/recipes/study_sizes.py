"""How large a trained perceptron is: as trained, after physical removal, and in a compressed file."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gracile.data import Splits
from gracile.shrinking import save_lean, shrink
from gracile.training import evaluate


def measure(network: nn.Module, splits: Splits, folder: Path) -> dict[str, Any]:
    """Sizes of a network, in evaluation mode, whose exact zeros are to go.

    Args:
        folder: holds ``model.safetensors`` already; ``lean.safetensors`` and ``lean.safetensors.xz`` are written there.

    Returns:
        ``zeros``: percent of weights; ``parameters`` and ``parameters_shrunk``; ``file_kb``, ``shrunk_kb`` and ``compressed_kb``: of the
        file as trained, after `gracile.shrink`, and that compressed by xz (1 kB is 1000 bytes); ``shrunk_accuracy``: percent, test.
    """
    lean = shrink(network, torch.zeros(2, *splits.train.input_shape), dead="fold")
    files = folder / "model.safetensors", folder / "lean.safetensors", folder / "lean.safetensors.xz"
    save_lean(lean, files[1])
    files[2].write_bytes(lzma.compress(files[1].read_bytes(), preset=6))
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Linear)]
    zeros = sum(int((one == 0).sum()) for one in weights) / sum(one.numel() for one in weights)
    found: dict[str, Any] = {
        "zeros": 100 * zeros,
        "parameters": sum(one.numel() for one in network.parameters()),
        "parameters_shrunk": sum(one.numel() for one in lean.parameters()),
        "shrunk_accuracy": 100 * evaluate(lean, splits.test).accuracy,
    }
    for name, file in zip(("file_kb", "shrunk_kb", "compressed_kb"), files, strict=True):
        found[name] = file.stat().st_size / 1000
    return found
