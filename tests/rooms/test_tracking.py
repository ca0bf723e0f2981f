"""Runs shown elsewhere: each record once, by the real clients into local stores, and never at the run's expense."""

from __future__ import annotations

import json
import logging
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gracile
from gracile.cli import main
from gracile.core.errors import GracileError, InputError, MissingDependencyError
from gracile.core.files import write_json, write_text
from gracile.core.runs import RunFolder
from gracile.recipes import load
from gracile.tracking import TRACKERS, Tracked, Tracker, check, following, send
from tests.peers import peer

RECIPE = """
title = "tracked"
kind = "train"
[settings]
seeds = [0]
data = { name = "digits", train_limit = 100, test_limit = 60 }
model = { name = "mlp", options = { widths = [8] } }
training = { epochs = 3, lr = 0.05, batch_size = 16 }
[settings.arms.dense]
[settings.arms.slim]
method = "rvsm"
options = { penalty = "l0", lam = 1e-3, beta = 0.1 }
"""

# Writes what it is told as JSON lines; in a file of its own, since a process of its own must find it.
TOLD = """
import json
from pathlib import Path
from gracile.tracking import Tracker


class Told(Tracker):
    package = "json"

    def tell(self, **what):
        with open(self.file, "a") as file:
            file.write(json.dumps(what) + "\\n")

    def begin(self, run, earlier):
        self.file = Path(__file__).with_name(run.name.replace("/", "-") + ".told")
        self.tell(begin=run.name, earlier=earlier, settings=dict(run.settings), project=run.project)
        return "id-" + run.name

    def log(self, numbers, step):
        self.tell(log=dict(numbers), step=step)

    def result(self, numbers, files):
        self.tell(result=dict(numbers), files=[file.name for file in files])

    def end(self, *, done):
        self.tell(end=done)


class Fails(Told):
    def log(self, numbers, step):
        raise ConnectionError("the server is gone")


class NotOne:
    package = "json"
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(TOLD)
    return f"{tmp_path / 'mine.py'}:Told"


def told(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.told").read_text().splitlines()]


def trained(folder: Path, *track: str, **how: Any) -> RunFolder:
    (folder / "tracked.toml").write_text(RECIPE)
    return gracile.run(load(str(folder / "tracked.toml")), folder=folder / "run", track=track, **how).folder


def a_run(folder: Path, rows: int = 0) -> Tracked:
    """The folder of a run, as a tracker is shown it, with so many records."""
    place = RunFolder(folder / "run")
    write_text(place.path / "recipe.toml", 'name = "small"\n[settings]\nlr = 0.1\nlayers = [1, 2]\n')
    for step in range(1, rows + 1):
        place.record({"step": step, "loss": 1 / step})
    return Tracked.of(place.path)


def interrupted(tracker: str, run: Tracked, work: Callable[[], object]) -> None:
    """Ctrl-C after some work."""

    def stopped() -> None:
        with following([tracker], run):
            work()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_tracker_is_told_what_the_run_writes(tmp_path: Path, own: str, jobs: int) -> None:
    folder = trained(tmp_path, own, jobs=jobs)
    for arm in ("dense", "slim"):
        first, *records, result, last = told(tmp_path, f"run-{arm}")
        assert (first["begin"], first["earlier"], first["project"]) == (f"run/{arm}", None, "tracked")
        assert first["settings"]["training.lr"] == 0.05
        assert (first["settings"]["arm"], first["settings"]["seed"]) == (arm, 0)
        assert first["settings"].get("method.options.lam") == (1e-3 if arm == "slim" else None)
        written = RunFolder(folder.path / arm).metrics()
        assert [row["step"] for row in written] == [one["step"] for one in records] == [7, 14, 21]
        for row, one in zip(written, records, strict=True):
            assert one["log"] == {key: value for key, value in row.items() if key != "step"}
        assert result["result"]["accuracy"] == json.loads((folder.path / arm / "arm.json").read_text())["accuracy"]
        assert last == {"end": True}
    first, result, last = told(tmp_path, "run")
    assert result["result"] == pytest.approx(json.loads((folder.path / "result.json").read_text())["values"])
    assert {"report.html", "table.md", "result.json", "recipe.toml"} <= set(result["files"])
    assert last == {"end": True}


def test_a_finished_run_is_sent_afterwards_and_only_once(tmp_path: Path, own: str) -> None:
    folder = trained(tmp_path)
    assert not list(tmp_path.glob("*.told"))
    for _ in range(2):
        trained(tmp_path, own, resume=True)
    assert [next(iter(one)) for one in told(tmp_path, "run-slim")] == ["begin", "log", "log", "log", "result", "end"]
    assert len(told(tmp_path, "run")) == 3
    assert (folder.path / "slim" / "tracking.json").is_file()


def test_each_record_is_told_once_over_an_interruption(tmp_path: Path, own: str) -> None:
    run = a_run(tmp_path)
    place = RunFolder(run.folder)
    interrupted(own, run, lambda: [place.record({"step": step, "loss": 1 / step}) for step in range(1, 4)])
    # As a resume does: what the checkpoint does not hold is written again.
    place.rewrite_metrics(place.metrics()[:2])
    with following([own], run):
        for step in range(3, 6):
            place.record({"step": step, "loss": 1 / step})
    found = told(tmp_path, "run")
    assert [one["step"] for one in found if "log" in one] == [1, 2, 3, 4, 5]
    assert [one["end"] for one in found if "end" in one] == [False, True]
    assert [one["earlier"] for one in found if "begin" in one] == [None, "id-run"]
    assert "result" not in found[found.index({"end": False}) - 1]


def test_a_record_that_is_half_written_is_told_when_it_is_whole(tmp_path: Path, own: str) -> None:
    run = a_run(tmp_path)
    text = '{"step": 1, "loss": 1}\n{"step": 2, "lo'
    interrupted(own, run, lambda: write_text(run.folder / "metrics.jsonl", text))
    assert [one["step"] for one in told(tmp_path, "run") if "log" in one] == [1]


def test_records_are_told_while_the_run_goes_on(tmp_path: Path, own: str, monkeypatch) -> None:
    monkeypatch.setattr("gracile.tracking.telling.POLL", 0.01)
    run = a_run(tmp_path)
    with following([own], run):
        RunFolder(run.folder).record({"step": 1, "loss": 0.5})
        waited = time.monotonic() + 20
        while len(told(tmp_path, "run")) < 2:
            assert time.monotonic() < waited
            time.sleep(0.01)


def test_a_tracker_that_fails_never_ends_the_run(tmp_path: Path, own: str, caplog) -> None:
    with caplog.at_level(logging.WARNING, "gracile"):
        folder = trained(tmp_path, own.replace("Told", "Fails"))
    assert (folder.path / "result.json").is_file()
    warned = [record.getMessage() for record in caplog.records if "the server is gone" in record.getMessage()]
    assert [message.split()[4] for message in warned] == ["run/dense", "run/slim"]
    assert [message.split(":")[0] for message in warned] == ["dense, seed 0", "slim, seed 0"]
    assert f"gracile run --resume --out {folder.path} --track" in warned[0]


def test_nested_numbers_are_joined_and_words_left_out(tmp_path: Path, own: str) -> None:
    run = a_run(tmp_path)
    place = RunFolder(run.folder)
    place.record({"round": 4, "law": "cauchy", "drift": {"a": 1, "b": [1, 2]}, "converged": True})
    send([own], run)
    [record] = [one for one in told(tmp_path, "run") if "log" in one]
    assert record == {"log": {"round": 4.0, "drift/a": 1.0}, "step": 4}
    assert dict(run.settings) == {"recipe": "small", "size": "full", "lr": 0.1, "layers": "1, 2"}


def test_what_is_no_tracker_is_refused_before_a_folder_is_made(tmp_path: Path, own: str, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "digits", "--track", "tensorbord"]) == 2
    assert "Did you mean 'tensorboard'?" in capsys.readouterr().err
    with pytest.raises(InputError, match="is no tracker"):
        check([own.replace("Told", "NotOne")])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_a_client_that_is_not_installed_is_named_with_its_extra(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'gracile\[{TRACKERS[name].extra}\]'"):
        check([name])


def test_a_tracker_of_ones_own_names_its_package(monkeypatch) -> None:
    class Mine(Tracker):
        package = "there_is_no_such_package"
        begin = log = result = end = None  # pyright: ignore[reportAssignmentType]

    monkeypatch.setattr("gracile.tracking.telling.load_name", lambda reference: Mine)
    with pytest.raises(GracileError, match="pip install there_is_no_such_package"):
        check(["mine.py:Mine"])


@pytest.fixture
def finished(tmp_path: Path) -> Tracked:
    """A run of three records, with its result and its table."""
    run = a_run(tmp_path, rows=3)
    write_json(run.folder / "result.json", {"values": {"accuracy": 90.0}})
    write_text(run.folder / "table.md", "| arm | accuracy % |\n")
    return run


def test_tensorboard_reads_the_run(finished: Tracked) -> None:
    peer("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    send(["tensorboard"], finished)
    found = EventAccumulator(str(finished.folder))
    found.Reload()
    assert [(one.step, one.value) for one in found.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert [one.value for one in found.Scalars("result/accuracy")] == [90.0]
    assert b"accuracy %" in found.Tensors("table/text_summary")[0].tensor_proto.string_val[0]
    assert "_hparams_/session_start_info" in found.summary_metadata


@pytest.fixture
def mlflow_client(tmp_path: Path, monkeypatch) -> Any:
    """MLflow's own client, on a store of files: it needs no database, and must be allowed."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return peer("mlflow").MlflowClient()


