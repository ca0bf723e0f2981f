"""The dial ends where it was set, whatever the method and the budget."""

from __future__ import annotations

import itertools
import pickle
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from gracile import RGSM, RVSM, fit
from gracile.channels import trace
from gracile.core.errors import CollapseWarning, InputError
from gracile.data import Splits
from gracile.models import resnet20, vgg16
from gracile.pruning import L1Filters
from gracile.splitting import Dial
from gracile.splitting.worth import Worth
from tests.conftest import small_network

EXAMPLE = torch.zeros(2, 1, 8, 8)
RUN = {"epochs": 4, "batch_size": 32, "lr": 0.05}
STEPS = 4 * 6


network = partial(small_network, 24, 40)


@pytest.mark.parametrize("penalty", ["group_lasso", "group_l0"])
@pytest.mark.parametrize("budget", [{"macs": 0.3}, {"params": 0.2}, {"sparsity": 0.6}])
def test_rgsm_ends_within_two_percent_of_the_budget(blobs: Splits, penalty: str, budget: dict[str, float]):
    model = network()
    dial = Dial(RGSM(model, penalty, example=EXAMPLE), steps=STEPS, example=EXAMPLE, **budget)
    fit(model, blobs, **RUN, sparsifier=dial)
    sparse = dial.sparse_model()
    graph = trace(sparse, EXAMPLE)
    dense, left = graph.dense(), graph.count()
    found = {
        "macs": left.macs / dense.macs,
        "params": left.parameters / dense.parameters,
        "sparsity": dial.summary().sparsity,
    }
    ((name, target),) = budget.items()
    assert found[name] == pytest.approx(target, abs=0.02)


@pytest.mark.parametrize("grouping", ["input_channel", "kernel"])
def test_groupings_within_layers_can_be_steered_by_sparsity(blobs: Splits, grouping: str):
    model = network()
    dial = Dial(RGSM(model, "group_l0", grouping=grouping, layers="all"), steps=STEPS, sparsity=0.5)
    fit(model, blobs, **RUN, sparsifier=dial)
    assert dial.summary().sparsity == pytest.approx(0.5, abs=0.02)


def test_input_channels_can_be_steered_by_what_they_physically_remove(blobs: Splits):
    model = network()
    dial = Dial(RGSM(model, grouping="input_channel", layers="all"), steps=STEPS, macs=0.5, example=EXAMPLE)
    fit(model, blobs, **RUN, sparsifier=dial)
    graph = trace(dial.sparse_model(), EXAMPLE)
    assert graph.count().macs / graph.dense().macs == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("penalty", ["l1", "l0", "transformed_l1"])
def test_rvsm_ends_at_its_sparsity(blobs: Splits, penalty: str):
    model = network()
    dial = Dial(RVSM(model, penalty, beta=0.5), steps=STEPS, sparsity=0.8)
    fit(model, blobs, **RUN, sparsifier=dial)
    assert dial.summary().sparsity == pytest.approx(0.8, abs=0.002)


def test_the_plan_falls_from_everything_to_the_budget():
    dial = Dial(RVSM(network()), steps=100, sparsity=0.9, begin=0.0, ramp=0.5, settle=0.2)
    plan = [dial.plan(step)["sparsity"] for step in range(101)]
    assert plan[0] == 1
    assert plan[50:] == pytest.approx([0.1] * 51)
    assert all(after <= before for before, after in itertools.pairwise(plan))


def test_single_weights_may_go_earlier_than_groups():
    """What validation images chose: weights come back by themselves as long as lam lets them, groups do not."""
    weights = Dial(RVSM(network()), steps=100, sparsity=0.9)
    assert weights.plan(10) == {"sparsity": 1.0}
    assert 0.1 < weights.plan(11)["sparsity"] < 1
    assert weights.plan(50)["sparsity"] == pytest.approx(0.1)
    groups = Dial(RGSM(network(), example=EXAMPLE), steps=100, macs=0.5, example=EXAMPLE)
    assert groups.plan(30) == {"macs": 1.0}
    assert 0.5 < groups.plan(31)["macs"] < 1
    assert groups.plan(50)["macs"] == pytest.approx(0.5)


