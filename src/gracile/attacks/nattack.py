"""NAttack: a Gaussian over perturbations, learned from answers alone."""

from __future__ import annotations

import torch
from torch import Tensor

from gracile.attacks.geometry import project
from gracile.attacks.losses import climbed
from gracile.attacks.victim import Mode, Model, Victim, attack, attacking, finished
from gracile.core.seeding import generator


@attack
def nattack(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 8 / 255,
    steps: int = 400,
    population: int = 300,
    sigma: float = 0.1,
    lr: float = 0.02,
    targeted: bool = False,
    draws: int | None = None,
    seed: int = 0,
    mode: Mode = "eval",
    chunk: int | None = None,
    queries: Tensor | None = None,
) -> Tensor:
    """NAttack [@li2019], black-box: natural evolution strategies on the mean of a Gaussian in tanh space.

    A candidate is ``clip_{x, eps}((tanh(atanh(2x - 1) + m + sigma g) + 1) / 2)``; rewards are margins, made zero mean and unit
    spread over the population, and the mean m climbs the estimated gradient. Only samples that the network gets right
    are attacked; each leaves once its mean breaks it, which is looked at every ten steps. Where the network draws random numbers
    a candidate takes a single draw unless `draws` says otherwise, since the population averages over them.

    Args:
        model, x, y, eps, targeted, draws, seed, mode, chunk: see `gracile.attacks.pgd`; the ball is l-inf, and `model` may be
            any function from x to logits.
        steps: updates of the mean.
        population: candidates an update; a query each.
        sigma: spread of the Gaussian.
        lr: rate of the mean (the paper's alpha).
        queries: int64 (n,); the queries each sample took are added to it.

    Returns:
        (n, ...) in [0, 1], at most `eps` from `x`.

    Raises:
        InputError: an argument that cannot be used.
        NonFiniteError: outputs that are not finite.
    """
    given = x
    with attacking(
        model, x, y, eps=eps, targeted=targeted, draws=draws, seed=seed, mode=mode, chunk=chunk,
        steps=steps, population=population,
    ) as (victim, x, y):  # fmt: skip
        adversarial = x.clone()
        used = torch.zeros_like(y)
        random = generator(seed, "attack", "nattack", device=x.device)
        for row in (~victim.breaks(x, victim.logits(x), y)).nonzero().squeeze(1).tolist():
            one = x[row : row + 1]
            found, asked = _learn(victim, one, y[row : row + 1], eps, steps, population, sigma, lr, random)
            adversarial[row], used[row] = found[0], asked
        if queries is not None:
            queries += used.to(queries.device)
        return finished(adversarial, given)


def _learn(
    victim: Victim, x: Tensor, y: Tensor, eps: float, steps: int, population: int, sigma: float, lr: float,
    random: torch.Generator,
) -> tuple[Tensor, int]:  # fmt: skip
    """The mean's candidate for one sample (1, ...), and the queries it took."""
    gain = climbed("margin", targeted=victim.targeted)
    # A pixel at exactly 0 or 1 lies at infinity in tanh space; a hair inside, it can move.
    origin = torch.atanh((2 * x - 1) * (1 - 1e-6))
    mean = 0.001 * torch.randn(x.shape, generator=random, device=x.device, dtype=x.dtype)
    labels = y.expand(population)
    candidate = lambda w: project((torch.tanh(origin + w) + 1) / 2, x, eps, "linf")
    asked = 0
    for step in range(steps):
        if step % 10 == 0:
            asked += 1
            if bool(victim.verdict(candidate(mean), y)):
                break
        noise = torch.randn((population, *x.shape[1:]), generator=random, device=x.device, dtype=x.dtype)
        # One draw a candidate: the mean over the population is one over the network's random numbers too.
        rewards = gain(victim.logits(candidate(mean + sigma * noise), victim.asked or 1), labels)
        # A margin that is won earns no more: pressure stays on candidates that still fail.
        rewards = rewards.clamp_max(0)
        asked += population
        scores = (rewards - rewards.mean()) / (rewards.std() + 1e-7)
        mean = mean + lr / (population * sigma) * (noise.flatten(1).T @ scores).view_as(mean)
    return candidate(mean), asked
