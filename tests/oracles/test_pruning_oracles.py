"""The baselines against closed answers: brute force, ten-line twins, and the smaller networks they stand for."""

from __future__ import annotations

import copy
import itertools
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gracile import shrink
from gracile.channels import trace
from gracile.core.errors import CollapseWarning
from gracile.penalties import largest
from gracile.pruning import (
    ADMM,
    GradualMagnitude,
    L1Filters,
    NetworkSlimming,
    Scratch,
    SubgradientGroupLasso,
    survivors,
)

EXAMPLE = torch.zeros(2, 2, 6, 6, dtype=torch.float64)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(80, 3),
    ).double()
    for module in (model[1], model[4]):
        nn.init.uniform_(module.weight, 0.2, 1.0)
        nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, before_step=lambda: None, after_step=lambda: None
):
    random = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 2, 6, 6, dtype=torch.float64, generator=random)
        y = torch.randint(3, (8,), generator=random)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        before_step()
        optimizer.step()
        after_step()


def pruned(model: nn.Module, method, steps: int, lr: float = 0.05):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    method.attach(optimizer)
    train(model, optimizer, steps)
    return method


# Projections.


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=7), st.data())
def test_the_projection_is_the_nearest_point_of_the_sparse_set(entries: list[int], data):
    count = data.draw(st.integers(0, len(entries)))
    w = torch.tensor(entries, dtype=torch.float64)
    mask = largest(w.abs()[None], count)[0]
    assert int(mask.sum()) == count
    nearest = min(
        float(w.square().sum() - w[list(kept)].square().sum()) for kept in itertools.combinations(range(len(w)), count)
    )
    assert float((w - w * mask).square().sum()) == nearest


def test_the_projection_on_few_channels_is_the_nearest_point():
    model = network()
    method = ADMM(model, steps=1, sparsity=0.3, unit="channel", example=EXAMPLE)
    values = method.values()
    masks, guarded = method.units.cut(values, 0.3, "network")
    assert guarded == []
    found = sum(float((value - value * mask).square().sum()) for value, mask in zip(values, masks, strict=True))
    # The channels of this network by hand: 6 read by the second convolution, 5 of 16 features by the linear layer.
    slices = [model[3].weight[:, c] for c in range(6)] + [model[7].weight[:, 16 * c : 16 * c + 16] for c in range(5)]
    squares = [float(one.detach().square().sum()) for one in slices]
    removed = [sum(gone) for gone in itertools.combinations(squares, 4)]  # at most 7.7 of 11 stay
    assert found == pytest.approx(min(removed), rel=1e-12)


@pytest.mark.parametrize(("share", "scope", "kept", "guarded"), [
    (0.5, "layer", [[0, 1], [1, 1, 0, 0]], []),
    (0.5, "network", [[0, 1], [1, 1, 0, 0]], [0]),
    (0.99, "layer", [[0, 1], [1, 0, 0, 0]], [0, 1]),
    (0.0, "network", [[1, 1], [1, 1, 1, 1]], []),
])  # fmt: skip
def test_a_share_goes_from_each_layer_or_from_all_and_none_is_emptied(share, scope, kept, guarded):
    parts = [torch.tensor([0.1, 0.2]), torch.tensor([5.0, 4.0, 3.0, 0.3])]
    masks, found = survivors(parts, share, scope)
    if (share, scope) == (0.5, "network"):
        kept = [[0, 1], [1, 1, 1, 0]]  # three of six stay, and the first layer's largest beside them
    assert [mask.int().tolist() for mask in masks] == kept
    assert found == guarded


# ADMM.


def twin_projection(w: Tensor, share: float) -> Tensor:
    order = sorted(range(w.numel()), key=lambda i: -abs(float(w.flatten()[i])))
    u = torch.zeros(w.numel(), dtype=w.dtype)
    for i in order[: int((1 - share) * w.numel() + 1e-9)]:
        u[i] = w.flatten()[i]
    return u.view(w.shape)


