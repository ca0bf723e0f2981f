"""Backpropagation through a multi-layer perceptron, written out.

With ``h_j = W_j z_{j-1} + b_j``, ``z_j = f_j(h_j)``, ``z_0 = x`` and the loss ``1/2 |z_J - t|^2`` of a sample:

    delta_J = f_J'(h_J)^T (z_J - t),   delta_j = f_j'(h_j)^T W_{j+1}^T delta_{j+1},
    dW_j = delta_j z_{j-1}^T + lam W_j,   db_j = delta_j + lam b_j

(the study of one network over many workers, eq. 3 to 6; f' is the full Jacobian, which matters for softmax).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gracile.core.errors import InputError, pick
from gracile.models.activations import ACTIVATIONS

Loss = Literal["squared", "cross_entropy"]
Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class MlpGradients:
    """What `mlp_gradients` returns.

    Attributes:
        loss: scalar, over the batch, with the penalty ``lam/2 (|W|^2 + |b|^2)``.
        outputs: z_J, (n, classes).
        weights: per layer, shaped as its weight (outputs, inputs).
        biases: per layer, (outputs,); None for layers without one.
    """

    loss: Tensor
    outputs: Tensor
    weights: list[Tensor]
    biases: list[Tensor | None]


def mlp_gradients(
    weights: Sequence[Tensor],
    x: Tensor,
    targets: Tensor,
    *,
    activations: Sequence[str],
    biases: Sequence[Tensor | None] | None = None,
    lam: float = 0.0,
    loss: Loss = "squared",
    reduction: Reduction = "mean",
) -> MlpGradients:
    """Loss and gradients of a multi-layer perceptron, by formula and without autograd.

    Args:
        weights: per layer (outputs, inputs).
        x: (n, features).
        targets: (n, classes), one-hot or other.
        activations: per layer a row of `gracile.models.ACTIVATIONS`.
        biases: per layer (outputs,) or None; none at all by default.
        lam: of the penalty, at least 0; counted once, whatever `reduction` is.
        loss: ``squared`` is ``1/2 |z_J - t|^2``; ``cross_entropy`` is ``-<t, log z_J>`` after a softmax, for targets
            that sum to 1.
        reduction: over the samples of the batch.

    Raises:
        InputError: shapes or numbers of layers do not fit; cross-entropy without a softmax before it.

    Example:
        >>> import torch
        >>> from gracile.models import mlp_gradients
        >>> W = [torch.eye(2), torch.eye(2)]
        >>> found = mlp_gradients(W, torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), activations=["relu", "linear"])
        >>> found.loss.item(), found.weights[0].tolist()
        (2.5, [[1.0, 2.0], [2.0, 4.0]])
    """
    offsets = _checked(weights, biases, x, targets, activations, loss)
    with torch.no_grad():
        hidden, values = _forward(weights, offsets, x, activations)
        value = _value(hidden[-1], values[-1], targets, loss, reduction)
        if lam:
            everything = [*weights, *(one for one in offsets if one is not None)]
            value = value + lam / 2 * torch.stack([one.square().sum() for one in everything]).sum()
        scale = 1 / len(x) if reduction == "mean" else 1.0
        made_weights: list[Tensor] = [torch.empty(0)] * len(weights)
        made_biases: list[Tensor | None] = [None] * len(weights)
        for layer, delta, below in _deltas(weights, hidden, values, targets, activations, loss):
            made_weights[layer] = torch.addmm(weights[layer], delta.t(), below, beta=lam, alpha=scale)
            bias = offsets[layer]
            if bias is not None:
                made_biases[layer] = scale * delta.sum(dim=0) + lam * bias
    return MlpGradients(value, values[-1], made_weights, made_biases)


def sgd_step_(
    weights: Sequence[Tensor],
    x: Tensor,
    targets: Tensor,
    *,
    activations: Sequence[str],
    lr: float,
    biases: Sequence[Tensor | None] | None = None,
    lam: float = 0.0,
    loss: Loss = "squared",
    reduction: Reduction = "mean",
) -> tuple[Tensor, Tensor]:
    """A step of gradient descent along `mlp_gradients`, each layer in one pass over its weight and no gradient kept.

    At batch 1 the passes over the weights are all the time there is: this makes three where autograd and an optimiser
    make eight.

    Args:
        weights: changed in place.
        x: see `mlp_gradients`, as for the rest.
        targets: (n, classes).
        activations: one per layer.
        lr: step size.
        biases: changed in place.
        lam: coefficient of the penalty.
        loss: ``squared`` or ``cross_entropy``.
        reduction: over the samples of the batch.

    Returns:
        The loss before the step, without the penalty, and the outputs (n, classes).

    Raises:
        InputError: as `mlp_gradients`.
    """
    offsets = _checked(weights, biases, x, targets, activations, loss)
    with torch.no_grad():
        hidden, values = _forward(weights, offsets, x, activations)
        value = _value(hidden[-1], values[-1], targets, loss, reduction)
        step = lr / len(x) if reduction == "mean" else lr
        for layer, delta, below in _deltas(weights, hidden, values, targets, activations, loss):
            if len(x) == 1:
                weights[layer].addr_(delta[0], below[0], beta=1 - lr * lam, alpha=-step)
            else:
                weights[layer].addmm_(delta.t(), below, beta=1 - lr * lam, alpha=-step)
            bias = offsets[layer]
            if bias is not None:
                bias.mul_(1 - lr * lam).sub_(delta.sum(dim=0), alpha=step)
    return value, values[-1]


def _checked(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None] | None, x: Tensor, targets: Tensor,
    activations: Sequence[str], loss: str,
) -> Sequence[Tensor | None]:  # fmt: skip
    offsets: Sequence[Tensor | None] = [None] * len(weights) if biases is None else biases
    if not len(weights) == len(activations) == len(offsets) or not weights:
        raise InputError(
            f"{len(weights)} weights, {len(offsets)} biases and {len(activations)} activations make no perceptron.",
            "Give one of each per layer, and at least one layer.",
        )
    for name in activations:
        pick(ACTIVATIONS, name, "activation")
    sizes = [x.shape[-1], *(one.shape[0] for one in weights)]
    wrong = any(one.shape != (made, read) for one, read, made in zip(weights, sizes, sizes[1:], strict=False))
    if x.dim() != 2 or wrong or targets.shape != (len(x), sizes[-1]):
        shapes = [tuple(one.shape) for one in weights]
        raise InputError(
            f"Inputs {tuple(x.shape)}, weights {shapes} and targets {tuple(targets.shape)} do not fit together.",
            "Give inputs (n, features), weights (outputs, inputs) and targets (n, classes).",
        )
    if loss == "cross_entropy" and activations[-1] != "softmax":
        raise InputError(
            f"Cross-entropy was asked of outputs of '{activations[-1]}'.", "Make the last activation 'softmax'."
        )
    return offsets


def _forward(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None], x: Tensor, activations: Sequence[str]
) -> tuple[list[Tensor], list[Tensor]]:
    """h_1 to h_J, and z_0 to z_J."""
    hidden, values = [], [x]
    for weight, bias, name in zip(weights, biases, activations, strict=True):
        hidden.append(torch.nn.functional.linear(values[-1], weight, bias))
        values.append(_FUNCTIONS[name](hidden[-1]))
    return hidden, values


def _deltas(
    weights: Sequence[Tensor], hidden: Sequence[Tensor], values: Sequence[Tensor], targets: Tensor,
    activations: Sequence[str], loss: str,
) -> Iterator[tuple[int, Tensor, Tensor]]:  # fmt: skip
    """From the last layer to the first: its number, delta_j (n, outputs) and z_{j-1} (n, inputs).

    The weight of a layer is read before its item is given, so that whoever gets the item may change it.
    """
    delta = values[-1] - targets
    # After a softmax the Jacobian and the derivative of the logarithm cancel: cross-entropy's delta is the plain error.
    if loss == "squared":
        delta = ACTIVATIONS[activations[-1]].pull(hidden[-1], values[-1], delta)
    for layer in range(len(weights) - 1, -1, -1):
        back = None if layer == 0 else delta @ weights[layer]
        yield layer, delta, values[layer]
        if back is not None:
            delta = ACTIVATIONS[activations[layer - 1]].pull(hidden[layer - 1], values[layer], back)


def _value(h: Tensor, outputs: Tensor, targets: Tensor, loss: str, reduction: str) -> Tensor:
    log = loss == "cross_entropy"
    each = -(targets * h.log_softmax(dim=1)).sum(dim=1) if log else (outputs - targets).square().sum(dim=1) / 2
    return each.mean() if reduction == "mean" else each.sum()


_FUNCTIONS = {name: row.module() for name, row in ACTIVATIONS.items()}
