"""`export_onnx`: one file, checked before it is left behind."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.core.files import write_atomically
from gracile.data import Dataset
from gracile.export import samples
from gracile.export.errors import Int8Warning, need
from gracile.export.evaluation import Accuracy, measure
from gracile.export.float_model import in_single_precision, on_cpu, outputs, to_onnx
from gracile.export.int8 import Quantized, quantized
from gracile.export.parity import parity
from gracile.export.sessions import session

# The newest set of operators that every supported onnxruntime (1.20 and later) runs.
OPSET = 20
# Below this share of fused convolutions int8 is not worth its error.
FUSED = 0.9


@dataclass(frozen=True)
class Exported:
    """What `export_onnx` left and what was measured on the way.

    Attributes:
        path: the file.
        opset: of the standard operators.
        bytes: the file's size.
        max_difference: largest absolute difference between the float graph's outputs and torch's.
        relative_difference: the same, relative to the largest output.
        int8: what quantising took; None for a float file.
        accuracy_float: on the validation data; None without.
        accuracy_int8: likewise, of the int8 file.
        rounding: what single precision alone moves the network's own outputs by, relative to the largest, where that was beyond
            the tolerance and the function was proved in double precision; None elsewhere.
    """

    path: Path
    opset: int
    bytes: int
    max_difference: float
    relative_difference: float
    int8: Quantized | None = None
    accuracy_float: Accuracy | None = None
    rounding: float | None = None

    @property
    def accuracy_int8(self) -> Accuracy | None:
        """Accuracy after int8 on the validation data."""
        return self.int8.accuracy_int8 if self.int8 else None

    @property
    def kept_float(self) -> tuple[str, ...]:
        """Layers that stay in float because int8 would cost too much there."""
        return self.int8.kept if self.int8 else ()

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.bytes:,} bytes, opset {self.opset}, any batch size",
            f"float32 outputs within {self.max_difference:.2g} of torch's "
            f"({self.relative_difference:.2g} of the largest)",
        ]
        if self.rounding is not None:
            lines.append(
                f"the network enlarges rounding: single precision moves torch's own outputs by {self.rounding:.2g} of the largest; "
                "in double precision the graph agrees with it"
            )
        if self.int8 is not None:
            made = self.int8
            lines.append(f"int8: {made.counts()} run fused in integers, weights in {made.weight_bits} bits")
            if made.kept:
                lines.append(f"left in float, because int8 costs too much there: {', '.join(made.kept)}")
        if self.accuracy_float is not None:
            lines.append(f"accuracy on the validation data: {self.accuracy_float} in float32")
            if self.accuracy_int8 is not None:
                drop = self.accuracy_float.percent - self.accuracy_int8.percent
                lines[-1] += f", {self.accuracy_int8.percent:.2f} % in int8 ({0.0 - drop:+.2f} points)"
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; accuracies in per cent."""
        percent = lambda found: None if found is None else found.percent
        made = self.int8
        return {
            "file": self.path.name,
            "opset": self.opset,
            "bytes": self.bytes,
            "max_difference": self.max_difference,
            "relative_difference": self.relative_difference,
            "rounding": self.rounding,
            "accuracy_float": percent(self.accuracy_float),
            "accuracy_int8": percent(self.accuracy_int8),
            "int8": None if made is None else {
                "convolutions": made.convolutions,
                "fused_convolutions": made.fused_convolutions,
                "linear": made.linear,
                "fused_linear": made.fused_linear,
                "recurrent": made.recurrent,
                "fused_recurrent": made.fused_recurrent,
                "products": made.products,
                "fused_products": made.fused_products,
                "weight_bits": made.weight_bits,
                "overflows": made.overflows,
                "kept_float": list(made.kept),
            },
        }  # fmt: skip