def test_mlflow_reads_the_run(finished: Tracked, mlflow_client: Any) -> None:
    send(["mlflow"], finished)
    [found] = mlflow_client.search_runs([mlflow_client.get_experiment_by_name("small").experiment_id])
    assert (found.info.run_name, found.info.status, found.data.tags["gracile.run"]) == ("run", "FINISHED", "run")
    assert found.data.params == {"recipe": "small", "size": "full", "lr": "0.1", "layers": "1, 2"}
    shown = mlflow_client.get_metric_history(found.info.run_id, "loss")
    assert [(one.step, one.value) for one in shown] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert found.data.metrics["result/accuracy"] == 90.0
    files = {one.path for one in mlflow_client.list_artifacts(found.info.run_id)}
    assert files == {"table.md", "result.json", "recipe.toml"}


def test_mlflow_goes_on_in_the_same_run_after_an_interruption(tmp_path: Path, mlflow_client: Any) -> None:
    run = a_run(tmp_path, rows=2)
    interrupted("mlflow", run, lambda: None)
    place = mlflow_client.get_experiment_by_name("small").experiment_id
    assert [one.info.status for one in mlflow_client.search_runs([place])] == ["KILLED"]
    RunFolder(run.folder).record({"step": 3, "loss": 0.1})
    send(["mlflow"], run)
    [found] = mlflow_client.search_runs([place])
    assert found.info.status == "FINISHED"
    assert [one.step for one in mlflow_client.get_metric_history(found.info.run_id, "loss")] == [1, 2, 3]


