"""Training that begins with a trained network: an arm's, or a file of the user's own."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gracile import data, fit
from gracile.core.errors import InputError, StorageError
from gracile.recipes.request import prepare, run
from gracile.recipes.trained import trained
from gracile.training import evaluate

START = """
title = "from a trained arm"
kind = "train"
[settings]
seeds = [3]
data = { name = "digits", train_limit = 200, test_limit = 100 }
model = { name = "mlp", options = { widths = [16] } }
training = { epochs = 2, lr = 0.0, batch_size = 16, weight_decay = 0.0 }
[settings.arms.trained]
training = { lr = 0.1 }
[settings.arms.on]
start = "trained"
[settings.arms.lean]
start = "trained"
method = "rvsm"
options = { penalty = "l0", lam = 1e-4, beta = 0.1 }
"""

NET = """
from torch import nn

def make(num_classes, in_features=64):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_features, 24), nn.ReLU(), nn.Linear(24, num_classes))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a network of the user's own, and weights it was trained to without a layer in front."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    splits = data.load("digits")
    fit(network, splits, epochs=8, lr=0.1, batch_size=32)
    assert evaluate(network, splits.validation).accuracy > 0.85
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    return tmp_path


def test_an_arm_begins_with_the_weights_of_another(tmp_path: Path):
    (tmp_path / "start.toml").write_text(START)
    made = run(tmp_path / "start.toml", folder=tmp_path / "run")
    weights = {arm: load_file(tmp_path / f"run/{arm}/model.safetensors") for arm in ("trained", "on", "lean")}
    # Its rate is 0, so it ends where it began.
    assert all(torch.equal(tensor, weights["on"][name]) for name, tensor in weights["trained"].items())
    assert made.outcome.values["on.accuracy"] == made.outcome.values["trained.accuracy"]
    matrices = [name for name, tensor in weights["trained"].items() if tensor.ndim == 2]
    assert len(matrices) == 2
    for name in matrices:
        large = weights["lean"][name] != 0
        assert torch.equal(weights["lean"][name][large], weights["trained"][name][large])


@pytest.mark.parametrize(("changes", "message"), [
    ({"arms.on.start": "lean"}, "'lean', which is no arm above it with the same network"),
    ({"arms.on.start": "trainedd"}, "Did you mean 'trained'"),
    ({"arms.on.model.name": "lenet"}, "no arm above it with the same network. Put an arm"),
])  # fmt: skip
def test_an_arm_can_begin_with_an_arm_above_it_alone(tmp_path: Path, changes: dict[str, str], message: str):
    (tmp_path / "start.toml").write_text(START)
    with pytest.raises(InputError, match=message):
        run(tmp_path / "start.toml", folder=tmp_path / "run", settings=changes)


def test_a_network_of_ones_own_is_made_lean_from_its_weights(here: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="gracile")
    made = run(
        data="digits", image_size=8, model="net.py:make", weights="w.safetensors", target={"macs": 0.5}, epochs=3, folder="run",
    )  # fmt: skip
    begun = [record.message for record in caplog.records if "begins with w.safetensors" in record.message]
    assert len(begun) == 3
    assert all(float(line.split(": ")[1].split(" %")[0]) > 85 for line in begun)
    assert 49 < made.outcome.values["rgsm.macs_left"] <= 50
    assert made.outcome.values["rgsm.accuracy"] > 80
    assert made.outcome.values["rvsm.sparsity"] >= 90
    # The run tells its network when the file is gone.
    Path("w.safetensors").unlink()
    assert trained("run").model[1].weight.shape == (24, 64)


def test_weights_worth_nothing_on_these_data_are_said_to_be(here: Path, caplog: pytest.LogCaptureFixture):
    state = load_file("w.safetensors")
    save_file({name: torch.zeros_like(tensor) for name, tensor in state.items()}, "w.safetensors")
    run(data="digits", model="net.py:make", weights="w.safetensors", epochs=1, folder="run", only=["dense"])
    assert "begins with w.safetensors, which is worth nothing on these data (constant output)" in caplog.text
    assert "model.normalized" in caplog.text


def test_weights_of_a_run_keep_the_layer_in_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    state = {"normalize.mean": torch.zeros(1), "network.weight": torch.zeros(1)}
    save_file(state, "run.safetensors")
    save_file({"weight": torch.zeros(1)}, "own.safetensors")
    for file, layer in {"run": True, "own": False}.items():
        recipe = prepare(data="digits", weights=f"{file}.safetensors")
        assert recipe.name == "fine-tune"
        assert recipe.settings["model"]["normalized"] is layer


def test_weights_that_are_not_there_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match=r"There is no file none.safetensors"):
        run(data="digits", weights="none.safetensors")
