"""What all methods of pruning share: one run, counted in steps, in which weights go and stay gone."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gracile.core.errors import CollapseWarning, InputError, NonFiniteError, check_state
from gracile.core.optimizers import StepHooks, add_term, held, opened
from gracile.core.prunable import Weight, apply_zeros, copied, left_out, unwrapped, weights
from gracile.core.shards import is_sharded
from gracile.core.sparsifier import say_unfinished
from gracile.core.summary import Summary
from gracile.pruning.shares import Amount, Of, of_weights
from gracile.pruning.units import Units


class Pruning(ABC):
    """A method that zeroes weights during one training run and holds the zeros; a `core.sparsifier.Sparsifier`.

    All methods live in the same run of `steps` optimiser steps under the same schedule, so that none is given more
    training than another: before each step a method may add to the gradients; after each step it may choose masks; what
    a mask has taken is set to zero again after every later step, which is fine-tuning.

    Attributes:
        model: trained in place by your loop.
        weights: the weights acted on.
        steps: of the whole run.
        step: taken so far.
        said_at: the step at which it was last said that the run has not taken all of its steps.
        masks: per weight a boolean tensor that broadcasts to it, True where it stays; None as long as all stay.
    """

    def __init__(self, model: nn.Module, *, steps: int, layers: str | Sequence[str]) -> None:
        if steps < 1:
            raise InputError(f"steps={steps} must be at least 1.", "Give the number of optimiser steps of the run.")
        self.model = unwrapped(model)
        self.weights: list[Weight] = weights(self.model, layers)
        self.steps, self.step = int(steps), 0
        self.masks: list[Tensor] | None = None
        self._hooks: StepHooks | None = None
        # The parameters as they were when the optimisers were last seen to hold them, and those that a step moves.
        self._trained: list[nn.Parameter] = []
        self._moved: set[int] = set()
        self._warned: set[str] = set()
        self.said_at = 0

    # What a method defines.

    units: Units

    @abstractmethod
    def _after(self) -> None:
        """A step was taken, `step` counts it: the moment to choose masks."""

    def _before(self, factor: float | Tensor) -> None:  # noqa: B027 - most add nothing
        """A step is about to be taken: the moment to add to the gradients.

        Args:
            factor: what the gradients are still multiplied by; see `gracile.core.optimizers.gradient_scale`.
        """

    def _preview(self) -> list[Tensor] | None:
        """The masks of `sparse_model`, which may be ahead of those that are held."""
        return self.masks

    @property
    def settled(self) -> bool:
        """Whether the masks are held in the weights, and no more will go."""
        return self.masks is not None

    # What all have.

    def _of_weights(self, share: Amount, of: Of, unit: str) -> Amount:
        """See `gracile.pruning.shares.of_weights`."""
        count = sum(weight.tensor.numel() for weight in self.weights)
        return of_weights(share, of, unit, count, sum(one.numel() for one in self.model.parameters()))

    def attach(self, *optimizers: Any) -> StepHooks:
        """Hook into the optimisers; the training loop stays as it is.

        Args:
            optimizers: `torch.optim` optimisers, or a trainer's wrappers of them, that together hold all the weights acted on. A
                step is counted when each of them has taken one.

        Returns:
            A handle; `detach` removes all hooks.

        Raises:
            InputError: attached already, a weight is in none of the optimisers, or what is given is no optimiser whose step can
                be hooked.
        """
        if self._hooks is not None and self._hooks.active:
            raise InputError("This method is attached already.", "Call detach() first, or build another.")
        if not optimizers:
            raise InputError("No optimiser is given to attach to.", "Pass the one that trains the model.")
        inner = [opened(optimizer) for optimizer in optimizers]
        self._check_trained(held(inner))
        self._start()
        self._trained = [weight.tensor for weight in self.weights]
        self._hooks = StepHooks(inner, self._trained, couple=self._before_step, after=self._after_step)
        return self._hooks

    def _check_trained(self, trained: set[int]) -> None:
        for weight in self.weights:
            if is_sharded(weight.tensor):
                raise InputError(
                    f"'{weight.name}' lies in parts on several processes, and the methods of pruning rank whole layers.",
                    "Prune without fully_shard (DDP is fine), or use RVSM or RGSM.",
                )
            if id(weight.tensor) not in trained:
                raise InputError(
                    f"The optimiser does not train '{weight.name}', which is to be pruned.",
                    "Build the optimiser from the same model's parameters (after moving it to its device, replacing layers or "
                    "loading with assign=True) and attach to it, to all of them if there are several, or name other layers.",
                )

    def _start(self) -> None:  # noqa: B027 - most methods have nothing to do then
        """The run is about to begin, with the weights where and as they will be trained."""

    def detach(self) -> None:
        """Take the hooks off the optimisers, and say so if the run ended before its steps; nothing happens if there are none."""
        if self._hooks is not None:
            self._say_unfinished()
            self._hooks.remove()
            self._hooks = None

    def end_epoch(self) -> None:  # noqa: B027 - nor then
        """Called after each epoch's last step."""

    def _say_unfinished(self) -> None:
        say_unfinished(
            self, type(self).__name__, lambda: f"{100 * self.summary().sparsity:.1f} % of the parameters zero"
        )

    def sparse_model(self) -> nn.Module:
        """A copy of the model with its zeros; the model itself stays as it is. Warns if the run has not taken all of its steps.

        Raises:
            NonFiniteError: a weight is NaN or infinite.
        """
        self._say_unfinished()
        return self.sparse_so_far()

    @torch.no_grad()
    def sparse_so_far(self) -> nn.Module:
        """As `sparse_model`, to look at on the way: without a word about the steps to come."""
        sparse = copied(self.model)
        for weight, value in zip(self.weights, self._sparse_values(), strict=True):
            if not bool(value.isfinite().all()):
                raise NonFiniteError(
                    f"'{weight.name}' is no longer finite.",
                    "Lower the learning rate, or resume from the last good checkpoint.",
                )
            replace(weight, model=sparse).tensor.copy_(value)
        return sparse

    @torch.no_grad()
    def apply_zeros_(self, module: nn.Module) -> None:
        """Zero in another module of the same architecture, such as an average of the weights, what is pruned in this one.

        Raises:
            InputError: it lacks one of the weights, or has it in another shape.
        """
        values = self._sparse_values()
        apply_zeros(module, {weight.name: value == 0 for weight, value in zip(self.weights, values, strict=True)})

    @torch.no_grad()
    def summary(self) -> Summary:
        """What `sparse_model` holds, layer by layer."""
        rows = self.units.rows(self._sparse_values())
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return Summary(rows, parameters, left_out(self.model, self.weights))

    def state_dict(self) -> dict[str, Any]:
        """The step and the masks."""
        return {"step": self.step, "masks": self.masks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state.

        Raises:
            InputError: it is none of this method.
        """
        check_state(state, ("step", "masks"), self)
        self.step = int(state["step"])
        masks = state["masks"]
        self.masks = None if masks is None else [mask.to(self.weights[0].tensor.device) for mask in masks]

    def values(self) -> list[Tensor]:
        """The weights as they stand, detached."""
        return [weight.tensor.detach() for weight in self.weights]

    def _sparse_values(self) -> list[Tensor]:
        masks = self._preview()
        values = self.values()
        return values if masks is None else [value * mask for value, mask in zip(values, masks, strict=True)]

    def _cut(self, masks: list[Tensor], guarded: list[str]) -> None:
        """Choose these masks, and say which layers they would have emptied."""
        self.masks = masks
        self._hold()
        for layer in guarded:
            if layer not in self._warned:
                self._warned.add(layer)
                warnings.warn(
                    f"{type(self).__name__} would have removed everything of {layer}; its largest was kept. "
                    "Remove less, or use scope='layer'.",
                    CollapseWarning,
                    stacklevel=3,
                )

    @torch.no_grad()
    def _hold(self) -> None:
        """Set to zero what is gone, whatever the last step and its momentum did to it."""
        if self.masks is not None:
            for weight, mask in zip(self.weights, self.masks, strict=True):
                weight.tensor.mul_(mask)

    @torch.no_grad()
    def _before_step(self, optimizer: Any, scale: float | Tensor, overflow: Tensor | None, first: bool) -> None:
        assert self._hooks is not None
        parameters = [weight.tensor for weight in self.weights]
        if any(now is not then for now, then in zip(parameters, self._trained, strict=True)):
            self._check_trained(held(self._hooks.optimizers))
            self._trained = parameters
        self._moved = held([optimizer])
        self._before(scale)

    def _add(self, parameter: nn.Parameter, term: Tensor, factor: float | Tensor) -> None:
        """Add a term to a gradient, if this step moves the parameter."""
        if parameter.grad is not None and id(parameter) in self._moved and parameter.requires_grad:
            add_term(parameter.grad, term.to(parameter.grad.dtype), factor)

    @torch.no_grad()
    def _after_step(self, whole: bool) -> None:
        self._hold()
        if whole:
            self.step += 1
            self._after()


def at_step(share: float, steps: int, name: str = "prune_at") -> int:
    """The step, from 1 on, after which this share of a run is over.

    Raises:
        InputError: the share is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise InputError(f"{name}={share} is not a share of the run, from 0 to 1.", "Try 0.5.")
    return max(1, round(share * steps))
