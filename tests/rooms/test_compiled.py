"""Compiled passes: the same training, only where they pay, and never where they would leave something out."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from gracile import fit
from gracile.core.errors import InputError
from gracile.data import Splits
from gracile.dynamics import watch
from gracile.training import adversary, compiled

SETTINGS = {"batch_size": 50, "lr": 0.05, "seed": 4, "precision": "float32", "epochs": 2}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))


def trained(data: Splits, model: nn.Module | None = None, **settings: object) -> torch.Tensor:
    model = network() if model is None else model
    fit(model, data, **{**SETTINGS, **settings})  # type: ignore[arg-type]
    return torch.cat([one.detach().flatten().double() for one in [*model.parameters(), *model.buffers()]])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The passes that would be compiled, as they are, each noted: compilers take their time."""
    seen: list[torch.Size] = []

    def compile_(model: nn.Module, **_: object):
        def passes(x: torch.Tensor) -> torch.Tensor:
            seen.append(x.shape)
            return model(x)

        return passes

    monkeypatch.setattr(torch, "compile", compile_)
    return seen


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch's own
def test_compiled_passes_train_as_plain_ones(blobs: Splits):
    """By the compiler itself: to rounding, the short last batch and batch-norm's statistics included."""
    assert len(blobs.train) % 50
    plain, fast = trained(blobs), trained(blobs, compile=True)
    assert not torch.equal(plain, trained(blobs, seed=5))
    assert torch.allclose(plain, fast, rtol=1e-5, atol=1e-5)


def test_only_whole_batches_are_compiled(blobs: Splits, counted: list[torch.Size]):
    whole, rest = divmod(len(blobs.train), 50)
    assert torch.equal(trained(blobs, compile=True), trained(blobs))
    assert rest
    assert counted == [torch.Size((50, 1, 8, 8))] * (2 * whole)


@pytest.mark.parametrize("faster", [True, False])
def test_auto_takes_what_was_faster_and_leaves_no_trace_of_the_trial(
    blobs: Splits,
    counted: list[torch.Size],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    faster: bool,
):
    monkeypatch.setattr(compiled, "WORTH", 0.0)
    monkeypatch.setattr(compiled, "GAIN", 1e9 if faster else 0.0)
    with caplog.at_level(logging.INFO, "gracile"):
        assert torch.equal(trained(blobs, compile="auto"), trained(blobs))
    assert ("The passes are compiled" in caplog.text) == faster
    whole = 2 * (len(blobs.train) // 50)
    assert len(counted) == 1 + compiled.TURNS + (whole if faster else 0)


def test_a_short_run_is_not_tried(blobs: Splits, counted: list[torch.Size], caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "gracile"):
        trained(blobs, compile="auto")
    assert not counted
    assert "too short to try" in caplog.text


def test_hooks_on_the_passes_keep_them_plain(
    blobs: Splits, counted: list[torch.Size], caplog: pytest.LogCaptureFixture
):
    model = network()
    monitor = watch(model, torch.zeros(2, 1, 8, 8), every=1)
    with caplog.at_level(logging.INFO, "gracile"):
        trained(blobs, model, compile="auto", observe=monitor)
    assert not counted
    assert "hooks look into the passes" in caplog.text
    with pytest.raises(InputError, match="hooks look into the passes"):
        trained(blobs, model, compile=True, observe=monitor)


def test_what_is_not_measured_is_refused(blobs: Splits):
    with pytest.raises(InputError, match="losses on clean samples"):
        trained(blobs, compile=True, objective=adversary("fgsm"))


def test_a_resumed_run_keeps_what_it_began_with(blobs: Splits, counted: list[torch.Size], tmp_path: Path):
    whole = trained(blobs)
    trained(blobs, epochs=1, folder=tmp_path, compile=True)
    before = len(counted)
    assert torch.equal(trained(blobs, folder=tmp_path, resume=True, compile="auto"), whole)
    assert len(counted) > before
    with pytest.raises(InputError, match="began compiled, and compile=False is asked for"):
        trained(blobs, epochs=3, folder=tmp_path, resume=True)


@pytest.mark.parametrize("asked", [True, "auto"])
def test_without_a_compiler_training_goes_on_or_says_why(
    blobs: Splits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, asked
):
    def fails(model: nn.Module, **_: object):
        def passes(x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no compiler\nfound")

        return passes

    monkeypatch.setattr(torch, "compile", fails)
    monkeypatch.setattr(compiled, "WORTH", 0.0)
    if asked is True:
        with pytest.raises(InputError, match=r"torch\.compile failed: no compiler\."):
            trained(blobs, compile=True)
    else:
        assert torch.equal(trained(blobs, compile="auto"), trained(blobs))
        assert "torch.compile failed" in caplog.text
