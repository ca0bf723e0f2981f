"""Softmax regression in a norm ball on fixed features, full batch: what ReDense trains, and its control.

    minimise mean cross-entropy of Y O + b  subject to  |O|_F <= eps

"monotone" is accelerated projected gradient descent with backtracking and a restart whenever a step would raise the
loss: the loss of the iterates never rises. "adam" is the published choice (full-batch Adam, projected after every
step), whose loss may rise; the best iterate is then returned, the start among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gracile.core.collapse import collapse_of
from gracile.core.errors import InputError, NonFiniteError
from gracile.layerwise.least_squares import project

Monitor = Callable[[int, float, Tensor, Tensor], None]
"""Called after each epoch, and before the first with 0: epoch, training loss, weights (n, Q), bias (Q,)."""


class Features:
    """Fixed features of J samples, kept where they fit into `keep` bytes and computed anew at each pass otherwise.

    Args:
        inputs: H (J, k).
        labels: (J,) from 0 to Q - 1.
        transform: rows of H (b, k) to features (b, n).
        keep: bytes.
    """

    def __init__(
        self, inputs: Tensor, labels: Tensor, transform: Callable[[Tensor], Tensor] | None = None, keep: int = 2**30
    ) -> None:
        self.labels = labels
        rows = 8192
        transform = transform or (lambda h: h)
        width = transform(inputs[:1]).shape[1]
        self._parts = list(inputs.split(rows))
        self._transform = transform
        if len(inputs) * width * inputs.element_size() <= keep:
            self._parts = [transform(part) for part in self._parts]
            self._transform = lambda y: y
        self._rows = rows

    def logits(self, weights: Tensor, bias: Tensor) -> Tensor:
        """Y O + b (J, Q)."""
        return torch.cat([torch.addmm(bias, self._transform(part), weights) for part in self._parts])

    def gradient(self, slopes: Tensor) -> Tensor:
        """Y' S (n, Q) from S (J, Q)."""
        total = 0.0
        for part, slope in zip(self._parts, slopes.split(self._rows), strict=True):
            # S'Y runs three times as fast as Y'S: the thin matrix comes first, as it lies in memory.
            total = total + slope.T.contiguous() @ self._transform(part)
        return torch.as_tensor(total).T.contiguous()

    def mean_square(self) -> float:
        """The mean squared norm of a row, with the constant one of the bias."""
        return 1 + sum(float(self._transform(part).square().sum()) for part in self._parts) / len(self.labels)


@dataclass(frozen=True)
class SoftmaxFit:
    """Where the training ended.

    Attributes:
        weights: (n, Q).
        bias: (Q,).
        losses: mean cross-entropy over the training samples, before the first epoch and after each.
    """

    weights: Tensor
    bias: Tensor
    losses: list[float]


class HeldOutCurve:
    """A `Monitor` that keeps loss and accuracy on samples held out, after each epoch.

    Args:
        features: of those samples, as those of the training.

    Attributes:
        rows: (loss in nats, accuracy in percent), the start first.
    """

    def __init__(self, features: Features) -> None:
        self.features = features
        self.rows: list[tuple[float, float]] = []

    def __call__(self, epoch: int, loss: float, weights: Tensor, bias: Tensor) -> None:
        self.rows.append(self.measured(weights, bias))

    def collapsed(self, weights: Tensor, bias: Tensor) -> str:
        """How the layer has failed as a whole with these weights; empty where it has not."""
        return collapse_of(self.features.labels, self.features.logits(weights, bias).argmax(1))

    def measured(self, weights: Tensor, bias: Tensor) -> tuple[float, float]:
        """Loss and accuracy with these weights."""
        logits, labels = self.features.logits(weights, bias), self.features.labels
        return float(nn.functional.cross_entropy(logits, labels)), 100 * float(
            (logits.argmax(1) == labels).double().mean()
        )


@torch.no_grad()
def fit_softmax(
    features: Features,
    weights: Tensor,
    bias: Tensor,
    *,
    eps: float = math.inf,
    epochs: int = 300,
    method: str = "monotone",
    lr: float = 1e-3,
    monitor: Monitor | None = None,
) -> SoftmaxFit:
    """Train from a start; see the module's head.

    Args:
        features: Y and the labels.
        weights: start (n, Q), in the ball.
        bias: start (Q,); it is not in the ball.
        eps: radius.
        epochs: full-batch steps.
        method: "monotone" or "adam".
        lr: of Adam.
        monitor: see `Monitor`.

    Raises:
        InputError: no such method.
        NonFiniteError: the loss is NaN at the start.
    """
    methods = {"monotone": _monotone, "adam": _adam}
    if method not in methods:
        raise InputError(f"There is no method '{method}'.", "Choose 'monotone' or 'adam'.")
    if not math.isfinite(_loss(features.logits(weights, bias), features.labels)):
        raise NonFiniteError("The network's outputs are NaN or infinite.", "Check its weights and inputs.")
    return methods[method](features, weights, bias, eps, epochs, lr, monitor or (lambda *_: None))


