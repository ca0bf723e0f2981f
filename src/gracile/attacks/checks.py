"""Signs that an evaluation claims more robustness than there is [@athalye2018, @carlini2019]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gracile.attacks.losses import cross_entropy
from gracile.attacks.pgd import pgd
from gracile.attacks.victim import Model, Victim, attacking, differ

# Samples that the checks of one network look at.
LOOKED_AT = 128
# Share of samples below which a sign is no sign: strong attacks, too, miss a few that others find. Where the network draws
# random numbers, samples at the boundary fall on one side or the other by the draw.
CHANCE, CHANCE_OF_DRAWS = 0.02, 0.05
# Move each pixel by so much, and a grey image is within reach of every image: no network stands in such a ball.
HOPELESS = 0.5
# How seldom chance alone may look like a sign: fewer than one sound network in a thousand is accused of each.
BY_CHANCE = 1e-3
# Steps and draws of the attack along gradients that are averaged over the neighbourhood.
SMOOTHED = {"steps": 10, "draws": 30}


def network(
    model: Model, x: Tensor, y: Tensor, *, eps: float, norm: str = "linf", draws: int | None = None, seed: int = 0
) -> list[str]:
    """Warnings about a network and the data at hand; each says what to do.

    Args:
        model, x, y, eps, norm, draws, seed: see `gracile.attacks.pgd`; the first 128 samples are looked at.
    """
    x, y = x[:LOOKED_AT], y[:LOOKED_AT]
    with attacking(model, x, y, eps=eps, norm=norm, draws=1, seed=seed) as (victim, inside, labels):
        logits = victim.logits(inside)
        found = [*probabilities(logits), *randomness(victim, draws), *test_time(victim, inside, logits)]
        if isinstance(model, nn.Module):
            found += [*zero_gradients(victim, inside, labels), *random_gradients(victim, inside, labels)]
        random = victim.random
    if isinstance(model, nn.Module) and eps > 0:
        settings: dict[str, Any] = {"eps": eps, "norm": norm, "draws": draws, "seed": seed}
        found += not_rising(model, x, y, **settings)
        if not random:
            found += shattered(model, x, y, eps=eps, norm=norm, seed=seed)
    return found


def probabilities(logits: Tensor) -> list[str]:
    """Outputs of softmax or of its logarithm where logits are expected."""
    if bool((logits >= 0).all()) and bool(((logits.sum(dim=1) - 1).abs() < 1e-4).all()):
        return [
            "The network's outputs are probabilities. The losses expect logits; a second softmax flattens their gradients and "
            "hides adversarial examples. Take the softmax off the network."
        ]
    if bool((logits.logsumexp(dim=1).abs() < 1e-4).all()):
        return [
            "The network's outputs are log-probabilities (log_softmax). Losses are those of logits, but rounding swallows small "
            "margins, and means over draws or members are geometric. Take the log_softmax off the network."
        ]
    return []


def randomness(victim: Victim, draws: int | None) -> list[str]:
    """Outputs that differ from pass to pass, attacked along single draws."""
    if draws != 1 or not victim.random:
        return []
    return [
        "The network draws random numbers in evaluation mode, and each gradient saw a single draw. Average over them with "
        "draws=20 (--draws 20), or robustness is overstated."
    ]


def test_time(victim: Victim, x: Tensor, logits: Tensor) -> list[str]:
    """Networks that are no function of the sample: they optimise, learn or mix the batch while they predict."""
    found = []
    module = victim.model if isinstance(victim.model, nn.Module) else None
    before = {} if module is None else {key: value.clone() for key, value in module.state_dict().items()}
    with _Watch() as watch:
        victim.logits(x[:2])
    if watch.differentiated:
        found.append(
            "The network computes gradients while it predicts (optimisation at test time). Attacks see through it only as far as it "
            "keeps the graph: attack it end to end, and the network without it with the adversarial examples carried over."
        )
    if module is not None and any(not torch.equal(before[key], value) for key, value in module.state_dict().items()):
        found.append(
            "Predicting changes the network's state: its answers depend on what it was asked before. Freeze it before it is attacked."
        )
    elif not victim.random and len(x) > 2 and differ(victim.logits(x[: len(x) // 2]), logits[: len(x) // 2]):
        found.append(
            "The answer to a sample depends on the rest of its batch. Robustness then depends on how samples are batched: "
            "use statistics of training, or attack in the batches in which the network is used."
        )
    return found


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


class _Watch(TorchFunctionMode):
    """Notices that gradients are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.differentiated = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.differentiated |= func in (torch.autograd.grad, torch.autograd.backward, Tensor.backward)
        return func(*args, **(kwargs or {}))


