"""Export: the file computes what the module does, at any batch size, or nothing is left behind."""

from __future__ import annotations

import copy
import errno
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gracile.core.errors import DataError, InputError, MissingDependencyError, NonFiniteError, StorageError
from gracile.export import (
    Accuracy,
    Exported,
    ExportError,
    Int8Warning,
    LatencyTable,
    accuracy,
    export_onnx,
    float_model,
    latency,
    latency_table,
    onnx_file,
)
from gracile.export import int8 as quantization
from gracile.export.graph_size import graph_size
from gracile.export.samples import Calibration, as_examples, labelled
from gracile.export.sessions import optimized_operations, run, session
from tests.conftest import make_blobs
from tests.models.idioms import IDIOMS, Transformer

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
ort_quantization = pytest.importorskip("onnxruntime.quantization")


def network() -> nn.Sequential:
    """Two convolutions and a classifier for the blobs, with batch-norms that have seen data."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> nn.Sequential:
    """The network, trained until it knows the blobs."""
    model, data = network(), make_blobs().train
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x = data.inputs.float() / 255
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), data.labels).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def made(trained: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One export for all tests that only look: int8, and the float file beside it."""
    folder, splits = tmp_path_factory.mktemp("export"), make_blobs()
    trained.train()
    return export_onnx(
        trained,
        torch.rand(1, 1, 8, 8),
        folder / "int8.onnx",
        splits.train,
        validation=splits.validation,
        float_path=folder / "float.onnx",
        verbose=False,
    )


@pytest.fixture(scope="module")
def float_file(made: Exported) -> Path:
    return made.path.with_name("float.onnx")


def infer(path: Path, x: torch.Tensor) -> np.ndarray:
    return session(path, threads=1).run(None, {"input": x.numpy()})[0]


@pytest.mark.parametrize("size", [1, 2, 5, 33])
def test_the_float_file_computes_what_the_module_does(trained: nn.Module, float_file: Path, size: int) -> None:
    x = torch.rand(size, 1, 8, 8, generator=torch.Generator().manual_seed(size))
    trained.eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(infer(float_file, x)), trained(x), rtol=1e-4, atol=1e-5)


def test_the_batch_size_is_free_and_the_opset_is_stated(made: Exported, float_file: Path) -> None:
    graph = onnx.load(str(float_file))
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert [one.version for one in graph.opset_import if one.domain == ""] == [made.opset]


def test_the_file_holds_no_trace_of_the_source_that_made_it(float_file: Path, made: Exported) -> None:
    for path in (float_file, made.path):
        assert str(Path.cwd()).encode() not in path.read_bytes()
        assert b"stack_trace" not in path.read_bytes()


def test_no_weights_stand_outside_the_file(made: Exported) -> None:
    assert sorted(one.name for one in made.path.parent.iterdir()) == ["float.onnx", "int8.onnx"]
    assert made.bytes == made.path.stat().st_size


def test_int8_fuses_every_layer_and_keeps_the_accuracy(made: Exported) -> None:
    assert made.int8 is not None
    assert (made.int8.fused_convolutions, made.int8.convolutions) == (2, 2)
    assert (made.int8.fused_linear, made.int8.linear) == (1, 1)
    assert made.kept_float == ()
    assert made.accuracy_float is not None
    assert made.accuracy_int8 is not None
    assert made.accuracy_float.percent > 90
    assert made.accuracy_float.percent - made.accuracy_int8.percent <= 1


def test_a_file_in_int8_has_a_quarter_of_the_bytes(tmp_path: Path) -> None:
    layers = [nn.Linear(600, 600), nn.ReLU(), nn.Linear(600, 600)]
    x = torch.randn(64, 600)
    made = export_onnx(
        nn.Sequential(*layers), x, tmp_path / "int8.onnx", x, float_path=tmp_path / "float.onnx", verbose=False
    )
    assert 3.8 < (tmp_path / "float.onnx").stat().st_size / made.bytes < 4


def test_int8_outputs_are_near_the_float_ones_but_not_the_same(made: Exported, float_file: Path) -> None:
    x = make_blobs().test.inputs.float() / 255
    exact, found = infer(float_file, x), infer(made.path, x)
    difference = np.abs(exact - found).max() / np.abs(exact).max()
    assert 0 < difference < 0.05


def test_the_summary_says_what_was_measured(made: Exported) -> None:
    text = str(made)
    assert "opset 20" in text
    assert "2 of 2 convolutions" in text
    assert f"{made.accuracy_float} in float32" in text
    assert made.to_json()["int8"]["weight_bits"] == 7


