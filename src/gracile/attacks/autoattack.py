"""AutoAttack: the standard ensemble the field trusts."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gracile.attacks.apgd import apgd
from gracile.attacks.fab import fab
from gracile.attacks.square import square
from gracile.attacks.victim import Mode, Model, attacking
from gracile.core.errors import pick
from gracile.core.seeding import derive_seed

# What the parts are called, and their settings in the standard ensemble (Croce and Hein 2020, section 5).
PARTS: dict[str, tuple[Callable[..., Tensor], dict[str, str | int]]] = {
    "apgd-ce": (apgd, {"loss": "ce"}),
    "apgd-dlr": (apgd, {"loss": "dlr"}),
    "apgd-t": (apgd, {"loss": "dlr-targeted"}),
    "fab-t": (fab, {}),
    "square": (square, {}),
}
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
# Its version for networks that draw random numbers.
RANDOM = ("apgd-ce", "apgd-dlr")


def autoattack(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 8 / 255,
    norm: str = "linf",
    parts: tuple[str, ...] | None = None,
    steps: int = 100,
    search_steps: int = 5000,
    draws: int = 1,
    seed: int = 0,
    mode: Mode = "eval",
    chunk: int | None = None,
) -> Tensor:
    """APGD on cross-entropy, targeted APGD on DLR, targeted FAB and Square, one after the other on the samples that still stand.

    Args:
        model, x, y, eps, norm, draws, seed, mode, chunk: see `gracile.attacks.pgd`. With several `draws` the ensemble is that
            for random networks: APGD on cross-entropy and on DLR (20 draws are usual).
        parts: other parts, in this order.
        steps: of APGD and FAB.
        search_steps: of Square.

    Returns:
        (n, ...) in [0, 1], at most `eps` from `x`; a sample that stands comes back as it was.

    Raises:
        InputError: an argument that cannot be used.
        NonFiniteError: gradients that are not finite.
    """
    settings = {"eps": eps, "norm": norm, "draws": draws, "mode": mode, "chunk": chunk}
    # Judged with other draws than those the attacks climbed on.
    judged = derive_seed(seed, "attack", "judge")
    standing = _standing(model, x, x, y, seed=judged, **settings)
    adversarial = x.detach().clone()
    for number, name in enumerate(parts or (STANDARD if draws == 1 else RANDOM)):
        attack, options = pick(PARTS, name, "part of AutoAttack")
        rows = standing.nonzero().squeeze(1)
        if not len(rows):
            break
        length = search_steps if name == "square" else steps
        found = attack(model, x[rows], y[rows], steps=length, seed=seed + number, **options, **settings)
        broken = ~_standing(model, x[rows], found, y[rows], seed=judged, **settings)
        adversarial[rows[broken]] = found[broken].detach()
        standing[rows[broken]] = False
    return adversarial


def _standing(model: Model, x: Tensor, at: Tensor, y: Tensor, **settings: object) -> Tensor:
    with attacking(model, x, y, **settings) as (victim, _, y):  # pyright: ignore[reportArgumentType]
        return ~victim.broken(victim.logits(at.detach()), y)
