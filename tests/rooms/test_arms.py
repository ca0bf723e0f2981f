"""The engine of arms: the same bits however a run is spread, and nothing lost where a process dies."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import tomli_w

from gracile.core.claims import take
from gracile.core.errors import InputError
from gracile.recipes import arms, engine, load, run, schema, shipped
from gracile.recipes.arms import Part
from gracile.recipes.engine import _train_part
from gracile.recipes.kinds import KINDS, kind
from gracile.recipes.tables import Column, arm_rows, published_row, spread
from tests.peers import peer
from tests.processes import Forked

RECIPE = """
title = "arms"
kind = "train"
[settings]
seeds = [0, 1]
data = { name = "digits", train_limit = 200, test_limit = 100 }
model = { name = "mlp", options = { widths = [16] } }
training = { epochs = 2, lr = 0.05, batch_size = 16 }
[settings.arms.dense]
[settings.arms.slim]
method = "rvsm"
options = { penalty = "l0", lam = 1e-3, beta = 0.1 }
[settings.arms.anew]
method = "scratch"
found = "slim"
"""

# Of the recipe that takes a while.
EPOCHS = 10


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the recipe lies, and what is trained of it once for all tests."""
    return tmp_path_factory.mktemp("arms")


@pytest.fixture(scope="module")
def recipe(place: Path) -> schema.Recipe:
    file = place / "arms.toml"
    file.write_text(RECIPE)
    return load(str(file))


@pytest.fixture(scope="module")
def long_recipe(recipe: schema.Recipe) -> schema.Recipe:
    """One seed of two arms that take a while."""
    changes = {"seeds": [0], "leave_out": ["anew"], "training": {"epochs": EPOCHS, "batch_size": 4}}
    return recipe.model_copy(update={"settings": schema.merged(recipe.settings, changes)})


@pytest.fixture(scope="module")
def whole(recipe: schema.Recipe, place: Path) -> dict[str, Any]:
    """The bits of a run in one process."""
    run(recipe, place / "one")
    return bits(place / "one")


@pytest.fixture(scope="module")
def long_whole(long_recipe: schema.Recipe, place: Path) -> dict[str, Any]:
    """The same of the recipe that takes a while."""
    run(long_recipe, place / "long")
    return bits(place / "long")


def bits(folder: Path) -> dict[str, Any]:
    """What must not depend on who trained which part."""
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*/model.safetensors")):
        found[str(file.relative_to(folder))] = file.read_bytes()
    for row in json.loads((folder / "result.json").read_text())["rows"]:
        found[row["arm"]] = {key: value for key, value in row.items() if key != "seconds"}
    return found


def test_two_processes_give_the_bits_of_one(recipe: schema.Recipe, whole: dict, tmp_path: Path):
    run(recipe, tmp_path / "two", jobs=2)
    assert bits(tmp_path / "two") == whole
    assert len(bits(tmp_path / "two")) == 6 + 3
    assert (tmp_path / "two" / "dense-seed0" / "log.txt").read_text()
    assert not list((tmp_path / "two").rglob("claim-*"))


def test_a_warning_says_whose_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    def train(settings: Any, part: Part) -> dict[str, Any]:
        log.warning("The run ended %s.", "early")
        log.warning("%s: named already", part.label)
        log.info("in passing")
        return {}

    log = logging.getLogger("gracile")
    folder = tmp_path / "slim-seed1"
    folder.mkdir()
    _train_part(cast(Any, SimpleNamespace(train=train)), cast(Any, None), Part("slim", 1, folder), {}, ())
    log.warning("afterwards")
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == [
        "slim, seed 1: The run ended early.", "slim, seed 1: named already", "afterwards",
    ]  # fmt: skip


