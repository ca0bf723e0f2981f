"""Interval and linear bounds on logits: proofs of robustness for small networks, through auto_LiRPA."""

from __future__ import annotations

import copy
import warnings
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from gracile.attacks.victim import attacking
from gracile.core.errors import InputError, MissingDependencyError

Bound = Literal["interval", "linear"]
# How auto_LiRPA calls them: interval bound propagation, and backward linear bounds (Zhang et al. 2018).
METHODS: dict[str, str] = {"interval": "IBP", "linear": "CROWN"}
# Bounds are computed in float32, and rounding can lift a margin of 0 above it.
ROUNDING = 1e-5


def proven(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float = 8 / 255, bound: Bound = "linear", chunk: int = 32
) -> Tensor:
    """Which samples provably keep their label in the whole l-inf ball, cut to [0, 1].

    Where it is True no attack can succeed; where it is False nothing is known. Linear bounds are tighter and cost a backward pass
    a layer; both loosen with depth and eps, so they serve small networks, or networks trained for them.

    Args:
        model: a deterministic network of common layers; it is taken in evaluation mode and left as found.
        x: (n, ...), in [0, 1].
        y: int64 (n,), labels.
        eps: radius of the ball.
        bound: ``interval`` or ``linear``.
        chunk: samples bounded at once.

    Returns:
        bool (n,).

    Raises:
        InputError: an argument that cannot be used, a network that draws random numbers, or one with layers that have no bounds.
        MissingDependencyError: auto_LiRPA is not installed.
    """
    if bound not in get_args(Bound):
        raise InputError(f"bound is '{bound}'.", "Give 'interval' or 'linear'.")
    lirpa = _lirpa()
    with attacking(model, x, y, eps=eps, draws=1, chunk=chunk, channels_last=False) as (victim, x, y):
        if victim.random:
            raise InputError(
                "The network draws random numbers, and bounds hold for functions.",
                "Fix its noise (gracile.models.set_noise), or certify it by gracile.attacks.smoothed.",
            )
        logits = victim.logits(x)
        # Rows e_y - e_j for each other class j, a sample: (n, classes - 1, classes).
        eye = torch.eye(logits.shape[1], device=x.device, dtype=x.dtype)
        others = torch.stack([torch.cat([eye[:label], eye[label + 1 :]]) for label in y.tolist()])
        margins = eye[y][:, None] - others
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                bounded = lirpa.BoundedModule(copy.deepcopy(model), torch.zeros_like(x[:1]), device=x.device)
                found = [
                    _least(lirpa, bounded, part, rows, eps, METHODS[bound])
                    for part, rows in zip(x.split(chunk), margins.split(chunk), strict=True)
                ]
        except NotImplementedError as error:
            raise InputError(
                f"auto_LiRPA has no bounds for this network: {str(error).splitlines()[0]}.",
                "Certify it by gracile.attacks.smoothed, which asks for answers alone.",
            ) from error
        return torch.cat(found).amin(dim=1) > ROUNDING * logits.abs().amax(dim=1).clamp_min(1.0)


def _least(lirpa: Any, bounded: Any, x: Tensor, margins: Tensor, eps: float, method: str) -> Tensor:
    """Lower bounds on the margins (n, classes - 1)."""
    ball = lirpa.PerturbationLpNorm(norm=float("inf"), x_L=(x - eps).clamp_min(0), x_U=(x + eps).clamp_max(1))
    inputs = lirpa.BoundedTensor(x, ball)
    lower, _ = bounded.compute_bounds(x=(inputs,), C=margins, method=method, bound_upper=False)
    return lower.detach()


def _lirpa() -> Any:
    try:
        with warnings.catch_warnings():
            # What the package warns of when it is imported is its own affair.
            warnings.simplefilter("ignore")
            import auto_LiRPA
    except ImportError as error:
        raise MissingDependencyError(
            "Interval and linear bounds need auto_LiRPA, which is not installed.", "Install it: pip install auto_LiRPA."
        ) from error
    return auto_LiRPA