def test_accuracy_counts_what_torch_counts(trained: nn.Module, float_file: Path) -> None:
    test = make_blobs().test
    trained.eval()
    with torch.no_grad():
        expected = (trained(test.inputs.float() / 255).argmax(1) == test.labels).sum().item()
    assert accuracy(float_file, test).correct == expected
    batches = [(test.inputs[:7].float() / 255, test.labels[:7]), (test.inputs[7:].float() / 255, test.labels[7:])]
    found = accuracy(float_file, batches, torch.zeros(1, 1, 8, 8))
    assert (found.correct, found.samples) == (expected, len(test))


def test_modes_and_weights_are_left_as_found(tmp_path: Path) -> None:
    model = network()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_onnx(model.to(memory_format=torch.channels_last), torch.rand(3, 1, 8, 8), tmp_path / "a.onnx", verbose=False)
    assert model.training
    assert not model[1].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Infinite(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 0


class Says(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, str]:
        return {"answer": "yes" if len(x) else "no"}


def test_a_model_that_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be exported to ONNX with a free batch size"):
        export_onnx(Branch(), torch.rand(2, 3), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="outputs are not finite"):
        export_onnx(Infinite(), torch.ones(2, 3), tmp_path / "a.onnx")


def test_outputs_that_are_not_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="returns dict, which holds no tensor"):
        export_onnx(Says(), torch.ones(2, 3), tmp_path / "a.onnx")


def test_an_example_of_the_wrong_shape_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not take inputs of shape \(2, 3, 8, 8\)"):
        export_onnx(network(), torch.rand(2, 3, 8, 8), tmp_path / "a.onnx")


