"""Classification over workers: stacked and one by one agree, and the command and recipes run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from gracile import cli
from gracile.core.errors import DataError, InputError
from gracile.core.network import Network
from gracile.data import Dataset, Splits, load
from gracile.models import mlp, normalized, resnet20
from gracile.recipes import load as load_recipe
from gracile.recipes import run, schema
from gracile.recipes.schema import resized
from gracile.report import worker_figures
from gracile.training import fit
from gracile.workers import GRAPHS, Classification, graph, method, network, shards, train
from gracile.workers.perceptron import perceptron


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load("digits", validation=0.1)


def problem(digits: Splits, workers: int = 4, **more) -> Classification:
    torch.manual_seed(0)
    parts = dict(enumerate(shards(digits.train.labels, workers)))
    return Classification(mlp(image_size=8, widths=[12]), digits.train, parts, batch_size=8, **more)


def test_a_worker_network_is_a_network():
    def exact(joined: Network) -> torch.Tensor:
        return joined.average(torch.arange(float(joined.workers))[list(joined.local)])

    assert exact(network("ring", 4)).tolist() == [1.5] * 4


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_stacked_and_single_gradients_agree_with_autograd(digits: Splits, decay: float):
    stacked, single = problem(digits, weight_decay=decay), problem(digits, exact=True, weight_decay=decay)
    assert (stacked._perceptron is None, single._perceptron is None) == (False, True)
    x = torch.stack([stacked.start(worker) for worker in range(4)]) * torch.linspace(0.5, 1.5, 4)[:, None]
    g = stacked.gradients(x, 7)
    assert torch.allclose(g, single.gradients(x, 7), atol=1e-6)
    for descending in (stacked, single):
        moved = x.clone()
        descending.descend(moved, 7, 0.1)
        assert torch.allclose(moved, x - 0.1 * g, atol=1e-6)
    inputs, labels = stacked.batch(2, 7)
    module = stacked.module(x[2])
    module.zero_grad()
    nn.functional.cross_entropy(module(inputs), labels).backward()
    plain = torch.cat([parameter.grad.flatten() for parameter in module.parameters()]) + decay * x[2]
    assert torch.allclose(g[2], plain, atol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "selu", "silu", "tanh", "sigmoid", "linear"])
@pytest.mark.parametrize("bias", [True, False])
def test_batched_products_are_autograd_for_every_perceptron(digits: Splits, activation: str, bias: bool):
    torch.manual_seed(0)
    parts = dict(enumerate(shards(digits.train.labels, 3)))
    built = normalized(mlp(image_size=8, widths=[12, 7], activation=activation, bias=bias), [0.3], [0.4])
    fast, slow = (Classification(built, digits.train, parts, batch_size=8, exact=exact) for exact in (False, True))
    assert fast._perceptron is not None
    x = torch.stack([fast.start(worker) for worker in range(3)]) * torch.linspace(0.5, 1.5, 3)[:, None]
    expected = x.clone()
    slow.descend(expected, 2, 0.1)
    fast.descend(x, 2, 0.1)
    assert torch.allclose(x, expected, atol=2e-6)


def frozen(kind: str) -> nn.Module:
    """A perceptron, or something that is none, whose first or last layer is frozen."""
    torch.manual_seed(0)
    between = nn.ReLU() if kind.startswith("perceptron") else nn.LayerNorm(12)
    built = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), between, nn.Linear(12, 10))
    built[1 if kind.endswith("first") else 3].requires_grad_(False)
    return built


@pytest.mark.parametrize("kind", ["perceptron, first", "perceptron, last", "other, first", "other, last"])
@pytest.mark.parametrize("exact", [True, False])
def test_only_what_requires_a_gradient_is_trained_and_sent(digits: Splits, kind: str, exact: bool):
    built, parts = frozen(kind), dict(enumerate(shards(digits.train.labels, 3)))
    given = Classification(built, digits.train, parts, batch_size=8, exact=exact)
    size = sum(parameter.numel() for parameter in built.parameters() if parameter.requires_grad)
    for name, options in {"average": {}, "gradient-tracking": {}, "choco": {"compress": "none"}, "admm": {}}.items():
        joined = network("path", 3)
        found = train(joined, method(name, lr=0.1, **options), given, 2)
        assert found.x.shape == (3, size)
        assert found.rows[-1]["bytes"] == {
            "average": 2 * 4 * (4 * size + 2), "gradient-tracking": 2 * 2 * 4 * 4 * size, "choco": 2 * 4 * 4 * size,
            "admm": 2 * 4 * (4 * size + 2),
        }[name]  # fmt: skip
    # And the gradients of the rest are autograd's.
    x = torch.stack([given.start(worker) for worker in range(3)])
    module, (inputs, labels) = given.module(x[1]), given.batch(1, 5)
    nn.functional.cross_entropy(module(inputs), labels).backward()
    plain = torch.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])
    assert torch.allclose(given.gradients(x, 5)[1], plain, atol=1e-6)
    moved = x.clone()
    given.descend(moved, 5, 0.1)
    assert torch.allclose(moved[1], x[1] - 0.1 * plain, atol=1e-6)


@pytest.mark.parametrize("exact", [True, False])
def test_tied_weights_count_once(digits: Splits, exact: bool):
    torch.manual_seed(0)
    built = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    built[3].weight = built[1].weight
    parts = dict(enumerate(shards(digits.train.labels, 2)))
    given = Classification(built, digits.train, parts, batch_size=8, exact=exact)
    x = torch.stack([given.start(worker) for worker in range(2)])
    assert x.shape[1] == 64 * 64 + 64 + 64 + 650
    module, (inputs, labels) = given.module(x[0]), given.batch(0, 1)
    nn.functional.cross_entropy(module(inputs), labels).backward()
    plain = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
    assert torch.allclose(given.gradients(x, 1)[0], plain, atol=1e-6)


def normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))


@pytest.mark.parametrize("name", ["average", "dsgd", "scaffold", "gradient-tracking"])
def test_running_statistics_are_averaged_or_kept_local(digits: Splits, name: str):
    parts = dict(enumerate(shards(digits.train.labels, 4, "label")))
    found = {}
    for statistics in ("averaged", "local"):
        given = Classification(normed(), digits.train, parts, batch_size=16, statistics=statistics)
        found[statistics] = train(network("complete", 4), method(name, lr=0.05), given, 5, every=5)
        spread = float((given.buffers - given.buffers.mean(0)).abs().max())
        assert (spread < 1e-5) == (statistics == "averaged")
        assert float(given.buffers[:, -1].min()) >= 5
        module = given.module(found[statistics].x[1], worker=1)
        assert torch.allclose(module[2].running_mean, given.buffers[1, :12])
        own = float((module.eval()(digits.test.inputs.float() / 255).argmax(1) == digits.test.labels).float().mean())
        assert own == pytest.approx(float(given.evaluate(found[statistics].x, digits.test)[0][1]))
    # 25 numbers more per message: means, variances and the count of batches.
    more = found["averaged"].rows[-1]["bytes"] - found["local"].rows[-1]["bytes"]
    messages = 6 if name in ("average", "scaffold") else 12
    assert more == 5 * 4 * (messages * 25 + (3 if messages == 6 else 0))


def test_statistics_are_those_of_plain_training_and_go_into_checkpoints(digits: Splits, tmp_path: Path):
    parts = dict(enumerate(shards(digits.train.labels, 1)))
    given = Classification(normed(), digits.train, parts, batch_size=16)
    chosen = method("average", lr=0.1, local_steps=3)
    straight = train(network("complete", 1), chosen, given, 4)
    kept = given.buffers.clone()
    plain = normed().train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for step in range(12):
        inputs, labels = given.batch(0, step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(inputs), labels).backward()
        optimizer.step()
    assert torch.allclose(kept[0, :24], torch.cat([plain[2].running_mean, plain[2].running_var]), atol=1e-5)
    train(network("complete", 1), chosen, given, 2, folder=tmp_path, checkpoint_every=2)
    again = train(network("complete", 1), chosen, given, 4, folder=tmp_path, resume=True)
    assert torch.equal(again.x, straight.x)
    assert torch.equal(given.buffers, kept)


def test_a_residual_network_is_federated(digits: Splits):
    torch.manual_seed(0)
    built = resnet20(in_channels=1, image_size=8, width=4)
    given = Classification(built, digits.train, dict(enumerate(shards(digits.train.labels, 2))), batch_size=16)
    found = train(network("star", 2), method("average", lr=0.1, local_steps=2), given, 2, every=2)
    assert torch.isfinite(found.x).all()
    assert torch.equal(given.buffers[0], given.buffers[1])


def test_other_networks_are_not_taken_for_perceptrons():
    assert perceptron(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))) is None
    assert perceptron(nn.Sequential(nn.Linear(8, 2), nn.LayerNorm(2))) is None
    assert perceptron(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 2))) is None
    assert perceptron(nn.Sequential(nn.Linear(8, 4), nn.Dropout(), nn.Linear(4, 2))) is None
    assert perceptron(nn.Flatten()) is None


def test_a_shard_is_gone_through_once_a_turn(digits: Splits):
    given = problem(digits, workers=40)
    size = int(given.samples[0])
    assert size % 8
    seen = torch.cat([given.batch(0, step)[0] for step in range(size)])
    for turn in range(3):
        once = seen[turn * size : (turn + 1) * size].flatten(1)
        assert torch.equal(once.sum(0), seen[:size].flatten(1).sum(0)) or torch.allclose(
            once.sum(0), seen[:size].flatten(1).sum(0), atol=1e-3
        )


def test_one_worker_is_plain_training(digits: Splits):
    """A network of one is SGD: the same weights as a loop in plain torch."""
    given = problem(digits, workers=1)
    found = train(network("complete", 1), method("average", lr=0.1, local_steps=5), given, 4).x[0]
    torch.manual_seed(0)
    plain = mlp(image_size=8, widths=[12])
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for step in range(20):
        inputs, labels = given.batch(0, step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(inputs), labels).backward()
        optimizer.step()
    assert torch.allclose(found, torch.cat([p.detach().flatten() for p in plain.parameters()]), atol=1e-5)
    assert fit is not None


@pytest.mark.parametrize("exact", [False, True])
def test_a_network_of_doubles_is_trained_on_images_of_floats(digits: Splits, exact: bool):
    parts = dict(enumerate(shards(digits.train.labels, 4)))
    found = []
    for double in (False, True):
        torch.manual_seed(0)
        built = mlp(image_size=8, widths=[12])
        given = Classification(built.double() if double else built, digits.train, parts, batch_size=8, exact=exact)
        done = train(network("ring", 4), method("choco", lr=0.1, compress="int8", gamma=0.5), given, 4)
        assert done.x.dtype == (torch.float64 if double else torch.float32)
        assert given.evaluate(done.x, digits.validation)[0].shape == (4,)
        found.append(done.x.double())
    # A message of int8 differs by a level where the two round to either side.
    assert torch.allclose(*found, atol=0.02)


def test_dropout_is_its_own_at_every_worker_and_step(digits: Splits):
    torch.manual_seed(0)
    parts = dict(enumerate(shards(digits.train.labels, 3)))
    hidden = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 10))
    for exact in (False, True):
        given = Classification(hidden, digits.train, parts, batch_size=8, exact=exact)
        x = torch.stack([given.start(worker) for worker in range(3)])
        before = torch.get_rng_state()
        assert torch.equal(given.gradients(x, 3), given.gradients(x, 3))
        assert torch.equal(torch.get_rng_state(), before)
        assert not torch.equal(given.gradients(x, 3), given.gradients(x, 4))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda d, p: Classification(nn.Linear(64, 10).requires_grad_(False), d, p), InputError, "requires a gradient"),
        (lambda d, p: Classification(mlp(image_size=8), d, p, statistics="shared"), InputError, "running statistics"),
        (lambda d, p: Classification(nn.Sequential(nn.Flatten(), nn.Linear(9, 10)), d, p), InputError, "does not take"),
        (lambda d, p: Classification(nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), d, p), DataError, "9 outputs"),
        (lambda d, p: Classification(nn.Flatten(), d, {}), InputError, "trains nothing"),
    ],
)
def test_what_cannot_be_trained_is_refused(make, error, words: str, digits: Splits):
    with pytest.raises(error, match=words):
        make(digits.train, {0: torch.arange(20)})


def test_the_command_draws_what_it_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "run"
    words = ["--graph", "two-star", "--method", "average", "--rounds", "6", "--every", "2", "--widths", "8"]
    assert cli.main(["workers", *words, "--out", str(out)]) == 0
    assert "two-star, 6" in capsys.readouterr().out
    result = json.loads((out / "result.json").read_text())
    assert result["values"]["average.accuracy"] > 20
    # Ten messages a round of all weights; five of them, on the way up, carry their weight as one number more.
    assert result["values"]["average.bytes"] == 6 * 4 * (10 * (64 * 8 + 8 + 8 * 10 + 10) + 5)
    rows = [json.loads(line) for line in (out / "average" / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 2, 4, 6]
    assert all(len(row["accuracy"]) == 6 for row in rows)
    assert (out / "plots" / "average.svg").stat().st_size > 10_000
    assert (out / "report.html").exists()


def test_the_command_hands_options_on_to_the_method(tmp_path: Path):
    out = tmp_path / "run"
    words = [
        "--method",
        "fedopt",
        "--graph",
        "star",
        "--rounds",
        "2",
        "--every",
        "1",
        "--widths",
        "4",
        "--train-limit",
        "200",
    ]
    given = ["server=yogi", "server_lr=0.03", "participation=0.5", "weighted=false", "beta=0"]
    more = [word for one in given for word in ("--option", one)]
    assert cli.main(["workers", *words, *more, "--statistics", "local", "--out", str(out)]) == 0
    settings = schema.load(str(out / "recipe.toml")).settings
    assert settings["training"]["statistics"] == "local"
    assert settings["arms"]["fedopt"]["options"] == {
        "local_steps": 10, "seed": 0, "server": "yogi", "server_lr": 0.03, "participation": 0.5, "weighted": False,
        "beta": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--edges", "0-1,2-3", "--workers", "4"], "disconnected"),
        (["--edges", "0:1"], "pairs"),
        (["--workers", "7", "--graph", "torus"], "no factors"),
        (["--method", "choco", "--gossip", "2"], "no option 'gossip'"),
        (["--method", "fedopt", "--option", "servr=yogi"], "no option 'servr'. Did you mean 'server'"),
        (["--method", "fedprox", "--option", "mu=much"], "mu=much cannot be used: input should be a valid number"),
        (["--method", "fedprox", "--option", "mu"], "--option takes KEY=VALUE"),
        (["--option", "lr=0.1"], "Write --lr 0.1"),
        (["--method", "choco", "--gamma", "0.3", "--option", "gamma=0.2"], "Write --gamma 0.2"),
        (["--method", "averge", "--option", "a=1"], "Did you mean 'average'"),
        (["--widths", "a"], "whole numbers"),
        (["--processes", "7"], "cannot share"),
        (["--split", "dirichlet:0.01", "--workers", "40"], "without any"),
        (["--method", "two-star"], "no two-star"),
    ],
)
def test_the_command_refuses_with_status_2(words: list[str], said: str, tmp_path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["workers", "--rounds", "1", *words, "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_every_graph_is_laid_out_without_overlap(name: str):
    places = worker_figures.layout(graph(name, 12))
    apart = torch.pdist(torch.from_numpy(places)).min()
    assert float(apart) > 0.05
    assert places.min() >= 0
    assert places.max() <= 1


def test_a_data_set_of_features_works_too(tmp_path: Path):
    x = torch.randn(200, 5)
    data = Dataset(x, (x[:, 0] > 0).long(), ("low", "high"), "features")
    parts = dict(enumerate(shards(data.labels, 4)))
    given = Classification(nn.Linear(5, 2), data, parts)
    found = train(network("ring", 4), method("dsgd", lr=0.5, local_steps=5), given, 40, every=40)
    assert float(given.evaluate(found.x, data)[0].min()) > 0.9


@pytest.mark.parametrize("name", ["study-d", "study-e", "topologies", "compressed", "federated"])
def test_recipes_run_in_their_smallest_size(name: str, tmp_path: Path):
    finished = run(resized(load_recipe(name), "smoke"), tmp_path / "run")
    assert all(met for _, met in finished.verdicts)
    assert {"accuracy by round and by bytes", "where workers end"} & set(finished.outcome.plots)
    assert all((finished.folder.path / plot).stat().st_size > 10_000 for plot in finished.outcome.plots.values())
