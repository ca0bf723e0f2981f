"""onnxruntime sessions, and what their optimiser made of a file."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from gracile.core.errors import InputError, StorageError
from gracile.export.errors import ExportError, need

# Messages below errors are about the runtime's own choices, not the user's.
_ERRORS_ONLY = 3


def session(model: Path | bytes, *, threads: int = 0, optimized: Path | None = None, fuse: bool = True) -> Any:
    """An ``InferenceSession`` on the CPU.

    Args:
        model: a file, or its bytes.
        threads: for one operation; 0 takes a thread a core.
        optimized: where to leave the graph as the runtime optimised it.
        fuse: let it fuse operations; without, an int8 file is computed in floats.

    Raises:
        StorageError: no such file.
        ExportError: the runtime cannot load it.
    """
    ort = need("onnxruntime")
    if isinstance(model, Path) and not model.is_file():
        raise StorageError(f"There is no file {model}.", "Check the path.")
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if not fuse:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    try:
        return ort.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        what = model if isinstance(model, Path) else "The model"
        raise ExportError(
            f"{what} cannot be loaded by onnxruntime: {first_line(error)}.", "Export it again."
        ) from error


def run(loaded: Any, inputs: dict[str, Any]) -> list[Any]:
    """All outputs for one batch.

    Raises:
        InputError: the inputs do not fit the file.
    """
    try:
        return loaded.run(None, inputs)
    except Exception as error:
        shapes = {name: value.shape for name, value in inputs.items()}
        raise InputError(
            f"The exported network refuses inputs {shapes}: {first_line(error)}.", "Give inputs of the example's shape."
        ) from error


INTEGER = ("QLinearConv", "QGemm", "QLinearMatMul")


def optimized_operations(model: bytes) -> Counter[str]:
    """How often each operation stands in the graph as the runtime will execute it; products of two activations apart."""
    onnx = need("onnx")
    with tempfile.TemporaryDirectory(prefix="gracile-") as folder:
        file = Path(folder) / "optimized.onnx"
        session(model, threads=1, optimized=file)
        graph = onnx.load(str(file)).graph
        stored = {one.name for one in graph.initializer}
        # Layers in integers have their weight fourth, or first; attention multiplies activations by the same operation.
        return Counter(
            f"{node.op_type} of activations"
            if node.op_type in INTEGER and not stored & {node.input[0], node.input[3]}
            else node.op_type
            for node in graph.node
        )


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".:")
