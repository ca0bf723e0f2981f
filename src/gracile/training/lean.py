"""Whether the passes of training leave out what is gone for good: by a rule, so that every run of the same settings chooses alike."""

from __future__ import annotations

import logging
from typing import Literal

from torch import Tensor, nn

from gracile.core.errors import GracileError, InputError
from gracile.core.learning_rule import LearningRule
from gracile.core.sparsifier import Sparsifier
from gracile.models import draws_noise
from gracile.shrinking import LeanPasses
from gracile.training.compiled import hooked_module
from gracile.training.objectives import Objective
from gracile.training.precision import Taken

Lean = bool | Literal["auto"]

log = logging.getLogger("gracile")
# The share of the multiply-adds that passes take at most, by precision, and how many of a batch they save at least: cutting the parameters
# costs some milliseconds, and narrow layers run slower for their size, in bf16 above all. On a GPU small networks wait for launches, of
# which there are more.
LEFT: dict[Taken, float] = {"float32": 0.6, "bf16": 0.4}
SAVES = 1e8


def lean(
    asked: Lean,
    before: float | None,
    model: nn.Module,
    learning: LearningRule | Objective,
    x: Tensor,
    *,
    batch_size: int,
    precision: Taken,
    compiled: bool | None,
    ranks: int,
) -> LeanPasses | None:
    """The network to train through from now on, if its passes are to leave out what is gone.

    Args:
        asked: of `fit`.
        before: the share of the multiply-adds that passes took before a resume; None where nothing was chosen yet.
        model: with its zeros, in training mode.
        learning: what is minimised.
        x: the batch of the next step.
        batch_size: samples of a whole one, by which the rule goes: the next may be an epoch's last.
        precision: of the passes.
        compiled: whether they go through ``torch.compile``.
        ranks: processes that train together.

    Raises:
        InputError: it is asked for and cannot be.
    """
    found: LeanPasses | None = None
    free = asked == "auto" and before is None
    if free and x.is_cuda:
        log.info("The choice is final; the passes stay whole: this is not measured on a GPU.")
        return None
    reason = _refused(model, learning, compiled=compiled, ranks=ranks)
    if reason is None:
        try:
            found = LeanPasses(model, x[:2])
        except GracileError as error:
            reason = error.cause[:1].lower() + error.cause[1:].rstrip(".")
    if found is not None and free and (found.left > LEFT[precision] or found.saved * batch_size < SAVES):
        found, reason = None, "that would save too little to pay for itself"
    if found is None:
        if asked is True:
            raise InputError(f"The passes cannot leave out what is gone: {reason}.", "Leave lean_passes out.")
        log.info("The choice is final; the passes stay whole: %s.", reason)
        return None
    log.info("The choice is final; the passes take %.1f %% of the multiply-adds from now on.", 100 * found.left)
    return found


def check_resumed(asked: Lean, before: float | None) -> None:
    """A resumed run keeps the lean passes that it took, as it keeps its precision.

    Raises:
        InputError: whole ones are asked for.
    """
    if before is not None and before < 1 and asked is False:
        raise InputError(
            "This run's passes leave out what is gone since its choice was final, and lean_passes=False is asked for.",
            "Leave lean_passes out, or start anew without resume.",
        )


def check_lean(asked: Lean, sparsifier: Sparsifier | None) -> None:
    """Before anything is trained: refuse to promise what no choice can bring.

    Raises:
        InputError: lean passes are asked for, and there is no method that says when its zeros stay.
    """
    if asked is True and not hasattr(sparsifier, "settled"):
        name = (
            "no method of sparse training is there"
            if sparsifier is None
            else f"{type(sparsifier).__name__} does not say when"
        )
        raise InputError(
            f"lean_passes=True waits until zeros stay, and {name}.",
            "Put a Dial on a splitting, give a method an attribute `settled`, or leave lean_passes out.",
        )


def _refused(model: nn.Module, learning: LearningRule | Objective, *, compiled: bool | None, ranks: int) -> str | None:
    if callable(learning):
        return "a learning rule takes its own"
    if ranks > 1:
        return "several processes train together"
    if compiled:
        return "they are compiled"
    if draws_noise(model):
        return "the network draws noise, which is another with fewer channels"
    hooked = hooked_module(model)
    return None if hooked is None else f"hooks look into those of '{hooked}'"