@pytest.mark.parametrize(
    "example", ["x", torch.tensor(1.0), torch.rand(0, 3), (torch.rand(2, 3), torch.rand(3, 3)), ()]
)
def test_examples_that_are_no_batch_are_refused(example: Any) -> None:
    with pytest.raises(InputError, match="The example"):
        as_examples(example)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": -1}, "max_drop"),
        ({"weight_bits": 4}, "weight_bits"),
        ({"opset": 12}, "opset"),
        ({"float_path": "b.onnx"}, "without int8"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        export_onnx(network(), torch.rand(2, 1, 8, 8), tmp_path / "a.onnx", **options)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_extra_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'gracile\[export\]'"):
        export_onnx(network(), torch.rand(2, 1, 8, 8), tmp_path / "a.onnx")


# What follows quantises the float graph of the one export again, without the exporter.


def quantizer(float_file: Path, source: Any, folder: Path) -> quantization.Quantizer:
    calibration = Calibration(source, as_examples(torch.rand(1, 1, 8, 8)))
    return quantization.Quantizer(onnx.load(str(float_file)), calibration, folder)


def stream(count: int) -> Iterator[torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.rand(10, 1, 8, 8, generator=source)


def test_calibration_is_the_same_from_a_tensor_a_list_and_a_stream(float_file: Path, tmp_path: Path) -> None:
    whole = torch.cat(list(stream(25)))
    labels = torch.zeros(10, dtype=torch.long)
    sources = [whole, stream(25), [(batch, labels) for batch in stream(25)]]
    models = []
    for number, source in enumerate(sources):
        (tmp_path / str(number)).mkdir()
        models.append(quantizer(float_file, source, tmp_path / str(number)).quantize())
    assert models[0] == models[1] == models[2]


def test_ranges_cover_every_batch(float_file: Path, tmp_path: Path) -> None:
    """A later batch alone holds the largest input: a range taken from the first would cut it off."""
    batches = [torch.rand(4, 1, 8, 8), torch.full((4, 1, 8, 8), 9.0), torch.rand(4, 1, 8, 8)]
    model = onnx.load_from_string(quantizer(float_file, batches, tmp_path).quantize())
    scale = next(one for one in model.graph.initializer if one.name == "input_scale")
    assert onnx.numpy_helper.to_array(scale) == pytest.approx(9 / 255, rel=1e-5)


def test_weights_in_seven_bits_use_half_the_range(float_file: Path, tmp_path: Path) -> None:
    made = quantizer(float_file, torch.rand(20, 1, 8, 8), tmp_path)
    for bits, largest in ((8, 127), (7, 64)):
        model = onnx.load_from_string(made.quantize(weight_bits=bits))
        weights = [
            onnx.numpy_helper.to_array(one) for one in model.graph.initializer if one.name.endswith("weight_quantized")
        ]
        assert weights
        assert max(np.abs(one.astype(int)).max() for one in weights) == largest


def test_an_excluded_layer_stays_float(float_file: Path, tmp_path: Path) -> None:
    made = quantizer(float_file, torch.rand(20, 1, 8, 8), tmp_path)
    counts = quantization.optimized_operations(made.quantize(made.layers[:1]))
    assert counts["QLinearConv"] == 1


@pytest.mark.parametrize("source", [torch.rand(0, 1, 8, 8), [], iter(())])
def test_empty_calibration_data_are_refused(float_file: Path, tmp_path: Path, source: Any) -> None:
    with pytest.raises(DataError, match="calibration data are empty"):
        quantizer(float_file, source, tmp_path)


def test_an_empty_data_set_is_refused_by_name(float_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'blobs' are empty"):
        quantizer(float_file, make_blobs().train.subset([]), tmp_path)


def test_calibration_data_of_another_shape_are_refused(float_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shape \(4, 1, 9, 9\) where the example has"):
        quantizer(float_file, torch.rand(4, 1, 9, 9), tmp_path)


def test_calibration_data_that_are_not_finite_are_refused(float_file: Path, tmp_path: Path) -> None:
    bad = torch.rand(4, 1, 8, 8)
    bad[2, 0, 3, 3] = torch.nan
    with pytest.raises(DataError, match="NaN or infinity after 0 samples"):
        quantizer(float_file, bad, tmp_path)


def test_something_else_than_data_is_refused(float_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="int8 is bool"):
        quantizer(float_file, True, tmp_path)


def test_validation_data_that_can_be_read_once_are_refused(float_file: Path) -> None:
    with pytest.raises(InputError, match="more than once"):
        accuracy(float_file, iter([]), torch.rand(1, 1, 8, 8))


def test_empty_validation_data_are_refused(float_file: Path) -> None:
    with pytest.raises(DataError, match="validation data are empty"):
        accuracy(float_file, [], torch.rand(1, 1, 8, 8))


def spoiled(float_file: Path) -> Any:
    """A linear layer that 8 bits cannot hold: huge weights in each filter, on inputs that are always 0."""
    proto = onnx.load(str(float_file))
    convolution = [node for node in proto.graph.node if node.op_type == "Conv"][1]
    linear = next(node for node in proto.graph.node if node.op_type == "Gemm")
    stored = {one.name: one for one in proto.graph.initializer}
    for name, part, value in ((convolution.input[2], np.s_[0], -1e3), (linear.input[1], np.s_[:, :4], 1e4)):
        values = onnx.numpy_helper.to_array(stored[name]).copy()
        values[part] = value
        stored[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
    return proto, linear.name


def test_a_layer_that_int8_ruins_stays_float(float_file: Path) -> None:
    splits = make_blobs()
    proto, linear = spoiled(float_file)
    examples = as_examples(torch.rand(1, 1, 8, 8))
    labelled_batches = labelled(splits.validation, examples)
    everything = quantization.quantized(proto, Calibration(splits.train, examples), labelled_batches, max_drop=100)
    assert everything.accuracy_float is not None
    assert everything.accuracy_int8 is not None
    assert everything.accuracy_int8.percent < everything.accuracy_float.percent - 20
    made = quantization.quantized(proto, Calibration(splits.train, examples), labelled_batches, max_drop=1)
    assert made.kept == (linear,)
    assert made.fused_convolutions == 2
    assert made.accuracy_int8 is not None
    assert everything.accuracy_float.percent - made.accuracy_int8.percent <= 1


@pytest.mark.parametrize("layers", [1, 3, 20])
def test_the_fewest_layers_stay_float(monkeypatch: pytest.MonkeyPatch, layers: int) -> None:
    """Accuracy falls by a point for each of the most sensitive layers that is quantised."""

    class Fake:
        def __init__(self, *_: Any) -> None:
            self.layers = [f"layer{number}" for number in range(layers)]
            self.operations, self.products = dict.fromkeys(self.layers, "Conv"), 0
            self.made = 0

        def quantize(self, exclude: Any = (), weight_bits: int = 7) -> bytes:
            self.made += 1
            made.append(self.made)
            return ",".join(exclude).encode()

        def sensitivity(self, weight_bits: int = 7) -> list[str]:
            return self.layers[::-1]

    class Dense:
        SerializeToString = staticmethod(lambda: b"dense")

    def measure(model: bytes, _: Any) -> Accuracy:
        kept = layers if model == b"dense" else len([one for one in model.split(b",") if one])
        return Accuracy(1000 - 10 * max(0, harmful - kept), 1000)

    monkeypatch.setattr(quantization, "Quantizer", Fake)
    monkeypatch.setattr(quantization, "session", lambda model: model)
    monkeypatch.setattr(quantization, "measure", measure)
    monkeypatch.setattr(quantization, "optimized_operations", lambda model: Counter())
    for harmful in range(layers + 1):
        made: list[int] = []
        found = quantization.quantized(Dense, None, lambda: iter(()), max_drop=0.5)  # type: ignore[arg-type]
        assert len(found.kept) == harmful
        assert found.kept == tuple(f"layer{number}" for number in range(layers - harmful, layers))
        assert len(made) <= 2 * np.log2(layers) + 2


def test_seven_bits_never_overflow(float_file: Path, tmp_path: Path) -> None:
    """With 8 bits this network's sums overflow on processors without VNNI: off by a quarter of the largest output."""
    made = quantizer(float_file, make_blobs().train, tmp_path)
    assert not made.overflows(made.quantize(weight_bits=7))


def test_an_overflow_is_found_by_what_it_does(
    float_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = quantizer(float_file, make_blobs().train, tmp_path)
    model = made.quantize(weight_bits=7)
    real = made._outputs
    fused = iter([False, True, False])
    monkeypatch.setattr(made, "_outputs", lambda loaded: real(loaded) + 0.3 * next(fused))
    assert made.overflows(model)
    with pytest.warns(Int8Warning, match="integer sums overflow"):
        onnx_file._warn(quantized(18, 0, overflows=True))


def test_sensitivity_names_every_layer_and_repeats_itself(float_file: Path, tmp_path: Path) -> None:
    made = quantizer(float_file, torch.rand(20, 1, 8, 8), tmp_path)
    first = made.sensitivity()
    assert sorted(first) == sorted(made.layers)
    assert first == made.sensitivity()


def quantized(fused: int, kept: int, overflows: bool = False) -> quantization.Quantized:
    return quantization.Quantized(b"", 7, tuple(map(str, range(kept))), 18, 2, fused, 2, overflows, None, None)


@pytest.mark.parametrize(
    ("fused", "kept", "message"), [(8, 0, "Only 8 of 18 convolutions"), (0, 20, "the file is float32")]
)
def test_int8_that_gains_little_is_a_warning(fused: int, kept: int, message: str) -> None:
    with pytest.warns(Int8Warning, match=message):
        onnx_file._warn(quantized(fused, kept))


@pytest.mark.parametrize(("fused", "kept"), [(18, 0), (10, 8)])
def test_layers_left_in_float_on_purpose_are_no_warning(fused: int, kept: int) -> None:
    onnx_file._warn(quantized(fused, kept))


@pytest.fixture
def exporter(float_file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stands in for the exporter, whose seconds the tests below can do without."""
    proto = onnx.load(str(float_file))
    monkeypatch.setattr(onnx_file, "to_onnx", lambda *_: proto)
    return proto


@pytest.mark.usefixtures("exporter")
def test_a_full_disk_leaves_the_last_file(trained: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.onnx"
    path.write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"disk .* is full"):
        export_onnx(trained, torch.rand(2, 1, 8, 8), path)
    assert path.read_bytes() == b"before"
    assert [one.name for one in tmp_path.iterdir()] == ["a.onnx"]


def test_a_file_that_computes_something_else_is_not_left(exporter: Any, trained: nn.Module, tmp_path: Path) -> None:
    bias = next(one for one in exporter.graph.initializer if one.name.endswith("8.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.1), bias.name))
    with pytest.raises(ExportError, match="outputs differ from the model's"):
        export_onnx(trained, torch.rand(2, 1, 8, 8), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("exporter")
def test_the_summary_is_printed(trained: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = export_onnx(trained, torch.rand(2, 1, 8, 8), tmp_path / "a.onnx", validation=make_blobs().test)
    assert capsys.readouterr().out == f"{made}\n"
    assert made.accuracy_float == accuracy(made.path, make_blobs().test)


# Latency tables.


@pytest.fixture(scope="module")
def table(made: Exported, float_file: Path) -> LatencyTable:
    files = {"float": float_file, "int8": made.path}
    return latency_table(
        files, torch.rand(1, 1, 8, 8), batch_sizes=(1, 3), threads=(1,), rounds=3, turn=0.005, progress=False
    )


def test_the_table_holds_every_file_and_load(table: LatencyTable) -> None:
    assert [one.name for one in table.files] == ["float", "int8"]
    assert {(row.name, row.batch, row.threads) for row in table.rows} == {
        (name, batch, 1) for name in ("float", "int8") for batch in (1, 3)
    }
    assert all(0 < row.p10 <= row.p50 and row.runs >= 3 for row in table.rows)
    assert table.row("float", 3, 1).faster == 1
    with pytest.raises(InputError, match="not measured at batch 7"):
        table.row("int8", 7, 1)


def test_multiply_adds_are_those_of_the_layers(table: LatencyTable) -> None:
    expected = 8 * 1 * 9 * 64 + 8 * 8 * 9 * 64 + 32 * 3
    assert [one.macs for one in table.files] == [expected, expected]


def test_memory_is_that_of_the_file_not_of_this_process(table: LatencyTable) -> None:
    """The peak of a child process starts at its parent's where it is asked for by getrusage: hundreds of MiB here."""
    assert all(one.memory is not None and 0 < one.memory < 60 for one in table.files)


def test_the_table_reads_as_markdown_with_further_columns(table: LatencyTable) -> None:
    text = table.format({"int8": {"accuracy %": "97.00"}})
    assert "| variant" in text
    assert "97.00" in text
    assert "batch 3, 1 thr" in text
    assert table.to_json()["files"][0]["name"] == "float"


def test_zeros_that_buy_nothing_are_named(float_file: Path, tmp_path: Path) -> None:
    proto = onnx.load(str(float_file))
    for one in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(one).copy()
        if values.ndim > 1:
            values[np.random.default_rng(0).random(values.shape) < 0.8] = 0
            one.CopyFrom(onnx.numpy_helper.from_array(values, one.name))
    sparse = tmp_path / "sparse.onnx"
    onnx.save(proto, str(sparse))
    size = graph_size(sparse)
    assert size.zeros / size.weights == pytest.approx(0.8, abs=0.05)
    row = latency.LatencyRow("sparse", 1, 1, 1.0, 1.0, 1.02, 1.02, 9)
    sizes = {"dense": graph_size(float_file), "sparse": size}
    dense = latency.LatencyRow("dense", 1, 1, 1.0, 1.0, 1.0, 1.0, 9)
    (note,) = latency._remarks(sizes, [dense, row])
    assert "sparse" in note
    assert "1.02 times as fast as dense" in note
    slow = latency.LatencyRow("sparse", 1, 1, 2.0, 2.0, 0.5, 0.5, 9)
    assert any("takes 2.00 times as long as dense" in note for note in latency._remarks(sizes, [dense, slow]))


def test_more_threads_than_cores_are_left_out(float_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    files, example = {"a": float_file}, torch.rand(1, 1, 8, 8)
    found = latency_table(files, example, batch_sizes=(1,), rounds=1, turn=0.001, memory=False, progress=False)
    assert {row.threads for row in found.rows} == {1}
    assert "1 core:" in found.notes[0]


@pytest.mark.parametrize("options", [{"rounds": 0}, {"batch_sizes": ()}, {"threads": (0,)}, {"turn": 0.0}])
def test_loads_out_of_range_are_refused(float_file: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="above 0"):
        latency_table({"a": float_file}, torch.rand(1, 1, 8, 8), **options)


def test_files_that_are_missing_or_damaged_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="There is no file"):
        latency_table({"a": tmp_path / "a.onnx"}, torch.rand(1, 1, 8, 8))
    (tmp_path / "b.onnx").write_bytes(b"not a network")
    with pytest.raises(StorageError, match="is not an ONNX file"):
        latency_table({"b": tmp_path / "b.onnx"}, torch.rand(1, 1, 8, 8))


def test_inputs_of_another_shape_are_refused(float_file: Path) -> None:
    with pytest.raises(InputError, match="refuses inputs"):
        latency_table({"a": float_file}, torch.rand(1, 2, 8, 8), memory=False)


def test_outputs_may_be_put_into_anything(tmp_path: Path) -> None:
    for name in ("optional", "dataclass"):
        make, (shape,), _ = IDIOMS[name]
        model, x = make().eval(), torch.randn(2, *shape)
        made = export_onnx(model, x, tmp_path / f"{name}.onnx", verbose=False)
        assert made.relative_difference < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_exported_as_its_copy_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype).eval()
    x = torch.randn(3, 4).to(dtype)
    export_onnx(model, x, tmp_path / "half.onnx", verbose=False)
    (found,) = run(session(tmp_path / "half.onnx"), {"input": x.float().numpy()})
    expected = model(x).float()
    difference = (torch.from_numpy(found) - expected).abs().max() / expected.abs().max()
    assert difference < 10 * torch.finfo(dtype).eps
    assert next(model.parameters()).dtype is dtype


def test_embeddings_and_attention_in_int8_count_their_layers_only(tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(40, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    made = export_onnx(
        words, torch.randint(0, 20, (4, 5)), tmp_path / "words.onnx", torch.randint(0, 20, (64, 5)), verbose=False
    )
    assert made.int8 is not None
    assert (made.int8.linear, made.int8.fused_linear) == (2, 2)
    vision = Transformer().eval()
    made = export_onnx(
        vision, torch.randn(2, 3, 16, 16), tmp_path / "vision.onnx", torch.randn(64, 3, 16, 16), verbose=False
    )
    assert made.int8 is not None
    assert made.int8.fused_linear <= made.int8.linear == 9
    assert (made.int8.products, made.int8.fused_products) == (4, 4)
    assert "4 of 4 products of attention run fused" in str(made)


class Words(nn.Module):
    """Embedded words, a recurrent layer, a linear one; takes a mask by name and answers in a dictionary."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(20, 8), kind(8, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, words: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, torch.Tensor | None]:
        found = self.layer(self.embedding(words))[0]
        if mask is not None:
            found = found * mask[..., None]
        return {"loss": None, "logits": self.head(found.sum(1))}


def words(count: int) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return {
        "words": torch.randint(0, 20, (count, 6), generator=source),
        "mask": torch.randint(0, 2, (count, 6), generator=source),
    }


@pytest.fixture(scope="module")
def by_name(tmp_path_factory: pytest.TempPathFactory) -> tuple[Words, Exported]:
    torch.manual_seed(0)
    model, folder = Words().eval(), tmp_path_factory.mktemp("words")
    calibration = [{**words(16), "labels": torch.zeros(16).long(), "more": torch.zeros(3)} for _ in range(4)]
    labels = model(**words(64))["logits"].argmax(1)
    made = export_onnx(
        model, words(2), folder / "int8.onnx", calibration, validation=[{**words(64), "labels": labels}],
        max_drop=100, float_path=folder / "float.onnx", verbose=False,
    )  # fmt: skip
    return model, made


def test_inputs_and_outputs_by_name_keep_their_names(by_name: tuple[Words, Exported]) -> None:
    model, made = by_name
    loaded, inputs = session(made.path.with_name("float.onnx")), words(5)
    assert [one.name for one in loaded.get_inputs()] == ["words", "mask"]
    assert [one.name for one in loaded.get_outputs()] == ["logits"]
    (found,) = run(loaded, {name: one.numpy() for name, one in inputs.items()})
    assert np.abs(found - model(**inputs)["logits"].detach().numpy()).max() < 1e-5
    assert made.accuracy_float is not None
    assert made.accuracy_float.percent == 100


def test_recurrent_layers_are_counted_and_lstm_runs_in_integers(by_name: tuple[Words, Exported]) -> None:
    _, made = by_name
    assert made.int8 is not None
    assert (made.int8.recurrent, made.int8.fused_recurrent) == (1, 1)
    assert "1 of 1 linear layers and 1 of 1 recurrent layers run fused" in str(made)
    stored = onnx.load(str(made.path)).graph.initializer
    in_bytes = sum(onnx.numpy_helper.to_array(one).size for one in stored if one.data_type == onnx.TensorProto.INT8)
    # 4 gates of 16 units that read 8 features and 16 units, and 4 classes of 16 units.
    assert in_bytes >= 4 * 16 * (8 + 16) + 4 * 16


def proto(*nodes: onnx.NodeProto, shape: tuple[int, ...], **weights: np.ndarray) -> onnx.ModelProto:
    """A graph from ``input`` to ``output``, without the exporter's seconds."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "made", [value("input", onnx.TensorProto.FLOAT, ["batch", *shape])],
        [value("output", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(one.astype(np.float32 if one.dtype.kind == "f" else np.int64), name)
         for name, one in weights.items()],
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)


def gated(head: bool) -> onnx.ModelProto:
    """A GRU from 4 features to 8 units over a sequence of 3, with or without a linear layer behind."""
    random = np.random.default_rng(0)
    node, weights = onnx.helper.make_node, {"w": random.normal(size=(1, 24, 4)), "r": random.normal(size=(1, 24, 8))}
    nodes = [
        node("Transpose", ["input"], ["steps"], perm=[1, 0, 2]),
        node("GRU", ["steps", "w", "r"], ["", "last" if head else "output"], "gru", hidden_size=8),
    ]
    if head:
        weights["head"] = random.normal(size=(8, 2))
        nodes.append(node("MatMul", ["last", "head"], ["output"], "head"))
    return proto(*nodes, shape=(3, 4), **weights)


def test_a_recurrent_layer_without_a_kernel_in_integers_is_a_warning() -> None:
    calibration = Calibration(torch.rand(9, 3, 4), as_examples(torch.rand(1, 3, 4)))
    made = quantization.quantized(gated(head=True), calibration, None, max_drop=1)
    assert (made.recurrent, made.fused_recurrent) == (1, 0)
    with pytest.warns(Int8Warning, match=r"Only 1 of 1 linear layers and 0 of 1 recurrent layers .* only LSTM"):
        onnx_file._warn(made)


@pytest.mark.parametrize("never", [np.finfo(np.float32).min, -np.inf, -1e4, -100])
def test_a_mask_of_attention_does_not_swallow_the_scores(never: float, tmp_path: Path) -> None:
    """The number that stands for minus infinity would set the step of 8 bits: all that is not masked would be one score."""
    random, node = np.random.default_rng(0), onnx.helper.make_node
    nodes = [
        node("MatMul", ["input", "w"], ["query"], "query"),
        node("Transpose", ["input"], ["key"], "transposed", perm=[0, 2, 1]),
        node("MatMul", ["query", "key"], ["scores"], "product"),
        node("Add", ["scores", "mask"], ["masked"], "add"),
        node("Softmax", ["masked"], ["weights"], "softmax", axis=-1),
        node("MatMul", ["weights", "input"], ["output"], "mixed"),
    ]
    mask = np.where(np.arange(5) < 3, 0.0, never)
    made = proto(*nodes, shape=(5, 4), w=3 * random.normal(size=(4, 4)), mask=mask)
    inputs = torch.rand(50, 5, 4, generator=torch.Generator().manual_seed(0))
    calibration = Calibration(inputs, as_examples(inputs))
    quantizer = quantization.Quantizer(made, calibration, tmp_path)
    exact, found = (
        run(session(model), quantizer.sample[0])[0] for model in (made.SerializeToString(), quantizer.quantize())
    )
    assert np.abs(found - exact).max() < 0.05
    counts = optimized_operations(quantizer.quantize())
    assert (counts["QLinearMatMul"], counts["QLinearMatMul of activations"]) == (1, 2)


def test_a_layer_whose_weight_stands_on_the_left_is_a_layer() -> None:
    made = proto(onnx.helper.make_node("MatMul", ["w", "input"], ["output"], "left"), shape=(4, 2), w=np.eye(4))
    calibration = Calibration(torch.rand(9, 4, 2), as_examples(torch.rand(1, 4, 2)))
    found = quantization.quantized(made, calibration, None, max_drop=1)
    assert (found.linear, found.products, found.fused_products) == (1, 0, 0)


def test_multiply_adds_of_a_recurrent_layer_that_gives_its_last_state_alone(tmp_path: Path) -> None:
    onnx.save(gated(head=True), str(tmp_path / "a.onnx"))
    assert graph_size(tmp_path / "a.onnx").macs == 3 * 24 * (4 + 8) + 8 * 2


def test_a_network_of_recurrent_layers_that_stay_float_has_no_int8(tmp_path: Path) -> None:
    calibration = Calibration(torch.rand(9, 3, 4), as_examples(torch.rand(1, 3, 4)))
    with pytest.raises(ExportError, match="no convolution, linear layer or LSTM"):
        quantization.Quantizer(gated(head=False), calibration, tmp_path)


@pytest.mark.parametrize("name", ["float.onnx", "int8.onnx"])
def test_multiply_adds_are_those_of_recurrent_layers_too(by_name: tuple[Words, Exported], name: str) -> None:
    _, made = by_name
    size = graph_size(made.path.with_name(name))
    assert size.weights == 4 * 16 * (8 + 16) + 4 * 16
    assert size.macs == 6 * 4 * 16 * (8 + 16) + 4 * 16


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ({"words": torch.zeros(2, 6).long()}, "'mask' is not among them"),
        (words(2), "'labels' is not among them"),
        ({**words(2), "words": torch.zeros(2, 5).long(), "labels": torch.zeros(2)}, "has the shape"),
    ],
)
def test_a_batch_by_name_that_does_not_fit_is_refused(batch: dict[str, torch.Tensor], says: str) -> None:
    with pytest.raises(InputError, match=says):
        next(labelled([batch], as_examples(words(2)))())


def test_the_runtimes_shape_inference_may_fail_in_any_way(
    float_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embeddings made it raise a TypeError, others an AssertionError or a plain Exception."""
    real = ort_quantization.quant_pre_process

    def fails(*paths: str, skip_symbolic_shape: bool = False) -> None:
        if not skip_symbolic_shape:
            raise Exception("Incomplete symbolic shape inference")
        real(*paths, skip_symbolic_shape=True)

    monkeypatch.setattr(ort_quantization, "quant_pre_process", fails)
    assert len(quantizer(float_file, torch.rand(4, 1, 8, 8), tmp_path).layers) == 3


def test_the_exporters_notes_are_kept_quiet(caplog: pytest.LogCaptureFixture) -> None:
    with float_model._silent():
        logging.getLogger("onnxscript.optimizer._constant_folding").warning("of every split")
    assert not caplog.records
    logging.getLogger("onnxscript.optimizer._constant_folding").warning("heard again")
    assert caplog.records


def test_each_window_of_an_image_is_a_multiply_add(tmp_path: Path) -> None:
    """Windows are put into the batch: the first dimension counts more than samples."""
    node = onnx.helper.make_node
    nodes = [
        node("Reshape", ["input", "windows"], ["parts"]),
        node("MatMul", ["parts", "w"], ["made"]),
        node("MatMul", ["v", "made"], ["output"]),
    ]
    weights = {"windows": np.array([-1, 3, 4]), "w": np.zeros((4, 8)), "v": np.ones((5, 3))}
    onnx.save(proto(*nodes, shape=(5, 3, 4), **weights), str(tmp_path / "a.onnx"))
    size = graph_size(tmp_path / "a.onnx")
    # Five windows of three words, and one more product, whose weight stands on the left.
    assert size.macs == 5 * (3 * 4 * 8 + 5 * 3 * 8)
    assert (size.weights, size.zeros) == (4 * 8 + 5 * 3, 4 * 8)


def test_multiply_adds_are_unknown_where_more_than_the_batch_is_free(tmp_path: Path) -> None:
    node = onnx.helper.make_node("MatMul", ["input", "w"], ["output"])
    made = proto(node, shape=(5, 4), w=np.ones((4, 8)))
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "length"
    onnx.save(made, str(tmp_path / "a.onnx"))
    assert graph_size(tmp_path / "a.onnx").macs is None


class Enlarging(nn.Module):
    """Sums of large numbers of which a batch-norm takes nearly all away again, as in a network whose inputs have left its range."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8), nn.BatchNorm1d(8)
        )
        self.noise = noise
        with torch.no_grad():
            self.layers[0].bias += 1e5
            center = self.layers[4](self.layers[:4](torch.zeros(1, 3)))
            norm = self.layers[5]
            norm.running_mean += center[0]
            norm.running_var *= 1e-2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return y + self.noise * torch.randn_like(y) if self.noise else y


def test_rounding_that_a_network_enlarges_is_no_other_function(tmp_path: Path) -> None:
    model, x = Enlarging().eval(), torch.randn(4, 3)
    made = export_onnx(model, x, tmp_path / "a.onnx", verbose=False)
    assert made.relative_difference > 1e-4
    assert made.rounding is not None
    assert made.rounding > made.relative_difference / 100
    assert "enlarges rounding" in str(made)
    assert made.to_json()["rounding"] == made.rounding
    with torch.no_grad():
        exact, mine = copy.deepcopy(model).double()(x.double()), model(x)
    assert (exact - mine).abs().max() / exact.abs().max() > 1e-5


def test_what_is_more_than_rounding_is_refused_in_such_a_network_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExportError, match="outputs differ from the model's"):
        export_onnx(Enlarging(noise=1.0).eval(), torch.randn(4, 3), tmp_path / "a.onnx")
    other = Enlarging().eval()
    with torch.no_grad():
        other.layers[5].bias += 30.0
    proto = float_model.to_onnx(other, as_examples(torch.randn(4, 3)), onnx_file.OPSET)
    monkeypatch.setattr(onnx_file, "to_onnx", lambda *_: proto)
    with pytest.raises(ExportError, match="outputs differ from the model's"):
        export_onnx(Enlarging().eval(), torch.randn(4, 3), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []
