"""The pruning room's mistakes, its arms in recipes, and comparisons between arms."""

from __future__ import annotations

import copy
import json
import math
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gracile import RVSM, cli
from gracile.channels import trace
from gracile.core.errors import CollapseWarning, InputError, NonFiniteError
from gracile.models import build, lenet, mlp, resnet20
from gracile.pruning import (
    ADMM,
    GradualMagnitude,
    L1Filters,
    NetworkSlimming,
    RandomChannels,
    Scratch,
    SubgradientGroupLasso,
    survivors,
)
from gracile.recipes import load, methods, run, schema
from gracile.recipes.comparisons import Comparison, check_comparisons, compared
from gracile.recipes.methods import METHODS
from gracile.shrinking import shrink
from gracile.splitting import Dial

IMAGE, ROW = torch.zeros(2, 1, 28, 28), torch.zeros(2, 784)


@pytest.mark.parametrize(("make", "says"), [
    (lambda: ADMM(mlp(), steps=0), "steps=0 must be at least 1"),
    (lambda: ADMM(mlp(), steps=9, sparsity=1.0), "sparsity=1.0 is not a share"),
    (lambda: ADMM(mlp(), steps=9, rho=0.0), "rho must be a finite number above 0"),
    (lambda: ADMM(mlp(), steps=9, every=0), "every=0 must be at least 1 step"),
    (lambda: ADMM(mlp(), steps=9, retrain=1.0), "retrain=1.0 is not a share"),
    (lambda: ADMM(mlp(), steps=9, unit="chanel"), "Did you mean 'channel'"),
    (lambda: ADMM(mlp(), steps=9, unit="channel"), "Pass example="),
    (lambda: ADMM(mlp(), steps=9, scope="net"), "no scope 'net'"),
    (lambda: ADMM(mlp(), steps=9, of="weihgts"), "Did you mean 'weights'"),
    (lambda: ADMM(lenet(), steps=9, of="parameters", unit="channel", example=IMAGE), "is for single weights"),
    (lambda: GradualMagnitude(mlp(widths=(2,)), steps=9, sparsity=0.999, of="parameters"), "is more than the .* weights that may go"),
    (lambda: ADMM(mlp(), steps=9, layers="linaer"), "linaer"),
    (lambda: GradualMagnitude(mlp(), steps=9, begin=0.5, end=0.5), "begin=0.5 and end=0.5 do not fit"),
    (lambda: GradualMagnitude(mlp(), steps=9, updates=0), "updates=0"),
    (lambda: L1Filters(lenet(), steps=9, example=IMAGE, prune_at=1.5), "prune_at=1.5 is not a share of the run"),
    (lambda: L1Filters(nn.Sequential(nn.Linear(784, 3)), steps=9, example=ROW), "no channel that can be removed"),
    (lambda: NetworkSlimming(lenet(), steps=9, example=IMAGE), "batch-norm scales"),
    (lambda: NetworkSlimming(lenet(), steps=9, example=IMAGE, lam=-1.0), "lam must be"),
    (lambda: SubgradientGroupLasso(lenet(), steps=9, example=IMAGE, lam=-1.0), "lam must be"),
    (lambda: Scratch(lenet(), steps=9, example=IMAGE, found=mlp()), "another architecture"),
])  # fmt: skip
def test_mistakes_are_named(make, says: str):
    with pytest.raises(InputError, match=says):
        make()


