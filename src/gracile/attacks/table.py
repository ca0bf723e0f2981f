"""The room's table: an attack is a file and a row here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from gracile.attacks.apgd import apgd
from gracile.attacks.autoattack import autoattack
from gracile.attacks.cw import cw
from gracile.attacks.cw_paper import cw_paper
from gracile.attacks.fab import fab
from gracile.attacks.fgsm import fgsm
from gracile.attacks.nattack import nattack
from gracile.attacks.pgd import pgd
from gracile.attacks.square import square


@dataclass(frozen=True)
class Row:
    """An attack and what it can do.

    Attributes:
        attack: ``attack(model, x, y, *, ...) -> x_adv``.
        norms: the balls it knows; empty where it knows none.
        gradients: whether it asks for gradients; without, any callable can be attacked.
        targeted: whether it takes ``targeted=True``.
        minimal: the norms in which it seeks the smallest perturbation (``eps=None``).
    """

    attack: Callable[..., Tensor]
    norms: tuple[str, ...] = ("linf", "l2", "l1")
    gradients: bool = True
    targeted: bool = True
    minimal: tuple[str, ...] = ()

    @property
    def precisions(self) -> bool:
        """Whether it takes ``precision="bf16"``."""
        return "precision" in inspect.signature(self.attack).parameters


ATTACKS: dict[str, Row] = {
    "fgsm": Row(fgsm),
    "pgd": Row(pgd),
    "cw": Row(cw, norms=("linf", "l2"), minimal=("l2",)),
    "cw_paper": Row(cw_paper, norms=(), targeted=False),
    "nattack": Row(nattack, norms=("linf",), gradients=False),
    "apgd": Row(apgd),
    "fab": Row(fab, minimal=("linf", "l2", "l1")),
    "square": Row(square, gradients=False),
    "autoattack": Row(autoattack, targeted=False),
}
