"""Adversarial training: what `gracile.fit` minimises in place of the loss on clean samples."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gracile.attacks import fgsm, pgd
from gracile.attacks.geometry import direction, project
from gracile.attacks.victim import Mode, attacking, finished
from gracile.core.errors import InputError, nearest, pick
from gracile.core.seeding import generator
from gracile.training.parallel import alone


class Objective(Protocol):
    """What a training step minimises.

    Attributes:
        replays: optimiser steps a batch.
    """

    replays: int

    def loss(self, network: nn.Module, x: Tensor, y: Tensor, progress: float, seed: int) -> tuple[Tensor, Tensor]:
        """The loss of a batch, to be differentiated, and the logits that training accuracy is counted on.

        Args:
            network: in training mode; under several ranks the wrapped one, whose backward pass averages gradients.
            x: (n, ...), in [0, 1] where there is an attack.
            y: int64 (n,).
            progress: epochs done, with their fraction.
            seed: of this batch, and of this rank.
        """
        ...

    def follow(self) -> None:
        """Called after each optimiser step, while the gradients of its backward pass still stand."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        ...


class CrossEntropy:
    """Plain training."""

    replays = 1

    def loss(self, network: nn.Module, x: Tensor, y: Tensor, progress: float, seed: int) -> tuple[Tensor, Tensor]:
        logits = network(x)
        return F.cross_entropy(logits, y), logits

    def follow(self) -> None:
        """Nothing is left to do."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is no state."""


@dataclass
class _Adversary(CrossEntropy):
    """What all share.

    Attributes:
        eps: radius of the l-inf ball, in (0, 1].
        ramp: epochs over which the radius, and the step with it, grows to `eps`; 0 begins there.
        mode: ``eval`` attacks the network in evaluation mode, where batch-norm's statistics stand; ``found`` in training
            mode, as the authors of EnResNet do, where every pass of the attack moves them too.
    """

    eps: float = 8 / 255
    ramp: float = 0.0
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        if not 0 < self.eps <= 1 or not self.ramp >= 0:
            raise InputError(
                f"Adversarial training was given eps={self.eps} and ramp={self.ramp}.",
                "eps lies in (0, 1], as 8/255, and ramp is a number of epochs from 0 on.",
            )
        if self.mode not in ("eval", "found"):
            raise InputError(f"mode is '{self.mode}'.", "Give 'eval', or 'found' for training mode.")

    def share(self, progress: float) -> float:
        """The share of eps at this point of the ramp."""
        return 1.0 if progress >= self.ramp else progress / self.ramp


class _OnAttacked(_Adversary, ABC):
    """Cross-entropy on a batch that takes the clean one's place."""

    def loss(self, network: nn.Module, x: Tensor, y: Tensor, progress: float, seed: int) -> tuple[Tensor, Tensor]:
        share = self.share(progress)
        adversarial = self.attacked(alone(network), x, y, share, seed) if share else x
        return super().loss(network, adversarial, y, progress, seed)

    @abstractmethod
    def attacked(self, network: nn.Module, x: Tensor, y: Tensor, share: float, seed: int) -> Tensor:
        """The attacked batch, of the shape of x, at this share of eps."""


@dataclass
class PGD(_OnAttacked):
    """Every step on the batch's projected gradient ascent from a random start (Madry et al. 2018).

    The defaults are the published setting of the EnResNet tables: 10 steps of 2/255 in a ball of 8/255.

    Attributes:
        steps: gradients the attack takes.
        alpha: length of its steps; None for a quarter of `eps`.
    """

    steps: int = 10
    alpha: float | None = None

    def attacked(self, network: nn.Module, x: Tensor, y: Tensor, share: float, seed: int) -> Tensor:
        alpha = None if self.alpha is None else share * self.alpha
        return pgd(
            network, x, y, eps=share * self.eps, steps=self.steps, alpha=alpha, seed=seed, mode=self.mode, draws=1
        )


