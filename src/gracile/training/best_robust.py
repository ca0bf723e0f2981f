"""The checkpoint of best robust accuracy on validation data, as published protocols choose it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gracile.attacks import pgd
from gracile.attacks.victim import attacking
from gracile.core.errors import InputError
from gracile.core.monitor import Monitor, Series
from gracile.core.seeding import generator
from gracile.data import Dataset, batches
from gracile.training.averaging import WeightAverage


class BestRobust(Monitor):
    """Keeps the weights of the record at which most validation samples stand under PGD.

    The last epoch of adversarial training is seldom its best: robust accuracy falls again while clean accuracy rises [@rice2020].
    Choosing on test data would flatter; this sees validation data alone.

    Args:
        data: validation samples, apart from training and test.
        eps: radius of the l-inf ball.
        steps: of PGD.
        samples: how many are attacked at each record, drawn once; 0 for all.
        after: records passed over at first, such as those before a sparse method's zeros are final.
        average: judge and keep its averaged weights in place of the last ones.
        seed: of samples and starts.

    Attributes:
        accuracy: the best robust accuracy so far, in [0, 1].
        epoch: the record it was found at, counted from 1.

    Raises:
        InputError: no validation samples, or more than there are.
    """

    title: ClassVar[str] = "robust accuracy on validation data"
    series: ClassVar[dict[str, Series]] = {"robust_val_accuracy": Series("Robust accuracy", "validation accuracy")}

    def __init__(
        self, data: Dataset, *, eps: float = 8 / 255, steps: int = 10, samples: int = 512,
        after: int = 0, average: WeightAverage | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        if not len(data) or samples < 0:
            raise InputError(
                f"{samples} of {len(data)} validation samples cannot be attacked.",
                "Give data with a validation split, and a number of samples, 0 for all.",
            )
        if after < 0:
            raise InputError(f"after is {after}.", "Give a number of records, from 0 on.")
        order = torch.randperm(len(data), generator=generator(seed, "best robust"))[: samples or len(data)]
        self.x, self.y = next(batches(data.subset(order), len(order)))
        self.eps, self.steps, self.average, self.seed = eps, steps, average, seed
        self.after, self.accuracy, self.epoch, self.records = after, -1.0, 0, 0
        self._best: dict[str, Tensor] = {}

    def observe(self, model: nn.Module) -> dict[str, float]:
        judged = model if self.average is None else self.average.model
        device = next(judged.parameters()).device
        found = standing(judged, self.x.to(device), self.y.to(device), eps=self.eps, steps=self.steps, seed=self.seed)
        self.records += 1
        if self.records > self.after and found > self.accuracy:
            self.accuracy, self.epoch = found, self.records
            self._best = {name: one.detach().clone() for name, one in judged.state_dict().items()}
        return {"robust_val_accuracy": found}

    def restore(self, model: nn.Module) -> None:
        """Put the best weights into a network.

        Raises:
            InputError: nothing has been recorded, or no more than the records passed over.
        """
        if not self.records:
            raise InputError("No record has been made yet.", "Train first: gracile.fit(..., observe=[best]).")
        if not self._best:
            raise InputError(
                f"after={self.after} passes over every record made so far ({self.records}).",
                "Train longer, or lower after.",
            )
        model.load_state_dict(self._best)

    def state_dict(self) -> dict[str, Any]:
        return {"accuracy": self.accuracy, "epoch": self.epoch, "records": self.records, "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.accuracy, self.epoch, self.records = state["accuracy"], state["epoch"], state["records"]
        self._best = state["best"]


def standing(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int, seed: int = 0) -> float:
    """The share of samples that PGD leaves right, in [0, 1], with one draw a gradient and verdicts over fresh ones.

    Args:
        model: in any mode; it is attacked as it predicts.
        x: (n, ...), in [0, 1].
        y: int64 (n,).
        eps: radius of the l-inf ball.
        steps: of PGD; a single one is as long as the radius, without a random start.
        seed: of starts and draws.
    """
    once = {"alpha": eps, "random_start": False} if steps == 1 else {}
    at = pgd(model, x, y, eps=eps, steps=steps, draws=1, seed=seed, **once)
    with attacking(model, x, y, eps=eps, draws=1, seed=seed + 1) as (victim, _, labels):
        return 1 - float(victim.verdict(at, labels).double().mean())
