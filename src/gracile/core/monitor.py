"""What training and monitors of training agree on, so that neither room knows the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Series:
    """How a number that a monitor records is drawn.

    Attributes:
        title: of its chart.
        axis: label of the vertical axis, with the unit.
        log: whether that axis is logarithmic.
        caption: one sentence on what to see in it.
    """

    title: str
    axis: str
    log: bool = False
    caption: str = ""


class Monitor(ABC):
    """Measures a network while it is trained.

    A monitor changes nothing: neither weights, gradients, buffers, the state of random generators nor the training mode
    of any module. `gracile.fit` takes a list of them as ``observe``. Only `observe` must be written; the other methods
    do nothing by default.

    Attributes:
        title: one line on what it measures.
        series: how each number it records is drawn, by key.
    """

    title: ClassVar[str]
    series: ClassVar[dict[str, Series]]

    @abstractmethod
    def observe(self, model: nn.Module) -> dict[str, float]:
        """Measure now, after the step that is recorded.

        Args:
            model: as it would be kept: a sparse copy, if there is a sparsifier.

        Returns:
            Numbers by key, which join the record's row. A key without an entry in `series` is recorded and not drawn.
        """

    def resume(self, model: nn.Module) -> None:  # noqa: B027 - most states need no network
        """Called once before `begin`, after `load_state_dict`, where a run goes on or was through already.

        Args:
            model: as the checkpoint holds it.
        """

    def begin(self, optimizer: Optimizer) -> None:  # noqa: B027 - most monitors need no optimiser
        """Called once before the first step, after a saved state was taken up.

        Args:
            optimizer: whose steps follow; hooks may be put on it, and on the network, until `end`.
        """

    def end(self) -> None:  # noqa: B027 - there is nothing to undo by default
        """Called once when training is over, also where it failed: undo `begin`."""

    def before_step(self, x: Tensor, y: Tensor) -> None:  # noqa: B027 - a monitor that needs no batch leaves it out
        """Called before each step that is recorded, with its batch.

        Args:
            x: inputs (b, ...), float, on the network's device.
            y: labels, int64 (b,).
        """

    def after_step(self, model: nn.Module) -> None:  # noqa: B027 - only what follows every step needs it
        """Called after every step of the optimiser.

        Args:
            model: as it is trained.
        """

    def state_dict(self) -> dict[str, Any]:
        """State as JSON values and tensors, so that a resumed run records what an uninterrupted one would."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - there is none by default
        """Take up a saved state."""

    @classmethod
    def described(cls) -> dict[str, dict[str, Any]]:
        """`series` as JSON values, as the first row of ``metrics.jsonl`` that holds them tells them."""
        return {key: asdict(one) for key, one in cls.series.items()}
