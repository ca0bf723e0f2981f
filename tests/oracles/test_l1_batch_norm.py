"""l1 batch-norm against its formula written plainly: forward, backward, running statistics, export, removal of channels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gracile.channels import trace
from gracile.core.errors import InputError
from gracile.export import export_onnx
from gracile.models import L1BatchNorm1d, L1BatchNorm2d, initialise, plain_weights, standardise_weights
from gracile.models.weight_standardisation import WeightStandardisation
from gracile.shrinking import shrink

EPS = 1e-5
SHAPES = {"features": (9, 3), "signals": (5, 3, 4), "images": (4, 3, 5, 2)}


def norm_for(shape: tuple[int, ...], **how) -> L1BatchNorm1d | L1BatchNorm2d:
    kind = L1BatchNorm2d if len(shape) == 4 else L1BatchNorm1d
    return kind(3, **how).double()


def rows(x: Tensor) -> Tensor:
    """(channels, values)."""
    return x.transpose(0, 1).flatten(1)


@pytest.mark.parametrize("name", SHAPES)
def test_forward_and_backward_are_the_formulas(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(SHAPES[name], dtype=torch.float64).add_(2).requires_grad_()
    norm = norm_for(SHAPES[name])
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
    upstream = torch.randn_like(x)
    y = norm(x)
    (y * upstream).sum().backward()
    v, g = rows(x.detach()), rows(upstream)
    mean = v.mean(1, keepdim=True)
    centred = v - mean
    sigma = centred.abs().mean(1, keepdim=True) + EPS
    hat = centred / sigma
    torch.testing.assert_close(rows(y.detach()), norm.weight[:, None] * hat + norm.bias[:, None])
    # Wu et al. 2018: the derivative of the mean absolute deviation is (sign - mean sign) / m.
    sign = centred.sign()
    scaled = g * norm.weight.detach()[:, None]
    inner = (scaled * hat).mean(1, keepdim=True)
    expected = (scaled - scaled.mean(1, keepdim=True) - inner * (sign - sign.mean(1, keepdim=True))) / sigma
    torch.testing.assert_close(rows(x.grad), expected)
    torch.testing.assert_close(norm.weight.grad, (g * hat).sum(1))
    torch.testing.assert_close(norm.bias.grad, g.sum(1))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_what_evaluation_uses(momentum: float | None) -> None:
    torch.manual_seed(0)
    norm = norm_for((8, 3), momentum=momentum)
    mean, deviation = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for number in range(1, 4):
        x = torch.randn(8, 3, dtype=torch.float64) * 3 + 1
        norm(x)
        share = 1 / number if momentum is None else momentum
        mean = (1 - share) * mean + share * x.mean(0)
        deviation = (1 - share) * deviation + share * (x - x.mean(0)).abs().mean(0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_dev, deviation)
    x = torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(norm.eval()(x).detach(), (x - mean) / (deviation + EPS))
    assert norm.num_batches_tracked.item() == 3
    norm.reset_parameters()
    assert norm.running_dev.tolist() == [1, 1, 1]


def test_without_tracking_evaluation_uses_the_batch() -> None:
    norm = norm_for((8, 3), track_running_stats=False, affine=False)
    x = torch.randn(8, 3, dtype=torch.float64)
    torch.testing.assert_close(norm.eval()(x), norm.train()(x))
    assert not norm.state_dict()


@pytest.mark.parametrize("theirs", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_it_takes_the_place_of_torch_s(theirs: type[nn.BatchNorm1d | nn.BatchNorm2d]) -> None:
    ours = L1BatchNorm1d if theirs is nn.BatchNorm1d else L1BatchNorm2d
    shape = (64, 3) if theirs is nn.BatchNorm1d else (16, 3, 8, 8)
    for how in ({}, {"affine": False}, {"momentum": None, "eps": 1e-3}):
        torch.manual_seed(0)
        x = torch.randn(shape)
        one, two = theirs(3, **how), ours(3, **how)
        # Of normal numbers the two deviations stand in a fixed proportion.
        torch.testing.assert_close(two(x) * (2 / torch.pi) ** 0.5, one(x), atol=0.25, rtol=0.1)
        assert [name for name, _ in one.named_parameters()] == [name for name, _ in two.named_parameters()]


def test_errors_say_what_to_do() -> None:
    with pytest.raises(InputError, match=r"L1BatchNorm1d\(3\) was given an input of shape \(4, 2\)"):
        L1BatchNorm1d(3)(torch.zeros(4, 2))
    with pytest.raises(InputError, match="Give 4 dimensions"):
        L1BatchNorm2d(3)(torch.zeros(4, 3))
    with pytest.raises(InputError, match="batches of at least two"):
        L1BatchNorm1d(3)(torch.zeros(1, 3))


def small() -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), L1BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 8), L1BatchNorm1d(8), nn.SELU(),
        nn.Linear(8, 3),
    )  # fmt: skip
    for _ in range(3):
        model(torch.randn(16, 2, 6, 6))
    return model.eval()


def test_dead_channels_of_normalised_layers_are_removed() -> None:
    model = small()
    with torch.no_grad():
        model[4].weight[:, 32:] = 0  # every reader of the last four channels
        model[7].weight[:, [0, 5]] = 0
    x = torch.randn(5, 2, 6, 6)
    lean = shrink(model, x)
    assert lean[1].num_features == 2
    assert lean[1].running_dev.shape == (2,)
    assert lean[5].num_features == 6
    torch.testing.assert_close(lean(x), model(x))
    assert trace(model, x).count().channels == 8


def test_a_channel_that_normalises_a_constant_is_folded() -> None:
    model = small()
    with torch.no_grad():
        model[4].weight[3] = 0
        model[4].bias[3] = 0.7
    x = torch.randn(5, 2, 6, 6)
    lean = shrink(model, x)
    assert lean[5].num_features == 7
    torch.testing.assert_close(lean(x), model(x))


def test_onnx_computes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    exported = export_onnx(small(), torch.randn(4, 2, 6, 6), tmp_path / "l1.onnx", verbose=False)
    assert exported.path.stat().st_size > 1000


def test_initialise_resets_it() -> None:
    model = initialise(small())
    assert model[1].running_mean.tolist() == [0] * 6


def test_standardised_weights_keep_the_size_of_signals_and_become_plain() -> None:
    torch.manual_seed(0)
    model = standardise_weights(nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(80, 6)))
    rows = model[2].weight.flatten(1)
    torch.testing.assert_close(rows.mean(1), torch.zeros(6), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.square().sum(1), torch.ones(6))
    x = torch.randn(2, 3, 6, 6)
    y = model(x)
    y.square().mean().backward()
    assert model[0].parametrizations.weight.original.grad.any()
    plain = plain_weights(model)
    torch.testing.assert_close(plain(x), y)
    assert not any(isinstance(one, WeightStandardisation) for one in plain.modules())
    shrink(plain.eval(), x)