def test_nothing_goes_before_the_beginning():
    dial = Dial(RVSM(network()), steps=100, sparsity=0.9, begin=0.3, ramp=0.2, settle=0.5)
    plan = [dial.plan(step)["sparsity"] for step in range(101)]
    assert plan[:31] == [1] * 31
    assert plan[31] < 1
    assert plan[50:] == pytest.approx([0.1] * 51)
    assert dial.set_to(dial.plan(10)) == {"sparsity": 1}
    assert dial.split.lam == 0


def test_without_costs_layers_lose_nearly_alike():
    torch.manual_seed(0)
    model = vgg16(width=0.125, image_size=16)
    example = torch.zeros(2, 3, 16, 16)
    shares = {}
    for by_cost in (True, False):
        split = RGSM(model, "group_l0", grouping="coupled", example=example)
        dial = Dial(split, steps=10, macs=0.4, example=example, by_cost=by_cost)
        assert dial.set_to({"macs": 0.4})["macs"] == pytest.approx(0.4, abs=0.03)
        rows = [row for row in split.summary().layers if row.groups]
        shares[by_cost] = [row.zero_groups / row.groups for row in rows]
    spread = {by_cost: max(found) - min(found) for by_cost, found in shares.items()}
    assert spread[False] < spread[True]
    assert spread[True] > 0.5


def gated(model: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The loss's derivatives along the channels of the two convolutions and the hidden neurons, by autograd."""
    gates = [torch.ones(width, requires_grad=True) for width in (24, 24, 40)]
    at = {2: gates[0].view(-1, 1, 1), 4: gates[1].view(-1, 1, 1), 7: gates[2]}
    for place, layer in enumerate(model):
        x = layer(x) * at.get(place, 1.0)
    nn.functional.cross_entropy(x, y).backward()
    return torch.cat([gate.grad for gate in gates])


def test_worth_is_the_mean_square_of_the_derivatives_along_the_channels():
    torch.manual_seed(1)
    model, x, y = network(), torch.rand(16, 1, 8, 8), torch.arange(16) % 3
    split = RGSM(model, example=EXAMPLE)
    dial = Dial(split, steps=400, macs=0.5, example=EXAMPLE, begin=0.4, ramp=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    dial.attach(optimizer)
    squares = []
    for step in range(3):
        squares.append(gated(model, x, y).double().square())
        # Another scale of the loss under a scaler that divides inside the optimiser makes no difference.
        optimizer.grad_scale = torch.tensor(8.0) if step == 1 else None
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(x), y) * (8.0 if step == 1 else 1.0)).backward()
        if step == 1:
            split._before_step(optimizer, torch.tensor(8.0), None, True)
            split.worth.end_step()
            dial.step += 1
        else:
            optimizer.grad_scale = None
            optimizer.step()
    assert split.worth is not None
    assert split.worth.seen == 3
    found = split.worth.mean.double().sort().values
    assert torch.allclose(found, torch.stack(squares).mean(0).sort().values, rtol=1e-4)