def random_gradients(victim: Victim, x: Tensor, y: Tensor) -> list[str]:
    """Gradients that differ from pass to pass where the answers do not."""
    if victim.random:
        return []
    one, two = (victim.gradient(x, cross_entropy, y)[2] for _ in range(2))
    if not differ(one, two):
        return []
    return [
        "The gradient differs from pass to pass although the answers do not: a path without value hides the gradient behind noise. "
        "Remove it, or trust black-box attacks (square, nattack)."
    ]


def shattered(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, seed: int = 0) -> list[str]:
    """Gradients of details too fine to climb: those averaged over a neighbourhood lead further [@athalye2018]."""
    # An eighth of the radius a coordinate, as the l-inf ball counts it.
    smooth = _Smoothed(model, eps / 8 / _spread(x, norm))
    settings: dict[str, Any] = {"eps": eps, "norm": norm, "steps": SMOOTHED["steps"], "seed": seed}
    plain = pgd(model, x, y, **settings, draws=1)
    wide = pgd(smooth, x, y, **settings, draws=SMOOTHED["draws"])
    with attacking(model, x, y, eps=eps, norm=norm, draws=1, seed=seed) as (victim, _, labels):
        right, one, two = (~victim.verdict(at, labels) for at in (x, plain, wide))
    missed, attacked = int((right & one & ~two).sum()), max(int(right.sum()), 1)
    # Where neither way is better, a sample that only one of them breaks is as likely the other's.
    parted = missed + int((right & ~one & two).sum())
    if not (_sure(missed, attacked, CHANCE) and _sure(missed, parted, 0.5)):
        return []
    return [
        f"Along gradients averaged over a small neighbourhood PGD breaks {100 * missed / attacked:.0f} % of samples that it does not break "
        "along plain ones: gradients are shattered. Attack the network behind noise with several draws, and trust black-box attacks."
    ]


def _spread(x: Tensor, norm: str) -> float:
    """The norm of a perturbation that moves every coordinate by 1."""
    count = x[0].numel()
    return {"linf": 1.0, "l2": count**0.5, "l1": float(count)}[norm]


class _Smoothed(nn.Module):
    """A network behind Gaussian noise."""

    def __init__(self, network: nn.Module, sigma: float) -> None:
        super().__init__()
        self.network, self.sigma = network, sigma

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x + self.sigma * torch.randn_like(x)).clamp(0, 1))


