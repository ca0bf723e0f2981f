"""What gradient flow conserves, measured along the flow: how far every D moves, and how it decays under weight decay."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gracile.dynamics.flow import Flow, Loss, gradient_flow
from gracile.dynamics.junctions import Junction, find, parameters_of


class Drift(NamedTuple):
    """The largest change of an entry of D.

    Attributes:
        conserved: of the entries that flow must conserve.
        free: of the others.
    """

    conserved: float
    free: float


def flow_drift(
    model: nn.Module, loss: Loss, example: Tensor, *, time: float, tolerance: float = 1e-12, records: int = 12
) -> tuple[list[Junction], Flow]:
    """Move a model along its gradient flow, up to the first sign change of a ReLU, and watch what is conserved.

    Args:
        model: in float64; moved in place.
        loss: from the model to a scalar.
        example: inputs of the model.
        time: how long.
        tolerance: see `gradient_flow`.
        records: how often it is looked at, after the start.

    Returns:
        The junctions, and the flow, which observed a list of `Drift`, one per junction, each time.
    """
    junctions = find(model, example)
    start = [one.difference(parameters_of(model)) for one in junctions]

    def observe(_: float) -> list[Drift]:
        return [_drift(one, then, parameters_of(model)) for one, then in zip(junctions, start, strict=True)]

    flow = gradient_flow(
        model, loss, time=time, tolerance=tolerance, sign_changes="stop", observe=observe, records=records
    )
    return junctions, flow


def _drift(junction: Junction, start: Tensor, parameters: dict[str, Tensor]) -> Drift:
    change = (junction.difference(parameters) - start).abs()
    if junction.invariance == "full":
        return Drift(change.max().item(), 0.0)
    if junction.invariance == "none":
        return Drift(0.0, change.max().item())
    diagonal = change.diagonal()
    return Drift(diagonal.max().item(), (change - torch.diag(diagonal)).max().item())


def decay_error(
    model: nn.Module, loss: Loss, example: Tensor, *, weight_decay: float, time: float, tolerance: float = 1e-12
) -> float:
    """How well ``D(t) = exp(-2 lambda t) D(0)`` holds under weight decay lambda, for a network all of whose D are conserved.

    Args:
        model: in float64; moved in place.
        loss: from the model to a scalar, without the decay.
        example: inputs of the model.
        weight_decay: lambda, of ``lambda/2 |theta|^2``.
        time: t.
        tolerance: see `gradient_flow`.

    Returns:
        The largest error of an entry at the end, relative to the largest entry of its D(0).
    """
    junctions = find(model, example)
    start = [one.difference(parameters_of(model)).clone() for one in junctions]

    def decayed(network: nn.Module) -> Tensor:
        size = torch.stack([one.square().sum() for one in network.parameters()]).sum()
        return loss(network) + weight_decay / 2 * size

    gradient_flow(model, decayed, time=time, tolerance=tolerance)
    factor = math.exp(-2 * weight_decay * time)
    return max(
        ((one.difference(parameters_of(model)) - factor * then).abs().max() / then.abs().max()).item()
        for one, then in zip(junctions, start, strict=True)
    )
