"""How large a network's file is: as trained, after its exact zeros are removed, and compressed."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gracile.core.tensor_files import save_weights
from gracile.shrinking.lean import save_lean
from gracile.shrinking.shrink import shrink


def stored_sizes(model: nn.Module, example: Tensor, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Write a network's files and weigh them.

    Args:
        model: with the exact zeros that are to go; in evaluation mode.
        example: (2, ...) inputs.
        folder: for ``model.safetensors``, ``lean.safetensors`` and ``lean.safetensors.xz``.

    Returns:
        The smaller network; and ``zeros``: percent of the linear layers' weights, ``parameters`` and ``parameters_shrunk``, and
        ``file_kb``, ``shrunk_kb`` and ``compressed_kb``: of the file as trained, after `shrink`, and that compressed by xz (1 kB is
        1000 bytes).
    """
    lean = shrink(model, example, dead="fold")
    files = folder / "model.safetensors", folder / "lean.safetensors", folder / "lean.safetensors.xz"
    save_weights(model, files[0])
    save_lean(lean, files[1])
    files[2].write_bytes(lzma.compress(files[1].read_bytes(), preset=6))
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    found: dict[str, Any] = {
        "zeros": 100 * (sum(int((one == 0).sum()) for one in weights) / sum(one.numel() for one in weights)),
        "parameters": sum(one.numel() for one in model.parameters()),
        "parameters_shrunk": sum(one.numel() for one in lean.parameters()),
    }
    sizes = zip(("file_kb", "shrunk_kb", "compressed_kb"), files, strict=True)
    return lean, found | {name: file.stat().st_size / 1000 for name, file in sizes}