def test_one_by_one_as_an_array_of_jobs_does(recipe: schema.Recipe, whole: dict, tmp_path: Path):
    folder = tmp_path / "shared"
    first = run(recipe, folder, only=["dense:1"])
    assert set(first.missing) == {"dense-seed0", "slim-seed0", "slim-seed1", "anew-seed0", "anew-seed1"}
    assert "Still to be done" in str(first)
    assert json.loads((folder / "status.json").read_text())["status"] == "interrupted"
    # What an arm needs is trained with it, of its seeds alone.
    assert set(run(recipe, folder, only=["anew:0"]).missing) == {"dense-seed0", "slim-seed1", "anew-seed1"}
    assert set(run(recipe, folder, only=["anew"]).missing) == {"dense-seed0"}
    with pytest.raises(InputError, match="no arm named 'x\\*'"):
        run(recipe, folder, only=["x*"])
    last = run(recipe, folder, only=["den*:0"])
    assert not last.missing
    assert bits(folder) == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["dens"]}, r"no arm named 'dens'.*'dense'"),
        ({"only": ["dense:7"]}, r"no seed of the arm 'dense' named '7'"),
        ({"jobs": 0}, "0 processes cannot train"),
        ({"cluster": "tcp://127.0.0.1:1"}, "No Dask scheduler answers"),
    ],
)
def test_what_cannot_be_spread_is_told(recipe: schema.Recipe, tmp_path: Path, options: dict, message: str, monkeypatch):
    monkeypatch.setattr(engine, "ANSWER", 1)
    with pytest.raises(InputError, match=message):
        run(recipe, tmp_path / "run", **options)


def test_a_kind_without_arms_is_not_spread(tmp_path: Path):
    recipe = schema.resized(load("tree"), "smoke")
    with pytest.raises(InputError, match="run at one go"):
        run(recipe, tmp_path / "run", jobs=2)


def test_what_a_living_process_holds_is_left_to_it(recipe: schema.Recipe, tmp_path: Path):
    folder = tmp_path / "run"
    run(recipe, folder, only=["slim:1"])
    with take(folder / "dense-seed0") or pytest.fail("the folder is free"):
        assert run(recipe, folder, resume=True).missing == ["dense-seed0"]
        assert json.loads((folder / "status.json").read_text())["status"] == "running"
    assert not run(recipe, folder, resume=True).missing


