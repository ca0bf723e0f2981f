"""What all methods of pruning share: one run, counted in steps, in which weights go and stay gone."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gracile.core.errors import CollapseWarning, InputError
from gracile.core.prunable import Weight, unwrapped, weights
from gracile.core.summary import Summary
from gracile.pruning.units import Units


class Pruning(ABC):
    """A method that zeroes weights during one training run and holds the zeros; a `core.sparsifier.Sparsifier`.

    All methods live in the same run of `steps` optimiser steps under the same schedule, so that none is given more
    training than another: before each step a method may add to the gradients; after each step it may choose masks; what
    a mask has taken is set to zero again after every later step, which is fine-tuning.

    Attributes:
        model: trained in place by your loop.
        weights: the weights acted on.
        steps, step: of the whole run, and taken so far.
        masks: per weight a boolean tensor that broadcasts to it, True where it stays; None as long as all stay.
    """

    def __init__(self, model: nn.Module, *, steps: int, layers: str | Sequence[str]) -> None:
        if steps < 1:
            raise InputError(f"steps={steps} must be at least 1.", "Give the number of optimiser steps of the run.")
        self.model = unwrapped(model)
        self.weights: list[Weight] = weights(self.model, layers)
        self.steps, self.step = int(steps), 0
        self.masks: list[Tensor] | None = None
        self._handles: list[RemovableHandle] = []
        self._warned: set[str] = set()

    # What a method defines.

    units: Units

    @abstractmethod
    def _after(self) -> None:
        """A step was taken, `step` counts it: the moment to choose masks."""

    def _before(self, factor: float | Tensor) -> None:  # noqa: B027 - most add nothing
        """A step is about to be taken: the moment to add to the gradients.

        Args:
            factor: what the gradients are still multiplied by, under a fused optimiser's gradient scaling.
        """

    def _preview(self) -> list[Tensor] | None:
        """The masks of `sparse_model`, which may be ahead of those that are held."""
        return self.masks

    # What all have.

    def attach(self, optimizer: Optimizer) -> RemovableHandle:
        """Hook into an optimiser; the training loop stays as it is.

        Args:
            optimizer: any `torch.optim` optimiser that holds all the weights acted on, stepped without a closure.

        Returns:
            A handle; `detach` removes all hooks.

        Raises:
            InputError: attached already, or a weight is not in the optimiser.
        """
        if self._handles:
            raise InputError("This method is attached already.", "Call detach() first, or build another.")
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for weight in self.weights:
            if id(weight.tensor) not in held:
                raise InputError(
                    f"The optimiser does not train '{weight.name}', which is to be pruned.",
                    "Build the optimiser from the same model's parameters (after moving it to its device), or name other layers.",
                )
        self._start()
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        return self._handles[0]

    def _start(self) -> None:  # noqa: B027 - most methods have nothing to do then
        """The run is about to begin, with the weights where and as they will be trained."""

    def detach(self) -> None:
        """Take the hooks off the optimiser; nothing happens if there are none."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def end_epoch(self) -> None:  # noqa: B027 - nor then
        """Called after each epoch's last step."""

    @torch.no_grad()
    def sparse_model(self) -> nn.Module:
        """A copy of the model with its zeros; the model itself stays as it is."""
        sparse = copy.deepcopy(self.model)
        parameters = dict(sparse.named_parameters())
        for weight, value in zip(self.weights, self._sparse_values(), strict=True):
            parameters[weight.name].copy_(value)
        return sparse

    @torch.no_grad()
    def summary(self) -> Summary:
        """What `sparse_model` holds, layer by layer."""
        rows = self.units.rows(self._sparse_values())
        return Summary(rows, sum(parameter.numel() for parameter in self.model.parameters()))

    def state_dict(self) -> dict[str, Any]:
        """The step and the masks."""
        return {"step": self.step, "masks": self.masks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
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
    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (kwargs.get("closure") or (args[1] if len(args) > 1 else None)) is not None:
            raise InputError(
                "Pruning adds to gradients that stand before the step, and this step computes its own in a closure.",
                "Compute them before calling step(), or use RVSM or RGSM.",
            )
        scale = getattr(optimizer, "grad_scale", None)
        self._before(1.0 if scale is None else scale)

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        self.step += 1
        self._hold()
        self._after()


def at_step(share: float, steps: int, name: str = "prune_at") -> int:
    """The step, from 1 on, after which this share of a run is over.

    Raises:
        InputError: the share is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise InputError(f"{name}={share} is not a share of the run, from 0 to 1.", "Try 0.5.")
    return max(1, round(share * steps))


def add_to_gradient(parameter: nn.Parameter, term: Tensor, factor: float | Tensor) -> None:
    """Add a term to a gradient; a parameter without one takes no part in this step."""
    if parameter.grad is None:
        return
    if isinstance(factor, Tensor):
        parameter.grad.addcmul_(term.to(parameter.grad), factor.to(parameter.grad))
    else:
        parameter.grad.add_(term, alpha=factor)
