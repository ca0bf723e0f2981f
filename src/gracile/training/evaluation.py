"""Accuracy and loss on a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gracile.core.collapse import collapse
from gracile.core.errors import DataError
from gracile.data import Dataset, batches
from gracile.data.dataset import check_data


@dataclass(frozen=True)
class Evaluation:
    """How a network does on a data set.

    Attributes:
        accuracy: share in [0, 1] of right answers.
        loss: mean cross-entropy in nats, or the mean of the loss asked for.
        samples: how many.
        confusion: (classes, classes) counts: what a sample is down, what it is taken for across.
        constant: whether the output is the same for every sample, to a millionth.
        right: (samples,) of bool, whether each was answered rightly, in the order of the data.
    """

    accuracy: float
    loss: float
    samples: int
    confusion: Tensor = field(compare=False, repr=False)
    constant: bool = False
    right: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def collapsed(self) -> str:
        """How the network has failed as a whole, see `gracile.core.collapse.collapse`; empty where it has not."""
        return collapse(self.confusion, constant=self.constant)

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """For a file; of the confusion, by the classes' names, only what is not 0: a thousand classes have a million pairs."""
        taken = {
            name: {classes[other]: int(row[other]) for other in row.nonzero().flatten().tolist()}
            for name, row in zip(classes, self.confusion, strict=True)
        }
        return {
            "classes": list(classes),
            "accuracy": self.accuracy,
            "loss": self.loss,
            "samples": self.samples,
            "confusion": taken,
            "collapsed": self.collapsed,
        }


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

    Raises:
        InputError: no `Dataset`.
        DataError: no sample.
    """
    check_data(data, Dataset)
    if not len(data):
        raise DataError(f"There are no samples of '{data.name}' to evaluate on.", "Give a split that has some.")
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    right: list[Tensor] = []
    total = torch.zeros((), dtype=torch.float64, device=device)
    size = data.num_classes
    pairs = torch.zeros(size * size, dtype=torch.int64, device=device)
    low = high = None
    try:
        for x, y in batches(data, batch_size):
            logits, y = model(x.to(device)), y.to(device)
            answers = logits.argmax(dim=1)
            right.append(answers == y)
            # A network may have more outputs than the data have classes.
            pairs += torch.bincount(y * size + answers.clamp(max=size - 1), minlength=size * size)
            least, most = logits.aminmax(dim=0)
            low = least if low is None else torch.minimum(low, least)
            high = most if high is None else torch.maximum(high, most)
            if loss is None:
                total += nn.functional.cross_entropy(logits.float(), y, reduction="sum")
            else:
                total += loss(logits.float(), y) * len(y)
    finally:
        model.train(training)
    assert low is not None
    assert high is not None
    constant = bool((high - low).max() <= 1e-6 * torch.maximum(high.abs(), low.abs()).max())
    confusion = pairs.view(size, size).cpu()
    each = torch.cat(right).cpu()
    return Evaluation(float(each.sum()) / len(data), total.item() / len(data), len(data), confusion, constant, each)