def test_what_does_nothing_goes_first_however_large_it_is():
    torch.manual_seed(1)
    model, x, y = network(), torch.rand(16, 1, 8, 8), torch.arange(16) % 3
    with torch.no_grad():
        # Two channels that ReLU never lets through, read by large weights.
        model[3].bias[:2] = -100.0
        model[6].weight.view(40, 24, 16)[:, :2] = 1.0
    gone = {}
    for ranking in ("worth", "size"):
        split = RGSM(model, example=EXAMPLE)
        dial = Dial(split, steps=400, params=0.5, example=EXAMPLE, ranking=ranking, begin=0.4, ramp=0.1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        dial.attach(optimizer)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        dial.set_to({"params": 0.9})
        channels = split.sparse_model()[6].weight.view(40, 24, 16).abs().sum((0, 2)) == 0
        gone[ranking] = channels[:2].tolist()
        dial.detach()
    assert gone == {"worth": [True, True], "size": [False, False]}


@pytest.mark.parametrize("favour", [1.0, 4.0])
def test_layers_lose_shares_of_their_groups_however_many_they_have(favour: float):
    """A layer of 8 and one of 64 that are worth as much and cost as much: neither is emptied before the other."""
    narrow, wide = 8, 64
    model = nn.Sequential(nn.Linear(5, narrow), nn.ReLU(), nn.Linear(narrow, wide), nn.ReLU(), nn.Linear(wide, 3))
    split = RGSM(model, example=torch.rand(2, 5))
    assert bool((split.group_sizes()[:narrow] > split.group_sizes()[narrow:].max()).all())  # numbered layer by layer
    split.worth = Worth(split.num_groups, 1.0)
    alike = 1 + 1e-3 * torch.rand(narrow + wide)
    split.worth.mean = torch.cat([torch.full((narrow,), 1 / narrow), torch.full((wide,), favour / wide)]) * alike
    split.worth.seen = 1
    split.reweigh(torch.cat([torch.full((narrow,), 1 / narrow), torch.full((wide,), 1 / wide)]))
    order = split.critical_mus().argsort()
    gone = torch.zeros(narrow + wide, dtype=torch.bool)
    for group in order[: int(0.9 * len(order))]:
        gone[group] = True
        left = [1 - gone[:narrow].float().mean(), 1 - gone[narrow:].float().mean()]
        assert left[1] - min(1.0, favour * left[0]) < 0.2
        assert min(1.0, favour * (left[0] - 1.01 / narrow)) - left[1] < 0.2


def test_the_last_of_a_layer_stays_whatever_its_derivative_says():
    # Behind a normalisation the only channel of a layer has a derivative of zero, and is all there is.
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 1, 3), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 3),
    )  # fmt: skip
    dial = Dial(RGSM(model, example=EXAMPLE), steps=400, macs=0.2, example=EXAMPLE, begin=0.4, ramp=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    dial.attach(optimizer)
    nn.functional.cross_entropy(model(torch.rand(8, 1, 8, 8)), torch.arange(8) % 3).backward()
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        dial.set_to({"macs": 0.2})
        dial.end_epoch()
    dial.detach()


def test_steering_by_worth_survives_a_resume(blobs: Splits, tmp_path):
    results = []
    for pieces in ([4], [1, 2, 4]):
        for epochs in pieces:
            model = network()
            dial = Dial(RGSM(model, example=EXAMPLE, beta=0.1), steps=STEPS, macs=0.4, example=EXAMPLE)
            folder = tmp_path / str(len(pieces))
            fit(model, blobs, **{**RUN, "epochs": epochs}, sparsifier=dial, folder=folder, resume=True)
        results.append(torch.cat([p.detach().flatten() for p in dial.sparse_model().parameters()]))
    assert torch.equal(results[0], results[1])


def test_steering_survives_a_resume(blobs: Splits, tmp_path):
    results = []
    for pieces in ([4], [2, 4], [1, 3, 4]):
        for epochs in pieces:
            model = network()
            dial = Dial(RVSM(model, beta=0.5), steps=STEPS, sparsity=0.8)
            folder = tmp_path / str(len(pieces))
            fit(model, blobs, **{**RUN, "epochs": epochs}, sparsifier=dial, folder=folder, resume=True)
        results.append(torch.cat([p.detach().flatten() for p in dial.sparse_model().parameters()]))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_in_the_end_the_dense_weights_are_the_sparse_ones(blobs: Splits):
    model = network()
    dial = Dial(RGSM(model, "group_l0", example=EXAMPLE), steps=STEPS, macs=0.3, example=EXAMPLE, settle=0.3)
    fit(model, blobs, **RUN, sparsifier=dial)
    sparse = dial.sparse_model()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), sparse.parameters(), strict=True))
    assert dial.summary().sparsity > 0.1


