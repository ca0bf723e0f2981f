"""Adversarial training: what `gracile.fit` minimises in place of the loss on clean samples."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gracile.attacks import fgsm, pgd
from gracile.attacks.geometry import direction, project
from gracile.attacks.victim import attacking, finished
from gracile.core.errors import InputError, pick, refuse_unknown
from gracile.core.seeding import generator
from gracile.training.attacked import Adversary, CrossEntropy, Objective, logits_of
from gracile.training.mart import Mart, divergence

__all__ = ["ADVERSARIES", "FGSM", "PGD", "CrossEntropy", "Free", "Mart", "Objective", "Trades", "adversary"]


@dataclass
class PGD(Adversary):
    """Every step on the batch's projected gradient ascent from a random start [@madry2018].

    The defaults are the published setting of the EnResNet tables: 10 steps of 2/255 in a ball of 8/255.

    Attributes:
        steps: gradients the attack takes.
        alpha: length of its steps; None for a quarter of `eps`.
    """

    steps: int = 10
    alpha: float | None = None

    def attacked(self, model: nn.Module, x: Tensor, y: Tensor, share: float, seed: int) -> Tensor:
        alpha = None if self.alpha is None else share * self.alpha
        return pgd(model, x, y, eps=share * self.eps, steps=self.steps, alpha=alpha, seed=seed, mode=self.mode, draws=1)


@dataclass
class FGSM(Adversary):
    """One long step from a random start: about two plain epochs an epoch [@wong2020].

    Attributes:
        alpha: length of the step; None for 1.25 `eps`.
    """

    alpha: float | None = None

    def attacked(self, model: nn.Module, x: Tensor, y: Tensor, share: float, seed: int) -> Tensor:
        alpha = share * (1.25 * self.eps if self.alpha is None else self.alpha)
        return fgsm(
            model, x, y, eps=share * self.eps, alpha=alpha, random_start=True, seed=seed, mode=self.mode, draws=1
        )


@dataclass
class Trades(Adversary):
    """Cross-entropy on clean samples and `weight` times how far an attack moves the prediction [@zhang2019, eq. 5].

    Attributes:
        steps: of the attack, as for `PGD`; it ascends ``KL(p(x) || p(x'))``.
        alpha: length of its steps, as for `PGD`.
        weight: of that divergence; the paper's 1/lambda.
    """

    steps: int = 10
    alpha: float | None = None
    weight: float = 6.0

    def outer(
        self, model: Callable[[Tensor], Tensor], x: Tensor, adversarial: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = logits_of(model(x))
        pull = divergence(model(adversarial), logits.log_softmax(dim=1)).mean()
        return F.cross_entropy(logits, y, label_smoothing=self.label_smoothing) + self.weight * pull, logits

    def attacked(self, model: nn.Module, x: Tensor, y: Tensor, share: float, seed: int) -> Tensor:
        eps = share * self.eps
        alpha = eps / 4 if self.alpha is None else share * self.alpha
        with attacking(model, x, y, eps=eps, draws=1, seed=seed, mode=self.mode, steps=self.steps) as (
            victim,
            clean,
            _,
        ):
            target = victim.logits(clean).log_softmax(dim=1)
            # Where the attack starts at the clean sample the divergence has no slope.
            random = generator(seed, "attack", "start", device=x.device)
            noise = torch.randn(clean.shape, generator=random, device=x.device, dtype=x.dtype)
            at = project(clean + 1e-3 * noise, clean, eps, "linf")
            for _ in range(self.steps):
                _, _, gradient = victim.gradient(at, divergence, target)
                at = project(at + alpha * direction(gradient, "linf"), clean, eps, "linf")
            return finished(at, x)


@dataclass
class Free(Adversary):
    """Each batch is taken `replays` times; one backward pass moves both weights and perturbation [@shafahi2019].

    An epoch costs `replays` plain ones, and takes `replays` times the steps; divide the epochs by it. The perturbation is
    handed on to the next batch. After a resume under several ranks all go on with that of rank 0, which writes.

    Attributes:
        replays: steps taken on each batch.
    """

    replays: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replays < 1:
            raise InputError(
                f"replays is {self.replays}.", "Take each batch at least once; the paper takes it 8 times."
            )
        if self.awp:
            raise InputError(
                "'free' moves weights and perturbation on one backward pass, which leaves none for awp.",
                "Use awp with 'pgd', 'fgsm', 'trades' or 'mart'.",
            )
        self._delta: Tensor | None = None
        self._leaf: Tensor | None = None
        self._eps = 0.0

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, progress: float, seed: int) -> tuple[Tensor, Tensor]:
        self._eps = self.eps * self.share(progress)
        # The last batch of an epoch is smaller; the perturbations it does not use wait for the next.
        if self._delta is None or len(self._delta) < len(x):
            self._delta = torch.zeros_like(x, memory_format=torch.contiguous_format)
        self._leaf = self._delta[: len(x)].to(x).requires_grad_()
        return self.outer(model, x, self.attacked(model, x, y, 1.0, seed), y)

    def attacked(self, model: nn.Module, x: Tensor, y: Tensor, share: float, seed: int) -> Tensor:
        assert self._leaf is not None
        return (x + self._leaf).clamp(0, 1)

    def follow(self) -> None:
        leaf, delta = self._leaf, self._delta
        assert leaf is not None
        assert leaf.grad is not None
        assert delta is not None
        with torch.no_grad():
            delta[: len(leaf)] = (leaf + self._eps * leaf.grad.sign()).clamp_(-self._eps, self._eps)
        self._leaf = None

    def state_dict(self) -> dict[str, Any]:
        return {} if self._delta is None else {"delta": self._delta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._delta = state.get("delta")


ADVERSARIES: dict[str, Callable[..., Objective]] = {
    "fgsm": FGSM,
    "free": Free,
    "mart": Mart,
    "pgd": PGD,
    "trades": Trades,
}


def adversary(method: str = "pgd", **options: Any) -> Objective:
    """An adversarial objective by name.

    Args:
        method: a row of `ADVERSARIES`.
        options: what it takes: ``eps``, ``steps``, ...

    Raises:
        InputError: no such method, an option it does not have, or a value that cannot be.

    Example:
        >>> adversary("pgd", steps=7)
        PGD(eps=0.03137254901960784, ramp=0.0, mode='eval', label_smoothing=0.0, awp=0.0, awp_after=0.0, steps=7, alpha=None)
    """
    made = pick(ADVERSARIES, method, "method of adversarial training")
    refuse_unknown(options, inspect.signature(made).parameters, f"Adversarial training by '{method}'")
    return made(**options)
