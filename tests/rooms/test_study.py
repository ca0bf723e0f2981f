"""The study's recipes, on data that ship with scikit-learn, and the pieces they are made of."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gracile import data as datasets
from gracile.core.errors import InputError
from gracile.models import mlp
from gracile.recipes import schema
from gracile.recipes.kinds.perceptron import Network, Settings, build, descend
from gracile.recipes.runner import run
from gracile.report import read
from gracile.training import Averaged, Diminishing, OutputLoss, fit, optimizer_factory

NAMES = ("study-a", "study-b", "study-c", "study-f", "study-g", "study-readings")
DIGITS = {"name": "digits", "train_limit": 600, "test_limit": 200, "validation": 0.1}


def small(name: str) -> schema.Recipe:
    """A recipe at its smoke size, on digits."""
    recipe = schema.resized(schema.load(name), "smoke")
    return recipe.model_copy(update={"settings": {**recipe.settings, "data": DIGITS}, "accept": []})


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_runs_and_draws(name: str, tmp_path: Path) -> None:
    recipe = small(name)
    finished = run(recipe, tmp_path / name)
    arms = recipe.settings["arms"]
    assert [row["arm"] for row in finished.outcome.rows] == list(arms)
    for plot in finished.outcome.plots.values():
        assert (tmp_path / name / plot).read_bytes().startswith(b"<svg ")
    answered = {row["arm"] for row in finished.outcome.rows if "published accuracy" in row}
    assert answered == {arm for arm, one in arms.items() if one.get("published")}
    page = (tmp_path / name / "report.html").read_text()
    assert "Validation accuracy" in page
    assert ("Effective smoothness" in page) == (name == "study-g")
    for criterion in schema.load(name).accept:
        assert criterion.value in finished.outcome.values


def test_an_interrupted_run_goes_on_with_what_is_done(tmp_path: Path) -> None:
    recipe = small("study-b")
    first = run(recipe, tmp_path / "b")
    (tmp_path / "b" / "adagrad" / "arm.json").unlink()
    again = run(recipe, tmp_path / "b", resume=True)
    assert again.outcome.values["adagrad.accuracy"] == first.outcome.values["adagrad.accuracy"]
    assert len(read(tmp_path / "b").arms[2].trained[0].metrics) == 3


def test_a_reading_that_diverges_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    recipe = small("study-b")
    arms = {"wild": {"training": {"lr": 1e9}}, "tame": {}}
    settings = {**recipe.settings, "arms": arms, "smoothness": True}
    finished = run(recipe.model_copy(update={"settings": settings}), tmp_path / "b")
    wild, tame = finished.outcome.rows
    assert wild["accuracy %"] == "diverged"
    assert float(tame["accuracy %"]) > 50
    assert "wild.accuracy" not in finished.outcome.values


def test_l1_makes_the_file_smaller_and_the_shrunk_network_as_accurate(tmp_path: Path) -> None:
    recipe = small("study-f")
    arms = {"none": {}, "l1": {"training": {"l1": 0.05, "steps": 400, "every": 400}}}
    finished = run(recipe.model_copy(update={"settings": {**recipe.settings, "arms": arms}}), tmp_path / "f")
    values = finished.outcome.values
    assert values["l1.zeros"] > 50
    assert values["l1.parameters_shrunk"] < values["l1.parameters"]
    assert values["l1.compressed_share"] < 0.6
    assert values["l1.shrunk_accuracy"] == pytest.approx(values["l1.accuracy"], abs=0.51)
    for key, file in (("shrunk_kb", "lean.safetensors"), ("compressed_kb", "lean.safetensors.xz")):
        assert (tmp_path / "f" / "l1" / file).stat().st_size == 1000 * values[f"l1.{key}"]


def test_formulas_and_autograd_train_alike() -> None:
    """Plain gradient descent goes by explicit formulas; behind a dropout of nothing the same steps go through autograd."""
    splits = datasets.load("digits", train_limit=300, test_limit=50)
    settings = Settings.model_validate(
        {"data": {"name": "digits"}, "training": {"steps": 20, "batch_size": 25, "lr": 0.05, "every": 10}, "arms": {}}
    )
    weights = []
    for silent in (False, True):
        network = build(Network(widths=[20, 10], bias=True), splits, 0)
        if silent:
            network.network.add_module("silent", nn.Dropout(0.0))
        descend(network, splits, settings.training, OutputLoss("softmax", "squared", "mean"), seed=0)
        weights.append([one.detach().clone() for one in network.parameters()])
    for one, two in zip(*weights, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"training": {"lrr": 1.0}}, "Did you mean 'lr'"),
        ({"network": {"norm": "l3"}}, "no norm named 'l3'"),
        ({"network": {"dropout": 1.0}}, "cannot be dropped"),
        ({"network": {"initialisation": "zeros"}}, "initialisation"),
    ],
)
def test_a_wrong_arm_is_refused_in_one_sentence(arm: dict, message: str, tmp_path: Path) -> None:
    recipe = small("study-b")
    with pytest.raises(InputError, match=message):
        run(recipe.model_copy(update={"settings": {**recipe.settings, "arms": {"one": arm}}}), tmp_path / "b")


# The optimisers as the study prints them.


def rosenbrock(w: Tensor) -> Tensor:
    return (1 - w[0]).square() + 100 * (w[1] - w[0].square()).square()


def test_adagrad_with_its_schedule_is_the_printed_one() -> None:
    w = nn.Parameter(torch.tensor([-1.0, 0.5], dtype=torch.float64))
    plain, total = w.detach().clone(), torch.zeros(2, dtype=torch.float64)
    optimizer = optimizer_factory("adagrad", lr=0.01)([w])
    schedule = Averaged(1)
    for step in range(1, 21):
        optimizer.param_groups[0]["lr"] = 0.01 * schedule.factor(step - 1)
        optimizer.zero_grad()
        rosenbrock(w).backward()
        optimizer.step()
        g = torch.func.grad(rosenbrock)(plain)
        total += g.square()
        plain = plain - 0.01 * g / ((total / step).sqrt() + 1e-12)
        torch.testing.assert_close(w.detach(), plain, rtol=1e-9, atol=1e-12)


def test_rmsprop_is_the_printed_one() -> None:
    w = nn.Parameter(torch.tensor([-1.0, 0.5], dtype=torch.float64))
    plain, mean = w.detach().clone(), torch.zeros(2, dtype=torch.float64)
    optimizer = optimizer_factory("rmsprop", lr=9e-4, momentum=0.9)([w])
    for _ in range(20):
        optimizer.zero_grad()
        rosenbrock(w).backward()
        optimizer.step()
        g = torch.func.grad(rosenbrock)(plain)
        mean = 0.9 * mean + 0.1 * g.square()
        plain = plain - 9e-4 * g / (mean.sqrt() + 1e-12)
    torch.testing.assert_close(w.detach(), plain, rtol=1e-9, atol=1e-12)


def test_schedules_count_steps_within_epochs() -> None:
    for schedule, value in (
        (Diminishing(0.5, 7), lambda step: 1 / (1 + 0.5 * step)),
        (Averaged(7), math.sqrt),
    ):
        found = [schedule.factor(epoch + step / 7) for epoch in range(3) for step in range(7)]
        assert found == pytest.approx([value(step) for step in range(1, 22)])


def test_a_train_recipe_takes_them(tmp_path: Path) -> None:
    recipe = schema.load("digits")
    arms = {"dense": {}}
    for training in (
        {"optimizer": "adagrad", "lr": 1e-3, "schedule": "averaged"},
        {"lr": 0.1, "schedule": "diminishing", "decay": 0.1},
    ):
        settings = schema.merged(recipe.settings, {"training": {"epochs": 2, "warmup": 0.0, **training}})
        where = tmp_path / training["schedule"]
        run(recipe.model_copy(update={"settings": {**settings, "arms": arms}, "accept": []}), where)
        first, second = (
            json.loads(line)["lr"] for line in (where / "dense" / "metrics.jsonl").read_text().splitlines()
        )
        assert (second > first) == (training["schedule"] == "averaged")


# The perceptron's new options.


def test_options_of_the_perceptron() -> None:
    torch.manual_seed(0)
    model = mlp(in_features=400, widths=(300, 200), activation="selu", output="softmax", bias=False, norm="l1", dropout=0.5,
                initialisation="lecun")  # fmt: skip
    names = [name for name, _ in model.named_children()]
    assert names == [
        "flatten", "linear1", "norm1", "act1", "dropout1", "linear2", "norm2", "act2", "dropout2", "linear3", "act3",
    ]  # fmt: skip
    assert not any(name.endswith("bias") and "linear" in name for name, _ in model.named_parameters())
    torch.testing.assert_close(model.eval()(torch.randn(5, 400)).sum(1), torch.ones(5))
    assert model.linear1.weight.std().item() == pytest.approx(400**-0.5, rel=0.02)
    glorot = mlp(in_features=400, widths=(200,), initialisation="glorot")
    assert glorot.linear1.weight.std().item() == pytest.approx((2 / 600) ** 0.5, rel=0.02)


def test_a_perceptron_of_fit_learns_with_every_norm() -> None:
    splits = datasets.load("digits", train_limit=600, test_limit=100)
    for norm in (None, "l1", "l2", "weight"):
        torch.manual_seed(0)
        network = mlp(image_size=8, widths=(32,), activation="selu", norm=norm)
        assert fit(network, splits, epochs=3, batch_size=32, lr=0.05).rows[-1]["val_accuracy"] > 0.7, norm
