"""Forward-forward as a method of recipes: it shares data, report and resume; its published figures run and are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gracile.core.errors import InputError
from gracile.forward_forward import FFNetwork
from gracile.recipes import run, schema
from gracile.recipes.runner import started_recipe
from gracile.training import fit

MLP = "takes the hidden layers of an mlp"
FIGURES = ("ff-figure-1", "ff-figure-2", "ff-figure-3")
TRAINED = ("ff-mnist", "ff-mnist-shifts")


@pytest.mark.parametrize("name", FIGURES + TRAINED)
def test_smoke_meets_its_criteria_and_draws(name: str, tmp_path: Path):
    finished = run(schema.resized(schema.load(name), "smoke"), tmp_path / name)
    assert finished.verdicts
    for criterion, met in finished.verdicts:
        assert met, (criterion.claim, finished.outcome.values.get(criterion.value))
    for plot in finished.outcome.plots.values():
        assert (tmp_path / name / plot).read_bytes().startswith(b"<svg ")
    assert (tmp_path / name / "report.html").exists()


KEPT = sorted((schema.PAPERS / "forward_forward").glob("*.json"))


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_the_committed_result_is_of_this_recipe(file: Path):
    name, _, size = file.stem.rpartition(".")
    found = json.loads(file.read_text())
    recipe = schema.load(name)
    assert (found["recipe"], found["size"]) == (name, size)
    assert "+changes" not in found["environment"]["commit"]
    told = {(one["claim"], one["value"]): one for one in found["accept"]}
    for criterion in recipe.accept:
        if size in criterion.sizes:
            assert told[criterion.claim, criterion.value]["met"] == criterion.met(found["values"])


def small(**changes: object) -> schema.Recipe:
    recipe = schema.resized(schema.load("ff-mnist"), "smoke")
    data = {**recipe.settings["data"], "train_limit": 300, "test_limit": 100}
    return recipe.model_copy(update={"settings": {**recipe.settings, "data": data, **changes}, "accept": []})


def test_both_arms_have_the_same_layers_and_an_arm_may_train_otherwise(tmp_path: Path):
    folder = run(small(), tmp_path / "run").folder
    ours, theirs = (
        load_file(folder.path / arm / "model.safetensors") for arm in ("forward-forward", "backpropagation")
    )
    assert [one.shape for name, one in ours.items() if name.endswith("weight")] == [(64, 74), (64, 64)]
    assert [one.shape for name, one in theirs.items() if name.endswith("weight")][:2] == [(64, 64), (64, 64)]
    rows = {arm: folder.part(arm).metrics()[0]["lr"] for arm in ("forward-forward", "backpropagation")}
    assert rows["forward-forward"] == pytest.approx(3 * rows["backpropagation"])


def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path: Path, monkeypatch):
    run(small(), tmp_path / "whole")
    taken = 0
    gradients = FFNetwork.gradients

    def stop(self: FFNetwork, *args: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal taken
        taken += 1
        if taken == 14:
            # As Ctrl-C does: the loop ends after this step and writes a checkpoint.
            import signal

            signal.raise_signal(signal.SIGINT)
        return gradients(self, *args)

    monkeypatch.setattr(FFNetwork, "gradients", stop)
    with pytest.raises(KeyboardInterrupt):
        run(small(), tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "forward-forward" / "arm.json").exists()
    run(started_recipe(tmp_path / "stopped"), tmp_path / "stopped", resume=True)
    whole, stopped = (
        load_file(tmp_path / name / "forward-forward" / "model.safetensors") for name in ("whole", "stopped")
    )
    for name, tensor in whole.items():
        assert torch.equal(tensor, stopped[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "lenet"}, "data": {"name": "digits", "image_size": 16, "train_limit": 60}}, MLP),
        ({"model": {"name": "mlp", "options": {"widths": [8], "activation": "tanh"}}}, MLP),
        ({"model": {"name": "mlp", "options": {"widths": []}}}, MLP),
        ({"arms": {"one": {"method": "forward-forward", "options": {"godness": "mean"}}}}, "Did you mean 'goodness'"),
        ({"arms": {"one": {"method": "forward"}}}, "Did you mean 'forward-forward'"),
        ({"arms": {"one": {"method": "forward-forward", "training": {"learning": 1}}}}, "Unknown key 'learning'"),
        ({"arms": {"one": {"method": "forward-forward", "target": {"macs": 0.5}}}}, "does not have"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(changes: dict, message: str, tmp_path: Path):
    with pytest.raises(InputError, match=message):
        run(small(**changes), tmp_path / "run")


def test_features_are_standardised_and_images_are_not(tmp_path: Path):
    csv = tmp_path / "table.csv"
    random = torch.Generator().manual_seed(0)
    values = torch.randn(200, 3, generator=random) * torch.tensor([1.0, 100.0, 0.01]) + torch.tensor([0.0, 1000.0, 5.0])
    label = (values[:, 0] * 100 + values[:, 1] - 1000 > 0).long()
    csv.write_text(
        "a,b,c,label\n"
        + "".join(f"{a},{b},{c},{'yes' if y else 'no'}\n" for (a, b, c), y in zip(values.tolist(), label, strict=True))
    )
    arms = {"forward-forward": {"method": "forward-forward", "training": {"lr": 3e-3, "epochs": 30}}}
    finished = run(small(data={"name": str(csv), "validation": 0.1}, arms=arms), tmp_path / "run")
    assert finished.outcome.values["forward-forward.accuracy"] > 85
    state = load_file(tmp_path / "run" / "forward-forward" / "model.safetensors")
    assert state["inputs.mean"][1] == pytest.approx(1000, rel=0.05)


def test_fit_needs_no_validation_split():
    from gracile.data import Dataset, Splits

    data = Dataset(torch.rand(40, 6), torch.arange(40) % 2, ("a", "b"), "random")
    net = FFNetwork(6, 2, (5,))
    history = fit(net, Splits(data, data.subset([]), data.subset([])), epochs=2, learning_rule=net.gradients, lr=0.01)
    assert len(history.rows) == 2
    assert "val_accuracy" not in history.rows[0]


def test_compress_says_that_there_is_nothing_to_export(tmp_path: Path):
    from gracile.recipes.trained import trained

    folder = run(small(), tmp_path / "run").folder
    with pytest.raises(InputError, match=r"learned by forward-forward and has no logits.*arm="):
        trained(folder.path, "forward-forward")
    assert trained(folder.path, "backpropagation").name == "backpropagation"
