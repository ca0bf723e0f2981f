"""Penalties of every kind inside RVSM and RGSM, on convolutions and linear layers, and groupings by blocks."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from gracile import RGSM, RVSM
from gracile.core.errors import CollapseWarning, InputError
from gracile.penalties import NM, GroupLasso, SparseGroupLasso, TopK, grouped
from gracile.penalties.table import CONSTRAINTS
from gracile.penalties.transformed_l1 import threshold, transformed_threshold
from gracile.splitting import Dial, rvsm


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(16, 2))


def test_n_m_holds_along_the_inputs_of_every_layer():
    model = small().to(memory_format=torch.channels_last)
    sparse = RVSM(model, {"name": "n_m", "n": 1, "m": 4}).sparse_model()
    for place, inputs in ((0, 3), (2, 6), (4, 16)):
        w, u = model[place].weight, sparse[place].weight
        assert u.stride() == w.stride()
        for start in range(0, inputs, 4):
            block, before = u.movedim(1, -1)[..., start : start + 4], w.movedim(1, -1)[..., start : start + 4]
            # Of each block, the last and shorter one too, the largest stays and nothing else.
            assert torch.equal(block != 0, before.abs() == before.abs().amax(-1, keepdim=True))


def test_n_m_blocks_of_a_transposed_convolution_run_over_its_inputs_too():
    model = nn.ConvTranspose2d(8, 3, 2, bias=False)
    u = RVSM(model, NM(2, 4)).sparse_model().weight
    assert (u.unflatten(0, (2, 4)).count_nonzero(1) == 2).all()


def test_top_k_keeps_its_share_of_each_layer():
    model = small()
    summary = RVSM(model, TopK(keep=0.25)).summary()
    assert [row.weights - row.zeros for row in summary.layers] == [round(0.25 * row.weights) for row in summary.layers]


@pytest.mark.parametrize("penalty", sorted(CONSTRAINTS))
def test_lam_zero_switches_a_constraint_off(penalty: str):
    model = small()
    split = RVSM(model, penalty, lam=0.0)
    assert split.summary().zeros == 0
    assert split.penalty_value() == 0


@pytest.mark.parametrize("penalty", sorted(CONSTRAINTS))
def test_a_dial_cannot_steer_what_lam_does_not_move(penalty: str):
    with pytest.raises(InputError, match="fixes what weights may be"):
        Dial(RVSM(small(), penalty), steps=10, sparsity=0.5)


def plain_groups(model: nn.Conv2d, penalty: SparseGroupLasso, mu: float) -> Tensor:
    """u by input channel, through the penalty's own map on (groups, members)."""
    w = model.weight.detach()
    rows = w.transpose(0, 1)
    return penalty.prox(rows.flatten(1), mu).view(rows.shape).transpose(0, 1)


@pytest.mark.parametrize("mu", [0.05, 0.2, 0.4])
def test_sparse_group_lasso_in_training_is_its_own_proximal_map(mu: float):
    torch.manual_seed(0)
    model, penalty = nn.Conv2d(5, 4, 3).double(), SparseGroupLasso(0.3)
    with torch.no_grad():
        model.weight.mul_(torch.linspace(0.1, 1.5, 5).view(1, 5, 1, 1))
    split = RGSM(model, penalty, lam=mu, beta=1.0, keep_last=False)
    u = plain_groups(model, penalty, mu)
    torch.testing.assert_close(split.shadow()["weight"], u)
    value = mu * penalty.value(u.transpose(0, 1).flatten(1)) + (model.weight - u).square().sum() / 2
    torch.testing.assert_close(split.penalty_value(), value.detach())


def test_critical_mus_of_sparse_group_lasso_are_where_groups_die():
    torch.manual_seed(0)
    split = RGSM(nn.Conv2d(6, 4, 3), "sparse_group_lasso", weighting="size", keep_last=False)
    for group, mu in enumerate(split.critical_mus().tolist()):
        assert split.dead_at(mu * (1 + 1e-5))[group]
        assert not split.dead_at(mu * (1 - 1e-5))[group]


