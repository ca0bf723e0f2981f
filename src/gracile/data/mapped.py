"""Rows of a memory-mapped file that index like a tensor."""

from __future__ import annotations

from typing import Any

import torch

from gracile.core.errors import DataError


class MappedRows:
    """Some rows of a tensor that stays in a file; indexing gathers them into memory.

    It stands where a tensor of all inputs would not fit. Indexing, `shape`, `dtype`, `device`, `ndim`, `size` and `len`
    are those of the tensor; anything that would need the whole tensor at once is refused.

    Args:
        storage: (m, ...) mapped from a file.
        rows: (n,) int64 on the CPU, which rows of `storage` these are.
        device: where gathered rows go.
    """

    def __init__(self, storage: torch.Tensor, rows: torch.Tensor, device: torch.device | str = "cpu") -> None:
        self.storage = storage
        self.rows = rows
        self.device = torch.device(device)
        self.dtype = storage.dtype
        self.shape = torch.Size((len(rows), *storage.shape[1:]))
        self.ndim = storage.ndim

    def __len__(self) -> int:
        return self.shape[0]

    def size(self, dim: int | None = None) -> Any:
        """As of a tensor."""
        return self.shape if dim is None else self.shape[dim]

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Gather rows by an integer, a slice, a (k,) tensor of indices or a (n,) mask."""
        return self.gather(index).to(self.device)

    def gather(self, index: Any) -> torch.Tensor:
        """The rows in host memory of their own, pinned where a GPU will take them."""
        rows = self.rows[index.cpu() if isinstance(index, torch.Tensor) else index]
        # A single row by number would be a view of the mapping; gathering copies.
        found = self.storage.index_select(0, rows.reshape(-1)).reshape(*rows.shape, *self.shape[1:])
        return found.pin_memory() if self.device.type == "cuda" else found

    def take(self, index: torch.Tensor) -> MappedRows:
        """Fewer rows of the same file; nothing is read."""
        return MappedRows(self.storage, self.rows[index.cpu()], self.device)

    def to(self, device: torch.device | str) -> MappedRows:
        """The same rows, gathered to another device."""
        return MappedRows(self.storage, self.rows, device)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(torch.Tensor, name):
            raise DataError(
                f"'{name}' needs all inputs in memory, and this data set is streamed from a file because it is large.",
                "Take rows with inputs[indices] or batches(...), or load it with a larger max_bytes or with limits.",
            )
        raise AttributeError(name)
