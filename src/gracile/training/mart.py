"""MART: adversarial training that weighs samples the network gets wrong anyway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from gracile.attacks import pgd
from gracile.training.attacked import Adversary, logits_of


@dataclass
class Mart(Adversary):
    """Misclassification-aware training [@wang2020, eq. 12].

    With p the probabilities on clean and q on attacked samples it minimises ``-log q_y - log(1 - max_{k != y} q_k)`` and `weight`
    times ``KL(p || q) (1 - p_y)``: the attack is fought hardest where the network is unsure or wrong already.

    Attributes:
        steps: as for `PGD`, whose attack it takes.
        alpha: length of those steps, as for `PGD`.
        weight: of the divergence; the paper's lambda.
    """

    steps: int = 10
    alpha: float | None = None
    weight: float = 5.0

    def attacked(self, model: nn.Module, x: Tensor, y: Tensor, share: float, seed: int) -> Tensor:
        alpha = None if self.alpha is None else share * self.alpha
        return pgd(model, x, y, eps=share * self.eps, steps=self.steps, alpha=alpha, seed=seed, mode=self.mode, draws=1)

    def outer(
        self, model: Callable[[Tensor], Tensor], x: Tensor, adversarial: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits, moved = logits_of(model(x)), model(adversarial)
        rival = moved.softmax(dim=1).scatter(1, y[:, None], 0.0).amax(dim=1)
        # The published code's 1.0001 keeps the slope finite where the rival has the whole probability.
        smoothed = F.cross_entropy(moved, y, label_smoothing=self.label_smoothing)
        boosted = smoothed - (1.0001 - rival).log().mean()
        unsure = 1 - logits.softmax(dim=1).gather(1, y[:, None]).squeeze(1)
        return boosted + self.weight * (divergence(moved, logits.log_softmax(dim=1)) * unsure).mean(), logits


def divergence(logits: Tensor, target: Tensor) -> Tensor:
    """``KL(target || softmax(logits))`` of each sample; `target` holds log-probabilities."""
    return F.kl_div(logits.log_softmax(dim=1), target, reduction="none", log_target=True).sum(dim=1)
