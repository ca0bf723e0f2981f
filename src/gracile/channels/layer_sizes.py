"""What a trained arm holds layer by layer, small enough to lie beside its numbers and be drawn without the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gracile.channels import trace
from gracile.channels.records import Layer
from gracile.core.files import write_text

# Magnitudes are binned by their decimal logarithm, alike for every arm and run, so that they can be laid over each other.
LOWEST, HIGHEST, BINS = -6.0, 1.0, 70


def layer_sizes(kept: nn.Module, example: Tensor) -> dict[str, Any]:
    """The layers before and after physical removal of exact zeros, and how large their weights are.

    Args:
        kept: the network with its exact zeros.
        example: one batch.

    Returns:
        ``parameters``, ``parameters_left``, ``macs``, ``macs_left`` (a sample); ``magnitudes``: ``log10_edges`` [first, last],
        ``counts`` a bin (what lies outside counts to the outermost), ``zeros``; ``layers``, one table a convolution or linear layer
        in order: ``name``, ``channels`` and ``channels_left`` it makes, ``inputs`` and ``inputs_left`` it reads, ``parameters``,
        ``parameters_left`` and ``nonzero`` of its weight, ``norms``: the l2 norm of each input channel's slice of the weight, of
        each filter where the layer is a grouped convolution.
    """
    graph = trace(kept, example)
    live = graph.liveness()
    dense, left = graph.dense(), graph.sizes(live)
    counts, zeros, seen, layers = np.zeros(BINS, np.int64), 0, set(), []
    for layer in graph.layers:
        weight = graph.parameter(layer.weight).detach().float().cpu()
        shape = list(weight.shape)
        shape[layer.outputs[0]] = live.count(layer.outputs[1])
        row: dict[str, Any] = {
            "name": layer.name,
            "channels": len(layer.outputs[1]),
            "channels_left": shape[layer.outputs[0]],
        }
        if layer.inputs is not None:
            shape[layer.inputs[0]] = live.count(layer.inputs[1])
            row |= {"inputs": len(layer.inputs[1]), "inputs_left": shape[layer.inputs[0]]}
        row["parameters"] = weight.numel()
        row["parameters_left"] = int(np.prod(shape))
        row["nonzero"] = int(weight.count_nonzero())
        row["norms"] = _norms(weight, layer)
        layers.append(row)
        # A weight that two layers share is counted once.
        if layer.weight not in seen:
            seen.add(layer.weight)
            counts += _binned(weight)
            zeros += weight.numel() - row["nonzero"]
    return {
        "parameters": dense.parameters,
        "parameters_left": left.parameters,
        "macs": dense.macs,
        "macs_left": left.macs,
        "magnitudes": {"log10_edges": [LOWEST, HIGHEST], "counts": counts.tolist(), "zeros": zeros},
        "layers": layers,
    }


def shares_left(kept: nn.Module, example: Tensor) -> dict[str, float]:
    """Shares of channels, parameters and multiply-adds that would stay after physical removal of exact zeros.

    Args:
        kept: the network with its exact zeros.
        example: one batch.
    """
    graph = trace(kept, example)
    dense, left = graph.dense(), graph.count()
    return {
        "channels_left": left.channels / max(1, dense.channels),
        "parameters_left": left.parameters / dense.parameters,
        "macs_left": left.macs / dense.macs,
    }


def write_layers(kept: nn.Module, example: Tensor, path: Path) -> None:
    """Write `layer_sizes` as compact JSON."""
    write_text(path, json.dumps(layer_sizes(kept, example)) + "\n")


def _norms(weight: Tensor, layer: Layer) -> list[float]:
    dim = layer.outputs[0] if layer.inputs is None else layer.inputs[0]
    norms = torch.linalg.vector_norm(weight.movedim(dim, 0).flatten(1), dim=1)
    return [float(f"{norm:.4g}") for norm in norms.tolist()]


def _binned(weight: Tensor) -> np.ndarray:
    magnitudes = weight[weight != 0].abs().numpy()
    logarithms = np.clip(np.log10(magnitudes), LOWEST, HIGHEST)
    return np.histogram(logarithms, bins=BINS, range=(LOWEST, HIGHEST))[0]
