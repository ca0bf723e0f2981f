"""Other libraries' pruners beside RGSM: the protocol is run once, and the table says what its lines hold."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from benchmarks import opponents
from gracile.recipes import load
from gracile.recipes.kinds.train import Settings
from gracile.recipes.schema import resized
from tools import others

# By pruner: accuracy of its second try on validation images, and of each seed on test images.
FOUND = {"rgsm": (60.0, {15: 58.0, 16: 57.0, 17: 59.0}), "group_norm": (57.0, {15: 56.0, 16: 56.0, 17: 56.0})}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The runs that the protocol asks for, none of which trains anything."""
    calls: list[tuple[Any, ...]] = []

    def one(asked: dict[str, Any]) -> dict[str, Any]:
        pruner, seed, split, options = (asked[key] for key in ("pruner", "seed", "split", "options"))
        calls.append((pruner, seed, split, dict(options)))
        if pruner == "fastnas":
            return {"refused": "FastNAS reaches no 0.3 of the multiply-adds"}
        tried, tested = FOUND.get(pruner, (50.0, {15: 49.0, 16: 48.0, 17: 50.0}))
        second = options == others.PRUNERS[pruner].tries[1]
        return {
            "accuracy": tested[seed] if split == "test" else tried if second else tried - 1,
            "macs_left": 29.9,
            "parameters_left": 20.0,
            "commit": "abc+changes",
            "library": "" if pruner == "rgsm" else "torch-pruning 1.6.1",
        }

    monkeypatch.setattr(opponents, "one", one)
    monkeypatch.setattr(opponents, "environment", lambda: {"commit": "abc"})
    return calls


def settings() -> Settings:
    return Settings(**resized(load("opponents"), "vgg").settings)


def test_the_best_try_on_validation_images_is_tested_and_nothing_is_run_twice(tmp_path: Path, asked: list[Any]):
    args, kept = argparse.Namespace(network="vgg16", budget=0.3, set=[]), tmp_path / "opponents.jsonl"
    opponents.compare(settings(), args, ["rgsm", "group_norm"], kept)
    assert [call[1:3] for call in asked] == 2 * [*3 * [(100, "validation")], *((seed, "test") for seed in (15, 16, 17))]
    assert [call[3] for call in asked if call[2] == "test"] == [*3 * [{"attempt": 1}], *3 * [{"reg": 1e-3}]]
    before = kept.read_text()
    opponents.compare(settings(), args, ["rgsm", "group_norm"], kept)
    assert (len(asked), kept.read_text()) == (12, before)


def test_the_table_pairs_seeds_and_says_what_is_out_of_reach(tmp_path: Path, asked: list[Any]):
    args, kept = argparse.Namespace(network="vgg16", budget=0.3, set=[]), tmp_path / "opponents.jsonl"
    opponents.compare(settings(), args, ["group_norm", "fastnas", "rgsm"], kept)
    assert {call[2] for call in asked if call[0] == "fastnas"} == {"validation"}
    lines = others.others(others.rows(kept)).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:5]]
    assert cells[0] == ["vgg16, 30 %", "**RGSM**", "58.00 ± 1.00", "29.9", "20", ""]
    # 2, 1 and 3 points, whose standard error is 1 over the root of 3.
    assert cells[1][1:3] == ["torch-pruning 1.6.1, group norms, reg = 0.001", "56.00 ± 0.00"]
    assert cells[1][-1] == "2.00 ± 0.58"
    assert cells[2][1:3] == ["nvidia-modelopt, FastNAS", "out of its reach"]
    assert lines[-1] == "Of commit abc; seeds 15, 16, 17 of vgg16."


def test_what_is_not_whole_yet_is_left_out(tmp_path: Path, asked: list[Any]):
    args, kept = argparse.Namespace(network="vgg16", budget=0.3, set=[]), tmp_path / "opponents.jsonl"
    opponents.compare(settings(), args, ["rgsm", "group_norm"], kept)
    kept.write_text("".join(line + "\n" for line in kept.read_text().splitlines()[:-1]))
    assert "group norms" not in others.others(others.rows(kept))


def test_an_option_of_a_single_run_is_refused_beside_the_protocol(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("sys.argv", ["opponents", "--compare", "--set", "training.epochs=1"])
    with pytest.raises(SystemExit):
        opponents.main()
    assert "--set is for a single run" in capsys.readouterr().err