def test_what_is_needed_and_held_is_waited_for(recipe: schema.Recipe, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(engine, "POLL", 0.01)
    folder = tmp_path / "run"
    run(recipe, folder, only=["slim"])
    done = folder / "slim-seed0" / "arm.json"
    result = done.read_bytes()
    done.unlink()
    claim = take(folder / "slim-seed0")
    assert claim is not None

    def finish() -> None:
        done.write_bytes(result)
        claim.release()

    timer = threading.Timer(1.0, finish)
    timer.start()
    assert "anew-seed0" not in run(recipe, folder, only=["anew:0"]).missing
    timer.join()


def train(file: str, folder: str) -> None:
    """What a process of its own does: run a recipe."""
    run(load(file), Path(folder))


def started(folder: Path, recipe: schema.Recipe) -> Forked:
    """A process that runs a recipe, once it has written a checkpoint."""
    file = folder.with_suffix(".toml")
    file.write_text(tomli_w.dumps(recipe.model_dump(exclude_none=True)))
    process = Forked(train, str(file), str(folder), folder=folder.parent)
    until(lambda: len(metrics(folder / "dense")) >= 3)
    return process


def metrics(part: Path) -> list[str]:
    file = part / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def until(done, seconds: float = 100.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_part_of_a_killed_process_is_taken_up_from_its_checkpoint(
    long_recipe: schema.Recipe, long_whole: dict, tmp_path: Path
):
    process = started(tmp_path / "killed", long_recipe)
    process.send(signal.SIGKILL)
    process.ended()
    assert list((tmp_path / "killed" / "dense").glob("claim-*"))
    before = metrics(tmp_path / "killed" / "dense")
    assert 3 <= len(before) < EPOCHS
    run(long_recipe, tmp_path / "killed", resume=True)
    # The seconds of the first sitting stand in rows that were not trained again.
    assert metrics(tmp_path / "killed" / "dense")[: len(before) - 1] == before[:-1]
    assert bits(tmp_path / "killed") == long_whole


def test_a_cluster_that_loses_a_worker_gives_the_bits_of_one_process(
    long_recipe: schema.Recipe, long_whole: dict, tmp_path: Path
):
    distributed = peer("distributed")
    folder, killed = tmp_path / "cluster", []
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=None
    ) as cluster:
        workers = [worker.pid for worker in cluster.workers.values()]
        assert len(workers) == 2

        def kill() -> None:
            until(lambda: len(metrics(folder / "dense")) >= 3)
            [claim] = (folder / "dense").glob("claim-*")
            killed.append(json.loads(claim.read_text())["process"])
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        run(long_recipe, folder, cluster=cluster.scheduler_address)
        killer.join()
    assert killed[0] in workers
    assert bits(folder) == long_whole


def test_what_an_arm_is_warned_of_is_said_once_whatever_it_is_built_for(recipe: schema.Recipe, tmp_path: Path, caplog):
    steered = {"method": "rvsm", "options": {"beta": 0.1}, "target": {"sparsity": 0.5}}
    settings = {**recipe.settings, "arms": {"one": steered, "two": {**steered, "target": {"sparsity": 0.7}}}}
    with caplog.at_level("WARNING", "gracile"):
        run(recipe.model_copy(update={"settings": settings}), tmp_path / "run")
    assert sum("is short for a dial" in record.getMessage() for record in caplog.records) == 2


# Names, published rows, the table.


@pytest.mark.parametrize("name", ["../victim/dense", "/tmp/gracile-victim"])
def test_an_arm_does_not_lead_out_of_its_run(recipe: schema.Recipe, tmp_path: Path, name: str):
    victim = tmp_path / "victim" / "dense" / "model.safetensors"
    victim.parent.mkdir(parents=True)
    victim.write_text("precious")
    settings = {**recipe.settings, "seeds": [0], "arms": {name: {}}}
    with pytest.raises(InputError, match="cannot be the name of a folder"):
        run(recipe.model_copy(update={"settings": settings}), tmp_path / "run")
    assert victim.read_text() == "precious"
    assert not Path("/tmp/gracile-victim").exists()


@pytest.mark.parametrize(("key", "name"), [("name", "../x"), ("size", "/x")])
def test_a_recipe_does_not_lead_out_of_its_folder(tmp_path: Path, key: str, name: str):
    file = tmp_path / "arms.toml"
    file.write_text(f'{key} = "{name}"\n{RECIPE}')
    with pytest.raises(InputError, match="cannot be the name"):
        load(str(file))


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_arm_of_a_shipped_recipe_answers_to_one_published_row(name: str):
    recipe = load(name)
    published = schema.published(recipe.published) if recipe.published else []
    for size in ("full", *recipe.sizes):
        settings = kind(recipe.kind).Settings(**schema.resized(recipe, size).settings)
        if isinstance(settings, arms.Parts):
            settings.check(published)
            # As they go to another process.
            assert schema.parse(type(settings), settings.model_dump(exclude_none=True), name) == settings


PUBLISHED = [{"model": "a", "lam": 0.1, "accuracy": 90}, {"model": "a", "lam": 0.2, "accuracy": 80}]


def test_a_published_row_stands_beside_ours():
    assert published_row("x", ["a", 0.2], PUBLISHED) == {"published lam": 0.2, "published accuracy": 80}
    assert published_row("x", [], PUBLISHED) == {}


@pytest.mark.parametrize(
    ("wanted", "table", "message"),
    [
        (["a"], PUBLISHED, r"and 2 of the recipe's published table begin so"),
        (["b"], PUBLISHED, r"none of the rows.*\['a', 0.1, 90\]"),
        (["a", 0.1], [], r"no row.*Name the table in the recipe's 'published'"),
    ],
)
def test_a_published_row_that_is_none_or_several_is_an_error(wanted: list, table: list, message: str):
    with pytest.raises(InputError, match=message):
        published_row("x", wanted, table)


def test_mean_and_spread_are_over_seeds():
    assert spread([1.0]) == "1.00"
    assert spread([1.0, 2.0, 3.0], 1) == "2.0 ± 1.0"
    results = {"a": [{"n": 1, "x": 2.0}, {"n": 1, "x": 4.0}], "b": [{"n": 1, "x": None}, {"n": 1, "x": 1.0}]}
    rows = arm_rows(results, [Column("n", "N", 0, spread=False), Column("x", "X"), Column("y", "Y")], missing="none")
    assert rows == [{"arm": "a", "N": "1", "X": "3.00 ± 1.41"}, {"arm": "b", "N": "1", "X": "none"}]


# Code of the user's own.

OWN = """
import torch
from torch import nn

def net(num_classes, in_channels, image_size, width=8):
    pixels = in_channels * image_size[0] * image_size[1]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, num_classes))

class Hard:
    name = "hard"
    convex = False
    def __init__(self, factor=1.0):
        self.factor = factor
    def value(self, w):
        return self.factor * (w != 0).sum()
    def shadow(self, w, mu):
        return torch.where(w.square() > 2 * mu * self.factor, w, torch.zeros_like(w))
    prox = shadow
    def critical_mu(self, size):
        return size.square() / 2 / self.factor

from gracile.splitting import RVSM

class Mine(RVSM):
    pass

def noise(model, x, y, *, eps, seed):
    random = torch.Generator().manual_seed(seed)
    return (x + eps * torch.empty_like(x).uniform_(-1, 1, generator=random)).clamp(0, 1)
"""


def test_model_penalty_method_and_attack_of_the_users_own(recipe: schema.Recipe, tmp_path: Path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    split = {"lam": 1e-2, "beta": 0.1}
    settings = {
        **recipe.settings,
        "seeds": [0],
        "model": {"name": f"{file}:net", "options": {"width": 16}},
        "arms": {
            "hard": {"method": "rvsm", "options": {"penalty": f"{file}:Hard", **split}},
            "harder": {"method": "rvsm", "options": {"penalty": {"name": f"{file}:Hard", "factor": 4.0}, **split}},
            "l0": {"method": f"{file}:Mine", "options": {"penalty": "l0", **split}},
        },
        "attacks": {"attacks": ["fgsm", f"{file}:noise"], "eps": 0.1, "samples": 50},
    }
    finished = run(recipe.model_copy(update={"settings": settings}), tmp_path / "run")
    values = finished.outcome.values
    assert values["hard.sparsity"] == values["l0.sparsity"] > 0
    assert values["harder.sparsity"] > values["hard.sparsity"]
    assert all("noise %" in row for row in finished.outcome.rows)
    told = (tmp_path / "run" / "log.txt").read_text()
    assert all(
        f"running code of your own: the {what} {file}" in told for what in ("model", "penalty", "method", "attack")
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "nowhere.py:net"}}, "no file nowhere.py"),
        ({"arms": {"a": {"method": "nowhere.py:Method"}}}, "no file nowhere.py"),
        ({"arms": {"a": {"method": "rvsm", "options": {"penalty": "nowhere.py:P", "lam": 1.0, "beta": 1.0}}}}, "no file nowhere.py"),
        ({"attacks": {"attacks": ["nowhere.py:attack"]}}, "no file nowhere.py"),
    ],
)  # fmt: skip
def test_code_that_is_not_there_is_told(recipe: schema.Recipe, tmp_path: Path, changes: dict, message: str):
    with pytest.raises(InputError, match=message):
        run(recipe.model_copy(update={"settings": {**recipe.settings, **changes}}), tmp_path / "run")


