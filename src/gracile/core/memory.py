"""Keep freed memory in the process.

PyTorch's CPU allocator asks the C library for every tensor. glibc hands blocks above its mmap threshold (at most 32
MiB by itself) straight back to the kernel, so
each large activation costs page faults again at every step: measured here, they took up to half of the time of a
training step.
"""

from __future__ import annotations

import ctypes
import sys

# malloc.h: mallopt's parameters.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGE = 2**30


def keep_freed_memory() -> bool:
    """Raise glibc's mmap and trim thresholds to 1 GiB for this process; results do not change.

    Meant for programs, such as this command line, that own their process. The library never calls it by itself.

    Returns:
        Whether it took effect: only with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, LARGE)) and bool(mallopt(M_TRIM_THRESHOLD, LARGE))
