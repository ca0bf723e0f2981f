"""Randomised smoothing: a certificate in the l2 ball for any classifier, with an exact test."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.attacks.victim import Model, Victim, attacking
from gracile.core.errors import InputError
from gracile.core.seeding import derive_seed

ABSTAINED = -1


@dataclass(frozen=True)
class Certificate:
    """What is certain of a smoothed classifier, but for a chance of `alpha` a sample.

    Attributes:
        answers: int64 (n,), the smoothed classifier's; -1 where it abstains.
        radii: float64 (n,), l2 radii within which the answer cannot change; 0 where it abstains.
        sigma: deviation of the noise.
        draws: noisy passes each radius rests on.
        alpha: chance that a radius is too large.
    """

    answers: Tensor
    radii: Tensor
    sigma: float
    draws: int
    alpha: float

    def accuracy(self, y: Tensor, eps: float) -> float:
        """Certified accuracy in percent: samples answered rightly, for certain within l2 distance `eps`.

        Args:
            y: int64 (n,), labels.
            eps: at least 0.
        """
        return 100 * float(((self.answers == y.cpu()) & (self.radii >= eps) & (self.radii > 0)).double().mean())


def smoothed(
    model: Model,
    x: Tensor,
    *,
    sigma: float = 0.25,
    draws: int = 1000,
    choosing: int = 100,
    alpha: float = 0.001,
    seed: int = 0,
    chunk: int = 256,
) -> Certificate:
    """Certify the classifier "most frequent answer under Gaussian noise" [@cohen2019, algorithm CERTIFY].

    The certificate holds for the smoothed classifier, not for the network by itself, and so for networks that draw random numbers
    of their own, such as EnResNets. Networks want training on noise of the same `sigma` to answer well under it.

    Args:
        model: maps x to logits (n, classes); it is shown inputs beyond [0, 1], as noise has them.
        x: (n, ...), in [0, 1].
        sigma: deviation of the noise, above 0: larger ones certify larger radii and cost accuracy.
        draws: noisy passes for the test. No radius exceeds ``sigma Phi^-1(alpha^(1 / draws))``: 2.46 sigma at 1,000.
        choosing: noisy passes that choose the answer to test; apart from the former, or the test would not be exact.
        alpha: chance of a wrong certificate, a sample, in (0, 0.5).
        seed: of the noise.
        chunk: noisy samples a pass.

    Returns:
        Answers and radii on the CPU. A sample is abstained from where the one-sided Clopper-Pearson bound on the share of its
        answer does not exceed one half.

    Raises:
        InputError: an argument that cannot be used.
        NonFiniteError: outputs that are NaN.
    """
    if not 0 < sigma < float("inf") or not 0 < alpha < 0.5:
        raise InputError(
            f"sigma is {sigma} and alpha {alpha}.",
            "Give a deviation above 0, such as 0.25, and a chance such as 0.001.",
        )
    from scipy.stats import beta, norm

    answers, radii = [], []
    labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    settings = {"draws": 1, "seed": derive_seed(seed, "smoothing"), "chunk": chunk, "channels_last": False}
    with attacking(model, x, labels, eps=None, **settings, passes=draws, choosing=choosing) as (victim, x, _):
        random = torch.Generator(x.device).manual_seed(derive_seed(seed, "smoothing", "noise"))
        for one in x:
            answer = int(_counted(victim, one, sigma, choosing, random).argmax())
            hits = int(_counted(victim, one, sigma, draws, random)[answer])
            lower = float(beta.ppf(alpha, hits, draws - hits + 1)) if hits else 0.0
            answers.append(answer if lower > 0.5 else ABSTAINED)
            radii.append(sigma * float(norm.ppf(lower)) if lower > 0.5 else 0.0)
    return Certificate(torch.tensor(answers), torch.tensor(radii, dtype=torch.float64), sigma, draws, alpha)


def _counted(victim: Victim, one: Tensor, sigma: float, draws: int, random: torch.Generator) -> Tensor:
    """How often each class is the answer, (classes,), under `draws` of the noise."""
    total, left = None, draws
    while left:
        size = min(left, victim.chunk)
        noise = torch.randn((size, *one.shape), generator=random, device=one.device, dtype=one.dtype)
        logits = victim.logits(one + sigma * noise)
        counts = logits.argmax(dim=1).bincount(minlength=logits.shape[1])
        total, left = counts if total is None else total + counts, left - size
    assert total is not None
    return total