# A kind of someone else's, which the engine, the table and the page have never heard of.

COUNTING = """
from gracile.recipes import tables
from gracile.recipes.arms import Arm, ArmSettings
from gracile.recipes.kinds import Outcome

class Counted(Arm):
    start: int

class Settings(ArmSettings[Counted]):
    step: int = 1

def train(settings, part):
    return {"count": settings.arms[part.arm].start + settings.step * part.seed}

def outcome(settings, folder, results, published):
    rows = tables.arm_rows(results, [tables.Column("count", "how many", 1)])
    return Outcome(rows, tables.means(results))
"""


def test_a_foreign_kind_goes_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "counting_kind.py").write_text(COUNTING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(KINDS, "counting", "counting_kind")
    settings = {"arms": {"a": {"start": 1}, "b": {"start": 2}}, "seeds": [10, 20], "step": 2}
    recipe = schema.Recipe(name="counts", title="counts", kind="counting", settings=settings)
    finished = run(recipe, tmp_path / "run", only=["b:20"])
    assert set(finished.missing) == {"a-seed10", "a-seed20", "b-seed10"}
    finished = run(recipe, tmp_path / "run", resume=True)
    assert finished.outcome.rows == [{"arm": "a", "how many": "31.0 ± 14.1"}, {"arm": "b", "how many": "32.0 ± 14.1"}]
    errors = {"a.count.error": 10.0, "b.count.error": 10.0}
    assert finished.outcome.values == pytest.approx({"a.count": 31.0, "b.count": 32.0, **errors})
    assert (tmp_path / "run" / "report.html").exists()
