"""bf16 by itself: where it is taken, that a run keeps what it began with, that recipes do not change under anybody's feet."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from gracile import fit
from gracile.core.errors import InputError
from gracile.core.runs import RunFolder
from gracile.data import Splits
from gracile.models import mlp
from gracile.recipes import schema
from gracile.recipes.runner import _claim
from gracile.recipes.training import TrainingSettings
from gracile.training import CrossEntropy, LossObjective, adversary, checkpoints, precision
from gracile.training.checkpoints import CHECKPOINT

CPU = torch.device("cpu")
SETTINGS = {"batch_size": 32, "lr": 0.05, "seed": 4}


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A processor with bf16, whatever this one has: without the instructions it computes the same, slowly."""
    monkeypatch.setattr(precision, "processor_has_bf16", lambda: True)
    return monkeypatch


def network(*more: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), *more, nn.Flatten(), nn.Linear(216, 3))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([one.detach().flatten() for one in model.parameters()])


def trained(data: Splits, model: nn.Module | None = None, **settings: object) -> torch.Tensor:
    model = network() if model is None else model
    fit(model, data, **{"epochs": 2, **SETTINGS, **settings})  # type: ignore[arg-type]
    return weights(model)


@pytest.mark.parametrize(
    ("model", "learning", "taken"),
    [
        (network(), CrossEntropy(), "bf16"),
        (nn.Conv1d(1, 6, 3), CrossEntropy(), "bf16"),
        (network().double(), CrossEntropy(), "float32"),
        (network().half(), CrossEntropy(), "float32"),
        (network(nn.GroupNorm(2, 6)), CrossEntropy(), "float32"),
        (nn.Sequential(nn.Conv2d(1, 8, 2, 2), nn.TransformerEncoderLayer(8, 2)), CrossEntropy(), "float32"),
        (mlp(widths=(8,)), CrossEntropy(), "float32"),
        (network(), adversary("fgsm"), "float32"),
        (network(), LossObjective(nn.functional.cross_entropy), "float32"),
        (network(), lambda x, y: (x.sum(), y.sum()), "float32"),
    ],
)
def test_auto_takes_bf16_where_it_was_measured(bf16, model: nn.Module, learning, taken: str):
    assert precision.choose("auto", model, learning, CPU)[0] == taken


def test_auto_is_what_it_says_it_took_to_the_last_bit(bf16: pytest.MonkeyPatch, blobs: Splits, caplog):
    with caplog.at_level(logging.INFO, "gracile"):
        auto = trained(blobs)
    assert "Training in bf16: the processor has it." in caplog.text
    assert torch.equal(auto, trained(blobs, precision="bf16"))
    bf16.setattr(precision, "processor_has_bf16", lambda: False)
    single = trained(blobs)
    assert torch.equal(single, trained(blobs, precision="float32"))
    assert not torch.equal(auto, single)


@pytest.mark.parametrize("began", [True, False])
def test_a_resumed_run_keeps_what_it_began_with(bf16: pytest.MonkeyPatch, blobs: Splits, tmp_path: Path, began: bool):
    bf16.setattr(precision, "processor_has_bf16", lambda: began)
    whole = trained(blobs)
    trained(blobs, epochs=1, folder=tmp_path)
    bf16.setattr(precision, "processor_has_bf16", lambda: not began)
    assert torch.equal(trained(blobs, folder=tmp_path, resume=True), whole)
    other = "float32" if began else "bf16"
    with pytest.raises(InputError, match=r"began in \w+, and precision='\w+' is asked for"):
        trained(blobs, folder=tmp_path, resume=True, epochs=3, precision=other)


def test_a_checkpoint_from_before_precisions_were_kept_goes_on_in_float32(bf16, blobs: Splits, tmp_path: Path):
    whole = trained(blobs, precision="float32")
    trained(blobs, epochs=1, folder=tmp_path, precision="float32")
    state = checkpoints.load(tmp_path / CHECKPOINT)
    del state["history"]["precision"]
    checkpoints.save(tmp_path / CHECKPOINT, state)
    assert torch.equal(trained(blobs, folder=tmp_path, resume=True), whole)


def test_a_learning_rule_takes_no_bf16(blobs: Splits):
    # It was taken without a word, and nothing ran in it.
    with pytest.raises(InputError, match="takes its gradients itself"):
        trained(blobs, learning_rule=lambda x, y: (x.sum(), y.sum()), precision="bf16")


def test_published_recipes_train_in_the_same_precision_everywhere():
    assert TrainingSettings(epochs=1).precision == "float32"
    published = sorted(schema.PAPERS.glob("*/*.toml"))
    assert len(published) > 40
    assert not [one.name for one in published if 'precision = "auto"' in one.read_text("utf-8")]


def test_a_run_begun_when_auto_was_the_default_goes_on(tmp_path: Path):
    recipe = schema.resized(schema.load("bf16"), "smoke")

    class Settings(schema.Strict):
        training: TrainingSettings

    _claim(RunFolder(tmp_path), recipe, Settings(training=TrainingSettings(epochs=1, precision="auto")), False)
    _claim(RunFolder(tmp_path), recipe, Settings(training=TrainingSettings(epochs=1)), True)
    # A setting that came later stands at its default.
    file = tmp_path / "recipe.toml"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("compile")))
    _claim(RunFolder(tmp_path), recipe, Settings(training=TrainingSettings(epochs=1)), True)
    with pytest.raises(InputError, match="another recipe or other settings"):
        _claim(RunFolder(tmp_path), recipe, Settings(training=TrainingSettings(epochs=1, precision="bf16")), True)
