"""The laws of sparsity under forward-forward, as derivatives [@yang2023, theorems 1 and 2].

A step that moves the activations of a sample by ``dh`` moves its Hoyer sparsity by

    dS = (|h|_1 <h, dh> / |h|_2 - |h|_2 sum dh) / (|h|_2^2 (sqrt(n) - 1)),

with sum and product over active units. The step on a layer's weights, ``dW = -2 eta sum_k c_k h_k x_k^T``, moves sample
i by ``dh = -2 eta m_i * sum_k c_k <x_k, x_i> h_k``: two matrix products for a whole batch. Theorem 1 is c = 1, theorem
2 c = +1 on negatives and -1 on positives, other losses have other c. Printed as a quotient theorem 1 turns round where
its denominator is negative; the products compared here do not.

A derivative is exact at any width, and says nothing of finite steps but what a derivative says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from gracile.core.errors import InputError, pick
from gracile.forward_forward.losses import LOSSES
from gracile.forward_forward.network import FFNetwork

Pair = tuple[Tensor, Tensor]
"""Inputs (b, m) of a layer and its activations (b, n)."""
Undefined = Literal["raise", "nan"]

# How far from 1 the length of an input may be where a law takes it for 1.
UNIT = 1e-4


@dataclass(frozen=True)
class SparsityChange:
    """What a small step does to the sparsity of each sample.

    Attributes:
        sparser: (b,) whether ``left < right``, that is whether sparsity rises; False where it is undefined.
        left: (b,) ``|h|_1 B``.
        right: (b,) ``|h|_2 A``.
        derivative: (b,) of S by the step size, at 0.
    """

    sparser: Tensor
    left: Tensor
    right: Tensor
    derivative: Tensor


def hoyer_sparsity(h: Tensor, *, undefined: Undefined = "raise") -> Tensor:
    """Hoyer's sparsity ``(sqrt(n) - |h|_1 / |h|_2) / (sqrt(n) - 1)``: 0 where all entries are as large, 1 where one is not 0.

    Args:
        h: (..., n), n at least 2.
        undefined: what is done with rows of zeros, which have no sparsity: an error, or NaN.

    Returns:
        (...), in [0, 1].

    Raises:
        InputError: a row of zeros, or n < 2.
    """
    _check_width(h)
    length = torch.linalg.vector_norm(h, dim=-1)
    _check_active(length, undefined)
    root = math.sqrt(h.shape[-1])
    return (root - h.abs().sum(-1) / length) / (root - 1)


def theorem1(
    x: Tensor,
    h: Tensor,
    batch: Pair,
    *,
    increase: bool = False,
    bias: bool = False,
    unit_length: bool = True,
    undefined: Undefined = "raise",
) -> SparsityChange:
    """The goodness of a batch is decreased by a small step on the layer's weights: what becomes of each sample.

    Args:
        x: (b, m) inputs of the samples asked about.
        h: (b, n) their activations before the step.
        batch: inputs and activations of the batch stepped on, often the same.
        increase: the step goes up instead.
        bias: the layer has a trained bias, which adds 1 to every product of inputs.
        unit_length: the theorem's assumption, checked; False takes products for cosines, which holds for any length.
        undefined: what is done with samples that activate nothing.

    Raises:
        InputError: inputs not of unit length, shapes that do not fit, or a sample that activates nothing.
    """
    _check_pair(x, h, "the samples")
    _check_unit((x, batch[0]), unit_length)
    ones = torch.ones_like(batch[1][:, 0])
    return _law(x, h, [(*batch, -ones if increase else ones)], bias, undefined)


def theorem2(
    x: Tensor,
    h: Tensor,
    positive: Pair,
    negative: Pair,
    *,
    loss: str = "difference",
    threshold: float = 0.0,
    sharpness: float = 1.0,
    bias: bool = False,
    unit_length: bool = True,
    undefined: Undefined = "raise",
) -> SparsityChange:
    """Forward-forward takes a small step on the sum of a loss over a batch of pairs: what becomes of each sample.

    With ``loss="difference"`` this is theorem 2 as published; the other rows of `LOSSES` weigh each sample by the
    loss's derivative in its goodness, the squared sum.

    Args:
        x: (b, m) inputs of the samples asked about, positive, negative or neither.
        h: (b, n) their activations before the step.
        positive: inputs (k, m) and activations (k, n) of the positive batch.
        negative: those of the negative batch; as many as positive ones where the loss compares them in pairs.
        loss: a row of `LOSSES`.
        threshold: of the loss.
        sharpness: of the loss.
        bias: see `theorem1`.
        unit_length: see `theorem1`.
        undefined: see `theorem1`.

    Raises:
        InputError: inputs not of unit length, shapes that do not fit, a sample that activates nothing, or a negative
            sample that equals its positive one.
    """
    _check_pair(x, h, "the samples")
    _check_pair(*positive, "the positive batch")
    _check_pair(*negative, "the negative batch")
    _check_unit((x, positive[0], negative[0]), unit_length)
    if positive[0].shape == negative[0].shape and bool((positive[0] == negative[0]).all(1).any()):
        raise InputError(
            "A negative sample equals its positive one, so the step they ask for is none.",
            "Draw negative labels that differ from the right ones.",
        )
    local = pick(LOSSES, loss, "loss")(positive[1].square().sum(1), negative[1].square().sum(1), threshold, sharpness)
    return _law(x, h, [(*positive, local.by_positive), (*negative, local.by_negative)], bias, undefined)


@torch.no_grad()
def network_changes(
    network: FFNetwork, x: Tensor, y: Tensor, wrong: Tensor, shown: Tensor, *, undefined: Undefined = "raise"
) -> list[SparsityChange]:
    """A small step of plain gradient descent on a whole network: what becomes of each sample in every layer.

    Extends the theorems to deeper layers, whose inputs move with the layers before them, and to every goodness, loss
    and normalisation: tangents are carried forward through the network beside the activations.

    Args:
        network: steps on the mean local losses of the batch, all layers at once; not changed.
        x: (b, ...) inputs of the batch.
        y: its right labels, as `FFNetwork.gradients` takes them.
        wrong: its wrong labels, likewise.
        shown: (b,) the labels with which the samples asked about are shown: `y` for the positive ones, `wrong` for the
            negative.
        undefined: see `theorem1`.

    Returns:
        One per layer.
    """
    kept = [parameter.grad for parameter in network.parameters()]
    network.gradients(x, y, wrong)
    inputs, moving, found = network.rows(x, shown), None, []
    for layer in network.linear:
        h = torch.relu(layer(inputs))
        # The step goes against the gradient, and activations fall where it is positive.
        fall = inputs @ cast(Tensor, layer.weight.grad).T
        if layer.bias is not None:
            fall += cast(Tensor, layer.bias.grad)
        if moving is not None:
            fall += moving @ layer.weight.T
        fall *= h > 0
        found.append(_change(h, fall, undefined))
        inputs, moving = network.normalization.moved(h, fall)
    for parameter, gradient in zip(network.parameters(), kept, strict=True):
        parameter.grad = gradient
    return found


def _law(
    x: Tensor, h: Tensor, batches: list[tuple[Tensor, Tensor, Tensor]], bias: bool, undefined: Undefined
) -> SparsityChange:
    """The change under ``dW = -2 eta sum c h x^T`` over batches of (x, h, c)."""
    inputs = torch.cat([one for one, _, _ in batches])
    weighted = torch.cat([c[:, None] * one for _, one, c in batches])
    if inputs.shape[1] != x.shape[1] or weighted.shape[1] != h.shape[1]:
        raise InputError(
            f"Samples of {x.shape[1]} inputs and {h.shape[1]} units meet a batch of {inputs.shape[1]} and {weighted.shape[1]}.",
            "Give inputs and activations of one layer.",
        )
    products = x @ inputs.T
    if bias:
        products += 1
    change = _change(h, (products @ weighted).mul_(h > 0), undefined)
    return SparsityChange(change.sparser, change.left, change.right, 2 * change.derivative)


def _change(h: Tensor, fall: Tensor, undefined: Undefined) -> SparsityChange:
    """What becomes of the sparsity of h (b, n) as it moves along ``-fall`` (b, n), which is 0 where h is."""
    _check_width(h)
    length = torch.linalg.vector_norm(h, dim=1)
    _check_active(length, undefined)
    a, b = fall.sum(1), torch.linalg.vecdot(fall, h) / length
    left, right = h.sum(1) * b, length * a
    derivative = (right - left) / (length.square() * (math.sqrt(h.shape[1]) - 1))
    return SparsityChange(left < right, left, right, derivative)


def _check_width(h: Tensor) -> None:
    if h.ndim < 1 or h.shape[-1] < 2:
        raise InputError(
            f"Sparsity is not defined for a layer of shape {tuple(h.shape)}.", "Give (..., n) with n from 2 up."
        )


def _check_active(length: Tensor, undefined: Undefined) -> None:
    if undefined == "raise" and bool((length == 0).any()):
        raise InputError(
            f"{int((length == 0).sum())} of {length.numel()} samples activate nothing; the sparsity of zeros is undefined.",
            "Leave them out, or pass undefined='nan'.",
        )


def _check_pair(x: Tensor, h: Tensor, what: str) -> None:
    if x.ndim != 2 or h.ndim != 2 or len(x) != len(h):
        raise InputError(
            f"Inputs {tuple(x.shape)} and activations {tuple(h.shape)} of {what} do not fit.",
            "Give (b, m) and (b, n).",
        )
    if bool((h < 0).any()):
        raise InputError(f"The activations of {what} hold negative numbers.", "Give what comes after the relu.")


def _check_unit(inputs: tuple[Tensor, ...], unit_length: bool) -> None:
    for x in inputs:
        off = (torch.linalg.vector_norm(x, dim=1) - 1).abs().max() if len(x) else 0.0
        if unit_length and not off <= UNIT:
            raise InputError(
                f"The theorem assumes inputs of length 1, and one is off by {float(off):.3g}.",
                "Divide by their length, or pass unit_length=False, which holds for any.",
            )
