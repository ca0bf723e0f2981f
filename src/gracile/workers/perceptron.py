"""Stacked perceptrons stepped by batched matrix products, each gradient added to its weights as it is made.

Faster than vmap over autograd (benchmarks/workers.py), which serves every other network: no graph is kept, and no gradient
of a whole network is ever stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gracile.models.activations import ACTIVATIONS, Pull
from gracile.models.normalize import Normalize

# Elementwise activations without settings of their own: their formula is the module's, whatever the leading axes.
PULLS: dict[type[nn.Module], Pull] = {
    module: ACTIVATIONS[name].pull
    for name, module in {
        "relu": nn.ReLU, "selu": nn.SELU, "silu": nn.SiLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "linear": nn.Identity,
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One linear layer and what follows it.

    Attributes:
        weight, bias: names of its parameters; no bias is None.
        module: its activation; the last layer's is nn.Identity.
        pull: from h, z and a gradient by z to the gradient by h.
    """

    weight: str
    bias: str | None
    module: nn.Module
    pull: Pull


@dataclass(frozen=True)
class Perceptron:
    """A perceptron read off a module.

    Attributes:
        prepare: what comes before the first linear layer, from (n, ...) to (n, features).
        layers: in order.
    """

    prepare: Callable[[Tensor], Tensor]
    layers: list[Layer]

    def descend(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor, lr: float) -> None:
        """One step of gradient descent on the mean cross-entropy of each worker, in place.

        Args:
            parameters: by name, stacked (workers, ...).
            x: (workers, batch, ...).
            y: (workers, batch) labels.
            lr: learning rate.
        """
        z = self.prepare(x.flatten(0, 1)).unflatten(0, y.shape)
        kept = []
        for layer in self.layers:
            weight = parameters[layer.weight].mT
            h = z @ weight if layer.bias is None else torch.baddbmm(parameters[layer.bias].unsqueeze(1), z, weight)
            kept.append((z, h))
            z = layer.module(h)
        delta = z.softmax(-1)
        delta.scatter_add_(2, y.unsqueeze(2), torch.full_like(delta[..., :1], -1))
        delta /= y.shape[1]
        for number in reversed(range(len(self.layers))):
            layer, (before, h) = self.layers[number], kept[number]
            delta = layer.pull(h, z, delta)
            weight = parameters[layer.weight]
            back = delta @ weight if number else delta
            weight.baddbmm_(delta.mT, before, alpha=-lr)
            if layer.bias is not None:
                parameters[layer.bias].sub_(delta.sum(1), alpha=lr)
            delta, z = back, before


def perceptron(network: nn.Module) -> Perceptron | None:
    """Read a module as a perceptron; None where it is anything else."""
    leaves = [(name, module) for name, module in network.named_modules() if not isinstance(module, nn.Sequential)]
    first = next((place for place, (_, module) in enumerate(leaves) if isinstance(module, nn.Linear)), None)
    if first is None or any(type(module) not in (Normalize, nn.Flatten) for _, module in leaves[:first]):
        return None
    if any(
        type(module) is nn.Flatten and (module.start_dim, module.end_dim) != (1, -1) for _, module in leaves[:first]
    ):
        return None
    layers: list[Layer] = []
    for name, module in leaves[first:]:
        if type(module) is nn.Linear:
            prefix = f"{name}." if name else ""
            bias = None if module.bias is None else f"{prefix}bias"
            layers.append(Layer(f"{prefix}weight", bias, nn.Identity(), PULLS[nn.Identity]))
        elif type(module) in PULLS and type(layers[-1].module) is nn.Identity:
            layers[-1] = Layer(layers[-1].weight, layers[-1].bias, module, PULLS[type(module)])
        else:
            return None
    return Perceptron(nn.Sequential(*(module for _, module in leaves[:first]), nn.Flatten()), layers)
