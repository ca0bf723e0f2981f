"""Keep freed memory in the process, and count what a computation takes.

PyTorch's CPU allocator asks the C library for every tensor. glibc hands blocks above its mmap threshold (at most 32 MiB
by itself) straight back to the kernel, so each large activation costs page faults again at every step: measured here,
they took up to half of the time of a training step.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Callable
from typing import Any

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


def peak_bytes(call: Callable[[], object]) -> int:
    """The most bytes that torch held on the CPU at once during a call, beyond what it held before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = call()
    del kept
    inner = profiled.profiler
    assert inner is not None
    assert inner.kineto_results is not None
    # Memory events hold what was taken, and less than 0 for what was given back; torch's stubs do not know it.
    events: list[Any] = [event for event in inner.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(changes), default=0)
