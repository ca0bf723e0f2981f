"""Notices catastrophic overfitting: one-step training that learns to deceive one step."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from torch import nn

from gracile.core.errors import InputError
from gracile.core.monitor import Monitor, Series
from gracile.data import Dataset
from gracile.training.best_robust import BestRobust, standing

log = logging.getLogger("gracile")


class CatastrophicOverfitting(Monitor):
    """Compares FGSM with PGD on validation samples and warns once they part.

    Within a few hundred steps networks trained on one-step attacks can lose all robustness to several steps while that to one step
    rises [@wong2020]. Nothing in the training loss tells; this does.

    Args:
        data: validation samples.
        eps: radius of the l-inf ball that is trained in.
        steps: of PGD.
        samples: how many are attacked at each record, drawn once; 0 for all.
        gap: share of samples that FGSM leaves right and PGD breaks from which on it is called overfitting; PGD must also
            have fallen below half of the best seen.
        seed: of samples and starts.

    Attributes:
        message: what was noticed; empty where nothing was.
    """

    title: ClassVar[str] = "catastrophic overfitting"
    series: ClassVar[dict[str, Series]] = {
        "fgsm_val_accuracy": Series("Accuracy under FGSM", "validation accuracy"),
        "pgd_val_accuracy": Series(
            "Accuracy under PGD", "validation accuracy", caption="It must not fall while FGSM's rises."
        ),
    }

    def __init__(
        self,
        data: Dataset,
        *,
        eps: float = 8 / 255,
        steps: int = 10,
        samples: int = 256,
        gap: float = 0.15,
        seed: int = 0,
    ) -> None:
        if not 0 < gap < 1:
            raise InputError(f"gap is {gap}.", "Give a share of samples between 0 and 1, such as 0.15.")
        self._watched = BestRobust(data, eps=eps, steps=steps, samples=samples, seed=seed)
        self.gap, self.best, self.records, self.message = gap, 0.0, 0, ""

    def observe(self, model: nn.Module) -> dict[str, float]:
        one = self._watched
        device = next(model.parameters()).device
        once, often = (
            standing(model, one.x.to(device), one.y.to(device), eps=one.eps, steps=steps, seed=one.seed)
            for steps in (1, one.steps)
        )
        self.records += 1
        # A network that was never robust has parted as well: the best it could have been is what FGSM says.
        if once - often > self.gap and often < max(self.best, once) / 2 and not self.message:
            self.message = (
                f"Catastrophic overfitting at record {self.records}: {100 * once:.0f} % stand under FGSM and {100 * often:.0f} % under "
                f"PGD-{one.steps}. Shorten alpha, ramp eps, take a few steps of PGD, or keep the best robust checkpoint."
            )
            log.warning(self.message)
        self.best = max(self.best, often)
        return {"fgsm_val_accuracy": once, "pgd_val_accuracy": often, "overfitted": float(bool(self.message))}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "records": self.records, "message": self.message}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.records, self.message = state["best"], state["records"], state["message"]