def _monotone(
    features: Features, weights: Tensor, bias: Tensor, eps: float, epochs: int, lr: float, monitor: Monitor
) -> SoftmaxFit:
    del lr  # The step comes from backtracking.
    at = old = _Point(weights, bias, features.logits(weights, bias), features.labels)
    # The Hessian's largest eigenvalue is at most half the mean squared norm of a sample; a bound this loose only starts
    # the search.
    curvature = features.mean_square() / 2 / 16
    momentum = 1.0
    losses = [at.loss]
    monitor(0, at.loss, at.weights, at.bias)
    for epoch in range(1, epochs + 1):
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = at.beyond(old, (momentum - 1) / following)
        new, curvature = _step(features, ahead, curvature, eps)
        momentum = following
        if new.loss > at.loss:
            new, curvature = _step(features, at, curvature, eps)
            momentum = 1.0
            if new.loss > at.loss:
                # Nothing but rounding is left to gain.
                new = at
        old, at = at, new
        losses.append(at.loss)
        monitor(epoch, at.loss, at.weights, at.bias)
    return SoftmaxFit(at.weights, at.bias, losses)


class _Point:
    """Weights with their logits, which are linear in them, so that points on a line cost no pass over the features."""

    def __init__(self, weights: Tensor, bias: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.weights, self.bias, self.logits, self.labels = weights, bias, logits, labels
        self.loss = _loss(logits, labels)

    def beyond(self, old: _Point, share: float) -> _Point:
        go = lambda new, before: new + share * (new - before)
        return (
            self
            if share == 0
            else _Point(
                go(self.weights, old.weights), go(self.bias, old.bias), go(self.logits, old.logits), self.labels
            )
        )


def _step(features: Features, point: _Point, curvature: float, eps: float) -> tuple[_Point, float]:
    """A projected gradient step, its length by backtracking; returns the new point and the curvature to try next."""
    slopes = _slopes(point.logits, point.labels)
    grad_weights, grad_bias = features.gradient(slopes), slopes.sum(0)
    curvature *= 0.8
    while True:
        weights = project(point.weights - grad_weights / curvature, eps)
        bias = point.bias - grad_bias / curvature
        new = _Point(weights, bias, features.logits(weights, bias), point.labels)
        dw, db = weights - point.weights, bias - point.bias
        model = float((grad_weights * dw).sum() + (grad_bias * db).sum()) + curvature / 2 * float(
            dw.square().sum() + db.square().sum()
        )
        # float32 sums over many samples carry about seven digits; below that no step can be told from another.
        if new.loss <= point.loss + model + 1e-6 * abs(point.loss) or curvature > 1e12:
            return new, curvature
        curvature *= 2


def _adam(
    features: Features, weights: Tensor, bias: Tensor, eps: float, epochs: int, lr: float, monitor: Monitor
) -> SoftmaxFit:
    weights, bias = nn.Parameter(weights.clone()), nn.Parameter(bias.clone())
    optimizer = torch.optim.Adam([weights, bias], lr=lr)
    best: tuple[float, Tensor, Tensor] | None = None
    losses: list[float] = []
    for epoch in range(epochs + 1):
        logits = features.logits(weights, bias)
        loss = _loss(logits, features.labels)
        losses.append(loss)
        monitor(epoch, loss, weights.data, bias.data)
        if best is None or loss < best[0]:
            best = (loss, weights.data.clone(), bias.data.clone())
        if epoch == epochs:
            break
        slopes = _slopes(logits, features.labels)
        weights.grad, bias.grad = features.gradient(slopes), slopes.sum(0)
        optimizer.step()
        weights.data = project(weights.data, eps)
    assert best is not None
    return SoftmaxFit(best[1], best[2], losses)


def _loss(logits: Tensor, labels: Tensor) -> float:
    # Summed in float64: a mean of 1e5 float32 numbers is not exact enough to tell two steps near the optimum apart.
    return float(nn.functional.cross_entropy(logits, labels, reduction="none").double().mean())


def _slopes(logits: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the mean cross-entropy in the logits (J, Q)."""
    slopes = logits.softmax(1)
    slopes[torch.arange(len(labels), device=labels.device), labels] -= 1
    return slopes / len(labels)