def test_without_settling_the_dense_weights_stay_dense(blobs: Splits):
    model = network()
    dial = Dial(RGSM(model, "group_l0", example=EXAMPLE), steps=STEPS, macs=0.3, example=EXAMPLE, settle=0.0)
    fit(model, blobs, **RUN, sparsifier=dial)
    assert model[3].weight.count_nonzero() > dial.sparse_model()[3].weight.count_nonzero()


@pytest.mark.parametrize(("build", "message"), [
    (lambda m: Dial(RVSM(m), steps=9), "none is given"),
    (lambda m: Dial(RVSM(m), steps=9, macs=0.5, sparsity=0.5), "removes no macs"),
    (lambda m: Dial(RVSM(m), steps=9, sparsity=1.5), "between 0 and 1"),
    (lambda m: Dial(RVSM(m), steps=9, macs=0.5), "removes no macs"),
    (lambda m: Dial(RGSM(m), steps=9, macs=0.5), "Pass example="),
    (lambda m: Dial(RGSM(m, example=EXAMPLE), steps=9, macs=1e-6, example=EXAMPLE), "out of reach"),
    (lambda m: Dial(RVSM(m), steps=0, sparsity=0.5), "at least 1"),
    (lambda m: Dial(RVSM(m), steps=9, sparsity=0.5, ramp=0.0), "ramp=0.0"),
    (lambda m: Dial(RVSM(m), steps=9, sparsity=0.5, ramp=0.8, settle=0.3), "do not fit"),
    (lambda m: Dial(RVSM(m), steps=9, sparsity=0.5, begin=0.4), "begin=0.4.*do not fit"),
])  # fmt: skip
def test_budgets_that_cannot_be_are_refused(build, message: str):
    with pytest.raises(InputError, match=message):
        build(network())