@pytest.mark.parametrize("method", [ADMM, GradualMagnitude])
def test_a_share_of_the_parameters_is_what_a_dial_counts(method):
    """The weights alone would leave 2 % of the parameters more, a tenth of what stays."""
    model = resnet20(width=8, image_size=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    split = RVSM(copy.deepcopy(model))
    Dial(split, steps=2, sparsity=0.9).set_to({"sparsity": 0.1})
    pruned = method(model, steps=2, sparsity=0.9, of="parameters", scope="network")
    pruned.attach(optimizer)
    for _ in range(2):
        optimizer.step()
    assert pruned.summary().sparsity == pytest.approx(0.9, abs=1 / 10000)
    assert pruned.summary().nonzero == pytest.approx(split.summary().nonzero, abs=1)


def test_the_term_joins_gradients_that_a_closure_computes():
    # As Lightning steps: the closure clears the gradients, so that a term added before it would be lost.
    torch.manual_seed(0)
    x, results = torch.randn(5, 3), []
    start = nn.Linear(3, 2)
    for in_closure in (False, True):
        model = copy.deepcopy(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        method = ADMM(model, steps=4, rho=0.5, every=1)
        method.attach(optimizer)

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = model(x).square().sum()
            loss.backward()
            return loss

        for _ in range(4):
            if in_closure:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
        results.append(model.weight.detach())
    assert torch.equal(*results)
    assert not torch.equal(results[0], start.weight)


def test_nan_is_an_error_and_not_the_smallest_weight():
    with pytest.raises(NonFiniteError, match="is NaN"):
        survivors([torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.nan, 2.0])], 0.5, "network")


def test_frozen_and_shared_weights_are_left_alone_and_counted_once():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.Linear(8, 2))
    model[2].weight = model[0].weight
    model[3].weight.requires_grad_(False)
    method = ADMM(model, steps=1, sparsity=0.5)
    assert [weight.name for weight in method.weights] == ["0.weight"]
    assert method.summary().layers[0].zeros == 32


