"""Accuracy and loss on a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gracile.data import Dataset, batches


@dataclass(frozen=True)
class Evaluation:
    """How a network does on a data set.

    Attributes:
        accuracy: share in [0, 1] of right answers.
        loss: mean cross-entropy in nats, or the mean of the loss asked for.
        samples: how many.
    """

    accuracy: float
    loss: float
    samples: int


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Dataset,
    *,
    batch_size: int = 500,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Evaluation:
    """Evaluate in float32 and evaluation mode; the network's mode is left as found.

    Args:
        model: gives logits ``(n, classes)``; the data are moved to its device batch by batch.
        data: at least one sample.
        batch_size: samples per forward pass.
        loss: from outputs and labels to a scalar, a mean over samples; cross-entropy by default.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    try:
        for x, y in batches(data, batch_size):
            logits, y = model(x.to(device)), y.to(device)
            correct += (logits.argmax(dim=1) == y).sum()
            if loss is None:
                total += nn.functional.cross_entropy(logits.float(), y, reduction="sum")
            else:
                total += loss(logits.float(), y) * len(y)
    finally:
        model.train(training)
    return Evaluation(correct.item() / len(data), total.item() / len(data), len(data))