@dataclass
class FGSM(_OnAttacked):
    """One long step from a random start: about two plain epochs an epoch (Wong, Rice and Kolter 2020).

    Attributes:
        alpha: length of the step; None for 1.25 `eps`.
    """

    alpha: float | None = None

    def attacked(self, network: nn.Module, x: Tensor, y: Tensor, share: float, seed: int) -> Tensor:
        alpha = share * (1.25 * self.eps if self.alpha is None else self.alpha)
        return fgsm(
            network, x, y, eps=share * self.eps, alpha=alpha, random_start=True, seed=seed, mode=self.mode, draws=1
        )


@dataclass
class Trades(_Adversary):
    """Cross-entropy on clean samples and `weight` times how far an attack moves the prediction (Zhang et al. 2019, eq. 5).

    Attributes:
        steps, alpha: as for `PGD`; the attack ascends ``KL(p(x) || p(x'))``.
        weight: of that divergence; the paper's 1/lambda.
    """

    steps: int = 10
    alpha: float | None = None
    weight: float = 6.0

    def loss(self, network: nn.Module, x: Tensor, y: Tensor, progress: float, seed: int) -> tuple[Tensor, Tensor]:
        share = self.share(progress)
        adversarial = self.attacked(alone(network), x, y, share, seed) if share else x
        logits = network(x)
        moved = network(adversarial)
        divergence = _divergence(moved, logits.log_softmax(dim=1)).mean()
        return F.cross_entropy(logits, y) + self.weight * divergence, logits

    def attacked(self, network: nn.Module, x: Tensor, y: Tensor, share: float, seed: int) -> Tensor:
        eps = share * self.eps
        alpha = eps / 4 if self.alpha is None else share * self.alpha
        with attacking(network, x, y, eps=eps, draws=1, seed=seed, mode=self.mode, steps=self.steps) as (
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
                _, _, gradient = victim.gradient(at, _divergence, target)
                at = project(at + alpha * direction(gradient, "linf"), clean, eps, "linf")
            return finished(at, x)


@dataclass
class Free(_Adversary):
    """Each batch is taken `replays` times; one backward pass moves both weights and perturbation (Shafahi et al. 2019).

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
        self._delta: Tensor | None = None
        self._leaf: Tensor | None = None
        self._eps = 0.0

    def loss(self, network: nn.Module, x: Tensor, y: Tensor, progress: float, seed: int) -> tuple[Tensor, Tensor]:
        self._eps = self.eps * self.share(progress)
        # The last batch of an epoch is smaller; the perturbations it does not use wait for the next.
        if self._delta is None or len(self._delta) < len(x):
            self._delta = torch.zeros_like(x, memory_format=torch.contiguous_format)
        self._leaf = self._delta[: len(x)].to(x).requires_grad_()
        return super().loss(network, (x + self._leaf).clamp(0, 1), y, progress, seed)

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


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    """``KL(target || softmax(logits))`` of each sample; `target` holds log-probabilities."""
    return F.kl_div(logits.log_softmax(dim=1), target, reduction="none", log_target=True).sum(dim=1)


ADVERSARIES: dict[str, Callable[..., Objective]] = {"fgsm": FGSM, "free": Free, "pgd": PGD, "trades": Trades}


def adversary(method: str = "pgd", **options: Any) -> Objective:
    """An adversarial objective by name.

    Args:
        method: a row of `ADVERSARIES`.
        options: what it takes: ``eps``, ``steps``, ...

    Raises:
        InputError: no such method, an option it does not have, or a value that cannot be.

    Example:
        >>> adversary("pgd", steps=7)
        PGD(eps=0.03137254901960784, ramp=0.0, mode='eval', steps=7, alpha=None)
    """
    made = pick(ADVERSARIES, method, "method of adversarial training")
    known = inspect.signature(made).parameters
    for key in options:
        if key not in known:
            raise InputError(f"Adversarial training by '{method}' has no option '{key}'.", nearest(key, known))
    return made(**options)
