"""The proof that a float32 file computes what the module does."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gracile.core.seeding import generator
from gracile.export.errors import ExportError, need
from gracile.export.float_model import outputs, to_onnx
from gracile.export.samples import Inputs, feed
from gracile.export.sessions import run, session

# Batch sizes the file is compared at: one, an even and an odd number.
BATCHES = (1, 4, 7)
# A runtime sums in another order and folds norms into weights, which it rounds: so many times torch's own rounding it may be off, where
# a network enlarges rounding beyond the tolerance. An EfficientNet-B0 on noise was seen at 20.
ROUNDINGS = 100.0


@dataclass(frozen=True)
class Parity:
    """How far a file's outputs lie from the module's.

    Attributes:
        largest: absolute difference.
        relative: difference, relative to the largest output of its batch.
        rounding: what single precision alone moves the module's own outputs by, likewise relative; None where that was not asked.
    """

    largest: float
    relative: float
    rounding: float | None = None


def parity(model: nn.Module, proto: Any, examples: Inputs, tolerance: float) -> Parity:
    """Compare the graph with the module at several batch sizes, on the example and on normal noise.

    Some networks enlarge rounding: batch-norms and gates whose inputs have left the range they were trained on. Where a difference is
    beyond the tolerance, the module in double precision is the judge: its graph must agree with it, evaluated by onnx's reference, and
    the file may be off by `ROUNDINGS` times what torch's own single precision is.

    Args:
        model: on the CPU.
        proto: its graph.
        examples: one batch of inputs.
        tolerance: relative to the largest output.

    Raises:
        ExportError: the difference is beyond the tolerance and no rounding, or a batch size is refused.
        NonFiniteError: the model's outputs are not finite.
    """
    loaded = session(proto.SerializeToString())
    largest = relative = 0.0
    beyond: list[Inputs] = []
    for batch in _batches(examples):
        found, absolute = run(loaded, feed(batch)), 0.0
        for ours, theirs in zip(outputs(model, batch), found, strict=True):
            if tuple(ours.shape) != theirs.shape:
                raise ExportError(
                    f"At batch size {len(ours)} the file gives {theirs.shape} and the model {tuple(ours.shape)}.",
                    "Keep the batch as the first dimension throughout the model.",
                )
            absolute = _difference(ours, theirs)
            largest = max(largest, absolute)
            share = absolute / _scale(ours)
            relative = max(relative, share)
            if share > tolerance and (not beyond or beyond[-1] is not batch):
                beyond.append(batch)
    if not beyond:
        return Parity(largest, relative)
    rounding = _rounding(model, proto, loaded, examples, beyond, tolerance)
    if rounding is None:
        raise ExportError(
            f"The file's outputs differ from the model's by {relative:.2g} of the largest, beyond {tolerance:g}.",
            "Switch off noise in evaluation if the model adds any; otherwise pass a larger tolerance.",
        )
    return Parity(largest, relative, rounding)


def _batches(examples: Inputs) -> Iterator[Inputs]:
    source = generator(0, "export parity")
    for size in BATCHES:
        rows = torch.arange(size) % len(examples.tensors[0])
        shown = examples.map(lambda one, rows=rows: one[rows])
        yield shown
        yield shown.map(
            lambda one: torch.randn(one.shape, generator=source).to(one) if one.is_floating_point() else one
        )


def _rounding(
    model: nn.Module, proto: Any, loaded: Any, examples: Inputs, batches: list[Inputs], tolerance: float
) -> float | None:
    """What single precision moves the module's outputs by; None where that does not explain the file's, or nothing can be proved."""
    exact = copy.deepcopy(model).double()
    try:
        graph = to_onnx(exact, _doubled(examples), next(one.version for one in proto.opset_import if one.domain == ""))
        if _operations(graph) != _operations(proto):
            return None
        reference = need("onnx.reference").ReferenceEvaluator(graph)
        rounding = off = 0.0
        for batch in batches:
            doubled = _doubled(batch)
            truth = outputs(exact, doubled)
            with np.errstate(all="ignore"):  # its sigmoid computes both halves everywhere and chooses afterwards
                written = reference.run(None, feed(doubled))
            for one, ours, theirs, double in zip(
                truth, outputs(model, batch), run(loaded, feed(batch)), written, strict=True
            ):
                if _difference(one, np.asarray(double)) > tolerance * _scale(one):
                    return None
                rounding = max(rounding, _difference(one, ours.numpy()) / _scale(one))
                off = max(off, _difference(one, theirs) / _scale(one))
    except Exception:  # whatever an exporter or a reference meets in foreign code: then there is no proof
        return None
    return rounding if off <= ROUNDINGS * rounding else None


def _operations(proto: Any) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node if node.op_type != "Cast")


def _doubled(inputs: Inputs) -> Inputs:
    return inputs.map(lambda one: one.double() if one.is_floating_point() else one)


def _scale(one: Tensor) -> float:
    return one.double().abs().max().item() or 1.0


def _difference(ours: Tensor, theirs: np.ndarray) -> float:
    """The largest; a NaN of the file must not pass as a small one."""
    found = np.abs(ours.double().numpy() - theirs.astype(np.float64)).max(initial=0.0)
    return float(np.nan_to_num(found, nan=np.inf))
