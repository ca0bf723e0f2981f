"""The splitting room: what a user's loop can do to it, and what it says when it cannot go on."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from gracile import RGSM, RVSM
from gracile.core.errors import CollapseWarning, InputError, NonFiniteError
from gracile.core.prunable import like, memory_order


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(16, 2))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    return torch.randn(8, 3, 6, 6, generator=random), torch.randint(2, (8,), generator=random)


def step_once(model: nn.Module, optimizer: torch.optim.Optimizer, forward: nn.Module | None = None) -> None:
    x, y = batch()
    optimizer.zero_grad()
    nn.functional.cross_entropy((forward or model)(x), y).backward()
    optimizer.step()


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def test_biases_and_batch_norm_are_left_alone():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(3, 3))
    assert [weight.name for weight in RVSM(model).weights] == ["0.weight", "2.weight"]


def test_sparse_model_is_a_copy_and_sparsify_is_in_place():
    model = small()
    split = RVSM(model, "l0", lam=1e-3, beta=1.0)
    before = model[0].weight.detach().clone()
    sparse = split.sparse_model()
    assert torch.equal(model[0].weight, before)
    split.sparsify_()
    assert torch.equal(sparse[0].weight, model[0].weight)
    assert not torch.equal(model[0].weight, before)


def test_summary_counts_zeros_over_all_parameters():
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.1, 0.1, -2.0]]))
    summary = RVSM(model, "l0", lam=0.125, beta=1.0).summary()
    assert (summary.zeros, summary.parameters, summary.nonzero) == (2, 5, 3)
    assert summary.sparsity == pytest.approx(0.4)
    assert "40.00 % sparsity" in str(summary)


def test_channel_sparsity_counts_input_channels_as_the_lenet_table_does():
    model = nn.Sequential(nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5), nn.Flatten(), nn.Linear(16, 10))
    with torch.no_grad():
        model[1].weight[:, :5] = 0
    summary = RGSM(model, lam=1e-6).summary()
    assert summary.channel_sparsity == pytest.approx(5 / 7)


@pytest.mark.parametrize(
    ("grouping", "groups"), [("input_channel", 9), ("output_filter", 10), ("kernel", 42), ("row", 126)]
)
def test_groupings_within_layers_have_the_expected_number_of_groups(grouping: str, groups: int):
    assert RGSM(small(), grouping=grouping, lam=1e-6).num_groups == groups


def test_the_input_channels_of_a_transposed_convolution_are_its_first_dimension():
    model = nn.ConvTranspose2d(3, 5, 2)
    with torch.no_grad():
        model.weight[1] *= 1e-3
    sparse = RGSM(model, lam=0.1).sparse_model()
    assert sparse.weight[1].count_nonzero() == 0
    assert sparse.weight[0].count_nonzero() > 0


def test_a_network_without_convolutions_is_grouped_by_its_features():
    assert RGSM(nn.Sequential(nn.Linear(7, 3), nn.Linear(3, 2)), lam=1e-6).num_groups == 10


def test_gradient_scaling_changes_nothing():
    # GradScaler unscales before optimizer.step, or hands its scale to a fused optimiser: both must couple alike.
    results = []
    for fused, scaled in ((False, False), (False, True), (True, True)):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
        RVSM(model, "l1", lam=0.05, beta=0.5).attach(optimizer)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=1024.0)
        for _ in range(3):
            x, y = batch()
            optimizer.zero_grad()
            scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append(model[0].weight.detach())
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(results[0], results[2], rtol=0, atol=1e-6)


def test_a_step_that_gradient_scaling_skips_leaves_the_weights():
    model = small()
    optimizer = sgd(model)
    RVSM(model, "l1", lam=0.05, beta=0.5).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = model[0].weight.detach().clone()
    x, y = batch()
    scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
    model[4].bias.grad.fill_(torch.inf)
    scaler.step(optimizer)
    assert torch.equal(model[0].weight, before)


def test_accumulated_gradients_get_the_coupling_once():
    x, y = batch()
    results = []
    for parts in (1, 4):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        RVSM(model, "l1", lam=0.05, beta=0.5).attach(optimizer)
        for piece in range(parts):
            rows = slice(piece * 8 // parts, (piece + 1) * 8 // parts)
            (nn.functional.cross_entropy(model(x[rows]), y[rows]) / parts).backward()
        optimizer.step()
        results.append(model[0].weight.detach())
    torch.testing.assert_close(*results, rtol=0, atol=1e-6)


def test_clipping_bounds_the_loss_gradient_and_not_the_coupling():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    split = RVSM(model, "l1", lam=0.05, beta=0.5)
    split.attach(optimizer)
    x, y = batch()
    (1e6 * nn.functional.cross_entropy(model(x), y)).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-9)
    before = model[0].weight.detach().clone()
    u = split.shadow()["0.weight"]
    optimizer.step()
    torch.testing.assert_close(model[0].weight.detach(), before - 0.5 * (before - u), rtol=0, atol=1e-7)


def test_lbfgs_minimises_the_split_objective():
    torch.manual_seed(0)
    model = nn.Linear(6, 1, bias=False).double()
    inputs, target = torch.randn(30, 6, dtype=torch.float64), torch.randn(30, 1, dtype=torch.float64)
    split = RVSM(model, "l1", lam=0.3, beta=2.0)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )
    split.attach(optimizer)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model(inputs) - target).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    model.zero_grad()
    (model(inputs) - target).square().mean().backward()
    gradient = model.weight.grad + split.beta * (model.weight - split.shadow()["weight"])
    assert gradient.norm() < 1e-6


def test_a_weight_without_gradient_is_not_coupled():
    model = small()
    optimizer = sgd(model)
    RVSM(model, "l1", lam=0.05, beta=0.5).attach(optimizer)
    before = model[4].weight.detach().clone()
    model[2](model[0](batch()[0])).sum().backward()
    optimizer.step()
    assert torch.equal(model[4].weight, before)


def test_channels_last_gives_the_same_step():
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        for method in (RVSM, RGSM):
            model = small().to(memory_format=layout)
            optimizer = sgd(model)
            method(model, lam=0.05, beta=0.5).attach(optimizer)
            step_once(model, optimizer)
            results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(results[0], results[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(results[1], results[3], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 5), (2, 1, 3, 3), (1,)])
def test_memory_order_views_round_trip_in_every_layout(shape: tuple[int, ...]):
    tensor = torch.randn(shape)
    layouts = [tensor, tensor.permute(*reversed(range(tensor.ndim))), tensor[..., ::2]]
    if tensor.ndim == 4:
        layouts.append(tensor.to(memory_format=torch.channels_last))
    for layout in layouts:
        assert torch.equal(like(memory_order(layout).clone(), layout), layout)


def test_a_compiled_model_trains_as_the_plain_one():
    results = []
    for compiled in (False, True):
        model = small()
        forward = torch.compile(model, backend="eager") if compiled else model
        optimizer = sgd(model)
        split = RVSM(forward, "l0", lam=1e-3, beta=0.5)
        split.attach(optimizer)
        step_once(model, optimizer, forward)
        results.append(split.sparse_model()[0].weight)
    torch.testing.assert_close(*results, rtol=0, atol=1e-6)


def test_a_distributed_model_is_split_as_the_plain_one(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        results = []
        for distributed in (False, True):
            model = small()
            forward = nn.parallel.DistributedDataParallel(model) if distributed else model
            optimizer = sgd(model)
            split = RGSM(forward, lam=0.05, beta=0.5)
            split.attach(optimizer)
            step_once(model, optimizer, forward)
            results.append(split.sparse_model()[0].weight)
        torch.testing.assert_close(*results, rtol=0, atol=1e-7)
    finally:
        torch.distributed.destroy_process_group()


def test_a_layer_about_to_lose_all_groups_keeps_its_strongest_and_says_so():
    model = small()
    split = RGSM(model, lam=50.0, beta=1.0)
    with pytest.warns(CollapseWarning, match=r"removed every group of [02] .* Lower lam below") as caught:
        sparse = split.sparse_model()
    strongest = model[0].weight.detach().transpose(0, 1).flatten(1).norm(dim=1).argmax()
    alive = sparse[0].weight.transpose(0, 1).flatten(1).count_nonzero(dim=1).nonzero().flatten()
    assert alive.tolist() == [strongest.item()]
    assert torch.equal(sparse[0].weight[:, strongest], model[0].weight[:, strongest])
    assert len(caught) == 2


def test_the_remedy_in_the_warning_works():
    model = small()
    with pytest.warns(CollapseWarning) as caught:
        RGSM(model, lam=50.0).sparsify_()
    model = small()
    limits = [float(str(warning.message).split("below ")[1].split(",")[0]) for warning in caught]
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        RGSM(model, lam=0.99 * min(limits)).sparsify_()


def test_without_keep_last_a_layer_may_die_and_the_warning_says_so():
    with pytest.warns(CollapseWarning, match="nothing passes through it"):
        sparse = RGSM(small(), lam=50.0, keep_last=False).sparse_model()
    assert sparse[0].weight.count_nonzero() == 0


def test_rvsm_says_when_a_layer_is_all_zero():
    with pytest.warns(CollapseWarning, match="zeroed every weight of 0"):
        RVSM(small(), "l1", lam=50.0, beta=1.0, layers=["0"]).end_epoch()


def test_restart_goes_on_from_the_sparse_weights():
    model = small()
    split = RVSM(model, "l0", lam=1e-3, beta=1.0, restart=True)
    u = split.shadow()["0.weight"]
    split.end_epoch()
    assert torch.equal(model[0].weight, u)


def test_without_restart_the_epoch_leaves_the_weights():
    model = small()
    before = model[0].weight.detach().clone()
    RVSM(model, "l0", lam=1e-3, beta=1.0).end_epoch()
    assert torch.equal(model[0].weight, before)


def test_the_coefficients_are_the_only_state():
    split = RVSM(small(), lam=0.1, beta=0.5)
    other = RVSM(small(), lam=0.2, beta=0.7)
    other.load_state_dict(split.state_dict())
    assert (other.lam, other.beta, other.mu) == (0.1, 0.5, 0.2)


def test_detach_ends_the_splitting():
    model = small()
    plain = copy.deepcopy(model)
    optimizer = sgd(model)
    split = RVSM(model, "l1", lam=0.05, beta=0.5)
    split.attach(optimizer)
    split.detach()
    step_once(model, optimizer)
    step_once(plain, sgd(plain))
    assert torch.equal(model[0].weight, plain[0].weight)


def test_frozen_and_shared_weights_are_split_at_most_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[2].weight.requires_grad_(False)
    assert [weight.layer for weight in RVSM(model).weights] == ["0"]


@pytest.mark.parametrize(("build", "message"), [
    (lambda: RVSM(small(), lam=-1.0), "lam must be"),
    (lambda: RVSM(small(), beta=0.0), "beta must be"),
    (lambda: RGSM(small(), lam2=-1.0), "lam2 must be"),
    (lambda: RVSM(small(), "group_lasso"), "acts on groups.*RGSM"),
    (lambda: RGSM(small(), "l0"), "acts on single weights.*RVSM"),
    (lambda: RVSM(small(), "transformed_l2"), "no penalty named 'transformed_l2'.*Did you mean 'transformed_l1'"),
    (lambda: RGSM(small(), grouping="input_chanel"), "Did you mean 'input_channel'"),
    (lambda: RGSM(small(), grouping="coupled"), "Pass example="),
    (lambda: RGSM(small(), grouping="row", layers="linear"), "no kernel rows"),
    (lambda: RVSM(small(), layers=["7"]), "no trainable convolution or linear layer '7'"),
    (lambda: RVSM(nn.ReLU()), "no trainable convolution"),
    (lambda: RVSM(small(), coupling="both"), "no coupling"),
    (lambda: RVSM(nn.LazyLinear(3)), "no shape yet"),
])  # fmt: skip
def test_what_cannot_be_split_is_refused_with_a_remedy(build, message: str):
    with pytest.raises(InputError, match=message):
        build()


def test_an_optimiser_of_other_parameters_is_refused():
    model, other = small(), small()
    with pytest.raises(InputError, match=r"does not train '0\.weight'"):
        RVSM(model).attach(sgd(other))


def test_attaching_twice_is_refused():
    model = small()
    split = RVSM(model)
    split.attach(sgd(model))
    with pytest.raises(InputError, match="attached already"):
        split.attach(sgd(model))


@pytest.mark.parametrize("method", [RVSM, RGSM])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_sparse_model_of_weights_that_are_not_finite_is_refused(method, value: float):
    model = small()
    split = method(model, lam=1e-3, beta=1.0)
    with torch.no_grad():
        model[2].weight[0, 0, 0, 0] = value
    for wanted in (split.sparse_model, split.sparsify_, split.sparse_state_dict):
        with pytest.raises(NonFiniteError, match=r"'2\.weight' is no longer finite"):
            wanted()


def test_the_sparse_state_is_that_of_the_sparse_model():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[1].weight = model[0].weight
    split = RVSM(model, "l0", lam=0.03, beta=1.0)
    state = split.sparse_state_dict()
    sparse = split.sparse_model()
    assert list(state) == list(sparse.state_dict())
    for name, tensor in sparse.state_dict().items():
        assert torch.equal(state[name], tensor)
    sparse.load_state_dict(state)


def test_groups_know_a_head_of_another_size():
    model = small()
    split = RGSM(model, layers="all", lam=1e-3)
    model[4] = nn.Linear(16, 9)
    with pytest.raises(InputError, match=r"'4\.weight' has the shape \(9, 16\), and was \(2, 16\)"):
        split.sparse_model()


@pytest.mark.parametrize("method", [RVSM, RGSM])
def test_half_precision_under_a_large_scale_stays_finite(method):
    # A scale of 65536 is infinite in float16, and infinity times a zero difference is NaN.
    class Reads(torch.optim.SGD):
        def step(self, closure=None):
            return None

    model = small().half()
    optimizer = Reads(model.parameters(), lr=0.1)
    split = method(model, lam=1e-3, beta=0.5)
    split.attach(optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.grad_scale = torch.tensor(65536.0)
    w, u = model[0].weight.detach().clone(), split.shadow()["0.weight"]
    optimizer.step()
    del optimizer.grad_scale
    expected = 65536 * 0.5 * (w.float() - u.float())
    assert model[0].weight.grad.isfinite().all()
    # u itself is rounded to float16.
    torch.testing.assert_close(model[0].weight.grad.float(), expected, rtol=2e-3, atol=8.0)


@pytest.mark.parametrize("method", [RVSM, RGSM])
@pytest.mark.parametrize(
    "change", [{"lam": -1e-5}, {"lam": float("nan")}, {"beta": 0.0}, {"beta": float("inf")}], ids=lambda one: str(one)
)
def test_a_saved_state_out_of_range_is_refused_and_changes_nothing(method, change: dict[str, float]):
    split = method(small(), lam=1e-3, beta=0.5)
    with pytest.raises(InputError, match="must be a finite number"):
        split.load_state_dict({**split.state_dict(), **change})
    assert (split.lam, split.beta) == (1e-3, 0.5)


@pytest.mark.parametrize("scales", [torch.ones(3), torch.full((10,), float("nan")), -torch.ones(10)], ids=str)
def test_saved_weights_of_groups_are_those_of_this_network(scales: torch.Tensor):
    split = RGSM(small(), lam=1e-3, beta=0.5)
    before = split.state_dict()
    scales = scales if len(scales) == 3 else scales[:1].expand(len(before["scales"]))
    with pytest.raises(InputError, match="saved weights of groups do not fit"):
        split.load_state_dict({**before, "lam": 0.2, "scales": scales})
    assert split.lam == 1e-3
    assert torch.equal(split.state_dict()["scales"], before["scales"])
