"""Stacked perceptrons stepped by batched matrix products, each gradient added to its weights as it is made.

Faster than vmap over autograd (benchmarks/workers.py), which serves every other network: no graph is kept, and a step of
gradient descent never stores the gradient of a whole network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
        name: of the linear layer, with a dot behind it where it is a child.
        linear: the template's layer, whose own weights are used where they are frozen.
        module: its activation; the last layer's is nn.Identity.
        pull: from h, z and a gradient by z to the gradient by h.
    """

    name: str
    linear: nn.Linear
    module: nn.Module
    pull: Pull

    def forward(self, parameters: dict[str, Tensor], z: Tensor) -> Tensor:
        """(workers, batch, in) to (workers, batch, out), before the activation."""
        weight = parameters.get(f"{self.name}weight", self.linear.weight)
        bias = parameters.get(f"{self.name}bias", self.linear.bias)
        if bias is None:
            return z @ weight.mT
        if weight.dim() == 2:
            return (z @ weight.mT).add_(bias.unsqueeze(-2))
        return torch.baddbmm(bias.unsqueeze(-2), z, weight.mT)


@dataclass(frozen=True)
class Perceptron:
    """A perceptron read off a module.

    Attributes:
        prepare: what comes before the first linear layer, from (n, ...) to (n, features).
        layers: in order.
    """

    prepare: Callable[[Tensor], Tensor]
    layers: list[Layer]

    @torch.no_grad()
    def accumulate(
        self,
        parameters: dict[str, Tensor],
        x: Tensor,
        y: Tensor,
        target: dict[str, Tensor],
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
    ) -> None:
        """Set target to beta target + alpha g, with g the gradient of each worker's mean cross-entropy.

        Args:
            parameters: by name, stacked (workers, ...); frozen ones are left out.
            x: (workers, batch, ...).
            y: (workers, batch) labels.
            target: of the names and shapes of `parameters`; it may be `parameters` itself.
            alpha: factor on the gradient; -lr with a `beta` of 1 on the parameters is a step of gradient descent.
            beta: factor on what `target` holds.
        """
        z = self.prepare(x.flatten(0, 1)).unflatten(0, y.shape)
        kept = []
        for layer in self.layers:
            h = layer.forward(parameters, z)
            kept.append((z, h))
            z = layer.module(h)
        delta = z.softmax(-1)
        delta.scatter_add_(2, y.unsqueeze(2), torch.full_like(delta[..., :1], -1))
        delta /= y.shape[1]
        lowest = min(
            number
            for number, layer in enumerate(self.layers)
            if any(f"{layer.name}{which}" in parameters for which in ("weight", "bias"))
        )
        for number in reversed(range(lowest, len(self.layers))):
            layer, (before, h) = self.layers[number], kept[number]
            delta = layer.pull(h, z, delta)
            back = delta
            if number > lowest:
                # Before the weights are stepped, where they are the target.
                back = delta @ parameters.get(f"{layer.name}weight", layer.linear.weight)
            if (weight := target.get(f"{layer.name}weight")) is not None:
                torch.baddbmm(weight, delta.mT, before, beta=beta, alpha=alpha, out=weight)
            if (bias := target.get(f"{layer.name}bias")) is not None:
                bias.mul_(beta) if beta else bias.zero_()
                bias.add_(delta.sum(1), alpha=alpha)
            delta, z = back, before


def perceptron(model: nn.Module) -> Perceptron | None:
    """Read a module as a perceptron; None where it is anything else, or ties weights of several layers."""
    leaves = [(name, module) for name, module in model.named_modules() if not isinstance(module, nn.Sequential)]
    first = next((place for place, (_, module) in enumerate(leaves) if isinstance(module, nn.Linear)), None)
    if first is None or any(type(module) not in (Normalize, nn.Flatten) for _, module in leaves[:first]):
        return None
    if any(
        type(module) is nn.Flatten and (module.start_dim, module.end_dim) != (1, -1) for _, module in leaves[:first]
    ):
        return None
    if len(list(model.named_parameters())) < len(list(model.named_parameters(remove_duplicate=False))):
        return None
    layers: list[Layer] = []
    for name, module in leaves[first:]:
        if type(module) is nn.Linear:
            layers.append(Layer(f"{name}." if name else "", module, nn.Identity(), PULLS[nn.Identity]))
        elif type(module) in PULLS and type(layers[-1].module) is nn.Identity:
            layers[-1] = replace(layers[-1], module=module, pull=PULLS[type(module)])
        else:
            return None
    return Perceptron(nn.Sequential(*(module for _, module in leaves[:first]), nn.Flatten()), layers)
