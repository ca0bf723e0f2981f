"""Data-parallel training: two processes take the steps of one with any splitting, and only the first writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gracile import cli
from gracile.training.parallel import Ranks
from tests.processes import as_torchrun

RECIPE = """
title = "two ranks"
kind = "train"
[settings]
data = { name = "digits", train_limit = 203, test_limit = 100 }
model = { name = "mlp", options = { widths = [16] } }
training = { epochs = 2, lr = 0.05, batch_size = 16 }
"""
ARMS = {
    "rvsm": "{ lam = 0.02, beta = 0.5 }",
    "rgsm": "{ lam = 0.02, beta = 0.5 }",
    "admm": "{ sparsity = 0.5 }",
}


def command(out: str) -> None:
    assert cli.main(["run", "two.toml", "--device", "cpu", "--out", out]) == 0


def test_two_ranks_take_the_steps_of_one_and_only_the_first_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    arms = "".join(f'[settings.arms.{name}]\nmethod = "{name}"\noptions = {given}\n' for name, given in ARMS.items())
    (tmp_path / "two.toml").write_text(RECIPE + arms)
    said = as_torchrun(command, tmp_path, "two")
    assert all(name in said[0] for name in ARMS)
    assert said[1] == ""
    monkeypatch.chdir(tmp_path)
    command("one")
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    for key, value in one["values"].items():
        if not key.endswith("seconds"):
            assert two["values"][key] == pytest.approx(value, rel=1e-4, abs=1e-4), key
    for arm in ARMS:
        rows = [(tmp_path / name / arm / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
        assert len(rows[0]) == len(rows[1]) == 2
        first, second = (json.loads(row[-1]) for row in rows)
        assert second["train_loss"] == pytest.approx(first["train_loss"], rel=1e-4)
        assert second["train_accuracy"] == pytest.approx(first["train_accuracy"], abs=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "two.toml"}


@pytest.mark.parametrize("samples", [2, 3, 7, 16])
def test_shares_add_up_to_the_joint_mean(samples: int):
    x, y = torch.randn(samples, 3), torch.arange(samples)
    parts = [Ranks(rank, 3).share(x, y) for rank in range(3)]
    assert torch.equal(torch.cat([part[1] for part in parts if part[2]]), y)
    assert torch.allclose(sum(weight * part.mean(0) for part, _, weight in parts) / 3, x.mean(0), atol=1e-6)
    assert all(len(part) for part, _, _ in parts)
    assert Ranks().share(x, y)[2] == 1


def test_other_kinds_run_in_one_process(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert cli.main(["run", "theorem-2.3"]) == 2
    assert "one process" in capsys.readouterr().err