def test_a_layer_about_to_die_keeps_its_strongest_group_whole():
    torch.manual_seed(0)
    model = nn.Conv2d(6, 4, 3)
    split = RGSM(model, "sparse_group_lasso", lam=100.0, beta=1.0)
    with pytest.warns(CollapseWarning, match="Lower lam below") as heard:
        u = split.sparse_model().weight
    strongest = model.weight.square().sum((0, 2, 3)).argmax()
    assert torch.equal(u[:, strongest], model.weight[:, strongest])
    assert u.count_nonzero() == 4 * 9
    # The advice is right: just below the limit it names, the layer lives.
    limit = float(str(heard[0].message).partition("Lower lam below ")[2].partition(",")[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RGSM(model, "sparse_group_lasso", lam=limit * 0.99, beta=1.0).sparsify_()


def test_sparse_group_lasso_can_be_steered_to_a_budget():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 8, 3), nn.Flatten(), nn.Linear(32, 2))
    dial = Dial(RGSM(model, "sparse_group_lasso", grouping="kernel", layers="all"), steps=10, sparsity=0.5)
    assert dial.set_to({"sparsity": 0.5})["sparsity"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("grouping", "groups"), [
    ("block", 4 * 2 * 9), ("block:3", 4 * 2 * 9), ("block:2", 4 * 3 * 9), ("block:2x6", 2 * 9), ("block:3x4", 2 * 2 * 9),
])  # fmt: skip
def test_blocks_are_tiles_of_outputs_by_inputs_at_a_kernel_position(grouping: str, groups: int):
    torch.manual_seed(0)
    model = nn.Conv2d(6, 4, 3)
    split = RGSM(model, "group_l0", grouping=grouping, lam=1e-9)
    assert split.num_groups == groups
    assert split.group_sizes().sum() == model.weight.numel()
    # Killing the weakest group zeroes one tile and nothing else.
    weakest = int(split.critical_mus().argmin())
    split.lam = float(split.critical_mus()[weakest]) * 1.000001
    dead = split.sparse_model().weight == 0
    assert int(dead.sum()) == int(split.group_sizes()[weakest])
    outputs, inputs, rows, columns = dead.nonzero().T
    assert len(rows.unique()) == len(columns.unique()) == 1
    assert int(dead.sum()) == len(outputs.unique()) * len(inputs.unique())


@pytest.mark.parametrize("grouping", ["block:0", "block:2x", "block:x4", "block:four"])
def test_a_tile_that_is_none_is_refused(grouping: str):
    with pytest.raises(InputError, match="names no tile"):
        RGSM(small(), grouping=grouping)


def test_a_group_penalty_by_instance_passes_through():
    penalty = GroupLasso()
    assert grouped(penalty) is penalty


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mu", [0.0, 1e-6, 1e-3, 0.02, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("a", [0.1, 1.0, 30.0])
def test_transformed_l1_is_stationary_by_series_and_by_functions(mu: float, a: float, dtype: torch.dtype):
    w = torch.linspace(-4, 4, 1001, dtype=dtype)
    u = transformed_threshold(w, mu, a)
    kept, size = w.abs() > threshold(mu, a), u.abs().double()
    assert torch.equal(u != 0, kept & (w != 0))
    assert torch.equal(u.sign()[kept], w.sign()[kept])
    slope = size - w.abs().double() + mu * a * (a + 1) / (a + size) ** 2
    assert float(slope[kept & (w != 0)].abs().amax()) <= 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("penalty", ["l0", "transformed_l1"])
@pytest.mark.parametrize("coupling", ["gradient", "decoupled"])
def test_a_weight_taken_piece_by_piece_is_taken_whole(monkeypatch: pytest.MonkeyPatch, penalty: str, coupling: str):
    def trained(bucket: int, layout: torch.memory_format) -> torch.Tensor:
        monkeypatch.setattr(rvsm, "CPU_BUCKET", bucket)
        torch.manual_seed(0)
        model = nn.Conv2d(5, 7, 3).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        RVSM(model, penalty, lam=1e-3, beta=0.3, coupling=coupling).attach(optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 5, 6, 6)).square().mean().backward()
            optimizer.step()
        return model.weight.detach()

    for layout in (torch.contiguous_format, torch.channels_last):
        assert torch.equal(trained(50, layout), trained(10**6, layout))
