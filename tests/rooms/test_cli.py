"""The command line: fast help, one sentence for a user's mistake, a run that survives Ctrl-C and SIGKILL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gracile import cli

DIGITS = ["run", "digits", "--set", "training.epochs=6", "--set", "data.train_limit=300"]


def gracile(*arguments: str, cwd: Path, **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gracile", *arguments],
        cwd=cwd, env=environment(), capture_output=True, text=True, timeout=240, check=False, **more,
    )  # fmt: skip


def environment() -> dict[str, str]:
    source = Path(cli.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}


def test_help_does_not_import_torch(tmp_path: Path):
    code = "import sys; sys.argv = ['gracile', '--help']\nfrom gracile.cli import main\ntry:\n    main()\n"
    code += "except SystemExit:\n    pass\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_explains_itself_without_torch(name: str):
    code = (
        f"import sys\nfrom gracile.cli import main\ntry:\n    main(['{name}', '--help'])\nexcept SystemExit as end:\n"
    )
    code += "    assert end.code == 0\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 200


@pytest.mark.parametrize(("arguments", "message"), [
    (["rum"], "there is no command 'rum'. Did you mean 'run'"),
    (["run"], "nothing to run"),
    (["run", "digist"], "Did you mean 'digits'"),
    (["run", "digits", "--size", "huge"], "has no size 'huge'"),
    (["run", "digits", "--resume"], "no run of 'digits'"),
    (["run", "digits", "--seeds", "a"], "--seeds takes whole numbers"),
    (["run", "digits", "--set", "lr"], "--set takes KEY=VALUE"),
    (["run", "digits", "--set", "training.lrr=1"], "Did you mean 'lr'"),
    (["run", "--data", "./nowhere/at/all"], "does not exist"),
    (["run", "--resume", "--out", "nowhere"], "holds no run to resume"),
    (["reproduce", "table-9.9"], "no recipe named 'table-9.9'"),
])  # fmt: skip
def test_a_users_mistake_is_one_line_and_status_2(arguments, message: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert len(printed.strip().splitlines()) == 1


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    import gracile.commands.run as command

    def bug(_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(command, "run", bug)
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", "digits"])


def test_reproduce_lists_what_there_is(capsys):
    assert cli.main(["reproduce"]) == 0
    assert "table-4.1" in capsys.readouterr().out


def test_a_run_on_a_users_csv(tmp_path: Path):
    rows = [f"{i % 7},{(i * 3) % 5},{'yes' if i % 7 > 3 else 'no'}" for i in range(120)]
    (tmp_path / "mine.csv").write_text("a,b,answer\n" + "\n".join(rows))
    done = gracile("run", "--data", "mine.csv", "--epochs", "3", "--set", "data.label=answer", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "dense" in done.stdout
    assert (tmp_path / "runs/classify-1/result.json").exists()


def test_ctrl_c_leaves_a_run_that_resumes(tmp_path: Path):
    process = start(tmp_path)
    wait_for(tmp_path / "runs/digits-1/dense/checkpoint.safetensors", process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "can be continued: gracile run --resume --out runs/digits-1" in errors
    assert json.loads((tmp_path / "runs/digits-1/status.json").read_text())["status"] == "interrupted"
    done = gracile("run", "--resume", "--out", "runs/digits-1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert gracile(*DIGITS, cwd=whole).returncode == 0
    process = start(killed)
    wait_for(killed / "runs/digits-1/rgsm/checkpoint.safetensors", process)
    process.kill()
    process.communicate(timeout=60)
    assert not (killed / "runs/digits-1/result.json").exists()
    done = gracile(*DIGITS, "--resume", cwd=killed)
    assert done.returncode == 0, done.stderr
    models = sorted(path.relative_to(whole) for path in whole.rglob("model.safetensors"))
    assert len(models) == 3
    for model in models:
        assert (whole / model).read_bytes() == (killed / model).read_bytes(), model


def start(cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gracile", *DIGITS],
        cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.005)
