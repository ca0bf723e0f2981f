"""Data-parallel training: two processes take the steps of one, and only the first writes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gracile import cli
from gracile.training.parallel import Ranks

ROOT = Path(__file__).parents[2]
RECIPE = """
title = "two ranks"
kind = "train"
[settings]
data = { name = "digits", train_limit = 203, test_limit = 100 }
model = { name = "mlp", options = { widths = [16] } }
training = { epochs = 2, lr = 0.05, batch_size = 16 }
[settings.arms.rgsm]
method = "rgsm"
options = { lam = 0.02, beta = 0.5 }
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_ranks_take_the_steps_of_one_and_only_the_first_writes(tmp_path: Path):
    (tmp_path / "two.toml").write_text(RECIPE)
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    command = [sys.executable, "-m", "gracile", "run", "two.toml", "--device", "cpu", "--out", "two"]
    ranks = [
        subprocess.Popen(command, cwd=tmp_path, env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]  # fmt: skip
    assert cli.main(["run", str(tmp_path / "two.toml"), "--device", "cpu", "--out", str(tmp_path / "one")]) == 0
    said = [process.communicate(timeout=120) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
    assert "rgsm" in said[0][0]
    assert said[1][0] == ""
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    for key, value in one["values"].items():
        if not key.endswith("seconds"):
            assert two["values"][key] == pytest.approx(value, rel=1e-4, abs=1e-4), key
    for arm in ("rgsm",):
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
