"""The monitors: to add one, write its class and a row here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from gracile.core.errors import pick
from gracile.core.monitor import Monitor, Series
from gracile.dynamics.smoothness import SmoothnessMonitor
from gracile.dynamics.watch import DynamicsMonitor


class MonitorClass(Protocol):
    """What a row holds: a subclass of `gracile.core.monitor.Monitor`.

    Attributes:
        title: one line on what it measures.
        series: title and axis of each number it records.
    """

    title: str
    series: dict[str, Series]

    def on(self, model: nn.Module, x: Tensor, y: Tensor, *, lr: float) -> Monitor:
        """One that watches `model`; the arguments are those of `monitors`."""
        ...


MONITORS: dict[str, MonitorClass] = {"dynamics": DynamicsMonitor, "smoothness": SmoothnessMonitor}


def monitors(model: nn.Module, x: Tensor, y: Tensor, *, lr: float, names: Sequence[str] | None = None) -> list[Monitor]:
    """Monitors by name, for ``gracile.fit(..., observe=...)``.

    Args:
        model: what will be trained; untrained as yet, since some monitors compare with the start.
        x: a batch of training inputs (b, ...) on the network's device.
        y: its labels, int64 (b,).
        lr: the learning rate of training.
        names: rows of `MONITORS`; all of them by default.

    Raises:
        InputError: no such monitor, or a network that one of them cannot trace.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gracile.dynamics import monitors
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> [one] = monitors(net, torch.rand(8, 3), torch.randint(2, (8,)), lr=0.1, names=["smoothness"])
        >>> one.title
        'the loss and its gradient along the gradient of one batch'
    """
    wanted = list(MONITORS) if names is None else names
    return [pick(MONITORS, name, "monitor").on(model, x, y, lr=lr) for name in wanted]
