"""One step of the gradient's sign."""

from __future__ import annotations

from torch import Tensor

from gracile.attacks.pgd import pgd
from gracile.attacks.victim import Mode, Model, Precision, attack


@attack
def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 8 / 255,
    alpha: float | None = None,
    norm: str = "linf",
    loss: str = "ce",
    random_start: bool = False,
    targeted: bool = False,
    draws: int | None = None,
    seed: int = 0,
    mode: Mode = "eval",
    chunk: int | None = None,
    precision: Precision = "float32",
    channels_last: bool = True,
) -> Tensor:
    """``clip(x + eps sign(grad L))`` [@goodfellow2015]; for l2 the gradient of unit norm.

    With ``random_start=True`` and ``alpha=1.25 * eps`` it is the one step that fast adversarial
    training takes [@wong2020]: a start drawn from the ball, one step, projected.

    Args:
        alpha: length of the step; None for `eps`.
        model, x, y, eps, norm, loss, random_start, targeted, draws, seed, mode, chunk, precision, channels_last: see `gracile.attacks.pgd`.

    Returns:
        (n, ...) in [0, 1], at most `eps` from `x`.

    Raises:
        InputError, NonFiniteError: as `gracile.attacks.pgd`.
    """
    return pgd(
        model, x, y, eps=eps, steps=1, alpha=(eps or 1.0) if alpha is None else alpha, norm=norm, loss=loss,
        random_start=random_start, targeted=targeted, draws=draws, seed=seed, mode=mode, chunk=chunk, precision=precision,
        channels_last=channels_last,
    )  # fmt: skip
