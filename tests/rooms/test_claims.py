"""Claims on folders that processes share, and names that become folders."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gracile.core import claims
from gracile.core.errors import InputError
from gracile.core.names import inside, safe_name
from gracile.core.runs import RunFolder, new_folder, part_name


@pytest.mark.parametrize("name", ["dense", "rvsm_l0", "label-topk", "a.b", "λ = 0.5", "2", "größe", "x" * 100])
def test_a_safe_name_stays_as_it_is(name: str):
    assert safe_name(name, "arm") == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../victim/dense", "/tmp/victim", "a/b", "a\\b", "C:x", " a", "a ", "a.", ".git", "a\n", "a\0",
     "con", "NUL.txt", "x" * 101],
)  # fmt: skip
def test_a_name_that_could_lead_elsewhere_is_refused(name: str):
    with pytest.raises(InputError, match=r"arm .* cannot be the name of a folder"):
        safe_name(name, "arm")


def test_names_of_parts_and_runs_are_safe(tmp_path: Path):
    assert part_name("dense", 3, [3]) == "dense"
    assert part_name("dense", 3, [3, 4]) == "dense-seed3"
    for make in (
        lambda: part_name("../dense", 0, [0]),
        lambda: RunFolder(tmp_path / "run").part("../dense"),
        lambda: new_folder(tmp_path, "../../dense"),
    ):
        with pytest.raises(InputError, match="cannot be the name"):
            make()


def test_a_link_does_not_lead_out_of_a_run(tmp_path: Path):
    run = RunFolder(tmp_path / "run")
    (tmp_path / "victim").mkdir()
    (run.path / "dense").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="does not lie inside"):
        run.part("dense")
    assert inside(run.path, run.path / "plots" / "a.svg") == Path("plots/a.svg")


def test_a_folder_is_held_once_and_free_after(tmp_path: Path):
    claim = claims.take(tmp_path)
    assert claim is not None
    assert claims.held(tmp_path)
    assert claims.take(tmp_path) is None
    claim.release()
    assert not claims.held(tmp_path)
    with claims.take(tmp_path) or pytest.fail("the folder is free"):
        assert claims.take(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def left_behind(folder: Path) -> Path:
    """The claim of a process that was killed."""
    code = "import os; from pathlib import Path; from gracile.core.claims import take; "
    code += f"take(Path({str(folder)!r})); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    [file] = folder.glob("claim-*")
    return file


def test_the_claim_of_a_killed_process_is_taken_over_at_once(tmp_path: Path):
    left_behind(tmp_path)
    assert not claims.held(tmp_path)
    claim = claims.take(tmp_path)
    assert claim is not None
    assert claim.file.name == "claim-2"
    claim.release()
    assert list(tmp_path.iterdir()) == []


def test_of_another_machine_only_the_age_tells(tmp_path: Path):
    file = tmp_path / "claim-1"
    file.write_text(json.dumps({"machine": "elsewhere", "process": 1}))
    assert claims.take(tmp_path) is None
    long_ago = file.stat().st_mtime - claims.DEAD - 1
    os.utime(file, (long_ago, long_ago))
    with claims.take(tmp_path) or pytest.fail("the claim is dead"):
        assert claims.held(tmp_path)


def test_a_claim_cut_short_is_dead_only_once_it_is_old(tmp_path: Path):
    file = tmp_path / "claim-1"
    file.write_text("{")
    assert claims.take(tmp_path) is None
    long_ago = file.stat().st_mtime - claims.DEAD - 1
    os.utime(file, (long_ago, long_ago))
    assert not claims.held(tmp_path)


def test_a_claim_is_touched_while_its_process_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims, "BEAT", 0.01)
    with claims.take(tmp_path) or pytest.fail("the folder is free"):
        file = tmp_path / "claim-1"
        os.utime(file, (0, 0))
        for _ in range(500):
            if file.stat().st_mtime > 0:
                break
            claims.threading.Event().wait(0.01)
        assert file.stat().st_mtime > 0


def try_to_take(folder: Path, gate, won) -> None:
    gate.wait()
    claim = claims.take(folder)
    won.put(claim is not None)
    gate.wait()


def test_of_many_that_take_over_a_dead_claim_one_succeeds(tmp_path: Path):
    left_behind(tmp_path)
    context = multiprocessing.get_context("forkserver")
    gate, won = context.Barrier(4), context.Queue()
    processes = [context.Process(target=try_to_take, args=(tmp_path, gate, won)) for _ in range(4)]
    for process in processes:
        process.start()
    results = [won.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(results) == [False, False, False, True]
