"""Attacks: pure functions ``attack(model, x, y, *, eps, ...) -> x_adv``."""

from gracile.attacks.fgsm import fgsm
from gracile.attacks.pgd import pgd

__all__ = ["fgsm", "pgd"]
