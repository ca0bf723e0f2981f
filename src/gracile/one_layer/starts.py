"""Teachers and random starts, and how likely a start is far enough from the wrong pole."""

from __future__ import annotations

import math

import torch
from scipy.special import betainc
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.seeding import generator


def sparse_teacher(d: int, nonzero: int, seed: int = 0, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """A unit teacher, uniform on the sphere of a random support of so many entries, ``(d,)``.

    Raises:
        InputError: `nonzero` is not in [1, d].
    """
    if not 1 <= nonzero <= d:
        raise InputError(f"A teacher in R^{d} cannot have {nonzero} non-zero entries.", f"Choose 1 to {d}.")
    random = generator(seed, "one-layer teacher", d, nonzero)
    w_star = torch.zeros(d, dtype=dtype)
    w_star[torch.randperm(d, generator=random)[:nonzero]] = torch.randn(nonzero, dtype=dtype, generator=random)
    return w_star / w_star.norm()


def random_starts(n: int, d: int, seed: int = 0, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw n filters, independent and uniform on the unit sphere, ``(n, d)``.

    Raises:
        InputError: n or d below 1.
    """
    if min(n, d) < 1:
        raise InputError(f"There are no {n} starts in R^{d}.", "Both must be at least 1.")
    w = torch.randn(n, d, dtype=dtype, generator=generator(seed, "one-layer starts", d))
    return w / w.norm(dim=1, keepdim=True)


def far_probability(delta: float, d: int) -> float:
    """The probability that a uniform start has an angle of at most ``pi - delta`` to the teacher: the sphere less a cap.

    Args:
        delta: in [0, pi].
        d: dimension, at least 2.
    """
    if d < 2:
        raise InputError(f"There are no angles in R^{d}.", "Choose d of at least 2.")
    cap = betainc((d - 1) / 2, 0.5, math.sin(delta) ** 2) / 2
    return float(1 - cap if delta <= math.pi / 2 else cap)
