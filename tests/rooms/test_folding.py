"""Batch-norm folded away during an attack: the same answers, and the network as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gracile import attacks
from gracile.attacks.folding import folded
from gracile.models import build
from tests.models.attacked import Noisy


def settled(network: nn.Module) -> nn.Module:
    """Batch-norms with statistics and weights of their own."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight, module.bias):
                tensor.data.copy_(torch.randn_like(tensor))
            module.running_var.uniform_(0.5, 2)
    return network.eval().requires_grad_(False)


def residual() -> nn.Module:
    return settled(build("resnet20", num_classes=5, in_channels=2, image_size=12, width=4))


class Reused(nn.Module):
    """Its convolution's output goes round the batch-norm too."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.convolution(x)
        return (self.norm(made) + made).mean(dim=(2, 3))


@pytest.mark.parametrize(("options", "count"), [({}, 19), ({"preactivation": True}, 9)])
def test_answers_are_the_same_and_the_network_is_left_as_it_was(options: dict, count: int):
    network = settled(build("resnet20", num_classes=5, in_channels=2, image_size=12, width=4, **options))
    x = torch.rand(6, 2, 12, 12)
    before, state = network(x), {key: value.clone() for key, value in network.state_dict().items()}
    objects = {name: id(one) for name, one in network.named_parameters()}

    def fail() -> None:
        with folded(network, x[:2]) as found:
            assert found == count
            assert torch.allclose(network(x), before, atol=1e-4)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(network(x), before)
    assert {name: id(one) for name, one in network.named_parameters()} == objects
    assert state.keys() == network.state_dict().keys()
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in network.modules())


def test_a_network_that_draws_random_numbers_is_folded_too():
    with folded(Noisy(residual()), torch.rand(2, 2, 12, 12)) as found:
        assert found == 19


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    network[1].register_forward_hook(lambda module, given, output: output)
    return network


def shared() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    return nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.Conv2d(4, 4, 1), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("make", [Reused, hooked, shared])
def test_what_cannot_be_folded_stays(make):
    network, x = settled(make()), torch.rand(3, 2, 12, 12)
    with folded(network, x) as found:
        assert found == 0
        assert "forward" not in vars(next(one for one in network.modules() if isinstance(one, nn.BatchNorm2d)))


def test_an_attack_on_a_folded_network_is_that_on_the_network():
    network, x = residual(), torch.rand(100, 2, 12, 12)
    y = network(x).argmax(dim=1)
    one, two = (
        attacks.pgd(network, x, y, eps=0.03, steps=10, random_start=False, channels_last=at) for at in (True, False)
    )
    clean, *after = (nn.functional.cross_entropy(network(at), y).item() for at in (x, one, two))
    assert after[1] > 1.05 * clean
    assert after[0] == pytest.approx(after[1], rel=0.01)
    # Rounding turns the sign of a gradient near 0 here and there.
    assert float((one - two).abs().gt(1e-4).double().mean()) < 0.01
