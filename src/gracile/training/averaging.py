"""The exponential moving average of the weights, which generalises better than the last ones."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.core.monitor import Monitor, Series
from gracile.data import Dataset
from gracile.training.evaluation import evaluate


class WeightAverage(Monitor):
    """``m <- a m + (1 - a) w`` after every step, with ``a = min(decay, (1 + t) / (10 + t))``, so that early steps are forgotten.

    Batch-norm's statistics are averaged with the weights. Robust overfitting is least in the average [@gowal2020]; a sparse
    method's zeros are not kept by it, so it goes with dense training or with a mask that no longer moves.

    Args:
        decay: in [0, 1); 0.999 remembers about a thousand steps, 0.995 two hundred.
        data: validation samples that the average is watched on, if any.

    Raises:
        InputError: a decay that cannot be.

    Example:
        >>> import torch
        >>> average, model = WeightAverage(decay=0.9), torch.nn.Linear(2, 2)
        >>> average.after_step(model)
        >>> average.model is model
        False
    """

    title: ClassVar[str] = "moving average of the weights"
    series: ClassVar[dict[str, Series]] = {
        "average_val_accuracy": Series("Accuracy of averaged weights", "validation accuracy")
    }

    def __init__(self, decay: float = 0.999, data: Dataset | None = None) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"decay is {decay}.", "Give a number in [0, 1), such as 0.999.")
        self.decay, self.data, self.steps = decay, data, 0
        self._average: nn.Module | None = None
        self._waiting: dict[str, Tensor] = {}

    @property
    def model(self) -> nn.Module:
        """The averaged network, in evaluation mode.

        Raises:
            InputError: no step has been taken.
        """
        if self._average is None:
            raise InputError("No step has been averaged yet.", "Train first: gracile.fit(..., observe=[average]).")
        return self._average.eval()

    def resume(self, model: nn.Module) -> None:
        if self._waiting:
            self._built(model).load_state_dict(self._waiting)
            self._waiting = {}

    def _built(self, model: nn.Module) -> nn.Module:
        if self._average is None:
            self._average = copy.deepcopy(model).requires_grad_(False)
        return self._average

    def after_step(self, model: nn.Module) -> None:
        # Outside of `fit` nobody calls it.
        self.resume(model)
        average = self._built(model)
        if not self.steps:
            average.load_state_dict(model.state_dict())
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        now = model.state_dict()
        with torch.no_grad():
            for name, kept in average.state_dict().items():
                if kept.is_floating_point():
                    kept.lerp_(now[name], share)
                else:
                    kept.copy_(now[name])

    def observe(self, model: nn.Module) -> dict[str, float]:
        if self.data is None or self._average is None:
            return {}
        return {"average_val_accuracy": evaluate(self.model, self.data).accuracy}

    def state_dict(self) -> dict[str, Any]:
        average = self._waiting if self._average is None else dict(self._average.state_dict())
        return {"steps": self.steps, "average": average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self._waiting = state["steps"], cast(dict[str, Tensor], state["average"])
