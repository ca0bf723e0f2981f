"""Whether the passes of training go through ``torch.compile``: where it was measured, here and on this network, to pay."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.core.learning_rule import LearningRule
from gracile.training.objectives import CrossEntropy, LossObjective, Objective

Compile = bool | Literal["auto"]

log = logging.getLogger("gracile")
# Seconds of training below which compiling, which takes half a minute to a few, is not tried; timed passes of each kind; and what
# the compiled ones take of the others' time at most, or they are not worth the wait of a later sitting.
WORTH, TURNS, GAIN = 300.0, 3, 0.95


class Compiled(nn.Module):
    """A network whose passes over batches of one shape are compiled; others go through the network as it is.

    Args:
        model: as it is otherwise used.
        shape: of the batches; a graph for any number of samples would be slower than no graph.
    """

    def __init__(self, model: nn.Module, shape: torch.Size) -> None:
        super().__init__()
        self._orig_mod = model
        # Not a module of this one, which would hold every parameter twice.
        self._passes: tuple[Callable[[Tensor], Tensor]] = (torch.compile(model, dynamic=False),)
        self._shape, self._taken = shape, False

    def forward(self, x: Tensor) -> Tensor:
        if x.shape != self._shape:
            return self._orig_mod(x)
        try:
            outputs = self._passes[0](x)
        except Exception as error:
            # Compilers fail in every way there is, at the first pass.
            if self._taken:
                raise
            raise InputError(
                f"torch.compile failed: {str(error).strip().splitlines()[0]}.",
                "Leave compile out; on a CPU it needs a C++ compiler, such as g++.",
            ) from error
        self._taken = True
        return outputs


def compiled(
    asked: Compile,
    before: bool | None,
    model: nn.Module,
    learning: LearningRule | Objective,
    batch: tuple[Tensor, Tensor],
    passes: torch.autocast,
    left: int,
    ranks: int,
) -> nn.Module | None:
    """The network to train through, if its passes are compiled.

    ``auto`` times a few passes both ways, after which the network, its buffers and all random streams are as they were.

    Args:
        asked: of `fit`.
        before: what the run began with; None at its first step.
        model: in training mode.
        learning: what is minimised.
        batch: inputs and labels like those of the steps to come.
        passes: the autocast of a step.
        left: steps to come.
        ranks: processes that train together.

    Raises:
        InputError: it is asked for and cannot be, or a resumed run began otherwise.
    """
    if before is not None and asked not in ("auto", before):
        raise InputError(
            f"This run began {'' if before else 'un'}compiled, and compile={asked} is asked for.",
            f"Resume with compile={before}, or start anew without resume.",
        )
    wanted = before if before is not None else asked
    if not wanted:
        log.info("The passes are not compiled: as the run began.")
        return None
    reason = _refused(model, learning, ranks)
    if reason is not None:
        if wanted == "auto":
            log.info("The passes are not compiled: %s.", reason)
            return None
        raise InputError(f"The passes cannot be compiled: {reason}.", "Leave compile out.")
    made = Compiled(model, batch[0].shape)
    if wanted is True:
        return made
    return made if _pays(model, made, learning, batch, passes, left) else None


def _refused(model: nn.Module, learning: LearningRule | Objective, ranks: int) -> str | None:
    if type(learning) not in (CrossEntropy, LossObjective):
        return "compiling is for losses on clean samples"
    if ranks > 1:
        return "several processes train together"
    hooked = hooked_module(model)
    if hooked is not None:
        return f"hooks look into the passes of '{hooked}', which compiled ones would leave out"
    return None


def hooked_module(model: nn.Module) -> str | None:
    """The first module whose passes a hook looks into; None where there is none."""
    for name, one in model.named_modules():
        if one._forward_hooks or one._forward_pre_hooks or one._backward_hooks or one._backward_pre_hooks:
            return name or type(model).__name__
    return None


def _pays(
    model: nn.Module,
    made: Compiled,
    learning: LearningRule | Objective,
    batch: tuple[Tensor, Tensor],
    passes: torch.autocast,
    left: int,
) -> bool:
    """Whether compiled passes were measured to be faster, in a run long enough to try."""
    assert not callable(learning)
    objective, device = learning, batch[0].device

    def seconds(network: nn.Module) -> float:
        started = time.perf_counter()
        with passes:
            loss, _ = objective.loss(network, *batch, 0.0, 0)
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        model.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    buffers = [one.clone() for one in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            plain = min(seconds(model) for _ in range(1 + TURNS))
            if plain * left < WORTH:
                log.info("The passes are not compiled: the run is too short to try, about %.0f s.", plain * left)
                return False
            try:
                taken = seconds(made)
            except InputError as error:
                log.warning("The passes are not compiled: %s", error)
                return False
            # In turns, so that a machine that becomes busy slows both alike.
            turns = [(seconds(model), seconds(made)) for _ in range(TURNS)]
    finally:
        for one, kept in zip(model.buffers(), buffers, strict=True):
            one.copy_(kept)
    share = min(fast for _, fast in turns) / min(slow for slow, _ in turns)
    pays = share < GAIN
    log.info(
        "The passes are %scompiled: they take %.2f of the time (measured, after %.0f s of compiling).",
        "" if pays else "not ", share, taken,
    )  # fmt: skip
    return pays
