"""Train-from-scratch of a shape that another method found."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gracile.channels import trace
from gracile.core.errors import InputError
from gracile.pruning.base import Pruning
from gracile.pruning.units import Channels


class Scratch(Pruning):
    """Train the found shape from a fresh initialisation [@liu2019, "Rethinking the value of network pruning"].

    Channels that the found network has lost are zero from the first step on, which trains the smaller network exactly:
    what is masked neither computes nor is moved. Fresh weights are scaled by the square root of how much narrower their
    layer's input became, so that they are distributed as the smaller network's own initialisation (variance over fan-in)
    would have them. The number of epochs is the run's (the paper's Scratch-E).

    Args:
        model: freshly initialised, of the dense architecture; trained in place by your loop.
        steps: optimiser steps of the whole run.
        example: one input batch, to find the channels with.
        found: the sparse network of the same architecture whose shape is taken.

    Raises:
        InputError: the found network has another architecture, or channels cannot be found.
    """

    def __init__(self, model: nn.Module, *, steps: int, example: Tensor, found: nn.Module) -> None:
        super().__init__(model, steps=steps, layers="all")
        shapes, theirs = (
            {name: tuple(tensor.shape) for name, tensor in one.named_parameters()} for one in (self.model, found)
        )
        if shapes != theirs:
            raise InputError("The found network has another architecture.", "Take the dense one with its exact zeros.")
        self.units = self._channels = Channels(self.model, example, self.weights)
        graph = trace(found, example)
        live = graph.liveness()
        kept = torch.ones(self._channels.count, dtype=torch.bool)
        for layer in graph.readers:
            assert layer.inputs is not None
            groups = torch.as_tensor(graph.groups_of(layer.inputs[1]))
            gone = torch.as_tensor(~live.kept(layer.inputs[1])) & (groups >= 0)
            kept[groups[gone]] = False
        self.masks = self._channels.masks(kept.to(self.weights[0].tensor.device))
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        assert self.masks is not None
        for weight, mask in zip(self.weights, self.masks, strict=True):
            share = float(mask.float().mean())
            if share > 0:
                weight.tensor.mul_(share**-0.5)
        self._hold()

    def _after(self) -> None:
        """Nothing more goes."""
