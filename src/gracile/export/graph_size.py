"""What stands in a file: multiply-adds and zeros of its layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gracile.core.errors import StorageError
from gracile.export.errors import need
from gracile.export.sessions import first_line


@dataclass(frozen=True)
class GraphSize:
    """Sums over convolutions and linear layers.

    Attributes:
        macs: multiply-adds for one sample; None where a layer's output size depends on more than the batch.
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
        model = onnx.shape_inference.infer_shapes(onnx.load(str(path)), data_prop=True)
    except Exception as error:  # protobuf's and onnx's own
        raise StorageError(f"{path} is not an ONNX file: {first_line(error)}.", "Export it again.") from error
    graph = model.graph
    stored = {one.name: one for one in graph.initializer}
    # An int8 file computes with scale * q, symmetric about 0: follow that back to the q it stores.
    source = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    shapes = {one.name: _dims(one) for one in (*graph.value_info, *graph.output)}
    macs: int | None = 0
    weights = zeros = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        name = source.get(node.input[1], node.input[1])
        if name not in stored:
            continue
        values = onnx.numpy_helper.to_array(stored[name])
        weights += values.size
        zeros += int((values == 0).sum())
        places = _positions(node, shapes)
        macs = None if macs is None or places is None else macs + values.size * places
    return GraphSize(macs, weights, zeros)


def _dims(info: Any) -> list[int | None]:
    return [one.dim_value if one.HasField("dim_value") else None for one in info.type.tensor_type.shape.dim]


def _positions(node: Any, shapes: dict[str, list[int | None]]) -> int | None:
    """How often a sample uses each weight; a transposed convolution does at every position of its input."""
    place = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
    dims = shapes.get(place)
    if dims is None:
        return None
    dims = dims[2:] if node.op_type in ("Conv", "ConvTranspose") else dims[1:-1]
    return None if None in dims else math.prod(one for one in dims if one is not None)
