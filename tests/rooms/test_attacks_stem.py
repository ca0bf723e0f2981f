"""The gradient of a first convolution towards images."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gracile.attacks import apgd, pgd
from gracile.attacks.stem import quick_stems, towards_input

SHAPES = [
    (1, 3, 1, 1),
    (1, 3, 2, 1),
    (3, 3, 1, 1),
    (3, 5, 2, 2),
    (2, 2, 2, 0),
    (4, 1, 1, 0),
    (3, 3, 3, (1, 0)),
    (3, (3, 1), (2, 1), 1),
]


@pytest.mark.parametrize(("channels", "kernel", "stride", "padding"), SHAPES)
def test_is_the_gradient_autograd_finds(channels, kernel, stride, padding):
    torch.manual_seed(0)
    stem = nn.Conv2d(channels, 6, kernel, stride, padding).double()
    # Sides that the strides do not divide.
    x = torch.rand(5, channels, 11, 9, dtype=torch.float64, requires_grad=True)
    output = stem(x)
    gradient = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, x, gradient)
    found = towards_input(gradient, stem.weight.detach(), x.shape, stem.stride, stem.padding)
    assert torch.allclose(found, expected, atol=1e-12)


def network(**options):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, **options), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 4)).eval()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_network_has_the_same_gradient_and_gets_its_forward_back(layout):
    model = network().requires_grad_(False)
    x = torch.rand(6, 3, 8, 8).contiguous(memory_format=layout).requires_grad_()
    (expected,) = torch.autograd.grad(model(x).sum(), x)
    with quick_stems(model) as count:
        (found,) = torch.autograd.grad(model(x).sum(), x)
    assert count == 1
    assert "forward" not in vars(model[0])
    assert torch.allclose(found, expected, atol=1e-6)
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("options", [{"padding_mode": "circular"}, {"dilation": 2}])
def test_other_convolutions_are_left_alone(options):
    with quick_stems(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, **options), nn.Conv2d(8, 8, 3))) as count:
        assert count == 0


def test_weights_that_need_a_gradient_get_it():
    """A network that adapts itself at test time asks for one in the middle of an attack."""
    model = network()
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    with quick_stems(model):
        (found,) = torch.autograd.grad(model(x).sum(), model[0].weight)
    assert torch.equal(found, torch.autograd.grad(model(x).sum(), model[0].weight)[0])


def test_a_gradient_can_be_differentiated_again():
    model = network().requires_grad_(False)
    model[1] = nn.Softplus()
    x = torch.rand(2, 3, 8, 8, requires_grad=True)

    def curvature():
        (slope,) = torch.autograd.grad(model(x).logsumexp(dim=1).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    expected = curvature()
    with quick_stems(model):
        assert torch.allclose(curvature(), expected, atol=1e-6)


def test_attacks_leave_no_trace_of_it_and_may_be_asked_for_the_formula_bit_for_bit():
    model, x, y = network(), torch.rand(64, 3, 8, 8), torch.randint(4, (64,))
    before = F.conv2d(x, model[0].weight, model[0].bias, padding=1)
    exact = pgd(model, x, y, steps=20, channels_last=False)
    quick = pgd(model, x, y, steps=20)
    apgd(model, x, y, steps=20)
    assert "forward" not in vars(model[0])
    assert torch.equal(model[0](x), before)
    # Signs of gradients near 0 may fall the other way.
    assert float((exact != quick).double().mean()) < 0.01
