"""Signs that an evaluation claims more robustness than there is (Athalye et al. 2018, Carlini et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gracile.attacks.losses import cross_entropy
from gracile.attacks.pgd import pgd
from gracile.attacks.victim import Model, Victim, attacking

# Samples that the checks of one network look at.
LOOKED_AT = 128
# Share of samples below which a sign is no sign: strong attacks, too, miss a few that others find.
CHANCE = 0.02
# l-inf and l2 balls in which no network stands: a grey image is within reach of every image.
HOPELESS = 0.5


def network(
    model: Model, x: Tensor, y: Tensor, *, eps: float, norm: str = "linf", draws: int = 1, seed: int = 0
) -> list[str]:
    """Warnings about a network and the data at hand; each says what to do.

    Args:
        model, x, y, eps, norm, draws, seed: see `gracile.attacks.pgd`; the first 128 samples are looked at.
    """
    x, y = x[:LOOKED_AT], y[:LOOKED_AT]
    with attacking(model, x, y, eps=eps, norm=norm, draws=1, seed=seed) as (victim, inside, labels):
        logits = victim.logits(inside)
        found = [*probabilities(logits), *randomness(victim, inside, logits, draws)]
        if isinstance(model, nn.Module):
            found += zero_gradients(victim, inside, labels)
    if isinstance(model, nn.Module) and eps > 0:
        found += not_rising(model, x, y, eps=eps, norm=norm, draws=draws, seed=seed)
    return found


def probabilities(logits: Tensor) -> list[str]:
    """Softmax outputs where logits are expected."""
    sums = logits.sum(dim=1)
    if bool((logits >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all()):
        return [
            "The network's outputs are probabilities. The losses expect logits; a second softmax flattens their gradients and "
            "hides adversarial examples. Take the softmax off the network."
        ]
    return []


def randomness(victim: Victim, x: Tensor, logits: Tensor, draws: int) -> list[str]:
    """Outputs that differ from pass to pass, attacked without expectation."""
    if draws > 1 or torch.equal(victim.logits(x), logits):
        return []
    return [
        "The network draws random numbers in evaluation mode, and each gradient saw a single draw. Average over them with "
        "draws=20 (--draws 20), or robustness is overstated."
    ]


def zero_gradients(victim: Victim, x: Tensor, y: Tensor) -> list[str]:
    """Loss gradients that are zero in every pixel."""
    _, _, gradient = victim.gradient(x, cross_entropy, y)
    share = float((gradient.flatten(1).abs().amax(dim=1) == 0).double().mean())
    if share <= CHANCE:
        return []
    return [
        f"On {100 * share:.0f} % of samples the loss gradient is exactly zero, so attacks that climb it stand still. Look for rounding or "
        "thresholds in the network, or for logits so large that the softmax saturates; trust margins and black-box attacks "
        "(cw, square, nattack) and attack a differentiable stand-in."
    ]


def not_rising(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, draws: int = 1, seed: int = 0
) -> list[str]:
    """A loss that does not rise with steps or with eps, and samples that stand where none can."""
    after = lambda steps, radius: pgd(
        model, x, y, eps=radius, steps=steps, norm=norm, random_start=False, draws=draws, seed=seed
    )
    hopeless = HOPELESS if norm == "linf" else HOPELESS * x[0].numel() ** 0.5
    twice = 2 * eps if norm == "l2" else min(2 * eps, 1.0)
    points = after(5, eps), after(20, eps), after(20, twice), after(50, max(hopeless, eps))
    with attacking(model, x, y, eps=eps, norm=norm, draws=draws, seed=seed) as (victim, _, labels):
        few, many, wide = (float(victim.gradient(at, cross_entropy, labels)[0].double().mean()) for at in points[:3])
        left = float((~victim.broken(victim.logits(points[3]), labels)).double().mean())
    # A grey image has one class: at most its share could stand.
    allowed = float(y.bincount().max()) / len(y) + CHANCE
    # What differs by rounding, or by another draw, is no sign.
    slack = 1e-3 * abs(few) + 1e-6
    found = []
    if many < few - slack:
        found.append(
            f"The loss falls from {few:.3g} to {many:.3g} between 5 and 20 steps of PGD: gradients mislead. "
            "Try a smaller alpha, more draws, and look for masked gradients."
        )
    if wide < many - slack:
        found.append(
            f"The loss falls from {many:.3g} to {wide:.3g} as the ball doubles: gradients mislead. "
            "Trust black-box attacks, and look for masked gradients."
        )
    if left > allowed:
        found.append(
            f"{100 * left:.0f} % of samples stand within {norm} {hopeless:.3g}, where every image can be made grey: "
            "the attack fails, not the adversary. Try other losses (cw, apgd), and look for masked gradients."
        )
    return found


def beaten(broken_by: Mapping[str, Tensor], right: Tensor, entries: Mapping[str, Any]) -> list[str]:
    """Weak attacks that succeed where strong ones fail.

    Args:
        broken_by: by attack, bool (k,): which of the first k samples it broke.
        right: bool (n,): which samples the network gets right.
        entries: by attack, whether it asks for ``gradients``, and its ``title``.
    """
    from scipy.stats import binomtest

    white = [name for name in broken_by if entries[name].gradients and name not in ("transfer", "cw_paper")]
    found = []
    for name, broken in broken_by.items():
        if name in white or name == "cw_paper" or not white:
            continue
        rows = len(broken)
        if any(len(broken_by[one]) < rows for one in white):
            continue
        by_gradients = torch.stack([broken_by[one][:rows] for one in white]).any(dim=0)
        missed, attacked = int((broken & ~by_gradients).sum()), max(int(right[:rows].sum()), 1)
        share = missed / attacked
        if binomtest(missed, attacked).proportion_ci(0.95, method="wilson").low > CHANCE:
            found.append(
                f"{entries[name].title} breaks {100 * share:.1f} % of samples that no gradient attack breaks: a sign of "
                "masked gradients. Give the gradient attacks more steps, restarts or draws, and quote the worst case only."
            )
    for strong in ("ifgsm", "pgd", "cw", "cw_paper"):
        if "fgsm" in broken_by and strong in broken_by:
            rows = min(len(broken_by["fgsm"]), len(broken_by[strong]))
            one, several = (float(broken_by[key][:rows].double().mean()) for key in ("fgsm", strong))
            if one > several + CHANCE:
                found.append(
                    f"{entries[strong].title} breaks {100 * several:.1f} % and FGSM, a single step, {100 * one:.1f} %: "
                    "the iterative attack is set up wrongly, or gradients are masked. "
                    "Do not report it alone; check alpha, steps and the loss."
                )
    return found
