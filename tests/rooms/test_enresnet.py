"""EnResNet: sizes, members at once and in turn, noise, pruning and removal member by member, export."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gracile import RGSM
from gracile.channels import trace
from gracile.core.errors import InputError
from gracile.models import GaussianNoise, draws_noise, enresnet, resnet18, resnet20, set_noise
from gracile.models.noise import add_noise
from gracile.shrinking import shrink


def small(n: int = 2, **settings) -> nn.Module:
    torch.manual_seed(0)
    return enresnet(n, width=4, image_size=8, **settings)


@pytest.mark.parametrize(
    ("n", "depth", "parameters"), [(1, 20, 272_282), (2, 20, 544_564), (5, 20, 1_361_410), (1, 38, 563_930)]
)
def test_sizes_are_the_published_ones(n: int, depth: int, parameters: int):
    assert sum(one.numel() for one in enresnet(n, depth).parameters()) == parameters


@pytest.mark.parametrize("mode", ["off", "fixed"])
@pytest.mark.parametrize("scaling", ["sample", "batch", "none"])
@pytest.mark.parametrize("training", [True, False])
def test_members_at_once_compute_what_they_compute_in_turn(mode, scaling: str, training: bool):
    in_turn = small(3, scaling=scaling).double()
    x = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    in_turn(x)  # statistics and their difference between members leave their first values
    set_noise(in_turn, mode, seed=3)
    at_once = copy.deepcopy(in_turn)
    at_once.at_once = True
    outputs = []
    for network in (in_turn, at_once):
        network.train(training)
        outputs.append(network(x))
        outputs[-1].square().sum().backward()
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(at_once.state_dict(), in_turn.state_dict())
    for one, other in zip(at_once.parameters(), in_turn.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_without_noise_it_is_the_mean_of_its_members():
    network = small(2, noise=0.0).eval()
    x = torch.rand(3, 3, 8, 8)
    expected = (network.members[0](x) + network.members[1](x)) / 2
    torch.testing.assert_close(network(x), expected)


def test_one_member_without_noise_is_the_preactivation_network():
    network = small(1, noise=0.0).eval()
    plain = resnet20(width=4, image_size=8, preactivation=True).eval()
    plain.load_state_dict(network.members[0].state_dict())
    x = torch.rand(3, 3, 8, 8)
    assert torch.equal(network(x), plain(x))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_noise_has_the_level_times_each_samples_deviation(layout: torch.memory_format):
    torch.manual_seed(1)
    x = (torch.randn(2, 8, 64, 64) * torch.tensor([1.0, 10.0]).view(2, 1, 1, 1) + 3).contiguous(memory_format=layout)
    added = GaussianNoise(0.1)(x) - x
    for sample, given in zip(added, x, strict=True):
        assert sample.std().item() == pytest.approx(0.1 * given.std().item(), rel=0.02)
        assert sample.mean().item() == pytest.approx(0, abs=5 * 0.1 * given.std().item() / given.numel() ** 0.5)


def test_noise_scaled_by_the_batch_has_one_deviation():
    torch.manual_seed(1)
    x = torch.randn(2, 8, 64, 64) * torch.tensor([1.0, 10.0]).view(2, 1, 1, 1)
    added = GaussianNoise(0.1, "batch")(x) - x
    assert added[0].std().item() == pytest.approx(0.1 * x.std().item(), rel=0.02)


def test_each_networks_noise_is_scaled_by_its_own_activations():
    x = torch.randn(4, 6, 8, 8)
    x[:, 3:] *= 100
    layers = [GaussianNoise(0.1, stream=0), GaussianNoise(0.1, stream=1)]
    for layer in layers:
        layer.mode = "fixed"
    apart = torch.cat([layers[0](x[:, :3]), layers[1](x[:, 3:])], dim=1)
    torch.testing.assert_close(add_noise(layers, x), apart)


def test_a_sample_is_predicted_alike_in_any_batch_when_noise_is_fixed():
    network = small().eval()
    set_noise(network, "fixed", seed=1)
    x = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(network(x)[2:3], network(x[2:3]), rtol=1e-4, atol=1e-5)
    before = network(x)
    set_noise(network, "fixed", seed=2)
    assert not torch.allclose(network(x), before)


def test_activations_without_spread_get_no_noise_and_finite_gradients():
    x = torch.zeros(2, 3, 4, 4, requires_grad=True)
    out = GaussianNoise()(x)
    out.sum().backward()
    assert not out.any()
    assert torch.equal(x.grad, torch.ones_like(x))  # type: ignore[arg-type]


def test_draws_average_the_noise_out():
    network = enresnet(1, 8, width=4, image_size=8, noise=0.5).eval()
    x = torch.rand(4, 3, 8, 8)

    def spread(draws: int) -> float:
        network.draws = draws
        return torch.stack([network(x) for _ in range(12)]).std(dim=0).mean().item()

    assert spread(16) < 0.5 * spread(1)


def test_members_lose_channels_apart_and_shrink_exactly():
    network = small().train()
    x = torch.rand(8, 3, 8, 8)
    split = RGSM(network, "group_l0", lam=0.45, beta=1.0, example=x)
    sparse = split.sparse_model().eval()
    set_noise(sparse, "off")
    lean = shrink(sparse, x).eval()
    torch.testing.assert_close(lean(x), sparse(x), rtol=1e-4, atol=1e-5)
    widths = [[one.out_channels for one in member.modules() if isinstance(one, nn.Conv2d)] for member in lean.members]
    assert widths[0] != widths[1]
    assert sum(one.numel() for one in lean.parameters()) < sum(one.numel() for one in sparse.parameters())
    # Noise comes back after removal, and members of different widths run in turn whatever is asked.
    lean.at_once = True
    assert set_noise(lean, "fresh") == 18
    assert not torch.equal(lean(x), lean(x))


def test_the_channel_graph_keeps_members_apart():
    graph = trace(small(), torch.rand(2, 3, 8, 8))
    alone = trace(resnet20(width=4, image_size=8, preactivation=True), torch.rand(2, 3, 8, 8))
    assert graph.dense().channels == 2 * alone.dense().channels


def test_fixed_noise_is_exported_with_the_network(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from gracile.export import export_onnx

    network = enresnet(2, 8, width=2, image_size=8, noise=0.5).eval()
    assert draws_noise(network)
    set_noise(network, "fixed")
    assert not draws_noise(network)
    # It refuses a file whose outputs are not the network's.
    export_onnx(network, torch.rand(2, 3, 8, 8), tmp_path / "fixed.onnx")


def test_a_noisy_ensemble_is_compressed_without_its_noise_and_the_reader_is_told(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from gracile.deploy import compress

    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 8)
    split = RGSM(enresnet(2, 8, width=4, image_size=8), "group_l0", lam=0.45, beta=1.0, example=x)
    network = split.sparse_model().eval()
    found = compress(network, x, folder=tmp_path, batch_sizes=(1,), threads=(1,), rounds=2)
    assert any("draws Gaussian noise; it is off" in note for note in found.notes)
    # The caller's network goes on drawing.
    assert draws_noise(network)
    assert not draws_noise(found.model)
    assert "x)" in found.plan.describe()  # something was removed


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: enresnet(0), "0 members"),
        (lambda: enresnet(2, 21), "21 layers"),
        (lambda: enresnet(2, draws=0), "draws is 0"),
        (lambda: enresnet(2, noise=-0.1), "noise level is -0.1"),
        (lambda: enresnet(2, scaling="smaple"), "Did you mean 'sample'"),
        (lambda: set_noise(nn.Identity(), "on"), "no mode of noise 'on'"),  # type: ignore[arg-type]
        (lambda: resnet20(width=0), "width is 0"),
        (lambda: resnet18(width=0), "width is 0"),
    ],
)
def test_mistakes_are_named(make, says: str):
    with pytest.raises(InputError, match=says):
        make()
