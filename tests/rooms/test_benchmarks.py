"""How benchmarks are measured and told. That they run is tried by ``python -m benchmarks --small``."""

from __future__ import annotations

import json

import pytest

from benchmarks import defaults, opponents
from benchmarks.__main__ import main, one
from benchmarks.page import KEPT, PAGE, page, table
from benchmarks.protocol import Case, Growth, Machine, Memory, Work, exponent, machine, measured
from benchmarks.table import BENCHMARKS
from gracile.recipes import load, schema

HERE = Machine(flops=1e9, bytes=1e8)


def test_contenders_take_turns_and_each_begins() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    measured(Case("x", "a", calls), 3, HERE)
    # A warm-up, then rounds that begin with another each time.
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"


def test_a_ratio_is_of_one_piece_of_work_over_the_bases(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("benchmarks.protocol.time.perf_counter", lambda: now[0])
    costs = {"theirs": 8.0, "ours": 6.0}
    calls = {name: lambda cost=cost: now.__setitem__(0, now[0] + cost) for name, cost in costs.items()}
    case = Case(
        "x", "theirs", calls, goals={"ours": 0.5}, units={"ours": 3}, floors={"ours": Work(flops=1e9, bytes=1e7)}
    )
    theirs, ours = measured(case, 5, HERE)
    assert (theirs["ratio"], ours["seconds"], ours["ratio"], ours["met"]) == (1.0, 2.0, 0.25, True)
    # The slower of a second of operations and a tenth of a second of bytes.
    assert (ours["floor_seconds"], ours["floor_ratio"]) == (1.0, 0.125)
    assert HERE.seconds(Work(bytes=1e8, beyond_base=True), 8.0) == 9.0


def test_an_exponent_is_the_slope_of_the_logarithms() -> None:
    assert exponent([1, 10, 100], [3.0, 300.0, 30000.0]) == pytest.approx(2)
    assert exponent([1, 10, 100], [5.0, 5.0, 5.0]) == pytest.approx(0)


def test_memory_is_told_in_multiples() -> None:
    import torch

    kept = lambda: torch.zeros(1000)
    [row] = measured(Memory("x", kept, 1000, goal=3), 1, HERE)
    assert row == {"case": "x", "times_its_size": 4.0, "goal": 3, "met": False}
    [row] = measured(Growth("x", "n", (8, 16, 32), lambda n: lambda: torch.zeros(n), 1, measure="memory"), 1, HERE)
    assert row["values"] == [32.0, 64.0, 128.0]
    assert row["exponent"] == pytest.approx(1)


def test_the_machine_is_measured() -> None:
    here = machine(small=True)
    assert 1e7 < here.flops < 1e16
    assert 1e7 < here.bytes < 1e14


def test_one_benchmark_tells_where_it_ran_and_what_was_left_out(monkeypatch) -> None:
    def cases(small: bool):
        yield Case("x", "a", {"a": lambda: None})
        raise ImportError("no peer")

    monkeypatch.setitem(BENCHMARKS, "mine", (cases, "nothing"))
    found = one("mine", 2, True)
    assert [row["contender"] for row in found["rows"]] == ["a"]
    assert found["missing"] == ["no peer"]
    assert found["environment"]["versions"]["torch"]
    assert "Left out: no peer." in table(found)
    assert json.loads(json.dumps(found)) == found


def test_the_table_of_defaults_is_what_was_measured():
    kept = json.loads(defaults.KEPT.read_text(encoding="utf-8"))
    page = defaults.PAGE.read_text(encoding="utf-8")
    assert defaults.with_tables(page, kept) == page
    assert set(kept) <= set(defaults.DATA)


def test_a_default_far_below_the_best_peer_stands_out():
    found = {"seconds": 1.0, "splits": 1, "brier": 0.125, "log_loss": 0.25}
    scores = {"ELM": 90.0, "SLFN": 89.0, "MLP": 90.0, "HistGradientBoosting": 91.0}
    text = defaults.tables({"wine": {name: found | {"score": score} for name, score in scores.items()}})
    assert "90.0, 1 s" in text
    assert "**89.0**, 1 s" in text
    assert "0.125, 0.250" in text
    assert text.count("not run") == 4 + 8 * (len(defaults.DATA) - 1)


def test_every_benchmark_is_listed(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "--list"])
    assert main() == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(BENCHMARKS)


def test_the_page_is_what_was_kept() -> None:
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    assert kept.keys() <= BENCHMARKS.keys()
    assert page(kept) == PAGE.read_text()


@pytest.mark.parametrize("network", opponents.NETWORKS)
def test_other_libraries_prune_the_networks_of_the_recipe(network: str) -> None:
    settings = schema.resized(load("opponents"), opponents.NETWORKS[network]).settings
    assert settings["model"]["name"] == network
