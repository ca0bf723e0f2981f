"""What adversarial training is made of: the objective that `gracile.fit` minimises, and what its methods share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from gracile.attacks.victim import Mode
from gracile.core.errors import InputError
from gracile.training.awp import perturbed
from gracile.training.parallel import alone


class Objective(Protocol):
    """What a training step minimises.

    Attributes:
        replays: optimiser steps a batch.
    """

    replays: int

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, progress: float, seed: int) -> tuple[Tensor, Tensor]:
        """The loss of a batch, to be differentiated, and the logits that training accuracy is counted on.

        Args:
            model: in training mode; under several ranks the wrapped one, whose backward pass averages gradients.
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


def logits_of(outputs: Any) -> Tensor:
    """What a network gave, if it is a tensor: some give more in training mode than in evaluation.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"The network's output is a {type(outputs).__name__}.",
            "A classifier must give logits (n, classes), in training mode too: wrap it in a module that returns them alone.",
        )
    return outputs


class CrossEntropy:
    """Plain training."""

    replays = 1

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, progress: float, seed: int) -> tuple[Tensor, Tensor]:
        logits = logits_of(model(x))
        return F.cross_entropy(logits, y), logits

    def follow(self) -> None:
        """Nothing is left to do."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is no state."""


@dataclass
class Adversary(CrossEntropy, ABC):
    """What all methods of adversarial training share: an attack, and a loss of what it leaves.

    Attributes:
        eps: radius of the l-inf ball, in (0, 1].
        ramp: epochs over which the radius, and the step with it, grows to `eps`; 0 begins there.
        mode: ``eval`` attacks the network in evaluation mode, where batch-norm's statistics stand; ``found`` in training
            mode, as the authors of EnResNet do, where every pass of the attack moves them too.
        label_smoothing: share of the label that goes evenly to all classes in cross-entropy, in [0, 1); it tempers robust
            overfitting [@pang2021 take 0.1 to 0.2].
        awp: relative size of adversarial weight perturbation, see `gracile.training.awp`; 0 for none, 0.005 is published.
        awp_after: epochs before it begins.
    """

    eps: float = 8 / 255
    ramp: float = 0.0
    mode: Mode = "eval"
    label_smoothing: float = 0.0
    awp: float = 0.0
    awp_after: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.eps <= 1 or not self.ramp >= 0:
            raise InputError(
                f"Adversarial training was given eps={self.eps} and ramp={self.ramp}.",
                "eps lies in (0, 1], as 8/255, and ramp is a number of epochs from 0 on.",
            )
        if self.mode not in ("eval", "found"):
            raise InputError(f"mode is '{self.mode}'.", "Give 'eval', or 'found' for training mode.")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing is {self.label_smoothing}.", "Give a share in [0, 1), such as 0.1.")
        if not 0 <= self.awp < 1 or not self.awp_after >= 0:
            raise InputError(
                f"awp is {self.awp} and awp_after {self.awp_after}.",
                "awp is a share of the weights' norm in [0, 1), such as 0.005; awp_after a number of epochs from 0 on.",
            )

    def share(self, progress: float) -> float:
        """The share of eps at this point of the ramp."""
        return 1.0 if progress >= self.ramp else progress / self.ramp

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, progress: float, seed: int) -> tuple[Tensor, Tensor]:
        share = self.share(progress)
        adversarial = self.attacked(alone(model), x, y, share, seed) if share else x
        if self.awp and progress >= self.awp_after:
            return perturbed(model, lambda one: self.outer(one, x, adversarial, y), self.awp)
        return self.outer(model, x, adversarial, y)

    @abstractmethod
    def attacked(self, model: nn.Module, x: Tensor, y: Tensor, share: float, seed: int) -> Tensor:
        """The attacked batch, of the shape of x, at this share of eps."""

    def outer(
        self, model: Callable[[Tensor], Tensor], x: Tensor, adversarial: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss of a batch and of what the attack made of it, and the logits that accuracy is counted on."""
        logits = logits_of(model(adversarial))
        return F.cross_entropy(logits, y, label_smoothing=self.label_smoothing), logits
