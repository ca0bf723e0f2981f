"""Certificates: exact tests, closed answers, and that no attack breaks what is certified."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest, norm
from torch import nn

from gracile import attacks
from gracile.attacks.bounds import _chain, _least
from gracile.core.errors import InputError
from tests.models.attacked import Noisy, affine, convolutional, distances


class Coin(nn.Module):
    """Answers class 1 with a known chance, whatever it is shown."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, x):
        ones = (torch.rand(len(x)) < self.chance).long()
        return nn.functional.one_hot(ones, 2).float() + 0 * x.flatten(1)[:, :2]


def test_a_smoothed_classifier_is_tested_exactly():
    found = attacks.smoothed(Coin(0.9), torch.rand(20, 1, 2, 2), sigma=0.5, draws=200, choosing=20, alpha=0.01)
    assert found.answers.tolist() == [1] * 20
    # The bound is Clopper and Pearson's, of some count of 200; the true radius is sigma Phi^-1(0.9).
    allowed = [0.5 * norm.ppf(binomtest(hits, 200).proportion_ci(0.98, method="exact").low) for hits in range(150, 201)]
    assert all(min(abs(one - radius) for one in allowed) < 1e-9 for radius in found.radii.tolist())
    assert float(found.radii.max()) <= 0.5 * norm.ppf(0.9) + 0.1
    assert (found.radii > 0.5 * norm.ppf(0.9)).sum() <= 2  # one in a hundred is too large


def test_it_abstains_where_no_answer_has_a_majority():
    found = attacks.smoothed(Coin(0.5), torch.rand(10, 1, 2, 2), draws=200, choosing=20)
    assert found.answers.tolist() == [-1] * 10
    assert found.radii.tolist() == [0.0] * 10
    assert found.accuracy(torch.ones(10, dtype=torch.int64), 0.0) == 0.0


def test_smoothed_radii_stay_below_the_distance_to_the_boundary():
    # Smoothing leaves an affine classifier of two classes as it is, so its radius is known: the distance to the hyperplane.
    network = affine(classes=2)
    x = torch.rand(30, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = network(x).argmax(dim=1)
    found = attacks.smoothed(network, x, sigma=0.5, draws=2000, choosing=50)
    true = distances(network, x, y, "l2")
    sure = found.answers >= 0
    assert bool((found.answers == y)[sure].all())
    assert int(sure.sum()) > 10
    assert bool((found.radii <= true).all())
    near = sure & (true < 0.75)
    assert float((found.radii / true)[near].mean()) > 0.6
    # No attack breaks what is certified.
    for radius in found.radii[sure].quantile(torch.tensor([0.3, 0.7], dtype=torch.float64)).tolist():
        within = sure & (found.radii >= radius)
        broken = attacks.autoattack(network, x[within], y[within], eps=radius, norm="l2", steps=20, search_steps=20)
        assert bool((network(broken).argmax(dim=1) == y[within]).all())


def test_bounds_on_an_affine_classifier_are_exact():
    network = affine(classes=3).float()
    x = 0.3 + 0.4 * torch.rand(60, 20, generator=torch.Generator().manual_seed(1))
    y = network(x).argmax(dim=1)
    near = distances(network, x, y, "linf")
    eps = float(near.median())
    found = attacks.proven(network, x, y, eps=eps, bound="linear")
    sure = (near - eps).abs() > 1e-3
    assert torch.equal(found[sure], (near > eps)[sure])


@pytest.mark.parametrize("bound", ["interval", "linear"])
def test_what_is_proven_no_attack_breaks(bound):
    network = convolutional().train()
    x = torch.rand(24, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    y = network.eval()(x).argmax(dim=1)
    network.train()
    counts = []
    for eps in (1e-4, 0.003, 0.02, 0.3):
        found = attacks.proven(network, x, y, eps=eps, bound=bound)
        counts.append(int(found.sum()))
        if counts[-1]:
            broken = attacks.autoattack(network, x[found], y[found], eps=eps, steps=20, search_steps=50)
            assert bool((network.eval()(broken).argmax(dim=1) == y[found]).all())
            network.train()
    assert counts[0] > counts[-1] == 0
    assert network.training


def test_linear_bounds_prove_no_less_than_intervals():
    network, x = convolutional().eval(), torch.rand(24, 2, 6, 6)
    y = network(x).argmax(dim=1)
    one, two = (attacks.proven(network, x, y, eps=0.003, bound=bound) for bound in ("interval", "linear"))
    assert not bool((one & ~two).any())


@pytest.mark.parametrize("bound", ["interval", "linear"])
def test_bounds_hold_at_every_corner_and_point_tried(bound):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    network[3].running_var.uniform_(0.5, 2)
    network = network.double().eval().requires_grad_(False)
    x, eps = torch.rand(20, 4, dtype=torch.float64), 0.05
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0, 0.0])] * 4).double()
    margins = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]]).double().expand(20, 2, 3)
    least = _least(_chain(network), x, margins, eps, linear=bound == "linear")
    tried = (x[:, None] + eps * corners).clamp(0, 1)
    found = (network(tried.flatten(0, 1)).view(20, -1, 3) @ margins[0].T).amin(dim=1)
    assert bool((least <= found + 1e-12).all())
    # Not by being useless: the gap against what the margins move by in the ball.
    spread = (network(tried.flatten(0, 1)).view(20, -1, 3) @ margins[0].T).amax(dim=1) - found
    assert float((found - least).mean() / spread.mean()) < (0.7 if bound == "interval" else 0.1)


def test_what_cannot_be_certified_is_refused():
    x, y = torch.rand(4, 2, 6, 6), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(InputError, match="sigma is 0"):
        attacks.smoothed(convolutional(), x, sigma=0)
    with pytest.raises(InputError, match="bound is 'box'"):
        attacks.proven(convolutional(), x, y, bound="box")
    with pytest.raises(InputError, match="no bounds for a layer of type Noisy"):
        attacks.proven(Noisy(convolutional()), x, y)