class TwoReaders(nn.Module):
    """Channels of `first` that two layers read, and channels of both that the last one reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.kept = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 1)
        self.other, self.last = nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        return self.last((self.kept(x) + self.other(x)).relu().mean((2, 3)))


@pytest.mark.parametrize("make", [
    partial(L1Filters, prune_at=0.0),
    partial(RandomChannels, prune_at=0.0),
    partial(SubgradientGroupLasso, prune_at=0.0),
    partial(GradualMagnitude, unit="channel", end=0.5),
    partial(ADMM, unit="channel"),
])  # fmt: skip
def test_channels_that_a_frozen_layer_reads_stay_whole_and_are_not_counted(make: partial, caplog):
    torch.manual_seed(0)
    model, x = TwoReaders(), torch.rand(4, 1, 8, 8)
    model.kept.requires_grad_(False)
    pruning = make(model, steps=2, example=x, macs=0.75)
    assert (
        "8 of 16 channels stay whatever is pruned, since 'kept.weight' is left out or frozen and reads them"
        in caplog.text
    )
    pruning.attach(optimizer := torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.0))
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    assert model.other.weight.count_nonzero() == 64
    assert {row.layer: row.groups for row in pruning.summary().layers} == {"first": 0, "other": 0, "last": 8}
    sparse = pruning.sparse_model().eval()
    lean = shrink(sparse, x)
    assert trace(lean, x).dense().macs <= 0.75 * trace(model, x).dense().macs
    torch.testing.assert_close(lean(x), sparse(x), rtol=0.0, atol=1e-5)


def test_a_budget_that_frozen_layers_keep_out_of_reach_is_refused():
    model = TwoReaders()
    model.kept.requires_grad_(False)
    with pytest.raises(InputError, match=r"macs=0\.3 is out of reach"):
        L1Filters(model, steps=2, example=torch.zeros(2, 1, 8, 8), macs=0.3)
    model.last.requires_grad_(False)
    with pytest.raises(InputError, match="or all are read by layers that are left out"):
        L1Filters(model, steps=2, example=torch.zeros(2, 1, 8, 8))


def test_a_batch_norm_that_is_called_twice_has_its_penalty_once():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.second, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.first(x)).relu()
            return self.last(self.norm(self.second(x)).relu().mean((2, 3)))

    model, x = Shared(), torch.rand(4, 1, 8, 8)
    pruning = NetworkSlimming(model, steps=2, example=x, lam=0.25, prune_at=1.0)
    pruning.attach(optimizer := torch.optim.SGD(model.parameters(), lr=1.0))
    (0 * model(x).sum()).backward()
    optimizer.step()
    assert model.norm.weight.tolist() == [0.75] * 8


def test_weights_that_are_scaled_for_half_precision_take_scaled_terms():
    model, twin = nn.Linear(6, 3), nn.Linear(6, 3)
    twin.load_state_dict(model.state_dict())
    for network, scale in ((model, 1.0), (twin, 64.0)):
        method = ADMM(network, steps=5, sparsity=0.5, rho=0.5)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        method.attach(optimizer)
        network(torch.ones(2, 6)).square().sum().mul(scale).backward()
        method._before(scale if scale == 1.0 else torch.tensor(scale))
    torch.testing.assert_close(twin.weight.grad, 64 * model.weight.grad)


# Commands and recipes.


def test_every_method_runs_from_the_command_line_and_is_on_one_page(tmp_path: Path, capsys):
    out = tmp_path / "out"
    command = ["run", "digits", "--model", "vgg16", "--epochs", "1", "--batch-size", "32", "--out", str(out)]
    sets = [
        "training.warmup=0",
        "model.options.width=0.0625",
        "data.train_limit=96",
        "data.test_limit=50",
        'leave_out=["rvsm", "rgsm"]',
    ]
    for name in METHODS:
        # A splitting has no lam of its own.
        options = "{ lam = 1e-3, beta = 0.1 }" if name in ("rvsm", "rgsm") else "{}"
        sets += [f"arms.{name}_too.method={name}", f"arms.{name}_too.options={options}"]
    sets.append("arms.scratch_too.found=l1_filters_too")
    assert cli.main([*command, *(part for one in sets for part in ("--set", one))]) == 0
    rows = {row["arm"]: row for row in json.loads((out / "result.json").read_text())["rows"]}
    assert set(rows) == {"dense", *(f"{name}_too" for name in METHODS)}
    said, page = capsys.readouterr().out, (out / "report.html").read_text()
    for name in METHODS:
        assert f"{name}_too" in said
        assert f"{name}_too" in page
    for name in ("l1_filters", "network_slimming", "group_lasso_subgradient", "scratch"):
        assert float(rows[f"{name}_too"]["MACs left %"]) < 60
    for name, zeros in (("admm", 60), ("gradual_magnitude", 90)):
        assert float(rows[f"{name}_too"]["sparsity %"]) == pytest.approx(zeros, abs=3)


def on_digits(name: str) -> schema.Recipe:
    """A recipe at its smoke size, on a few digits."""
    recipe = schema.resized(load(name), "smoke")
    changes = {"data": {"name": "digits", "train_limit": 64, "test_limit": 20, "validation": 20}}
    return recipe.model_copy(update={"settings": schema.merged(recipe.settings, changes)})


@pytest.mark.parametrize("name", ["table-3.1", "table-3.2", "table-4.2", "table-4.3"])
def test_the_tables_run_at_smoke_size(name: str, tmp_path: Path):
    recipe = on_digits(name)
    finished = run(recipe, tmp_path / "out")
    asked = {criterion.value for criterion in recipe.accept}
    assert asked <= set(finished.outcome.values)
    assert len(finished.outcome.rows) == len(recipe.settings["arms"]) - len(recipe.settings.get("leave_out", []))
    published = [row for row in finished.outcome.rows if any(key.startswith("published") for key in row)]
    assert len(published) >= 3


@pytest.mark.parametrize(("name", "budget"), [("opponents", 30), ("from-trained", 50)])
def test_every_method_is_tried_and_compared_at_smoke_size(name: str, budget: int, tmp_path: Path):
    finished = run(on_digits(name), tmp_path / "out")
    assert {f"over_best_{budget}", f"over_random_{budget}"} <= set(finished.outcome.values)
    methods = [f"{method}_{budget}" for method in ("rgsm", "l1", "slimming", "gradual", "lasso", "admm")]
    for method in methods:
        [note] = [note for note in finished.outcome.notes if note.startswith(f"{method} takes ")]
        assert note.count(" %") == 3
    for arm in (*methods, f"random_{budget}"):
        assert finished.outcome.values[f"{arm}.macs_left"] <= budget


ARMS = """
title = "arms"
kind = "train"
[settings]
seeds = [0, 1]
data = { name = "digits", train_limit = 200, test_limit = 100 }
model = { name = "mlp", options = { widths = [16] } }
training = { epochs = 4, lr = 0.05, batch_size = 16 }
[settings.arms.dense]
[settings.arms.l1]
method = "l1_filters"
options = { channels = 0.5 }
[settings.arms.scratch]
method = "scratch"
found = "l1"
[settings.arms.admm]
method = "admm"
options = { sparsity = 0.5, retrain = 0.5 }
[settings.compare.lost]
arm = "l1"
to = "dense"
value = "accuracy"
[settings.compare.macs]
arm = "l1"
to = "dense"
value = "macs_left"
by = "ratio"
[settings.compare.nothing]
arm = "l1"
to = "dense"
value = "sparsity"
by = "ratio"
"""


def test_arms_are_compared_seed_by_seed_and_scratch_takes_the_found_shape(tmp_path: Path):
    file = tmp_path / "arms.toml"
    file.write_text(ARMS)
    finished = run(load(str(file)), tmp_path / "out")
    results = {
        part: json.loads((tmp_path / "out" / part / "arm.json").read_text())
        for part in (
            "dense-seed0",
            "dense-seed1",
            "l1-seed0",
            "l1-seed1",
            "scratch-seed0",
            "scratch-seed1",
            "admm-seed0",
        )
    }
    values = finished.outcome.values
    lost = [results[f"l1-seed{seed}"]["accuracy"] - results[f"dense-seed{seed}"]["accuracy"] for seed in (0, 1)]
    assert values["lost"] == pytest.approx(sum(lost) / 2)
    assert values["macs"] == pytest.approx(0.5)
    assert "nothing" not in values
    assert any("nothing can be set over it" in note for note in finished.outcome.notes)
    for seed in (0, 1):
        assert results[f"scratch-seed{seed}"]["macs_left"] == results[f"l1-seed{seed}"]["macs_left"] == 50
    assert results["admm-seed0"]["nonzero"] == 16 * 64 // 2 + 16 + 16 * 10 // 2 + 10


@pytest.mark.parametrize(("old", "new", "message"), [
    ('found = "l1"\n', "", "'scratch' takes the shape of an arm"),
    ('found = "l1"', 'found = "admm"', r"starts from 'admm', which is no sparse arm above it.*l1"),
    ('found = "l1"', 'found = "dense"', "no sparse arm above it"),
    ('method = "admm"\n', 'method = "admm"\nfound = "l1"\n', "'admm' does not look at an arm"),
    ("retrain = 0.5", "retrian = 0.5", "Did you mean 'retrain'"),
    ("retrain = 0.5", "steps = 5", "no option 'steps'"),
    ('method = "admm"\n', 'method = "admm"\ntarget = { sparsity = 0.5 }\n', "does not have"),
    ('to = "dense"\nvalue = "accuracy"', 'to = "dens"\nvalue = "accuracy"', r"no arm 'dens'.*Did you mean 'dense'"),
])  # fmt: skip
def test_arms_that_make_no_sense_are_refused(tmp_path: Path, old: str, new: str, message: str):
    file = tmp_path / "arms.toml"
    assert old in ARMS
    file.write_text(
        ARMS.replace(old, new, 1).replace("epochs = 4", "epochs = 1").replace("seeds = [0, 1]", "seeds = [0]")
    )
    with pytest.raises(InputError, match=message):
        run(load(str(file)), tmp_path / "out")


def test_a_comparison_of_what_an_arm_does_not_have_names_what_it_has():
    results = {"a": [{"accuracy": 1.0, "channel_sparsity": None}], "b": [{"accuracy": 2.0}]}
    assert Comparison(arm="a", to="b").over_seeds("accuracy", results) == [-1.0]
    with pytest.raises(InputError, match=r"'a' has no value 'acuracy'.*Did you mean 'accuracy'"):
        compared({"lost": Comparison(arm="a", to="b", value="acuracy")}, results)


@pytest.mark.parametrize("scope", ["layer", "network"])
def test_channels_that_went_gradually_stay_gone_and_the_budget_is_kept(scope) -> None:
    """The model's own zeros were counted as gone while the masks let them return: two runs of four ended as dense as they began."""
    torch.manual_seed(0)
    model = resnet20(width=8)
    x, y = torch.randn(8, 3, 16, 16), torch.randint(10, (8,))
    method = GradualMagnitude(model, steps=40, macs=0.3, unit="channel", example=x, scope=scope, updates=20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    method.attach(optimizer)
    gone = [torch.zeros_like(weight.tensor, dtype=torch.bool) for weight in method.weights]
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        zero = [weight.tensor == 0 for weight in method.weights]
        assert all((now | ~before).all() for now, before in zip(zero, gone, strict=True))
        gone = zero
    graph = trace(method.sparse_model(), x)
    assert 0.2 < graph.count().macs / graph.dense().macs <= 0.3


@pytest.mark.parametrize("scope", ["layer", "network"])
@pytest.mark.parametrize("macs", [0.5, 0.15])
@pytest.mark.parametrize("method", ["l1_filters", "random_channels", "network_slimming", "gradual_magnitude", "admm"])
def test_a_budget_of_multiply_adds_is_a_cap_that_is_used(method: str, macs: float, scope: str):
    torch.manual_seed(0)
    model, example = resnet20(width=8), torch.zeros(2, 3, 16, 16)
    options = {"macs": macs, "scope": scope, **({"unit": "channel"} if method in ("gradual_magnitude", "admm") else {})}
    pruning = methods.build(method, model, example, options, steps=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pruning.attach(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        for _ in range(2):
            model(torch.rand(2, 3, 16, 16)).square().sum().backward()
            optimizer.step()
        graph = trace(pruning.sparse_model(), example)
    left = graph.count().macs / graph.dense().macs
    # Whole channels of the widest layers are worth some percent of a network this narrow.
    assert 0.9 * macs < left <= macs


@pytest.mark.parametrize("network", ["mobilenet", "vit"])
@pytest.mark.parametrize(
    "method",
    [
        "l1_filters", "random_channels", "network_slimming", "gradual_magnitude", "group_lasso_subgradient", "admm", "rgsm",
    ],
)  # fmt: skip
def test_depthwise_channels_and_heads_go_to_the_budget_and_the_lean_network_is_the_masked_one(
    method: str, network: str
):
    torch.manual_seed(0)
    macs = 0.3
    options = {"mobilenet": {"width": 0.125}, "vit": {"width": 32, "depth": 2, "heads": 8}}[network]
    model, x = build(network, image_size=16, **options), torch.rand(4, 3, 16, 16)
    by_channel = {"unit": "channel", "scope": "network"} if method in ("gradual_magnitude", "admm") else {}
    own = {"grouping": "coupled"} if method == "rgsm" else {"macs": macs, **by_channel}
    if (method, network) == ("network_slimming", "vit"):
        with pytest.raises(InputError, match="batch-norm scales, and this network has none"):
            methods.build(method, model, x, own, steps=4)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        pruning = methods.build(method, model, x, own, steps=4)
        if method == "rgsm":
            pruning = methods.steer(pruning, x, 4, {"macs": macs})
        pruning.attach(optimizer := torch.optim.AdamW(model.parameters(), lr=1e-3))
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), torch.arange(4)).backward()
            optimizer.step()
        sparse = pruning.sparse_model().eval()
    lean = shrink(sparse, x)
    left = trace(lean, x).dense().macs / trace(model, x).dense().macs
    # A head of so small a transformer is worth some percent of it; neurons fill what is left of the budget.
    assert 0.98 * macs < left <= macs
    torch.testing.assert_close(lean(x), sparse(x), rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("method", ["l1_filters", "random_channels"])
def test_channels_go_only_of_the_layers_named(method: str):
    torch.manual_seed(0)
    model = lenet()
    options = {"channels": 5 / 6, "layers": ["conv1"], "prune_at": 0.0}
    pruning = methods.build(method, model, IMAGE, options, steps=2)
    pruning.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.0))
    model(torch.rand(2, 1, 28, 28)).square().sum().backward()
    optimizer.step()
    lost = {layer.layer: layer.zero_groups for layer in pruning.summary().layers}
    assert lost["conv2"] == 5
    assert sum(lost.values()) == 5
    with pytest.raises(InputError, match=r"No channel is made by linear3 alone.*Name all the layers"):
        methods.build(method, lenet(), IMAGE, {**options, "layers": ["linear3"]}, steps=2)


