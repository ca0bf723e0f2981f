"""What training and methods of sparse training agree on, so that neither room knows the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

log = logging.getLogger("gracile")


class SparsitySummary(Protocol):
    """What a method left of a model."""

    @property
    def sparsity(self) -> float:
        """Share in [0, 1] of exact zeros over all parameters."""
        ...

    @property
    def channel_sparsity(self) -> float | None:
        """Share in [0, 1] of zero channels; None for single weights."""
        ...

    @property
    def nonzero(self) -> int:
        """Parameters that are not exactly zero."""
        ...


class Sparsifier(Protocol):
    """A method that makes a network sparse while it is trained.

    RVSM, RGSM and every baseline fit this; `gracile.fit` needs no more. One that has an attribute `settled`, of bool, says with it when its
    zeros stand in the model's own weights and stay to the end: from then on `fit` may leave out what is gone. One that is set for a number
    of optimiser steps has it as `steps`, warns in `sparse_model` before they are taken, and has `sparse_so_far`, which does not.
    """

    def attach(self, optimizer: Any, /) -> Any:
        """Hook into the optimiser once, before the first step."""
        ...

    def detach(self) -> None:
        """Undo `attach`."""
        ...

    def end_epoch(self) -> None:
        """Called after each epoch's last step."""
        ...

    def sparse_model(self) -> nn.Module:
        """A sparse copy of the model as it stands."""
        ...

    def summary(self) -> SparsitySummary:
        """What `sparse_model` would hold."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """State as JSON values and tensors, for an exact resume."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        ...


def sparse_so_far(sparsifier: Sparsifier) -> nn.Module:
    """Its sparse copy of the model, to look at on the way."""
    return getattr(sparsifier, "sparse_so_far", sparsifier.sparse_model)()


def say_unfinished(method: Any, name: str, so_far: Callable[[], str]) -> None:
    """Warn, once a step, that a run has not taken all of the steps that a method is set for.

    Args:
        method: with `step`, `steps` and `said_at`, the step at which it was last said, 0 at first.
        name: what to call it.
        so_far: says what the run has come to.
    """
    if method.step != method.said_at and method.step < method.steps:
        method.said_at = method.step
        log.warning(
            "The run stands at step %d of the %d that %s is set for, with %s.",
            method.step,
            method.steps,
            name,
            so_far(),
        )


def settled(sparsifier: Sparsifier | None) -> bool:
    """Whether its zeros stand in the model's own weights and stay to the end, as its attribute `settled` says; False if it has none."""
    return bool(getattr(sparsifier, "settled", False))
