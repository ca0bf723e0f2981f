"""`gracile compress`: from a run or a user's file to files that are small, right and measured."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import gracile
from gracile.cli import main
from gracile.core.errors import InputError, StorageError
from gracile.core.files import check_writable
from gracile.deploy import from_file
from gracile.export import LatencyTable, latency_table
from gracile.models import lenet
from gracile.recipes import schema
from gracile.recipes.kinds.train import Settings
from gracile.recipes.settings import build_network
from gracile.report import reading
from gracile.report.writing import render
from gracile.shrinking import load_lean
from tests.conftest import make_blobs, small_network

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

RECIPE = """
title = "Blobs"
kind = "train"

[settings.data]
name = "{data}"
image_size = 16

[settings.model]
name = "lenet"

[settings.training]
epochs = 6
batch_size = 32
lr = 0.05

[settings.arms.dense]

[settings.arms.rgsm]
method = "rgsm"
options = {{ penalty = "group_lasso", lam = 0.05, beta = 1.0, grouping = "coupled" }}

[settings.arms.rvsm]
method = "rvsm"
options = {{ penalty = "l0", lam = 1e-4, beta = 0.1 }}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The blobs as an .npz of images large enough for LeNet."""
    splits, path = make_blobs(), tmp_path_factory.mktemp("data") / "blobs.npz"
    large = lambda split: np.kron(split.inputs.numpy()[:, 0], np.ones((2, 2), np.uint8))
    np.savez(
        path,
        x_train=large(splits.train), y_train=splits.train.labels, x_test=large(splits.test), y_test=splits.test.labels,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three trained arms."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "blobs.toml").write_text(RECIPE.format(data=data))
    assert main(["run", str(folder / "blobs.toml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def compressed(finished: Path) -> Path:
    """What the command leaves of its first sparse arm."""
    load = ["--batch-sizes", "1,4", "--threads", "1", "--eps", "20/255", "--robust-samples", "20"]
    assert main(["compress", str(finished), "--int8", *load]) == 0
    return finished / "compressed" / "rgsm"


def test_everything_is_left_in_the_arms_folder(compressed: Path) -> None:
    names = {"lean.safetensors", "lean.onnx", "lean.int8.onnx", "table.md", "compress.json"}
    for form in ("dense", "sparse", "shrunk", "shrunk-int8"):
        names |= {f"{form}.card.json", f"{form}.examples.safetensors"}
    assert {one.name for one in compressed.iterdir()} == names


def test_the_smaller_network_computes_what_the_sparse_one_did(finished: Path, compressed: Path) -> None:
    settings = schema.parse(Settings, schema.load(str(finished / "recipe.toml")).settings, "recipe")
    splits = settings.data.splits()
    sparse = build_network(settings.model, splits, 0)
    lean = load_lean(sparse, compressed / "lean.safetensors").eval()
    sparse.load_state_dict(load_file(finished / "rgsm" / "model.safetensors"))
    sparse.eval()
    x = splits.test.inputs.float() / 255
    session = ort.InferenceSession(compressed / "lean.onnx", providers=["CPUExecutionProvider"])
    exported = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
    with torch.no_grad():
        expected = sparse(x)
        torch.testing.assert_close(lean(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(exported, expected, rtol=1e-4, atol=1e-4)


def test_the_report_holds_every_variant_measured(finished: Path, compressed: Path) -> None:
    report = json.loads((compressed / "compress.json").read_text())
    variants = ["dense", "sparse", "shrunk", "shrunk + int8"]
    assert [one["name"] for one in report["measured"]["files"]] == variants
    assert list(report["accuracy"]) == variants
    assert report["after"]["macs"] < report["before"]["macs"]
    sizes = {one["name"]: one for one in report["measured"]["files"]}
    assert sizes["shrunk"]["macs"] == report["after"]["macs"]
    assert sizes["sparse"]["macs"] == sizes["dense"]["macs"] == report["before"]["macs"]
    assert sizes["sparse"]["zeros"] > sizes["shrunk"]["zeros"]
    # The arms' own figures, from training: the files must repeat them.
    for variant, arm in (("dense", "dense"), ("sparse", "rgsm"), ("shrunk", "rgsm")):
        trained = json.loads((finished / arm / "arm.json").read_text())["accuracy"]
        assert report["accuracy"][variant]["test %"] == pytest.approx(trained, abs=0.01)
    table = (compressed / "table.md").read_text()
    assert all(f"| {name}" in table for name in variants)
    assert "other sparse arms, chosen by arm: rvsm" in table


def test_a_function_of_the_users_without_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files beside the user's can be imported from it, and the zeros its function leaves are what is removed."""
    (tmp_path / "sizes.py").write_text("KEPT = 2\n")
    (tmp_path / "net.py").write_text(
        "from gracile.models import lenet\nfrom sizes import KEPT\n\n"
        "def make():\n    model = lenet(in_channels=1, image_size=16)\n"
        "    model.conv2.weight.data[:, KEPT:] = 0\n    return model\n"
    )
    monkeypatch.chdir(tmp_path)
    loads = ["--shape", "1,16,16", "--batch-sizes", "1", "--threads", "1"]
    assert main(["compress", "net.py:make", *loads]) == 0
    assert "6 -> 2" in capsys.readouterr().out
    left = load_lean(lenet(in_channels=1, image_size=16), tmp_path / "compressed" / "make" / "lean.safetensors")
    assert left.conv1.weight.shape[0] == 2
    assert not (tmp_path / "compressed" / "make" / "lean.int8.onnx").exists()