def move(model: nn.Module, dial: Dial, steps: int) -> torch.optim.Optimizer:
    """So many steps along random gradients: the dial looks at sizes alone."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    dial.attach(optimizer)
    go_on(model, optimizer, steps)
    return optimizer


def go_on(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        random = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random) * parameter.detach().abs().mean()
        optimizer.step()


def left_of(dial: Dial, budgets: dict[str, float], example: torch.Tensor) -> float:
    """How much of the tightest budget what is shrunk uses."""
    graph = trace(dial.sparse_model(), example)
    dense, left = graph.dense(), graph.count()
    shares = {"macs": left.macs / dense.macs, "params": left.parameters / dense.parameters}
    used = [shares[name] / budget for name, budget in budgets.items() if name != "sparsity"]
    if "sparsity" in budgets:
        used.append((1 - dial.summary().sparsity) / (1 - budgets["sparsity"]))
    return max(used)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("settle", [0.0, 0.5])
@pytest.mark.parametrize("budgets", [{"macs": 0.5}, {"params": 0.3}, {"sparsity": 0.6}, {"macs": 0.6, "params": 0.4}])
def test_a_budget_is_a_cap_and_is_used_to_a_percent(budgets: dict[str, float], settle: float, seed: int):
    torch.manual_seed(seed)
    model, example = resnet20(), torch.zeros(2, 3, 32, 32)
    dial = Dial(RGSM(model, "group_l0", beta=0.1, example=example), steps=6, example=example, settle=settle, **budgets)
    move(model, dial, 6)
    assert 0.99 <= left_of(dial, budgets, example) <= 1 + 1e-9
    for name, kept in dial.reached.items():
        assert kept <= dial.budgets[name] + 1e-9


@pytest.mark.parametrize("settle", [0.0, 0.5])
@pytest.mark.parametrize(("widths", "grouping", "budgets"), [
    ((16, 16), "coupled", {"macs": 0.5}), ((16, 16), "coupled", {"macs": 0.3}), ((24, 40), "input_channel", {"macs": 0.4}),
    ((24, 40), "input_channel", {"macs": 0.5, "params": 0.3}),
])  # fmt: skip
def test_groups_come_back_where_a_budget_would_be_left_unused(
    widths: tuple[int, int], grouping: str, budgets: dict[str, float], settle: float
):
    model = small_network(*widths)
    split = RGSM(model, beta=0.1, grouping=grouping, layers="all", example=EXAMPLE)
    dial = Dial(split, steps=6, example=EXAMPLE, settle=settle, **budgets)
    move(model, dial, 6)
    assert 0.99 <= left_of(dial, budgets, EXAMPLE) <= 1 + 1e-9


def test_a_budget_that_whole_groups_cannot_meet_is_said(caplog: pytest.LogCaptureFixture):
    model = small_network(2, 2)
    dial = Dial(RGSM(model, beta=0.1, example=EXAMPLE), steps=6, example=EXAMPLE, macs=0.9)
    move(model, dial, 6)
    assert left_of(dial, {"macs": 0.9}, EXAMPLE) < 0.99
    assert "where macs=0.9 was asked: whole groups that were tried come no nearer" in caplog.text


@pytest.mark.parametrize("settle", [0.0, 0.5])
@pytest.mark.parametrize("budgets", [{"macs": 0.4}, {"macs": 0.5, "sparsity": 0.6}])
@pytest.mark.parametrize("grouping", ["coupled", "block:4x4"])
def test_what_entries_take_with_them_is_counted(grouping: str, budgets: dict[str, float], settle: float):
    model = network()
    split = RGSM(model, "sparse_group_lasso", beta=0.1, grouping=grouping, layers="all", example=EXAMPLE)
    dial = Dial(split, steps=6, example=EXAMPLE, settle=settle, **budgets)
    move(model, dial, 6)
    told = {"sparsity": dial.reached["sparsity"]} if "sparsity" in budgets else {}
    graph = trace(dial.sparse_model(), EXAMPLE)
    assert dial.reached["macs"] == pytest.approx(graph.count().macs / graph.dense().macs, abs=1e-12)
    assert told == pytest.approx({name: 1 - dial.summary().sparsity for name in told}, abs=1e-12)
    assert 0.95 <= left_of(dial, budgets, EXAMPLE) <= 1 + 1e-9


@pytest.mark.parametrize("penalty", ["l0", "l1", "transformed_l1", "mcp"])
@pytest.mark.parametrize("settle", [0.0, 0.5])
def test_single_weights_end_exactly_at_their_sparsity(penalty: str, settle: float):
    model = network()
    dial = Dial(RVSM(model, penalty, beta=0.5), steps=8, sparsity=0.8, settle=settle)
    move(model, dial, 8)
    summary = dial.summary()
    assert summary.zeros == -int(-0.8 * summary.parameters // 1)


def test_equal_weights_do_not_go_beyond_the_budget_together():
    model = nn.Linear(100, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.5)
    dial = Dial(RVSM(model, "l0", beta=0.5), steps=2, sparsity=0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dial.attach(optimizer)
    for _ in range(2):
        model.weight.grad = torch.zeros_like(model.weight)
        optimizer.step()
    assert dial.summary().zeros == 30


@pytest.mark.parametrize("settle", [0.0, 0.5])
def test_steps_beyond_those_announced_keep_to_the_choice(settle: float):
    model = network()
    dial = Dial(RGSM(model, "group_l0", example=EXAMPLE), steps=8, macs=0.5, example=EXAMPLE, settle=settle)
    optimizer = move(model, dial, 8)
    zero = [p == 0 for p in dial.sparse_model().parameters()]
    go_on(model, optimizer, 5)
    assert all(torch.equal(a, p == 0) for a, p in zip(zero, dial.sparse_model().parameters(), strict=True))
    assert torch.equal(model[3].weight, dial.sparse_model()[3].weight)


@pytest.mark.parametrize("settle", [0.0, 0.5])
def test_a_finished_state_can_be_loaded_and_trained_on(settle: float):
    def build(model: nn.Module) -> Dial:
        return Dial(RGSM(model, "group_l0", example=EXAMPLE), steps=8, macs=0.5, example=EXAMPLE, settle=settle)

    model = network()
    dial = build(model)
    move(model, dial, 8)
    again = network()
    again.load_state_dict(model.state_dict())
    second = build(again)
    second.load_state_dict(dial.state_dict())
    assert second.summary() == dial.summary()
    move(again, second, 3)
    assert second.summary().zeros == dial.summary().zeros


def test_a_run_that_ends_early_says_how_far_it_is(caplog: pytest.LogCaptureFixture):
    model = network()
    dial = Dial(RVSM(model, beta=0.5), steps=200, sparsity=0.9, begin=0.0, ramp=0.5)
    move(model, dial, 50)
    message = "stands at step 50 of the 200 that the dial is set for, with sparsity=0.788 where sparsity=0.9 is asked"
    dial.sparse_so_far()
    assert message not in caplog.text
    dial.sparse_model()
    assert message in caplog.text
    caplog.clear()
    dial.sparsify_()
    dial.detach()
    assert caplog.text == "", "said once"


@pytest.mark.parametrize("build", [
    lambda m: Dial(RGSM(m, example=EXAMPLE), steps=5000, macs=0.3, example=EXAMPLE), lambda m: L1Filters(m, steps=5000, example=EXAMPLE),
], ids=["dial", "pruning"])  # fmt: skip
def test_fit_says_beforehand_that_a_method_is_set_for_a_longer_run(
    build, blobs: Splits, caplog: pytest.LogCaptureFixture
):
    model = network()
    fit(model, blobs, **RUN, sparsifier=build(model))
    first, *others = [record.message for record in caplog.records if "5000" in record.message]
    assert "is set for 5000 steps, and this run takes 24: build it with steps=24" in first
    assert len(others) == 1
    assert "stands at step 24 of the 5000" in others[0]


def test_a_splitting_that_a_dial_steers_is_not_attached_in_its_place():
    model = network()
    dial = Dial(RGSM(model, example=EXAMPLE), steps=200, macs=0.3, example=EXAMPLE)
    with pytest.raises(InputError, match=r"A dial steers this splitting to macs=0\.3.*dial\.attach"):
        dial.split.attach(torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize(("change", "message"), [
    ({"budgets": {"macs": 0.1}}, "to macs=0.1 in 8 steps, and this dial is set to macs=0.5 in 8"),
    ({"steps": 9}, "to macs=0.5 in 9 steps"), ({"split": {"lam": 0.0, "beta": 0.1}}, "no state of RGSM: scales, first_scales"),
])  # fmt: skip
def test_a_state_of_another_run_is_refused(change: dict[str, object], message: str):
    dial = Dial(RGSM(network(), example=EXAMPLE), steps=8, macs=0.5, example=EXAMPLE)
    with pytest.raises(InputError, match=message):
        dial.load_state_dict(dial.state_dict() | change)
    with pytest.raises(InputError, match="no state of Dial: split, step is not in it"):
        dial.load_state_dict({})


def test_a_final_choice_without_its_weights_is_said(caplog: pytest.LogCaptureFixture):
    dials = [Dial(RGSM(network(), example=EXAMPLE), steps=8, macs=0.5, example=EXAMPLE) for _ in range(2)]
    move(dials[0].split.model, dials[0], 8)
    dials[1].load_state_dict(dials[0].state_dict())
    caplog.clear()
    move(dials[1].split.model, dials[1], 1)
    assert "these weights keep macs=1.000: load the model's saved weights as well" in caplog.text


def test_a_pickled_dial_goes_on_as_it_would_have():
    model = network()
    dial = Dial(RGSM(model, example=EXAMPLE), steps=8, macs=0.5, example=EXAMPLE)
    optimizer = move(model, dial, 3)
    copies = pickle.loads(pickle.dumps((model, optimizer, dial)))
    for one, its in ((model, optimizer), copies[:2]):
        go_on(one, its, 5)
    assert copies[2].reached == dial.reached
    for one, other in zip(dial.sparse_model().parameters(), copies[2].sparse_model().parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_too_short_for_a_dial_is_told_so_beforehand(caplog: pytest.LogCaptureFixture):
    Dial(RVSM(network()), steps=36, sparsity=0.9)
    assert "A run of 36 steps is short for a dial: the network has 18 of them" in caplog.text
    caplog.clear()
    Dial(RVSM(network()), steps=400, sparsity=0.9)
    assert caplog.text == ""


@pytest.mark.parametrize(("build", "message"), [
    (lambda m: Dial(RVSM(m, layers=["0"]), steps=9, sparsity=0.9), "with every split weight zero.*split more layers"),
    (lambda m: Dial(RGSM(m, layers=["0"]), steps=9, sparsity=0.9), "with one group left of each layer.*split more"),
    (lambda m: Dial(RGSM(m, layers="all"), steps=9, sparsity=0.99), "with one group left of each layer.*keep_last=False"),
    (lambda m: Dial(RGSM(m, layers=["0"]), steps=9, macs=0.9, example=EXAMPLE), "no group of this splitting takes any macs"),
    (lambda m: Dial(RGSM(m, layers=["0"], keep_last=False), steps=9, sparsity=0.9), "with every group zero.*split more"),
])  # fmt: skip
def test_what_is_out_of_reach_is_said_of_what_the_splitting_has(build, message: str):
    with pytest.raises(InputError, match=message):
        build(network())


def test_a_penalty_of_ones_own_is_steered_if_it_says_what_it_zeroes():
    class Hard:
        """l0, with no more than a penalty needs."""

        def value(self, w):
            return (w != 0).sum().to(w)

        def prox(self, w, mu):
            return w * (w.abs() > (2 * mu) ** 0.5)

    class Steered(Hard):
        def critical_mu(self, size):
            return size.square() / 2

    model = network()
    split, ours = RVSM(model, Hard(), lam=1e-4, beta=0.5), RVSM(model, "l0", lam=1e-4, beta=0.5)
    assert split.summary() == ours.summary()
    assert split.summary().zeros > 0
    with pytest.raises(InputError, match="Hard has no critical_mu"):
        Dial(split, steps=8, sparsity=0.8)
    with pytest.warns(CollapseWarning, match=r"Lower lam, or leave"):
        RVSM(model, Hard(), lam=50.0, beta=0.5).end_epoch()
    dial = Dial(RVSM(model, Steered(), beta=0.5), steps=8, sparsity=0.8)
    move(model, dial, 8)
    assert dial.summary().sparsity == pytest.approx(0.8, abs=0.001)


def test_a_layer_that_dies_under_a_budget_is_told_of_the_budget_and_not_of_lam():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    split = RVSM(model, "l0", lam=1e-4, beta=0.1)
    assert split._milder("Lower lam below 0.3") == "Lower lam below 0.3"
    Dial(split, steps=1000, sparsity=0.5)
    split.lam = 1e6
    messages = split._collapsed().values()
    assert messages
    assert all("Choose a milder budget than sparsity=0.5" in one and "Lower lam" not in one for one in messages)


def test_channels_of_which_a_part_is_split_never_go_and_are_not_counted_as_gone():
    """Only the last layer's inputs are split: of the others' groups no weight is, and a budget that counted them gone would miss."""
    model = network()
    split = RGSM(model, "group_l0", beta=0.1, example=EXAMPLE, layers=["8"])
    dial = Dial(split, steps=6, params=0.7, example=EXAMPLE)
    move(model, dial, 6)
    # A group is worth 1.8 % of the parameters.
    assert 0.68 <= left_of(dial, {"params": 0.7}, EXAMPLE) * 0.7 <= 0.7
    assert split.dead_at(1e9).sum() == 39
