"""int8 by onnxruntime's static quantisation: settings that fuse, measured accuracy, float layers where it costs."""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gracile.core.errors import DataError, NonFiniteError
from gracile.export.errors import ExportError, need
from gracile.export.evaluation import Accuracy, measure
from gracile.export.samples import Calibration, Feed
from gracile.export.sessions import first_line, optimized_operations, run, session

CONVOLUTIONS = ("Conv", "ConvTranspose")
LINEAR = ("Gemm", "MatMul")
RECURRENT = ("LSTM", "GRU", "RNN")
# The runtime has no kernel in integers for the others.
RECURRENT_IN_INTEGERS = ("LSTM",)
# Scores of attention that lie wider apart are masked, with numbers that stand for minus infinity: a step of 1/255 of that range would
# take all others for one. Eight bits of this much are steps of a quarter, under the exponential of a softmax.
WIDE = 64
# Calibration samples kept for comparing layers; the rest streams through.
KEPT = 128
# Integer sums that overflow multiply the squared error by ten and more; without, fused and unfused errors are equal.
OVERFLOW = 4

Batches = Callable[[], Iterator[tuple[Feed, np.ndarray]]]


@dataclass(frozen=True)
class Quantized:
    """An int8 graph and what it took.

    Attributes:
        model: the graph's bytes.
        weight_bits: 7 or 8, see `export_onnx`.
        kept: names of layers left in float, in their order.
        convolutions: how many.
        linear: how many linear layers.
        fused_convolutions: those that run in integers as the runtime executes them.
        fused_linear: likewise.
        recurrent: how many recurrent layers.
        fused_recurrent: those with weights in int8 that run in integers: LSTM, whose activations are quantised as they come.
        products: how many products of two activations, as attention has them.
        fused_products: those that run in integers.
        overflows: whether this processor's integer sums overflow with these weights.
        accuracy_float: on the validation data, None without.
        accuracy_int8: likewise, of this graph.
    """

    model: bytes
    weight_bits: int
    kept: tuple[str, ...]
    convolutions: int
    linear: int
    fused_convolutions: int
    fused_linear: int
    overflows: bool
    accuracy_float: Accuracy | None
    accuracy_int8: Accuracy | None
    recurrent: int = 0
    fused_recurrent: int = 0
    products: int = 0
    fused_products: int = 0

    @property
    def layers(self) -> int:
        """How many layers with weights there are."""
        return self.convolutions + self.linear + self.recurrent

    @property
    def fused(self) -> int:
        """How many of them run in integers."""
        return self.fused_convolutions + self.fused_linear + self.fused_recurrent

    def counts(self) -> str:
        """Such as ``2 of 2 convolutions and 1 of 1 linear layers``, of what there is."""
        kinds = {
            "convolutions": (self.fused_convolutions, self.convolutions),
            "linear layers": (self.fused_linear, self.linear),
            "recurrent layers": (self.fused_recurrent, self.recurrent),
            "products of attention": (self.fused_products, self.products),
        }
        parts = [f"{fused} of {number} {kind}" for kind, (fused, number) in kinds.items() if number]
        return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


