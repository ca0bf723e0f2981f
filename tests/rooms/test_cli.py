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
import torch
from PIL import Image

import gracile as package
from gracile import cli
from gracile.commands.advice import typed
from gracile.commands.table import command_parser
from gracile.core.errors import InputError
from gracile.core.runs import RunFolder, latest_folder
from gracile.data import Dataset, Splits, describe
from gracile.recipes import prepare, rehearse, shipped
from gracile.recipes.request import nested
from gracile.recipes.schema import PAPERS
from tests.processes import Forked, command

DIGITS = ["run", "digits", "--set", "training.epochs=6", "--set", "data.train_limit=300"]


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
    assert max(map(len, done.stdout.splitlines())) <= 100


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
    (["run", "photos"], "photos is a folder, not a recipe. Write gracile run --data photos."),
    (["run", "t.csv"], "t.csv is a file, not a recipe. Write gracile run --data t.csv."),
    (["run", "net.py:make"], "net.py:make is code, not a recipe. Write gracile run --data DATA --model net.py:make."),
    (["run", "old"], "old is a run, not a recipe. Write gracile run --resume --out old"),
    (["run", "digits", "--data", "t.csv"], "where a recipe gives it, run the data without one: gracile run --data PATH."),
    (["run", "digits", "--epcohs", "1"], "Unrecognized arguments: --epcohs 1. Did you mean '--epochs'?"),
    (["run", "digits", "--epochs", "x"], "invalid int value: 'x'. `gracile run --help` tells what it takes."),
    (["--verison"], "`gracile --help` tells what it takes."),
    (["run", "digits", "--set", "training.lr"], "Write --set training.lr=0.05."),
    (["run", "digits", "--batch-size", "0"], "The key 'training.batch_size'"),
    (["run", "digits", "--lr", "-1"], "has the value -1.0. It should be greater than or equal to 0."),
    (["run", "digits", "--lr", "nan"], "has the value nan."),
    (["run", "digits", "--epochs", "0", "--set", "training.warmup=0"], "has the value 0. It should be greater than or equal to 1."),
    (["run", "digits", "--set", "training.weight_decay=-1"], "greater than or equal to 0"),
    (["run", "digits", "--set", "training.momentum=2"], "less than 1"),
    (["run", "digits", "--set", "arms.rgsm.options.lam=x"], "lam=x cannot be used"),
    (["run", "digits", "--set", "arms.rvsm.options.beta=[1]"], "beta=[1] cannot be used"),
    (["run", "digits", "--set", "training.optimizer=adm"], "Did you mean 'adam'"),
    (["run", "digits", "--dry-run", "--set", "training.optimizer=adm"], "Did you mean 'adam'"),
    (["run", "digits", "--dry-run", "--set", "training.momentum=0.0", "--set", "training.nesterov=true"], "does not take these settings"),
    (["one-layer", "--dim", "0"], "There are no patches in R^0. Pass --dim 2 or more."),
    (["one-layer", "--patches", "0"], "There are no 0 patches. Pass --patches 1 or more."),
    (["workers", "--processes", "0"], "The key 'processes'"),
    (["workers", "--batch-size", "0"], "The key 'training.batch_size'"),
    (["workers", "--option", "mu=x", "--method", "fedprox"], "mu=x cannot be used"),
    (["run", "--resume", "--out", "nowhere"], "holds no run."),
    (["run", "digits", "--resume", "--out", "nowhere"], "nowhere holds no run. Name the folder of an interrupted run, or begin"),
    (["run", "digits", "--seeds", "0,1,0"], "The seed 0 is given twice. Give each seed once, such as --seeds 0,1."),
    (["reproduce", "table-9.9"], "no recipe named 'table-9.9'"),
])  # fmt: skip
def test_a_users_mistake_is_one_line_and_status_2(arguments, message: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("photos/cats", "old"):
        Path(folder).mkdir(parents=True)
    Path("old/recipe.toml").touch()
    rows = "".join(f"{number}.5,{number % 3}.25,{'ab'[number % 2]}\n" for number in range(60))
    Path("t.csv").write_text(f"width,height,label\n{rows}")
    assert cli.main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert len(printed.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    import gracile.commands.run as command

    def bug(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(command, "run", bug)
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", "digits"])


def test_reproduce_lists_what_there_is_by_document_within_100_columns(capsys):
    assert cli.main(["reproduce"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    heads = [line for line in lines if line and not line.startswith(" ")]
    assert heads == sorted(heads)
    assert any(line.startswith("  table-4.1 ") for line in lines)
    assert cli.main(["reproduce", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["name"] for one in found} == {name for name, path in shipped().items() if path.is_relative_to(PAPERS)}


def test_bare_gracile_prints_its_help(capsys):
    assert cli.main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in cli.COMMANDS)


def test_every_room_and_every_public_name_is_reachable():
    folder = Path(package.__file__).parent
    rooms = {file.parent.name for file in folder.glob("*/__init__.py")}
    assert rooms >= {"workers", "report", "deploy", "walks"}
    for name in rooms | set(package.__all__):
        assert getattr(package, name) is not None
    assert rooms | set(package.__all__) <= set(dir(package))
    # A function's name must not be a room's: which of them one gets would hang on what was imported before.
    assert not rooms & set(package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nowhere'"):
        package.nowhere  # noqa: B018


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_every_command_and_its_options(shell: str, capsys):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in cli.COMMANDS)
    assert "target-macs" in script


def test_the_bash_completion_is_bash(tmp_path: Path, capsys):
    assert cli.main(["completion", "bash"]) == 0
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    subprocess.run(["bash", "-n", tmp_path / "completion"], check=True)


def test_the_doctor_names_versions_threads_data_and_what_is_missing(tmp_path: Path, capsys, monkeypatch):
    (tmp_path / "mnist").mkdir()
    monkeypatch.setenv("GRACILE_DATA", "elsewhere")
    assert cli.main(["doctor", "--data-root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"python {sys.version.split()[0]}" in printed
    assert "threads for torch" in printed
    assert "digits, mnist (under" in printed
    assert "letter" in printed.partition("fetched from the hub")[2]
    assert cli.main(["doctor", "--data-root", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == ["digits", "mnist"]


@pytest.mark.parametrize(("dest", "text", "typed_text"), [
    ("label", "Name one of them with label=.", "Name one of them with --label."),
    ("size", "Pass image_size=28 (or any other).", "Pass --image-size 28 (or any other)."),
    ("root", "or name the folder above it with root= or", "or name the folder above it with --data-root or"),
    ("arm", "or pass keep_last=False to let it go.", "or pass --set arms.ARM.options.keep_last=false to let it go."),
    ("switch", "or pass dry_run=True.", "or pass --dry-run."),
    ("other", "The budget macs=0.1 stays.", "The budget macs=0.1 stays."),
])  # fmt: skip
def test_advice_names_what_run_can_be_told(dest: str, text: str, typed_text: str):
    assert typed(text, command_parser("run")) == typed_text


def test_advice_about_a_users_table_can_be_typed(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("a,b,answer\n" + "\n".join(f"{i},{i % 3},{i % 2}" for i in range(40)))
    assert cli.main(["run", "--data", "mine.csv", "--label", "anser"]) == 2
    assert "it has a, b, answer. Name one of them as the label." in capsys.readouterr().err
    assert cli.main(["run", "--data", "mine.csv", "--label", "answer", "--dry-run"]) == 0
    assert not Path("runs").exists()


def test_data_are_told_as_they_are_read_and_nothing_is_trained(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{i},{'' if i == 7 else i % 3},{'yes' if i % 4 else 'no'}\n" for i in range(40))
    Path("mine.csv").write_text(f"id,a,answer\n{rows}")
    assert cli.main(["data", "mine.csv"]) == 2
    assert "Column 'a' of mine.csv is empty (nan) in row 7" in (printed := capsys.readouterr().err)
    assert "--missing" in printed
    assert cli.main(["data", "mine.csv", "--missing", "drop", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["input_shape"], list(found["classes"])) == ("features", [1], ["no", "yes"])
    assert sum(found["splits"].values()) == 39
    for split, size in found["splits"].items():
        assert sum(counts[split] for counts in found["classes"].values()) == size
    assert any("'id' only numbers the rows" in one for one in found["told"])
    assert cli.main(["data", "mine.csv", "--missing", "mean"]) == 0
    printed = capsys.readouterr().out
    assert "rows of 1 features, 2 classes" in printed
    assert "- filled " in printed
    assert cli.main(["run", "--data", "mine.csv", "--missing", "mean", "--dry-run"]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["mine.csv"]


def test_images_are_read_as_the_options_say(tmp_path: Path, capsys):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(20):
            Image.new("RGB", (8, 8), (number, 3, 4)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "cat/broken.png").write_bytes(b"no image")
    assert cli.main(["data", str(tmp_path)]) == 2
    assert "--skip-corrupt" in capsys.readouterr().err
    options = ["--skip-corrupt", "--channels", "1", "--image-size", "6"]
    assert cli.main(["data", str(tmp_path), *options]) == 0
    printed = capsys.readouterr().out
    assert "gray images, 6 x 6, 2 classes" in printed
    assert "broken.png" in printed
    settings = prepare(data=str(tmp_path), channels=1, skip_corrupt=True).settings["data"]
    assert settings == {"name": str(tmp_path), "channels": 1, "skip_corrupt": True}


def test_a_page_shows_what_data_were_read_as_with_examples(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "<dog>"):
        Path("photos", name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (number, 3, 4)).save(tmp_path / "photos" / name / f"{number}.png")
    assert cli.main(["data", "photos", "--out", "photos.html", "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["page"] == "photos.html"
    page = Path("photos.html").read_text()
    assert "colour images, 8 x 8, 2 classes" in page
    assert page.count("data:image/png;base64,") == 1
    assert "&lt;dog&gt;" in page
    assert "<dog>" not in page
    assert "a stratified fifth" in page
    Path("mine.csv").write_text("a,b,answer\n" + "".join(f"{i},0.25,{'yes' if i % 4 else 'no'}\n" for i in range(40)))
    assert cli.main(["data", "mine.csv", "--out", "mine.html"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "mine.html"
    page = Path("mine.html").read_text()
    assert "The first 6 training rows" in page
    assert page.count(">0.25<") == 6
    assert cli.main(["data", "mine.csv", "--out", "photos"]) == 2


def test_many_classes_are_told_by_their_range():
    x, y = torch.zeros(300, 2), torch.arange(300) % 50
    part = Dataset(x, y, tuple(f"c{number}" for number in range(50)), "many")
    told = str(describe(Splits(part, part.subset(range(60)), part.subset(range(10)))))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in told.splitlines() if line.startswith("|")]
    assert rows[2:] == [
        ["fewest of a class", "6", "1", "0"],
        ["most of a class", "6", "2", "1"],
        ["all", "300", "60", "10"],
    ]


def test_a_file_that_stands_here_is_never_sent_to_the_hub(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gracile.data.hub.open_source", lambda request: pytest.fail("asked the hub"))
    Path("owner").mkdir()
    Path("owner/name").touch()
    assert cli.main(["run", "--data", "owner/name"]) == 2
    assert "which no data source reads" in capsys.readouterr().err


# What a command asks of a recipe


def test_a_target_goes_to_the_arms_that_can_take_it_and_the_rest_are_told(capsys, caplog):
    with caplog.at_level("INFO", "gracile"):
        arms = prepare("digits", target={"macs": 0.3}).settings["arms"]
    assert arms["rgsm"]["target"] == {"macs": 0.3}
    assert arms["rvsm"]["target"] == {"sparsity": 0.9}
    assert "target" not in arms["dense"]
    assert "--target-macs: rgsm to macs=0.3; dense and rvsm as the recipe has it" in caplog.text


@pytest.mark.parametrize(("target", "rgsm", "rvsm"), [
    ({"params": 0.4}, {"params": 0.4}, {"sparsity": 0.9}),
    ({"sparsity": 0.8}, {"sparsity": 0.8}, {"sparsity": 0.8}),
    ({"macs": 0.3, "sparsity": 0.8}, {"macs": 0.3}, {"sparsity": 0.8}),
])  # fmt: skip
def test_each_method_takes_the_budget_it_can_be_steered_to(target, rgsm, rvsm):
    arms = prepare("digits", target=target).settings["arms"]
    assert arms["rgsm"]["target"] == rgsm
    assert arms["rvsm"]["target"] == rvsm


def test_several_targets_go_to_one_arm_where_no_other_takes_them(tmp_path: Path):
    file = tmp_path / "one.toml"
    file.write_text('title = "one"\nkind = "train"\n[settings.arms.rgsm]\nmethod = "rgsm"\ntarget = { macs = 0.5 }\n')
    arms = prepare(file, target={"macs": 0.3, "sparsity": 0.8}).settings["arms"]
    assert arms["rgsm"]["target"] == {"macs": 0.3, "sparsity": 0.8}


def test_a_target_that_no_arm_can_take_is_refused():
    with pytest.raises(InputError, match=r"No arm .* steered to --target-macs.*rgsm"):
        prepare("forward-forward", target={"macs": 0.3})


def test_a_target_takes_the_place_of_the_recipes_own_and_leaves_its_ramp(tmp_path: Path):
    file = tmp_path / "ramp.toml"
    file.write_text(shipped()["digits"].read_text().replace("{ macs = 0.25 }", "{ macs = 0.25, ramp = 0.3 }"))
    assert prepare(file, target={"params": 0.5}).settings["arms"]["rgsm"]["target"] == {"params": 0.5, "ramp": 0.3}


def test_an_arm_that_keeps_a_setting_of_its_own_is_named(caplog):
    with caplog.at_level("INFO", "gracile"):
        prepare("forward-forward", lr=0.1)
    assert "forward-forward and backpropagation: its own training.lr stays" in caplog.text


def test_a_warmup_keeps_its_share_of_fewer_epochs_and_one_that_was_asked_for_is_refused(tmp_path: Path, monkeypatch):
    assert prepare("digits", epochs=1).settings["training"]["warmup"] == pytest.approx(1 / 30)
    assert prepare("digits", epochs=2).settings["training"]["warmup"] == 1.0
    asked = prepare("digits", epochs=1, settings={"training.warmup": 1.0})
    with pytest.raises(InputError, match=r"--set training\.warmup=0"):
        rehearse(asked)


def test_dotted_keys_are_tables():
    assert nested({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize("arguments", [
    ["--set", "training.warmup=40"], ["--set", "arms.rvsm.options.betta=1"], ["--model", "mlpp"],
    ["--set", "arms.rgsm.target.macs=0.001"], ["--device", "cuda:99"], ["--set", "data.train_limit=0"],
    ["--jobs", "0"], ["--only", "nosuch"], ["--only", "dense:7"], ["--cluster", "nowhere"],
])  # fmt: skip
def test_what_is_refused_leaves_no_folder_behind(arguments: list[str], tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "digits", *arguments]) == 2
    assert capsys.readouterr().err.count("gracile:") == 1
    assert not Path("runs").exists()


def test_a_folder_of_other_files_is_no_place_for_a_run(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("photos/cats").mkdir(parents=True)
    for more in ([], ["--only", "dense"]):
        assert cli.main([*DIGITS, "--out", "photos", *more]) == 2
        printed = capsys.readouterr().err
        assert printed == "gracile: photos holds other files and no run. Name a new or empty folder with --out.\n"
    assert [one.name for one in Path("photos").iterdir()] == ["cats"]
    # What a process of the same run has only begun to write is no other file.
    (Path("begun") / ".recipe.toml.7.tmp").parent.mkdir()
    Path("begun/.recipe.toml.7.tmp").touch()
    assert cli.main([*DIGITS, "--out", "begun", "--epochs", "1", "--only", "dense"]) == 0
    # Where nobody watches a progress bar, a line each says where it is and how far it got.
    printed = capsys.readouterr().err
    assert "run digits (full) in begun" in printed
    assert "dense, seed 0: " in printed


def test_a_dry_run_says_what_how_large_and_how_long_and_writes_nothing(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "digits", "--dry-run", "--seeds", "0,1", "--json"]) == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    assert [one["arm"] for one in arms] == ["dense", "rgsm", "rvsm"]
    assert arms[0]["parameters"] == 21386
    assert arms[0]["steps"] == 30 * -(-arms[0]["samples"] // 64)
    assert arms[0]["seeds"] == 2
    assert all(one["seconds"] > 0 for one in arms)
    assert not list(tmp_path.iterdir())


def test_resume_passes_over_a_run_that_failed_before_it_kept_anything(tmp_path: Path):
    for number, (status, kept) in enumerate([("interrupted", True), ("failed", True), ("failed", False)], 1):
        run = RunFolder(tmp_path / f"mine-{number}")
        (run.path / "recipe.toml").touch()
        run.set_status(status)
        if kept:
            (run.part("dense").path / "checkpoint.safetensors").touch()
    (tmp_path / "mine-4").mkdir()
    assert latest_folder(tmp_path, "mine").name == "mine-2"


def test_a_network_of_ones_own_is_trained_and_then_compressed(tmp_path: Path, monkeypatch, capsys):
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "from torch import nn\n\ndef make(num_classes, in_channels):\n    return nn.Sequential(nn.Conv2d(in_channels, 6, 3), nn.ReLU(),"
        " nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, num_classes))\n"
    )
    options = ["--data", "digits", "--model", "net.py:make", "--epochs", "2", "--set", "data.train_limit=200"]
    assert cli.main(["run", *options]) == 0
    printed = capsys.readouterr()
    assert "running the code of net.py" in printed.err
    assert cli.main(["compress", "runs/classify-1", "--batch-sizes", "1", "--threads", "1", "--json", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["after"]["macs"] < json.loads(printed.out)["before"]["macs"]
    # And by itself, with what the data tell it.
    assert cli.main(["compress", "net.py:make", "--data", "digits", "--batch-sizes", "1", "--threads", "1"]) == 0
    assert "exporting the shrunk network" in capsys.readouterr().err


# What is printed


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for epochs in ("1", "3"):
            assert cli.main([*DIGITS, "--epochs", epochs, "--set", f"training.epochs={epochs}", "--quiet"]) == 0
    return folder


def test_runs_are_listed_filtered_and_compared(two_runs: Path, monkeypatch, capsys):
    monkeypatch.chdir(two_runs)
    assert cli.main(["runs"]) == 0
    printed = capsys.readouterr().out
    assert "runs/digits-1" in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert cli.main(["runs", "--recipe", "dig*", "--status", "done", "--sort", "accuracy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["arms"] for one in found] == [{"trained": 3, "all": 3}] * 2
    assert found[0]["accuracy"] <= found[1]["accuracy"]
    assert cli.main(["runs", "--compare"]) == 0
    assert Path("comparison.html").exists()
    assert cli.main(["runs", "--recipe", "digist"]) == 2
    assert "runs of digits" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [
    ["run", "digits", "--dry-run"], ["runs"], ["report", "runs/digits-1"], ["weights", "runs/digits-1"],
    ["attack", "runs/digits-1", "--attacks", "fgsm", "--samples", "6"], ["reproduce"], ["doctor"], ["data", "digits"],
    ["walk", "--steps", "100", "--walkers", "10"], ["one-layer", "--starts", "10", "--steps", "5", "--out", "here"],
    ["workers", "--rounds", "1", "--every", "1", "--train-limit", "200"], ["run", "--resume", "--out", "runs/digits-1"],
    ["completion", "bash"],
], ids=lambda arguments: arguments[0])  # fmt: skip
def test_every_command_answers_in_json_and_quietly(arguments: list[str], two_runs: Path, monkeypatch, capsys):
    monkeypatch.chdir(two_runs)
    assert cli.main([*arguments, "--json", "--quiet"]) in (0, 1)
    printed = capsys.readouterr()
    assert json.loads(printed.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert "\x1b" not in printed.out + printed.err
    assert not [line for line in printed.err.splitlines() if not line.startswith("WARNING")]


def test_a_runs_table_fits_into_100_columns(two_runs: Path, monkeypatch, capsys):
    monkeypatch.chdir(two_runs)
    assert cli.main(["run", "--resume", "--out", "runs/digits-1"]) == 0
    table = capsys.readouterr().out.partition("\n\n")[0]
    assert "rgsm" in table
    assert max(map(len, table.splitlines())) <= 100


def test_every_command_is_asked_for_json():
    marks = next(
        mark for mark in test_every_command_answers_in_json_and_quietly.pytestmark if mark.name == "parametrize"
    )
    # compress has its own test above, push its own in test_hub.
    assert {arguments[0] for arguments in marks.args[1]} | {"compress", "push"} == set(cli.COMMANDS)


def test_a_run_on_a_users_csv(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i % 7},{(i * 3) % 5},{'yes' if i % 7 > 3 else 'no'}" for i in range(120)]
    Path("mine.csv").write_text("a,b,answer\n" + "\n".join(rows))
    assert cli.main(["run", "--data", "mine.csv", "--epochs", "3", "--set", "data.label=answer"]) == 0
    assert "dense" in capsys.readouterr().out
    assert Path("runs/classify-1/result.json").exists()


def test_ctrl_c_leaves_a_run_that_resumes(tmp_path: Path, monkeypatch):
    process = Forked(command, *DIGITS, folder=tmp_path)
    wait_for(tmp_path / "runs/digits-1/dense/checkpoint.safetensors", process)
    process.send(signal.SIGINT)
    status, said = process.ended()
    assert status == 130, said
    assert "can be continued: gracile run --resume --out runs/digits-1" in said
    assert json.loads((tmp_path / "runs/digits-1/status.json").read_text())["status"] == "interrupted"
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "--resume", "--out", "runs/digits-1"]) == 0


def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(tmp_path: Path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    process = Forked(command, *DIGITS, folder=killed)
    wait_for(killed / "runs/digits-1/rgsm/checkpoint.safetensors", process)
    process.send(signal.SIGKILL)
    assert process.ended()[0] == -signal.SIGKILL
    assert not (killed / "runs/digits-1/result.json").exists()
    for folder, more in ((killed, ["--resume"]), (whole, [])):
        monkeypatch.chdir(folder)
        assert cli.main([*DIGITS, *more]) == 0
    models = sorted(path.relative_to(whole) for path in whole.rglob("model.safetensors"))
    assert len(models) == 3
    for model in models:
        assert (whole / model).read_bytes() == (killed / model).read_bytes(), model


def wait_for(file: Path, process: Forked) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.running, "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.005)
