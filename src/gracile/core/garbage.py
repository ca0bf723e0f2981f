"""Python's collector of cycles, put off."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def put_off() -> Iterator[None]:
    """No search for cyclic garbage inside.

    Work that makes many small objects, all of which it gives back, sets the search off again and again, each time through all that the
    program has imported: nearly half of the time that tracing a network takes.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