class Quantizer:
    """A float graph, the ranges of its activations, and as many quantisations of it as are asked for.

    Args:
        proto: the float graph, opset 13 or later.
        calibration: read once, batch by batch.
        folder: for the files onnxruntime works on.

    Attributes:
        layers: names of convolutions, linear and recurrent layers, in order.
        operations: their operations.
        products: how many products of two activations there are.
        sample: some of the calibration data, for comparing layers.

    Raises:
        DataError: the calibration data are empty or do not fit.
        ExportError: there is nothing to quantise.
        NonFiniteError: activations are not finite.
    """

    def __init__(self, proto: Any, calibration: Calibration, folder: Path) -> None:
        onnx, quantization = need("onnx"), need("onnxruntime.quantization")
        raw, self._file = folder / "float.onnx", folder / "prepared.onnx"
        onnx.save(proto, str(raw))
        with _quiet():
            try:
                quantization.quant_pre_process(str(raw), str(self._file))
            except Exception:
                # Its symbolic shapes do not know every operation, and say so in many ways; it does without.
                quantization.quant_pre_process(str(raw), str(self._file), skip_symbolic_shape=True)
        prepared = onnx.load(str(self._file)).graph
        weights = {one.name for one in prepared.initializer}
        layers = [node for node in prepared.node if node.op_type in (*CONVOLUTIONS, *LINEAR, *RECURRENT)]
        weighted = [node for node in layers if any(name in weights for name in node.input[:2])]
        self.operations: dict[str, str] = {node.name: node.op_type for node in weighted}
        self.products = len(layers) - len(weighted)
        self.layers = list(self.operations)
        if not {*CONVOLUTIONS, *LINEAR, *RECURRENT_IN_INTEGERS} & {*self.operations.values()}:
            raise ExportError(
                "The network has no convolution, linear layer or LSTM to quantise.", "Export it without int8."
            )
        self.sample: list[Feed] = []
        self._calibration, self._folder = calibration, folder
        self._float: list[str] = []
        self._ranges = self._calibrate(prepared)

    def _calibrate(self, graph: Any) -> Any:
        """Minimum and maximum of every activation, in one pass; what masks attention is set apart, to stay in float."""
        calibrate = need("onnxruntime.quantization.calibrate")
        augmented = str(self._folder / "augmented.onnx")
        calibrator = calibrate.create_calibrator(self._file, None, augmented_model_path=augmented)
        kept = 0
        while (batch := self._calibration.get_next()) is not None:
            if kept < KEPT:
                self.sample.append({name: value[: KEPT - kept] for name, value in batch.items()})
                kept += len(next(iter(self.sample[-1].values())))
            try:
                # One batch a call: ranges are merged after each, so memory does not grow with the data.
                calibrator.collect_data(_OneBatch(batch))
            except Exception as error:
                raise DataError(
                    f"The network cannot be run on the calibration data: {first_line(error)}.",
                    "Give inputs of the example's shape.",
                ) from error
        if not self._calibration.samples:
            raise DataError("The calibration data are empty.", "Give some hundred typical inputs.")
        ranges = calibrator.compute_data()
        masked = _masked(graph, ranges)
        self._float = [node.name for node in graph.node if masked & {*node.input, *node.output}]
        for name, value in ranges.items():
            if name in masked:
                ranges[name] = calibrate.TensorData(lowest=np.float32(-1), highest=np.float32(1))  # not looked at
            elif not all(np.isfinite(bound).all() for bound in value.range_value):
                raise NonFiniteError(
                    f"The activation '{name}' is not finite on the calibration data.", "Mend the weights or the data."
                )
        return ranges

    def quantize(self, exclude: Sequence[str] = (), weight_bits: int = 7) -> bytes:
        """One int8 graph: what ``quantize_static`` makes, without calibrating again.

        Args:
            exclude: layers left in float.
            weight_bits: 7 or 8.
        """
        quantization = need("onnxruntime.quantization")
        registry, utilities = need("onnxruntime.quantization.registry"), need("onnxruntime.quantization.quant_utils")
        operations = sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})
        with _quiet():
            quantizer = need("onnxruntime.quantization.qdq_quantizer").QDQQuantizer(
                utilities.load_model_with_shape_infer(self._file),
                True,  # a scale for each output channel of a weight
                weight_bits == 7,
                quantization.QuantType.QInt8,
                # Signed activations would keep all but a few convolutions from being fused with what follows.
                quantization.QuantType.QUInt8,
                copy.deepcopy(self._ranges),  # it is adjusted in place
                [],
                [*self._float, *exclude],
                operations,
                {},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
            model = quantizer.model.model
            if any(self.operations[name] in RECURRENT_IN_INTEGERS for name in self.layers if name not in exclude):
                model = self._recurrent(model, exclude, weight_bits)
        return model.SerializeToString()

    def _recurrent(self, model: Any, exclude: Sequence[str], weight_bits: int) -> Any:
        """The same with LSTM's weights in int8; its activations are quantised while it runs, since there is no other kernel."""
        quantization, path = need("onnxruntime.quantization"), self._folder / "recurrent.onnx"
        quantization.quantize_dynamic(
            model,
            path,
            op_types_to_quantize=list(RECURRENT_IN_INTEGERS),
            reduce_range=weight_bits == 7,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=list(exclude),
        )
        return need("onnx").load(str(path))

    def sensitivity(self, weight_bits: int = 7) -> list[str]:
        """Layers from the most to the least harmful: by the error of the outputs when this layer alone is quantised.

        The error is the mean square over the kept calibration samples; equal errors keep the layers' order.
        """
        exact = self._outputs(session(self._file))
        errors = {}
        for layer in self.layers:
            others = [other for other in self.layers if other != layer]
            found = self._outputs(session(self.quantize(others, weight_bits)))
            errors[layer] = float(np.mean((found - exact) ** 2, dtype=np.float64))
        return sorted(self.layers, key=lambda layer: -errors[layer])

    def overflows(self, model: bytes) -> bool:
        """Whether a quantisation errs far more in fused integers than computed in floats, on the kept samples."""
        exact = self._outputs(session(self._file))
        fused, plain = (self._outputs(session(model, fuse=fuse)) for fuse in (True, False))
        fused_error, plain_error = (float(np.mean((found - exact) ** 2, dtype=np.float64)) for found in (fused, plain))
        return fused_error > OVERFLOW * plain_error

    def _outputs(self, loaded: Any) -> np.ndarray:
        return np.concatenate([run(loaded, batch)[0] for batch in self.sample])


class _OneBatch:
    """A calibration reader of one batch."""

    def __init__(self, batch: Feed) -> None:
        self._batch: Feed | None = batch

    def get_next(self) -> Feed | None:
        batch, self._batch = self._batch, None
        return batch


def _masked(graph: Any, ranges: Any) -> set[str]:
    """Activations that hold masked scores of attention, or the mask: those that lie wide apart, from each softmax backwards."""
    producers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    waiting = [node.input[0] for node in graph.node if node.op_type == "Softmax"]
    while waiting:
        name = waiting.pop()
        if name in found or name not in ranges:
            continue
        low, high = ranges[name].range_value
        if np.max(high) - np.min(low) > WIDE:
            found.add(name)
            waiting += producers[name].input if name in producers else ()
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without onnxruntime's advice on the root logger, which is given for settings chosen on purpose here."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def quantized(
    proto: Any, calibration: Calibration, validation: Batches | None, *, max_drop: float, weight_bits: int = 7
) -> Quantized:
    """int8 within an accuracy.

    Without validation data every layer is quantised. With them, where that loses more than `max_drop` points, the
    most sensitive layers stay in float: 1, 2, 4, ... of them until it does not, then the fewest in between that still
    do not. At most ``2 log2(layers) + 2`` quantisations are measured.

    Args:
        proto: the float graph.
        calibration: inputs, read once.
        validation: labelled batches, gone through again for each candidate.
        max_drop: points of accuracy that int8 may cost.
        weight_bits: 7 or 8.
    """
    with tempfile.TemporaryDirectory(prefix="gracile-") as folder:
        quantizer = Quantizer(proto, calibration, Path(folder))
        model = quantizer.quantize((), weight_bits)
        if validation is None:
            return _finished(quantizer, model, weight_bits, (), None, None)
        plain = proto.SerializeToString()
        dense = measure(session(plain), validation)
        found = measure(session(model), validation)

        def good(accuracy: Accuracy) -> bool:
            return dense.percent - accuracy.percent <= max_drop + 1e-9

        if good(found):
            return _finished(quantizer, model, weight_bits, (), dense, found)
        order = quantizer.sensitivity(weight_bits)

        def attempt(count: int) -> tuple[bytes, Accuracy]:
            if count == len(order):
                return plain, dense
            made = quantizer.quantize(order[:count], weight_bits)
            return made, measure(session(made), validation)

        below, count = 0, 1
        best = attempt(count)
        while not good(best[1]):
            below, count = count, min(2 * count, len(order))
            best = attempt(count)
        while count - below > 1:
            middle = (below + count) // 2
            candidate = attempt(middle)
            if good(candidate[1]):
                count, best = middle, candidate
            else:
                below = middle
        return _finished(quantizer, best[0], weight_bits, tuple(order[:count]), dense, best[1])


def _finished(
    quantizer: Quantizer, model: bytes, bits: int, kept: tuple[str, ...], dense: Accuracy | None, found: Accuracy | None
) -> Quantized:
    counts = optimized_operations(model)
    kept = tuple(layer for layer in quantizer.layers if layer in kept)
    return Quantized(
        model=model,
        weight_bits=bits,
        kept=kept,
        convolutions=_count(quantizer, CONVOLUTIONS),
        linear=_count(quantizer, LINEAR),
        fused_convolutions=counts["QLinearConv"],
        fused_linear=counts["QGemm"] + counts["QLinearMatMul"],
        recurrent=_count(quantizer, RECURRENT),
        fused_recurrent=counts["DynamicQuantizeLSTM"],
        products=quantizer.products,
        fused_products=counts["QLinearMatMul of activations"],
        overflows=bits == 8 and quantizer.overflows(model),
        accuracy_float=dense,
        accuracy_int8=found,
    )


def _count(quantizer: Quantizer, kinds: Sequence[str]) -> int:
    return sum(operation in kinds for operation in quantizer.operations.values())