@pytest.mark.parametrize(("by_fours", "width"), [(0.8, 4), (0.95, 3)])
def test_convolutions_keep_fours_where_they_were_measured_to_be_faster(
    by_fours: float, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a tenth at least; the outputs are the same either way."""
    model, example = lenet(in_channels=1, image_size=16).eval(), torch.rand(2, 1, 16, 16)
    model.conv2.weight.data[:, 3:] = 0
    timed = []

    def table(files: dict[str, Path], *_: object, **settings: object) -> LatencyTable:
        if list(files) != ["1", "4"]:
            return latency_table(files, example, batch_sizes=(1,), threads=(1,), rounds=1, turn=0.001, progress=False)
        timed.append(settings["batch_sizes"])
        found = latency_table(files, example, batch_sizes=(1,), threads=(1,), rounds=1, turn=0.001, progress=False)
        times = {"1": 1.0, "4": by_fours}
        return replace(found, rows=tuple(replace(row, p10=times[row.name]) for row in found.rows))

    monkeypatch.setattr(sys.modules["gracile.deploy.compress"], "latency_table", table)
    made = gracile.compress(model, example, batch_sizes=(1,), threads=(1,), rounds=1, folder=tmp_path)
    assert timed == [(1,)]
    assert made.model.conv1.weight.shape[0] == width
    assert any("multiples of 4" in note for note in made.notes) == (width == 4)
    assert torch.allclose(made.model(example), model(example), atol=1e-5)
    fixed = gracile.compress(model, example, multiple_of=2, batch_sizes=(1,), threads=(1,), rounds=1, folder=tmp_path)
    assert fixed.model.conv1.weight.shape[0] == 4
    assert len(timed) == 1


def test_weights_from_a_file_make_the_sparse_network_and_the_functions_own_the_dense_one(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SOURCE.format("torch.nn.Linear(3, 2)"))
    save_file({"weight": torch.zeros(2, 3), "bias": torch.ones(2)}, tmp_path / "w.safetensors")
    found = from_file(f"{tmp_path}/net.py:make", weights=tmp_path / "w.safetensors", shape=(3,))
    assert found.model(found.example).eq(1).all()
    assert found.dense is not None
    assert not found.dense.weight.eq(0).any()


SOURCE = "import torch\n\nlist_of = 3\n\ndef make():\n    return {}\n"


@pytest.mark.parametrize(
    ("body", "arguments", "message"),
    [
        ("torch.nn.Linear(3, 2)", ["net.py:mak", "--shape", "3"], "Did you mean 'make'"),
        ("torch.nn.Linear(3, 2)", ["other.py:make", "--shape", "3"], "There is no file other.py"),
        ("torch.nn.Linear(3, 2)", ["net.py:make"], "Nothing tells the network's inputs"),
        ("torch.nn.Linear(3, 2)", ["net.py:make", "--shape", "3", "--data", "digits"], "given twice"),
        ("torch.nn.Linear(3, 2)", ["net.py:make", "--shape", "3", "--int8"], "int8 needs data"),
        ("torch.nn.Linear(3, 2)", ["net.py:make", "--shape", "3,x"], "--shape takes whole numbers"),
        ("torch.nn.Linear(3, 2)", ["net.py:make", "--shape", "3", "--arm", "a"], "--arm does not go with"),
        ("torch.nn.Linear(3, 2)", ["net.py:make", "--shape", "3", "--weights", "w.pt"], "There is no file w.pt"),
        ("torch.nn.Linear(3, 2)", ["net.py:make", "--shape", "3", "--weights", "net.py"], "cannot be read"),
        ("torch.nn.Linear(3, 2)", ["net.py:make", "--shape", "4", "--threads", "1"], "4"),
        ("3", ["net.py:make", "--shape", "3"], "returned int"),
        ("1 / 0", ["net.py:make", "--shape", "3"], "ZeroDivisionError"),
        ("1 +", ["net.py:make", "--shape", "3"], "cannot be imported: SyntaxError"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    body: str,
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "net.py").write_text(SOURCE.format(body))
    monkeypatch.chdir(tmp_path)
    assert main(["compress", *arguments]) == 2
    *told, error = capsys.readouterr().err.strip().splitlines()
    assert message in error
    assert not any("gracile:" in line or "Traceback" in line for line in told)


@pytest.mark.parametrize(("options", "message"), [
    ({"int8": True, "weight_bits": 5}, "weight_bits is 5"), ({"int8": True, "max_drop": -1.0}, r"max_drop is -1\.0"),
    ({"rounds": 0}, "must be above 0"), ({"eps": -1.0}, r"eps is -1\.0"), ({"eps": 0.1, "robust_samples": -1}, "samples is -1"),
])  # fmt: skip
def test_an_option_is_refused_before_anything_is_made(tmp_path: Path, caplog, options: dict, message: str) -> None:
    (tmp_path / "lean.int8.onnx").write_text("of an earlier call")
    data = make_blobs()
    with pytest.raises(InputError, match=message), caplog.at_level("INFO", "gracile"):
        gracile.compress(small_network(2, 4), torch.rand(2, 1, 8, 8), data, folder=tmp_path, **options)
    assert [one.name for one in tmp_path.iterdir()] == ["lean.int8.onnx"]
    assert not caplog.records


def test_a_folder_that_cannot_take_the_files_is_refused_before_anything_is_made(tmp_path: Path, caplog) -> None:
    (tmp_path / "note.txt").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").touch()
    model, x = small_network(2, 4), torch.rand(2, 1, 8, 8)
    with caplog.at_level("INFO", "gracile"):
        with pytest.raises(
            StorageError, match=r"No files can be written in .*note\.txt.*Choose another folder with --out"
        ):
            gracile.compress(model, x, folder=tmp_path / "note.txt" / "deep")
        with pytest.raises(InputError, match=r"is a run's own folder\. Name one inside it"):
            gracile.compress(model, x, folder=tmp_path / "run")
    assert not caplog.records
    # Trying leaves nothing.
    check_writable(tmp_path / "made" / "deep")
    assert not (tmp_path / "made").exists()


def test_weights_of_another_network_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(SOURCE.format("torch.nn.Linear(3, 2)"))
    save_file({"weight": torch.zeros(2, 5), "bias": torch.zeros(2)}, tmp_path / "w.safetensors")
    weights = ["--weights", str(tmp_path / "w.safetensors")]
    assert main(["compress", f"{tmp_path}/net.py:make", "--shape", "3", *weights]) == 2
    assert "'weight' is (2, 5) in the file and (2, 3) in the network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arm", "rgs"], "Did you mean 'rgsm'"),
        (["--seed", "7"], "has no seed 7"),
        (["--data", "digits"], "--data does not go with a run"),
        (["--calibration", "0"], "cannot be calibrated with 0 samples"),
    ],
)
def test_a_run_is_asked_for_what_it_has(
    finished: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["compress", str(finished), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_arm_that_is_not_trained_says_how_to_finish_it(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text((finished / "recipe.toml").read_text())
    assert main(["compress", str(tmp_path)]) == 2
    assert "gracile run --resume" in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_every_form_of_the_network_was_attacked(finished: Path, compressed: Path):
    found = json.loads((compressed / "compress.json").read_text())
    assert list(found["robust"]) == ["dense", "sparse", "shrunk", "shrunk + int8"]
    tried = {name: [score["name"] for score in one["scores"]] for name, one in found["robust"].items()}
    assert tried["sparse"] == ["clean", "pgd", "cw", "square", "worst"]
    # onnxruntime gives no gradients: int8 is attacked by transfer from its float network and by search.
    assert tried["shrunk + int8"] == ["clean", "transfer", "square", "worst"]
    assert any("onnxruntime gives no gradients" in note for note in found["notes"])
    # Removal changes no output, so but for a sample at the margin it changes no robustness.
    assert found["accuracy"]["sparse"]["robust %"] == pytest.approx(found["accuracy"]["shrunk"]["robust %"], abs=5)
    assert "robust %" in (compressed / "table.md").read_text()
    assert "robust %, linf 0.07843 (20/255)" in render([reading.read(finished)])


def test_every_form_has_its_accuracy_and_cost_in_one_row(compressed: Path):
    report = json.loads((compressed / "compress.json").read_text())
    heads = "| network | clean % | robust % | zeros % | parameters | multiply-adds | bytes | latency ms |"
    table = [" ".join(line.split()) for line in (compressed / "table.md").read_text().splitlines()]
    assert heads in table
    rows = {line.split(" | ")[0].strip("| "): line for line in table[table.index(heads) + 2 :][:4]}
    files = {one["name"]: one for one in report["measured"]["files"]}
    alone = {one["name"]: one["p50"] for one in report["measured"]["rows"] if one["batch"] == 1}
    assert list(rows) == list(report["cards"]) == list(files)
    for form, made in report["cards"].items():
        assert (made["bytes"], made["multiply_adds"]) == (files[form]["bytes"], files[form]["macs"])
        assert made["latency"] == alone[form]
        assert f"{report['accuracy'][form]['robust %']:.2f}" in rows[form]
        assert f"{made['parameters']:,}" in rows[form]
        stem = form.replace(" + ", "-")
        assert json.loads((compressed / f"{stem}.card.json").read_text()) == made
        assert len(load_file(compressed / f"{stem}.examples.safetensors")["labels"]) == 20
    assert report["cards"]["shrunk"]["parameters"] == report["after"]["parameters"]
