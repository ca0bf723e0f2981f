"""The same network with a step function for activation: its risk, its true gradient and the coarse one that trains it.

The loss is ``(1' s(Zw) - 1' s(Zw*))^2`` with s the step function and Z of k rows in R^d. Its derivative is zero almost
everywhere; the coarse gradient puts the ReLU's derivative in its place [@yin2019; @dinh2020, section 3.1.2].
"""

from __future__ import annotations

import math

from torch import Tensor

from gracile.core.errors import InputError
from gracile.one_layer.risk import angle, check_shapes


def coarse_slope(k: int) -> float:
    """``c = k / (2 sqrt(2 pi))``: between unit filters the expected coarse gradient is ``c (w - w*)``."""
    return k / (2 * math.sqrt(2 * math.pi))


def binary_risk(w: Tensor, w_star: Tensor, k: int) -> Tensor:
    """``E (1' s(Zw) - 1' s(Zw*))^2 = k theta / pi``, ``(...)``: each patch differs with probability theta / pi.

    Args:
        w: filters, ``(..., d)``, not zero.
        w_star: the teacher, ``(d,)``.
        k: patches.

    Raises:
        InputError: k below 1, a zero teacher, or shapes that do not fit.
    """
    check_shapes(w, w_star, k)
    return k / math.pi * angle(w, w_star)


def binary_gradient(w: Tensor, w_star: Tensor, k: int) -> Tensor:
    """The gradient of `binary_risk` in w: ``-k/(pi |w|)`` times the direction of w* orthogonal to w, ``(..., d)``.

    Raises:
        InputError: as `binary_risk`; and where w is parallel to w*, as theta has a kink there.
    """
    check_shapes(w, w_star, k)
    norm = w.norm(dim=-1, keepdim=True)
    unit = w / norm
    across = w_star - (unit @ w_star)[..., None] * unit
    size = across.norm(dim=-1, keepdim=True)
    if bool((size == 0).any()):
        raise InputError("The risk has no gradient where w is parallel to w*.", "Move w off that line.")
    return -k / math.pi * across / (size * norm)


def coarse_gradient(w: Tensor, w_star: Tensor, k: int) -> Tensor:
    """The expected coarse gradient ``E Z' s(Zw) (1' s(Zw) - 1' s(Zw*))``, ``(..., d)``.

    @dinh2020, eq. 3.23, without its factor sqrt(2/pi) for a ReLU of smaller slope, as the theorem's constants have it.

    Args:
        w: filters, ``(..., d)``, not zero; only their direction matters.
        w_star: the teacher, ``(d,)``; only its direction matters.
        k: patches.

    Raises:
        InputError: as `binary_risk`.
    """
    check_shapes(w, w_star, k)
    # cos(theta/2) (u + v)/|u + v| is (u + v)/2 for unit u and v, also where they are opposite.
    return coarse_slope(k) * (w / w.norm(dim=-1, keepdim=True) - w_star / w_star.norm())
