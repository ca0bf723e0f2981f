"""Random numbers that depend on a seed and a purpose, and on nothing else."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *purpose: object) -> int:
    """Derive a 63-bit seed for one purpose, so that streams never share numbers.

    Args:
        seed: the run's seed.
        purpose: anything that names the stream, such as ``"shuffle", epoch``.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by `derive_seed`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))
