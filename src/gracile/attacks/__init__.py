"""Attacks: pure functions ``attack(model, x, y, *, eps, ...) -> x_adv``, a file and a row of `ATTACKS` each.

Inputs are in [0, 1]; networks give logits. No gradient of a weight is computed, and the network is left as it was found.
"""

from gracile.attacks.apgd import apgd
from gracile.attacks.autoattack import autoattack
from gracile.attacks.bounds import proven
from gracile.attacks.card import Card, Cost, card, save_examples
from gracile.attacks.cw import cw
from gracile.attacks.cw_paper import cw_paper
from gracile.attacks.evaluation import ENTRIES, Robustness, Score, evaluate, preset
from gracile.attacks.fab import fab
from gracile.attacks.fgsm import fgsm
from gracile.attacks.nattack import nattack
from gracile.attacks.pgd import pgd
from gracile.attacks.smoothing import Certificate, smoothed
from gracile.attacks.square import square
from gracile.attacks.table import ATTACKS

__all__ = [
    "ATTACKS",
    "ENTRIES",
    "Card",
    "Certificate",
    "Cost",
    "Robustness",
    "Score",
    "apgd",
    "autoattack",
    "card",
    "cw",
    "cw_paper",
    "evaluate",
    "fab",
    "fgsm",
    "nattack",
    "pgd",
    "preset",
    "proven",
    "save_examples",
    "smoothed",
    "square",
]
