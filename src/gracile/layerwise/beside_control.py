"""ReDense in a trained network, on samples held out, beside the control that has the same budget: retraining its last layer."""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gracile.core.collapse import collapse_of
from gracile.layerwise.redense import ReDense, retrain_features
from gracile.layerwise.softmax import Features, HeldOutCurve, SoftmaxFit

Samples = tuple[Tensor, Tensor]
# Test samples on which the new network is compared with the old one before it is trained.
COMPARED = 1000


class BesideControl:
    """What several ReDense layers in one network share: the features before its last layer, found once.

    Args:
        model: trained, in evaluation mode; it stays as it is.
        train: inputs and labels that the new layers learn.
        test: inputs and labels held out.
    """

    def __init__(self, model: nn.Module, train: Samples, test: Samples) -> None:
        self.model, self.train, self.test = model, train, test

    @cached_property
    def features(self) -> tuple[Samples, Samples]:
        """What the network makes of training and test samples before its last layer, with their labels."""
        last = ReDense(self.model)
        return last.features(self.train), last.features(self.test)

    def at_the_end(
        self, *, m: int | None = None, matrix: str = "orthonormal", seed: int = 0, **options: Any
    ) -> dict[str, Any]:
        """ReDense at the last layer.

        Args:
            m: rows of R; the features' own number by default.
            matrix: of R, see `ReDense`.
            seed: of R.
            options: ``epochs``, ``method`` and ``lr`` of `softmax.fit_softmax`.

        Returns:
            What `inside` does, and ``m``; the ``norm`` of the weights; the ``curve`` of test loss and accuracy by epoch.
        """
        wider = ReDense(self.model, m=m, matrix=matrix, seed=seed)
        data, test = self.features
        seen, difference, began = (
            HeldOutCurve(Features(*test, wider.expand)),
            self._difference(wider),
            time.perf_counter(),
        )
        fitted = wider.fit_features(*data, **options, monitor=seen)
        return {
            "m": len(fitted.weights) // 2, "redense": seen.measured(fitted.weights, fitted.bias)[1],
            "seconds": time.perf_counter() - began, "eps": wider.eps, "start_difference": difference,
            "norm": float(torch.linalg.vector_norm(fitted.weights)), **_losses(fitted), "curve": seen.rows,
            "collapsed": seen.collapsed(fitted.weights, fitted.bias),
        }  # fmt: skip

    def control(self, **options: Any) -> dict[str, Any]:
        """The network's own last layer trained on with the same options, without a ball.

        Returns:
            ``control``: test accuracy in percent; ``kept_loss``, ``losses`` and ``curve`` as of `at_the_end`, behind ``control_``.
        """
        data, test = self.features
        plain = HeldOutCurve(Features(*test))
        fitted = retrain_features(self.model, *data, **options, monitor=plain)
        numbers = {**_losses(fitted), "curve": plain.rows}
        accuracy = plain.measured(fitted.weights, fitted.bias)[1]
        return {"control": accuracy, **{f"control_{key}": value for key, value in numbers.items()}}

    def inside(self, layer: str, *, epochs: int, lr: float, seed: int = 0) -> dict[str, Any]:
        """ReDense at a layer inside the network, trained in batches by Adam.

        Args:
            layer: its name.
            epochs: passes over the training samples.
            lr: of Adam.
            seed: of R and the order of batches.

        Returns:
            ``redense``: test accuracy in percent; ``seconds`` of the training; ``eps``, the ball's radius; ``start_difference``: the
            largest difference of a predicted probability before training; ``losses`` by epoch, and ``kept_loss``, the least.
        """
        wider = ReDense(self.model, layer=layer, seed=seed)
        difference, began = self._difference(wider), time.perf_counter()
        fitted = wider.fit(self.train, epochs=epochs, lr=lr, seed=seed)
        seconds = time.perf_counter() - began
        return {
            "redense": self.accuracy(wider), "seconds": seconds, "eps": wider.eps, "start_difference": difference,
            **_losses(fitted), "collapsed": self.collapsed(wider),
        }  # fmt: skip

    def accuracy(self, model: nn.Module) -> float:
        """Percent of the test samples that a network classifies rightly."""
        return 100 * (int((self._answers(model) == self.test[1]).sum()) / len(self.test[1]))

    def collapsed(self, model: nn.Module) -> str:
        """How a network has failed as a whole on the test samples (`gracile.core.collapse.collapse`); empty where it has not."""
        return collapse_of(self.test[1], self._answers(model))

    @torch.no_grad()
    def _answers(self, model: nn.Module, batch_size: int = 500) -> Tensor:
        return torch.cat([model(x).argmax(1) for x in self.test[0].split(batch_size)])

    @torch.no_grad()
    def _difference(self, wider: ReDense) -> float:
        before, after = (net(self.test[0][:COMPARED]).softmax(1) for net in (self.model, wider))
        return float((before - after).abs().max())


def _losses(fitted: SoftmaxFit) -> dict[str, Any]:
    return {"kept_loss": min(fitted.losses), "losses": fitted.losses}