def test_a_budget_of_multiply_adds_out_of_reach_is_refused_and_single_weights_have_none():
    model, example = resnet20(width=8), torch.zeros(2, 3, 16, 16)
    for make in (L1Filters, partial(GradualMagnitude, unit="channel"), partial(ADMM, unit="channel")):
        with pytest.raises(InputError, match=r"macs=0\.0001 is out of reach: with one channel left of each layer"):
            make(model, steps=2, example=example, macs=1e-4)
    for method in (GradualMagnitude, ADMM):
        with pytest.raises(InputError, match=r"removes no multiply-adds.*unit='channel'"):
            method(model, steps=2, macs=0.5)


@pytest.mark.parametrize(
    "make",
    [
        partial(L1Filters, channels=0.5),
        partial(RandomChannels, channels=0.5),
        partial(NetworkSlimming, channels=0.5),
        partial(SubgradientGroupLasso, channels=0.5),
        partial(GradualMagnitude, sparsity=0.9, unit="channel"),
        partial(ADMM, sparsity=0.6, unit="channel"),
    ],
)
def test_how_much_goes_is_said_once(make: partial):
    with pytest.raises(InputError, match=r"(channels|sparsity)=0\.\d and macs=0\.5 say twice"):
        make(resnet20(width=8), steps=2, example=torch.zeros(2, 3, 16, 16), macs=0.5)


