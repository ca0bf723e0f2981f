"""What a callback does in whichever trainer: build the method, attach it, say what is zero and what is left, keep its state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from gracile.channels import trace
from gracile.core.errors import InputError, MissingDependencyError, StorageError
from gracile.core.shards import is_sharded
from gracile.core.sparsifier import Sparsifier, sparse_so_far

Build = Sparsifier | Callable[[Any, int], Sparsifier]


class Companion:
    """A method of sparse training beside a trainer's run.

    Args:
        method: a splitting, a `Dial` or a method of pruning, built on the model; or a function from the model and the run's number
            of optimiser steps to one.
        example: one input batch, to count what is physically left with; None leaves that out.

    Attributes:
        method: once the run has begun.
        sparse_model: at the end of the run, a copy of the model with its exact zeros; None where it is sharded.
        sparse_state: at the end of the run of a sharded model, its sparse state, whole.
    """

    def __init__(self, method: Build, example: Tensor | None) -> None:
        self._build, self.example = method, example
        self.method: Any = None
        self.sparse_model: nn.Module | None = None
        self.sparse_state: dict[str, Tensor] | None = None
        self._state: Mapping[str, Any] | None = None

    def begin(self, model: nn.Module, steps: float, optimizers: Sequence[Any], *, resumed: bool) -> None:
        """Build and attach, and take up what a checkpoint held.

        Args:
            model: with the checkpoint's weights, if the run is resumed.
            steps: of the whole run.
            optimizers: the trainer's, wrapped or not.
            resumed: whether the run goes on from a checkpoint.

        Raises:
            InputError: the trainer does not know how many steps it will take.
            StorageError: the checkpoint that the run goes on from holds nothing of this method.
        """
        if not callable(self._build):
            self.method = self._build
        elif not math.isfinite(steps) or steps < 1:
            raise InputError(
                "The trainer does not know how many optimiser steps it will take.", "Set max_epochs or max_steps."
            )
        else:
            self.method = self._build(model, int(steps))
        if resumed and not self._state:
            raise StorageError(
                "The checkpoint that this run goes on from holds no state of its sparse training.",
                "Start from its weights as a new run, or choose a checkpoint that was written with this callback.",
            )
        self.method.attach(*optimizers)
        if resumed:
            self.method.load_state_dict(self._state)

    def state(self) -> dict[str, Any]:
        """What a checkpoint is to hold, on the CPU and apart from what goes on changing."""
        return {} if self.method is None else _on_cpu(self.method.state_dict())

    def take(self, state: Mapping[str, Any]) -> None:
        """Keep a checkpoint's state until `begin`."""
        self._state = state

    def row(self) -> dict[str, float]:
        """Shares in [0, 1]: exact zeros, zero channels, and what would be left of multiply-adds and parameters once shrunk."""
        summary = self.method.summary()
        row = {"sparsity": summary.sparsity}
        if summary.channel_sparsity is not None:
            row["channel_sparsity"] = summary.channel_sparsity
        if self.example is not None:
            graph = trace(sparse_so_far(self.method), self.example)
            dense, left = graph.dense(), graph.count()
            row["macs_left"], row["params_left"] = left.macs / dense.macs, left.parameters / dense.parameters
        return row

    def end(self) -> None:
        """Keep the sparse model and detach."""
        if self.method is None:
            return
        if any(is_sharded(weight.tensor) for weight in self.method_weights()):
            self.sparse_state = self.method.sparse_state_dict()
        else:
            self.sparse_model = self.method.sparse_model()
        self.method.detach()

    def method_weights(self) -> list[Any]:
        """What the method acts on."""
        return getattr(self.method, "split", self.method).weights


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_on_cpu(item) for item in value]
    return value


def stand_in(framework: str, package: str, error: Exception) -> Any:
    """A base class in place of a framework's that cannot be imported: whoever builds what derives from it is told."""

    class Missing:
        def __new__(cls, *_: Any, **__: Any) -> Any:
            why = "is not installed" if isinstance(error, ImportError) else f"cannot be imported: {error}"
            raise MissingDependencyError(f"{framework} {why}.", f"pip install {package}")

    return Missing
