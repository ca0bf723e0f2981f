"""Explicit backpropagation against autograd, and one step of it against an optimiser's."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.models import ACTIVATIONS, mlp, mlp_gradients, sgd_step_
from gracile.models.backpropagation import Loss, Reduction

LAM = 0.1


def network(hidden: str, output: str, bias: bool) -> tuple[nn.Sequential, list[nn.Linear], Tensor, Tensor]:
    """A perceptron of three layers in float64, one batch, and targets that are classes."""
    torch.manual_seed(3)
    model = mlp(in_features=5, widths=(6, 4), num_classes=3, activation=hidden, output=output, bias=bias).double()
    layers = [one for one in model if isinstance(one, nn.Linear)]
    for one in layers:
        if one.bias is not None:
            nn.init.normal_(one.bias, std=0.3)
    x = torch.randn(7, 5, dtype=torch.float64)
    return model, layers, x, torch.eye(3, dtype=torch.float64)[torch.randint(3, (7,))]


def by_autograd(
    model: nn.Sequential, x: Tensor, targets: Tensor, loss: Loss = "squared", reduction: Reduction = "mean"
) -> Tensor:
    z = model(x)
    each = (z - targets).square().sum(1) / 2 if loss == "squared" else -(targets * z.log()).sum(1)
    penalty = torch.stack([one.square().sum() for one in model.parameters()]).sum()
    value = (each.mean() if reduction == "mean" else each.sum()) + LAM / 2 * penalty
    value.backward()
    return value


def by_formula(layers: list[nn.Linear], x: Tensor, targets: Tensor, activations: list[str], **how):
    weights, biases = [one.weight for one in layers], [one.bias for one in layers]
    return mlp_gradients(weights, x, targets, activations=activations, biases=biases, lam=LAM, **how)


def assert_same(layers: list[nn.Linear], found) -> None:
    for layer, weight, bias in zip(layers, found.weights, found.biases, strict=True):
        torch.testing.assert_close(weight, layer.weight.grad, rtol=0, atol=1e-10)
        assert (bias is None) == (layer.bias is None)
        if bias is not None:
            torch.testing.assert_close(bias, layer.bias.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("hidden", "output"), list(itertools.product(ACTIVATIONS, ACTIVATIONS)))
def test_every_pair_of_activations_agrees_with_autograd(hidden: str, output: str) -> None:
    for bias in (True, False):
        model, layers, x, targets = network(hidden, output, bias)
        value = by_autograd(model, x, targets)
        found = by_formula(layers, x, targets, [hidden, hidden, output])
        torch.testing.assert_close(found.loss, value.detach(), rtol=0, atol=1e-10)
        torch.testing.assert_close(found.outputs, model(x).detach(), rtol=0, atol=1e-12)
        assert_same(layers, found)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_losses_and_reductions_agree_with_autograd(loss: Loss, reduction: Reduction) -> None:
    model, layers, x, targets = network("selu", "softmax", True)
    value = by_autograd(model, x, targets, loss, reduction)
    found = by_formula(layers, x, targets, ["selu", "selu", "softmax"], loss=loss, reduction=reduction)
    torch.testing.assert_close(found.loss, value.detach(), rtol=0, atol=1e-10)
    assert_same(layers, found)


@pytest.mark.parametrize("samples", [1, 7])
@pytest.mark.parametrize("bias", [True, False])
def test_a_step_is_that_of_an_optimiser_with_weight_decay(samples: int, bias: bool) -> None:
    model, layers, x, targets = network("selu", "softmax", bias)
    x, targets = x[:samples], targets[:samples]
    copies = [one.weight.detach().clone() for one in layers]
    offsets = [None if one.bias is None else one.bias.detach().clone() for one in layers]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, weight_decay=LAM)
    for _ in range(3):
        optimizer.zero_grad()
        z = model(x)
        ((z - targets).square().sum(1) / 2).mean().backward()
        optimizer.step()
        loss, outputs = sgd_step_(
            copies, x, targets, biases=offsets, activations=["selu", "selu", "softmax"], lr=0.3, lam=LAM
        )
        torch.testing.assert_close(outputs, z.detach())
        assert loss.item() == pytest.approx((z - targets).square().sum(1).mean().item() / 2)
    for layer, weight, offset in zip(layers, copies, offsets, strict=True):
        torch.testing.assert_close(weight, layer.weight.detach())
        if offset is not None:
            torch.testing.assert_close(offset, layer.bias.detach())


def test_what_does_not_fit_is_refused() -> None:
    _, layers, x, targets = network("relu", "linear", False)
    weights = [one.weight for one in layers]
    wrong = [
        ({"activations": ["relu", "linear"]}, "3 weights, 3 biases and 2 activations"),
        ({"activations": ["relu", "rleu", "linear"]}, "Did you mean 'relu'"),
        ({"activations": ["relu", "relu", "linear"], "loss": "cross_entropy"}, "Cross-entropy was asked of outputs"),
    ]
    for how, message in wrong:
        with pytest.raises(InputError, match=message):
            mlp_gradients(weights, x, targets, **how)
    with pytest.raises(InputError, match="do not fit together"):
        mlp_gradients(weights, x[:, :4], targets, activations=["relu", "relu", "linear"])
