"""What stands in a file: multiply-adds and zeros of its layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gracile.core.errors import StorageError
from gracile.export.errors import need
from gracile.export.sessions import first_line, session

RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")


@dataclass(frozen=True)
class GraphSize:
    """Sums over convolutions, linear and recurrent layers; products of two activations, as attention has them, do not count.

    Attributes:
        macs: multiply-adds for one sample; None where the file has free dimensions beside the batch.
        weights: numbers in their weights.
        zeros: how many of them are exactly zero.
    """

    macs: int | None
    weights: int
    zeros: int


def graph_size(path: Path) -> GraphSize:
    """Read a file's layers.

    Raises:
        StorageError: no such file, or not ONNX.
    """
    onnx = need("onnx")
    if not path.is_file():
        raise StorageError(f"There is no file {path}.", "Check the path.")
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's own
        raise StorageError(f"{path} is not an ONNX file: {first_line(error)}.", "Export it again.") from error
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    # An int8 file computes with scale * q, symmetric about 0: follow that back to the q it stores.
    for node in model.graph.node:
        if node.op_type in ("DequantizeLinear", "Transpose") and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    layers: list[tuple[Any, list[Any]]] = []
    for node in model.graph.node:
        places = (1, 2) if node.op_type in RECURRENT else (1,) if node.op_type != "MatMul" else (0, 1)
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul", *RECURRENT):
            held = [stored.get(node.input[place]) for place in places]
            if any(one is not None for one in held):
                layers.append((node, held))
    weights = [one for _, held in layers for one in held if one is not None]
    # A recurrent layer need not give its sequence.
    shapes = _shapes(model, {name for node, _ in layers for name in (node.input[0], node.output[0]) if name})
    return GraphSize(
        macs=None if shapes is None else sum(_multiply_adds(node, held, shapes) for node, held in layers),
        weights=sum(one.size for one in weights),
        zeros=sum(int((one == 0).sum()) for one in weights),
    )


def _shapes(model: Any, names: set[str]) -> dict[str, tuple[int, ...]] | None:
    """Shapes of tensors for one sample, as the runtime finds them, since shapes are computed in the file; None where it cannot."""
    onnx = need("onnx")
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    inputs = {}
    constant = {one.name for one in model.graph.initializer}
    for one in probe.graph.input:
        if one.name in constant:
            continue
        dims = list(one.type.tensor_type.shape.dim)
        if not dims or not all(dim.HasField("dim_value") for dim in dims[1:]):
            return None
        shape = (1, *(int(dim.dim_value) for dim in dims[1:]))
        inputs[one.name] = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(one.type.tensor_type.elem_type))
    del probe.graph.output[:]
    ordered = sorted(names)
    for number, name in enumerate(ordered):
        found = f"gracile.shape.{number}"
        probe.graph.node.append(onnx.helper.make_node("Shape", [name], [found]))
        probe.graph.output.append(onnx.helper.make_tensor_value_info(found, onnx.TensorProto.INT64, None))
    if not ordered:
        return {}
    try:
        values = session(probe.SerializeToString(), threads=1, fuse=False).run(None, inputs)
    except Exception:  # a file of another batch size, or of operations that the runtime lacks
        return None
    return {name: tuple(int(one) for one in value) for name, value in zip(ordered, values, strict=True)}


def _multiply_adds(node: Any, held: list[Any], shapes: dict[str, tuple[int, ...]]) -> int:
    """Of one layer for one sample: the numbers it makes, by what each is a sum over."""
    read = shapes[node.input[0]]
    if node.op_type in RECURRENT:
        return read[0] * sum(one.size for one in held if one is not None)  # (steps, batch, features)
    made = shapes[node.output[0]]
    if node.op_type == "Conv":
        return math.prod(made) * math.prod(held[0].shape[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(read) * math.prod(held[0].shape[1:])
    return math.prod(made) * read[-1 if node.op_type == "MatMul" or not _transposed(node) else 0]


def _transposed(node: Any) -> bool:
    return any(one.name == "transA" and one.i for one in node.attribute)