def export_onnx(
    model: nn.Module,
    example: samples.Example,
    path: str | Path,
    int8: Tensor | Dataset | Iterable[Any] | None = None,
    *,
    validation: Dataset | Iterable[Any] | None = None,
    max_drop: float = 1.0,
    weight_bits: int = 7,
    float_path: str | Path | None = None,
    opset: int = OPSET,
    tolerance: float = 1e-4,
    verbose: bool = True,
) -> Exported:
    """Write a network as one ONNX file with a free batch size, after checking that it computes what the module does.

    Args:
        model: in any mode and on any device; exported as in evaluation; not changed. In half precision it is exported, and compared,
            as its copy in float32, and the file takes float32. Outputs may be put into lists, dictionaries or dataclasses.
        example: one batch of inputs (n, ...), a tuple of them, or a dictionary of them by the names of forward's arguments, which
            the file's inputs are then called by.
        path: the file; replaced atomically if there is one.
        int8: calibration data, which turn the file into an int8 one: a tensor of inputs, a data set, or an iterable
            of batches, read once; some hundred samples of what the network will see. A batch is a tensor, a tuple
            of inputs and possibly labels, or a dictionary of inputs by name and possibly ``labels``.
        validation: labelled data for the accuracy before and after int8; a data set, or an iterable of (inputs,
            labels).
        max_drop: points of accuracy int8 may cost on `validation`; beyond it the most sensitive layers stay in float.
        weight_bits: 7 computes the same on every processor. 8 is finer where the processor has VNNI instructions;
            others add pairs of 8-bit products in 16 bits, which overflow without a word.
        float_path: where to keep the float32 file too, with `int8`.
        opset: version of the standard operators, 18 or later.
        tolerance: largest difference to torch allowed, relative to the largest output, at batch sizes 1, 4 and 7. What exceeds it is
            settled in double precision: rounding that the network itself enlarges is no other function.
        verbose: print the summary.

    Returns:
        What was measured; printing it gives the summary.

    Raises:
        InputError: the model does not take the example, or an option is out of its range.
        DataError: calibration or validation data are empty or do not fit.
        NonFiniteError: outputs or activations are not finite.
        ExportError: the model cannot be exported, or its file computes something else.
        MissingDependencyError: onnx, onnxscript or onnxruntime is not installed.
        StorageError: the file cannot be written.
    """
    check_int8(max_drop, weight_bits)
    _check_options(float_path is not None and int8 is None, opset)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need(package)
    examples = samples.as_examples(example)
    outputs(on_cpu(model), examples)
    network = in_single_precision(on_cpu(model))
    if network is not model:
        examples = examples.map(lambda one: one.float() if one.dtype in (torch.bfloat16, torch.float16) else one)
    calibration = None if int8 is None else samples.Calibration(int8, examples)
    labelled = None if validation is None else samples.labelled(validation, examples)
    proto = to_onnx(network, examples, opset)
    agreed = parity(network, proto, examples, tolerance)
    content = proto.SerializeToString()
    made = None
    if calibration is not None:
        if float_path is not None:
            _write(Path(float_path), content)
        made = quantized(proto, calibration, labelled, max_drop=max_drop, weight_bits=weight_bits)
        content = made.model
        _warn(made)
    dense = made.accuracy_float if made else measure(session(content), labelled) if labelled else None
    _write(Path(path), content)
    exported = Exported(Path(path), opset, len(content), agreed.largest, agreed.relative, made, dense, agreed.rounding)
    if verbose:
        print(exported)
    return exported


def check_int8(max_drop: float, weight_bits: int) -> None:
    """Refuse options of int8 that are out of their range.

    Raises:
        InputError: one is.
    """
    if not max_drop >= 0:
        raise InputError(f"max_drop is {max_drop}.", "Give points of accuracy, 0 or more.")
    if weight_bits not in (7, 8):
        raise InputError(f"weight_bits is {weight_bits}.", "Give 7, or 8 for processors with VNNI.")


def _check_options(idle: bool, opset: int) -> None:
    if idle:
        raise InputError("float_path is given without int8.", "Without int8 the file at path is the float one.")
    if opset < 18:
        raise InputError(f"opset is {opset}.", "Give 18 or later; the exporter writes no older ones.")


def _write(path: Path, content: bytes) -> None:
    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomically(path, write)


def _warn(made: Quantized) -> None:
    kept = len(made.kept)
    if made.overflows:
        warnings.warn(
            "This processor's integer sums overflow with 8-bit weights, and the file computes something else here than "
            "on others. Leave weight_bits at 7.",
            Int8Warning,
            stacklevel=3,
        )
    if kept == made.layers:
        warnings.warn(
            "int8 cost more accuracy than max_drop allows however few layers were quantised: the file is float32. "
            "Raise max_drop, or calibrate with more typical inputs.",
            Int8Warning,
            stacklevel=3,
        )
    elif made.fused < FUSED * (made.layers - kept):
        advice = (
            "Of recurrent layers only LSTM has a kernel in integers."
            if made.fused_recurrent < made.recurrent
            else "Put ReLU, or nothing, between layers; other activations are computed in float."
        )
        warnings.warn(
            f"Only {made.counts()} run fused in integers, so int8 gains little speed. {advice}",
            Int8Warning,
            stacklevel=3,
        )