def test_admm_equals_its_plain_twin():
    rho, share, every = 0.3, 0.6, 2
    model = network()
    twin = copy.deepcopy(model)
    method = pruned(model, ADMM(model, steps=9, sparsity=share, rho=rho, every=every, retrain=1 / 3), 9)
    w = [twin[0].weight, twin[3].weight, twin[7].weight]
    u = [twin_projection(one.detach(), share) for one in w]
    z = [torch.zeros_like(one) for one in w]
    taken, mask = 0, None

    def before_step():
        if mask is None:
            for k in range(3):
                w[k].grad += rho * (w[k].detach() - u[k] + z[k] / rho)

    def after_step():
        nonlocal taken, mask
        taken += 1
        with torch.no_grad():
            if taken == 6:
                mask = [twin_projection(one, share) != 0 for one in w]
            elif mask is None and taken % every == 0:
                for k in range(3):
                    u[k] = twin_projection(w[k] + z[k] / rho, share)
                    z[k] = z[k] + rho * (w[k] - u[k])
            if mask is not None:
                for k in range(3):
                    w[k] *= mask[k]

    train(twin, torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9), 9, before_step, after_step)
    for ours, plain in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-14)
    assert method.summary().layers[0].zeros == 108 - 43


def test_admm_closes_the_gap_that_a_splitting_leaves():
    # f(w) = |w - c|^2 / 2 over at most two entries: the answer is the projection of c, reached exactly.
    model = nn.Linear(4, 1, bias=False).double()
    c = torch.tensor([[0.4, -2.0, 1.0, 0.3]], dtype=torch.float64)
    method = ADMM(model, steps=1200, sparsity=0.5, rho=1.0, every=20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    method.attach(optimizer)
    for _ in range(1199):
        optimizer.zero_grad()
        ((model.weight - c).square().sum() / 2).backward()
        optimizer.step()
    expected = torch.tensor([[0.0, -2.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(model.weight.detach(), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(method.u[0], expected, rtol=0, atol=1e-9)
    assert torch.equal(method.sparse_model().weight != 0, expected != 0)


# Gradual magnitude pruning.


def test_the_share_of_zeros_follows_the_cubic_and_nothing_returns():
    model = network()
    method = GradualMagnitude(model, steps=40, sparsity=0.8, begin=0.25, end=0.75, scope="layer")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    method.attach(optimizer)
    weights, gone = [model[0].weight, model[3].weight, model[7].weight], [None] * 3

    def after_step():
        step = method.step
        progress = min(1.0, max(0.0, (step - 10) / 20))
        share = 0.8 + (0.0 - 0.8) * (1 - progress) ** 3  # Zhu and Gupta, eq. 1, with s_i = 0
        for k, weight in enumerate(weights):
            zero = weight.detach() == 0
            assert int(zero.sum()) == -int(-(share * weight.numel() - 1e-9) // 1)
            if gone[k] is not None:
                assert bool((zero | ~gone[k]).all())
            gone[k] = zero

    train(model, optimizer, 40, after_step=after_step)
    assert method.plan(9) == 0
    assert method.summary().zeros == sum(int(mask.sum()) for mask in gone)


# Channels.


def test_l1_filters_drop_the_smallest_filters_of_each_layer():
    model = network()
    norms = [model[k].weight.detach().abs().sum(dim=(1, 2, 3)) for k in (0, 3)]
    method = pruned(model, L1Filters(model, steps=1, example=EXAMPLE, channels=0.5, prune_at=1.0), 1, lr=0.0)
    # Three of six go, and of five at most 2.5 stay: two.
    first, second = norms[0].argsort()[:3].sort().values, norms[1].argsort()[:3].sort().values
    dead = model[3].weight.detach().abs().sum(dim=(0, 2, 3)) == 0
    assert torch.equal(dead.nonzero().flatten(), first)
    dead = model[7].weight.detach().view(3, 5, 16).abs().sum(dim=(0, 2)) == 0
    assert torch.equal(dead.nonzero().flatten(), second)
    assert method.summary().channel_sparsity == 6 / 11


def test_slimming_takes_a_global_percentile_and_never_empties_a_layer():
    model = network()
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(0.01, 0.06, 6))
        model[4].weight.copy_(torch.tensor([0.5, -0.6, 0.07, 0.8, 0.9]))
    method = NetworkSlimming(model, steps=1, example=EXAMPLE, channels=0.7, lam=0.0, prune_at=1.0)
    with pytest.warns(CollapseWarning, match=r"everything of 0; its largest was kept"):
        pruned(model, method, 1, lr=0.0)
    # Eight of eleven go: all six of the first layer, but for its largest, and 0.07 and 0.5 (by magnitude) of the second.
    alive = model[3].weight.detach().abs().sum(dim=(0, 2, 3)) > 0
    assert alive.tolist() == [False] * 5 + [True]
    alive = model[7].weight.detach().view(3, 5, 16).abs().sum(dim=(0, 2)) > 0
    assert alive.tolist() == [False, True, False, True, True]
    assert torch.isfinite(method.sparse_model().eval()(EXAMPLE)).all()


def test_slimming_descends_the_l1_norm_of_scales_by_its_subgradient():
    model, twin = network(), network()
    lam = 0.02
    pruned(model, NetworkSlimming(model, steps=20, example=EXAMPLE, lam=lam, prune_at=1.0), 5)

    def before_step():
        for bn in (twin[1], twin[4]):
            bn.weight.grad += lam * bn.weight.detach().sign()

    train(twin, torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9), 5, before_step)
    for ours, plain in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-14)


def test_the_subgradient_of_group_lasso_is_that_of_autograd_and_leaves_no_zero():
    model, twin = network(), network()
    lam = 0.05
    method = SubgradientGroupLasso(model, steps=20, example=EXAMPLE, lam=lam, channels=0.0)
    by_hand = lambda: (
        lam
        * (
            twin[3].weight.square().sum(dim=(0, 2, 3)).sqrt().sum()
            + twin[7].weight.view(3, 5, 16).square().sum(dim=(0, 2)).sqrt().sum()
        )
    )
    assert float(method.penalty_value()) == pytest.approx(by_hand().item(), rel=1e-12)
    pruned(model, method, 6)
    train(twin, torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9), 6, lambda: by_hand().backward())
    for ours, plain in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)
    assert method.summary().channel_sparsity == 0


@pytest.mark.parametrize("build", [
    lambda m: ADMM(m, steps=4, sparsity=0.5, unit="channel", example=EXAMPLE, retrain=0.5),
    lambda m: GradualMagnitude(m, steps=4, sparsity=0.5, unit="channel", example=EXAMPLE),
    lambda m: L1Filters(m, steps=4, example=EXAMPLE, channels=0.5),
    lambda m: NetworkSlimming(m, steps=4, example=EXAMPLE, channels=0.5),
    lambda m: SubgradientGroupLasso(m, steps=4, example=EXAMPLE, channels=0.5),
], ids=["admm", "gradual", "l1", "slimming", "subgradient"])  # fmt: skip
def test_what_a_channel_method_removes_is_really_removed(build):
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        sparse = pruned(model, build(model), 4).sparse_model().eval()
    lean = shrink(sparse, EXAMPLE)
    left, dense = trace(sparse, EXAMPLE).count(), trace(network(), EXAMPLE).dense()
    assert left.macs < 0.6 * dense.macs
    assert trace(lean, EXAMPLE).dense().macs == left.macs
    assert sum(p.numel() for p in lean.parameters()) == left.parameters
    x = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(lean(x), sparse(x), rtol=1e-9, atol=1e-9)


def test_scratch_trains_the_smaller_network_exactly():
    found = network(3)
    with torch.no_grad():
        found[3].weight[:, [1, 4]] = 0
        found[7].weight.view(3, 5, 16)[:, 2] = 0
    model = network(5)
    fresh = copy.deepcopy(model)
    method = Scratch(model, steps=6, example=EXAMPLE, found=found)
    # He's variance is over the fan-in: 4 of 6 channels, 4 of 5 times 16 features.
    torch.testing.assert_close(model[3].weight[:, 0], fresh[3].weight[:, 0] * (6 / 4) ** 0.5)
    torch.testing.assert_close(model[7].weight[:, :16], fresh[7].weight[:, :16] * (5 / 4) ** 0.5)
    torch.testing.assert_close(model[0].weight, fresh[0].weight)
    lean = shrink(model.eval(), EXAMPLE).train()
    assert lean[3].weight.shape == (4, 4, 3, 3)
    pruned(model.train(), method, 6)
    train(lean, torch.optim.SGD(lean.parameters(), lr=0.05, momentum=0.9), 6)
    smaller = shrink(method.sparse_model().eval(), EXAMPLE)
    for ours, plain in zip(smaller.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)


def test_a_residual_stage_goes_as_one_and_the_insides_of_its_blocks_by_themselves():
    from gracile.models import resnet20

    model = resnet20(image_size=16)
    method = L1Filters(model, steps=1, example=torch.zeros(2, 3, 16, 16), channels=0.5)
    channels = method._channels
    assert channels.count == 16 * 3 + 32 * 3 + 64 * 3 + 64  # nine insides, and 64 coupled channels of the sums
    sums = [name for name in channels.names if "+" in name]
    assert len(channels.names) == 9 + len(sums)
    assert sum(len(kind) for kind in channels.kinds) == channels.count
    assert sum(len(kind) for kind, name in zip(channels.kinds, channels.names, strict=True) if name in sums) == 64
