"""AutoAttack: the standard ensemble the field trusts."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Literal

from torch import Tensor

from gracile.attacks.apgd import apgd
from gracile.attacks.fab import fab
from gracile.attacks.square import square
from gracile.attacks.victim import Mode, Model, Precision, attack, attacking
from gracile.core.errors import InputError, pick
from gracile.core.seeding import derive_seed

Version = Literal["standard", "plus", "random"]

# What the parts are called, and their settings in the ensembles [@croce2020, section 5, and the code they released].
PARTS: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "apgd-ce": (apgd, {"loss": "ce"}),
    "apgd-dlr": (apgd, {"loss": "dlr"}),
    "apgd-t": (apgd, {"loss": "dlr-targeted"}),
    "fab": (fab, {"multi_targeted": False}),
    "fab-t": (fab, {}),
    "square": (square, {}),
}
VERSIONS: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "random": ("apgd-ce", "apgd-dlr"),
}
# What they set otherwise, by version and norm: restarts from random points of the version that spares no time, whose targeted
# parts take one, and of l1 [@croce2021].
CHANGES: dict[tuple[str, str], dict[str, dict[str, int]]] = {
    **{
        ("plus", norm): {name: {"restarts": 5} for name in ("apgd-ce", "apgd-dlr", "fab")}
        for norm in ("linf", "l2", "l1")
    },
    ("standard", "l1"): {"apgd-ce": {"restarts": 5}, "apgd-t": {"targets": 5}},
}


@attack
def autoattack(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 8 / 255,
    norm: str = "linf",
    version: Version | None = None,
    parts: tuple[str, ...] | None = None,
    steps: int = 100,
    search_steps: int = 5000,
    draws: int | None = None,
    seed: int = 0,
    mode: Mode = "eval",
    chunk: int | None = None,
    precision: Precision = "float32",
    broken_by: MutableMapping[str, Tensor] | None = None,
) -> Tensor:
    """APGD on cross-entropy, targeted APGD on DLR, targeted FAB and Square, one after the other on the samples that still stand.

    Args:
        model, x, y, eps, draws, seed, mode, chunk, precision: see `gracile.attacks.pgd`.
        norm: likewise; in l1 ``standard`` takes five restarts of APGD on cross-entropy and five targets on DLR, as published.
        version: ``standard``; ``plus`` with APGD on DLR and untargeted FAB besides and five restarts; ``random``, for
            networks that draw random numbers: APGD on cross-entropy and on DLR. None takes ``random`` where the network
            draws, else ``standard``.
        parts: other parts, in this order.
        steps: of APGD and FAB.
        search_steps: of Square, queries.
        broken_by: filled with bool (n,) by part: the samples that it broke, each counted for the first that did.

    Returns:
        (n, ...) in [0, 1], at most `eps` from `x`; a sample that stands comes back as it was.

    Raises:
        InputError: an argument that cannot be used.
        NonFiniteError: gradients that are not finite.
    """
    if version is not None and parts is not None:
        raise InputError("Both a version and parts of AutoAttack are given.", "Leave one out.")
    settings: dict[str, Any] = {"eps": eps, "norm": norm, "draws": draws, "mode": mode, "chunk": chunk}
    # Judged with other draws than those the attacks climbed on.
    judge = {**settings, "seed": derive_seed(seed, "attack", "judge")}
    with attacking(model, x, y, precision=precision, steps=steps, search_steps=search_steps, **judge) as (
        victim,
        at,
        _,
    ):
        standing = ~victim.verdict(at, y)
        chosen = version or ("random" if victim.random else "standard")
        settings["draws"] = draws or (victim.draws if victim.random else 1)
    changes = CHANGES.get((pick({name: name for name in VERSIONS}, chosen, "version of AutoAttack"), norm), {})
    adversarial = x.detach().clone()
    for number, name in enumerate(parts or VERSIONS[chosen]):
        part, options = pick(PARTS, name, "part of AutoAttack")
        if broken_by is not None:
            broken_by[name] = standing.new_zeros(len(x))
        rows = standing.nonzero().squeeze(1)
        if not len(rows):
            continue
        more = {"steps": search_steps if name == "square" else steps, "precision": precision, "seed": seed + number}
        found = part(model, x[rows], y[rows], **more, **options, **changes.get(name, {}), **settings)
        with attacking(model, x[rows], y[rows], **judge) as (victim, _, _):
            broken = victim.verdict(found.detach(), y[rows])
        adversarial[rows[broken]] = found[broken].detach()
        standing[rows[broken]] = False
        if broken_by is not None:
            broken_by[name][rows[broken]] = True
    return adversarial