def not_rising(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, draws: int | None = None, seed: int = 0
) -> list[str]:
    """A loss that does not rise with steps or with eps, and samples that stand where none can."""
    after = lambda steps, radius: pgd(
        model, x, y, eps=radius, steps=steps, norm=norm, random_start=False, draws=draws, seed=seed
    )
    hopeless = HOPELESS * _spread(x, norm)
    twice = min(2 * eps, 1.0) if norm == "linf" else 2 * eps
    points = after(5, eps), after(20, eps), after(20, twice), after(50, max(hopeless, eps))
    with attacking(model, x, y, eps=eps, norm=norm, draws=draws, seed=seed) as (victim, _, labels):
        few, many, wide = (cross_entropy(victim.logits(at, victim.judged), labels).double() for at in points[:3])
        right, standing = (~victim.verdict(at, labels) for at in (x, points[3]))
    found = []
    if _falls(few, many):
        found.append(
            f"The loss falls from {few.mean():.3g} to {many.mean():.3g} between 5 and 20 steps of PGD: gradients mislead. "
            "Try a smaller alpha, more draws, and look for masked gradients."
        )
    if _falls(many, wide):
        found.append(
            f"The loss falls from {many.mean():.3g} to {wide.mean():.3g} as the ball doubles: gradients mislead. "
            "Trust black-box attacks, and look for masked gradients."
        )
    # A grey image has one class: at most its share could stand.
    allowed = float(y.bincount().max()) / len(y) + CHANCE
    left = int((standing & right).sum())
    if _sure(left, len(y), allowed):
        found.append(
            f"{100 * left / len(y):.0f} % of samples stand within {norm} {hopeless:.3g}, where every image can be made grey: "
            "the attack fails, not the adversary. Try other losses (cw, apgd), and look for masked gradients."
        )
    return found


def _falls(before: Tensor, after: Tensor) -> bool:
    """Whether the mean loss falls by more than rounding and, by Student's test over samples, than chance."""
    from scipy.stats import t

    fall = before - after
    if len(fall) < 2:
        return False
    chance = float(t.ppf(1 - BY_CHANCE, len(fall) - 1)) * float(fall.std()) / len(fall) ** 0.5
    return float(fall.mean()) > 1e-3 * float(before.mean().abs()) + 1e-6 + chance


def _sure(count: int, among: int, share: float) -> bool:
    """Whether so many among so many are more than a `share` in [0, 1) would make by chance, by the exact binomial test."""
    from scipy.stats import binom

    return float(binom.sf(count - 1, among, share)) < BY_CHANCE


def beaten(
    broken_by: Mapping[str, Tensor],
    right: Tensor,
    kinds: Mapping[str, tuple[str, bool | None]],
    *,
    random: bool = False,
) -> list[str]:
    """Weak attacks that succeed where strong ones fail.

    Args:
        broken_by: by attack or part of one, bool (k,): which of the first k samples it broke.
        right: bool (n,): which samples the network gets right.
        kinds: for each of `broken_by` its title, and whether it asks for gradients; None where it does not count as either.
        random: whether answers are drawn, so that samples at the boundary may fall either way.
    """
    chance = CHANCE_OF_DRAWS if random else CHANCE
    white = [name for name in broken_by if kinds[name][1]]
    found = []
    for name, broken in broken_by.items():
        rows = len(broken)
        if kinds[name][1] is not False or not white or any(len(broken_by[one]) < rows for one in white):
            continue
        by_gradients = torch.stack([broken_by[one][:rows] for one in white]).any(dim=0)
        missed, attacked = int((broken & ~by_gradients).sum()), max(int(right[:rows].sum()), 1)
        if _sure(missed, attacked, chance):
            found.append(
                f"{kinds[name][0]} breaks {100 * missed / attacked:.1f} % of samples that no gradient attack breaks: a sign of "
                "masked gradients. Give the gradient attacks more steps, restarts or draws, and quote the worst case only."
            )
    for strong in ("ifgsm", "pgd", "cw", "cw_paper"):
        if "fgsm" in broken_by and strong in broken_by:
            rows = min(len(broken_by["fgsm"]), len(broken_by[strong]))
            single, iterated = broken_by["fgsm"][:rows], broken_by[strong][:rows]
            one, several = (float(found.double().mean()) for found in (single, iterated))
            only = [int((a & ~b).sum()) for a, b in ((single, iterated), (iterated, single))]
            if one > several + chance and _sure(only[0], sum(only), 0.5):
                found.append(
                    f"{kinds[strong][0]} breaks {100 * several:.1f} % and FGSM, a single step, {100 * one:.1f} %: "
                    "the iterative attack is set up wrongly, or gradients are masked. "
                    "Do not report it alone; check alpha, steps and the loss."
                )
    return found