def test_the_best_of_several_opponents_is_named_and_a_difference_is_told_in_standard_errors():
    results = {
        "ours": [{"accuracy": 3.0}, {"accuracy": 5.0}],
        "weak": [{"accuracy": 0.0}, {"accuracy": 1.0}],
        "best": [{"accuracy": 2.0}, {"accuracy": 2.0}],
    }
    values, notes = compared({"over_best": Comparison(arm="ours", to=["weak", "best"], value="accuracy")}, results)
    # Differences 1 and 3: mean 2, standard deviation sqrt(2), of two seeds a standard error of 1.
    assert values == {
        "over_best": 2.0,
        "over_best.error": pytest.approx(1.0),
        "over_best.in_errors": pytest.approx(2.0),
    }
    assert notes == ["accuracy of ours minus that of best, the best of 2, seed by seed: 2.00 ± 1.41"]


def test_the_error_of_a_difference_of_accuracies_has_the_seeds_part_and_the_test_samples():
    ours = [{"accuracy": 75.0, "right": "1110"}, {"accuracy": 50.0, "right": "1100"}]
    theirs = [{"accuracy": 25.0, "right": "1000"}, {"accuracy": 50.0, "right": "1001"}]
    comparison = Comparison(arm="ours", to="theirs", value="accuracy")
    values, _ = compared({"over": comparison}, {"ours": ours, "theirs": theirs})
    # Of the seeds 50 and 0: a standard error of 25. Of the samples 0, 1, 0.5, -0.5: that of a mean of four.
    samples = 100 * np.std([0, 1, 0.5, -0.5], ddof=1) / 2
    assert values["over.error"] == pytest.approx(math.hypot(25.0, samples))
    # Results of which the answers were not kept have the seeds' part alone.
    for one in (*ours, *theirs):
        del one["right"]
    assert compared({"over": comparison}, {"ours": ours, "theirs": theirs})[0]["over.error"] == pytest.approx(25.0)


def test_several_opponents_need_a_value_to_be_ranked_by():
    with pytest.raises(InputError, match="does not say which arm is the best"):
        check_comparisons({"over_best": Comparison(arm="a", to=["b", "c"])}, ["a", "b", "c"])
