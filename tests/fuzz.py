"""Damaged files: whatever bytes a reader meets, it reads them or says in a sentence why not, in bounded time and memory.

A few mutations of each kind run with the suite; ``make fuzz`` runs 10,000.
"""

from __future__ import annotations

import copy
import math
import os
import random
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gracile.core.errors import GracileError

MUTATIONS = int(os.environ.get("GRACILE_FUZZ", "200"))
LONGEST = 20.0  # seconds of the processor for one small file, which other programs do not lengthen
MOST = 2**30  # bytes that all mutations of a small file may add to the most this process ever took
WEIRD = (
    None, True, -1, 0, 1, 2**40, 10**30, -(2**63), 0.5, math.nan, math.inf, "", "x", "..", "tensor:", "\n", "\0", "ä" * 500,
    [], {}, [[]], [0], {"": 0}, {"dict": 1}, {"array": [], "dtype": "O"},
)  # fmt: skip
DEEP = 3000


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Bytes flipped, cut out, doubled, zeroed or cut off, one to four times."""
    found = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place, length = draw.randrange(len(found) or 1), draw.choice([1, 1, 2, 4, 16, 64])
        match draw.randrange(6):
            case 0:
                found[place : place + 1] = bytes([draw.randrange(256)])
            case 1:
                del found[place : place + length]
            case 2:
                found[place:place] = found[place : place + length]
            case 3:
                found[place : place + length] = bytes(len(found[place : place + length]))
            case 4:
                found[place : place + length] = b"\xff" * len(found[place : place + length])
            case _:
                del found[place:]
    return bytes(found)


def tampered(value: Any, draw: random.Random) -> Any:
    """A copy of nested dictionaries and lists, changed in one to three places as no writer would: values of another type or far
    out of range, entries that are missing, doubled, renamed, exchanged, or nested without end."""
    found = copy.deepcopy(value)
    for _ in range(draw.randint(1, 3)):
        if not (places := _places(found)):
            break
        owner, key = draw.choice(places)
        match draw.randrange(8):
            case 0 | 1 | 2:
                owner[key] = copy.deepcopy(draw.choice(WEIRD))
            case 3:
                del owner[key]
            case 4 if isinstance(owner, list):
                owner.insert(key, copy.deepcopy(owner[key]))
            case 4 | 5 if isinstance(owner, dict):
                owner[draw.choice(["x", "", f"{key}2", "0"])] = owner.pop(key)
            case 6:
                other, place = draw.choice(places)
                try:
                    owner[key] = copy.deepcopy(other[place])
                except (KeyError, IndexError):
                    continue
            case _ if isinstance(owner[key], (int, float)) and not isinstance(owner[key], bool):
                owner[key] = draw.choice([-owner[key], owner[key] + 1, owner[key] * 1000, str(owner[key])])
            case _:
                owner[key] = nested(10)
    if draw.random() < 0.03 and (places := _places(found)):
        # Last, since nothing copies it any more.
        owner, key = draw.choice(places)
        owner[key] = nested(DEEP)
    return found


def nested(depth: int) -> list[Any]:
    """Lists in lists."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    left = [value]
    while left:
        one = left.pop()
        items = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        for key, inner in items:
            found.append((one, key))
            left.append(inner)
    return found


def survives(read: Callable[[], object], damage: Callable[[int], None], mutations: int = MUTATIONS) -> int:
    """Read damaged files, one after the other.

    Args:
        read: reads the file; may raise a `GracileError` of one line, and nothing else.
        damage: writes the file with the damage of this number.
        mutations: how many.

    Returns:
        How many were refused.
    """
    refused, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(mutations):
        damage(number)
        start, said = time.process_time(), ""
        try:
            with warnings.catch_warnings():
                # What Pillow says of a damaged picture is no error of ours.
                warnings.simplefilter("ignore")
                read()
        except GracileError as error:
            said = str(error)
            refused += 1
        assert "\n" not in said, (number, said)
        assert time.process_time() - start < LONGEST, f"mutation {number} took {time.process_time() - start:.1f} s"
    more = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert more < MOST, f"{more / 2**20:.0f} MiB"
    return refused


def bytes_of(file: Path, seed: str) -> Callable[[int], None]:
    """Damages the bytes of a file."""
    whole, draw = file.read_bytes(), random.Random(seed)
    return lambda number: file.write_bytes(mutated(whole, draw)) and None