def logged(file: Path) -> list[bytes]:
    """The records of a file that W&B keeps offline: LevelDB's log format behind seven bytes, in blocks of 32 KiB."""
    data, place, found, part = file.read_bytes(), 7, [], b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        part += data[place + 7 : place + 7 + size]
        place += 7 + size
        # Whole, first, middle, last.
        if kind in (1, 4):
            found.append(part)
            part = b""
    return found


def test_wandb_reads_the_run(finished: Tracked, tmp_path: Path, monkeypatch) -> None:
    peer("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    with warnings.catch_warnings():
        # Its own temporary folders are cleared away late.
        warnings.simplefilter("ignore", ResourceWarning)
        send(["wandb"], finished)
    assert json.loads((finished.folder / "tracking.json").read_text())["wandb"]["done"]
    [file] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    records = [Record.FromString(one) for one in logged(file)]
    [run] = [one.run for one in records if one.HasField("run")]
    assert (run.project, run.run_group, run.display_name) == ("small", "run", "run")
    assert {one.key: json.loads(one.value_json) for one in run.config.update}["lr"] == 0.1
    rows = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in one.history.item}
        for one in records
        if one.HasField("history")
    ]
    assert [(row["_step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    summary = {
        item.key or item.nested_key[0]: item.value_json
        for one in records
        if one.HasField("summary")
        for item in one.summary.update
    }
    assert json.loads(summary["result/accuracy"]) == 90.0
    kept = {path.name for path in file.parent.glob("files/*")}
    assert {"table.md", "result.json", "recipe.toml"} <= kept
