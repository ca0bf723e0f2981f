"""How many threads torch gives an operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(number: int) -> Iterator[int]:
    """As many threads an operation, in the whole process; afterwards as before.

    Args:
        number: at least 1.

    Yields:
        How many there were before.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield before
    finally:
        torch.set_num_threads(before)
