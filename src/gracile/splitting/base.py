"""Relaxed variable splitting as a gradient hook.

The splitting minimises ``f(w) + lam P(u) + beta/2 |w - u|^2`` over the weights w and a shadow u. With
``u = prox(w)`` recomputed from the current w before each
step, ``beta (w - u)`` is exactly the gradient of the penalty's Moreau envelope (Dinh 2020, section 3.1; Moreau
1965). So a splitting has no state of its own: it adds
one term to the gradients just before the optimiser reads them, and works with any optimiser, gradient scaling,
accumulation, clipping and loop.
"""

from __future__ import annotations

import copy
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gracile.core.errors import CollapseWarning, InputError
from gracile.core.prunable import Weight, unwrapped, weights
from gracile.core.summary import Summary

Coupling = Literal["gradient", "decoupled"]


class VariableSplitting(ABC):
    """What RVSM and RGSM share: the hook, the swap of w for u, the checks.

    Attributes:
        lam, beta: the coefficients, free to be changed between steps.
        weights: the weights that are split.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lam: float,
        beta: float,
        layers: str | Sequence[str],
        coupling: Coupling,
        restart: bool,
    ) -> None:
        if not (lam >= 0 and math.isfinite(lam)):
            raise InputError(
                f"lam must be a finite number of at least 0, not {lam}.", "Start from 1e-3 and raise it for more zeros."
            )
        if not (beta > 0 and math.isfinite(beta)):
            raise InputError(f"beta must be a finite number above 0, not {beta}.", "The papers use 1e-2 to 1.")
        if coupling not in ("gradient", "decoupled"):
            raise InputError(f"There is no coupling '{coupling}'.", "Choose 'gradient' or 'decoupled'.")
        self.model = unwrapped(model)
        self.lam = float(lam)
        self.beta = float(beta)
        self.coupling: Coupling = coupling
        self.restart = restart
        self.weights: list[Weight] = weights(self.model, layers)
        self._handle: RemovableHandle | None = None
        self._warned: set[str] = set()

    @property
    def mu(self) -> float:
        """``lam / beta``, the proximal map's parameter."""
        return self.lam / self.beta

    # What a splitting defines.

    @abstractmethod
    def shadow(self) -> dict[str, Tensor]:
        """u, by parameter name: shaped and laid out like the weights, on their device."""

    @abstractmethod
    def penalty_value(self) -> Tensor:
        """``lam P(u) + beta/2 |w - u|^2`` and whatever else it adds to the loss: a scalar on the weights' device."""

    @abstractmethod
    def summary(self) -> Summary:
        """Per layer: weights, exact zeros of u, zero groups."""

    @abstractmethod
    def critical_mus(self) -> Tensor:
        """Per weight or group, flat, the smallest mu at which it becomes 0 in u."""

    @abstractmethod
    def _couple(self, chosen: list[int], targets: list[Tensor], factors: list[float | Tensor]) -> None:
        """Add ``factor * d(penalty_value)/dw`` to each target, for the weights of these indices."""

    @abstractmethod
    def _collapsed(self) -> dict[str, str]:
        """Per layer whose u has nothing left, or would have had but for `keep_last`, one sentence with its remedy."""

    # What all have.

    def attach(self, optimizer: Optimizer) -> RemovableHandle:
        """Hook this splitting into an optimiser; the training loop stays as it is.

        Args:
            optimizer: any `torch.optim` optimiser that holds all the split weights.

        Returns:
            A handle whose ``remove()`` ends the splitting.

        Raises:
            InputError: attached already, or a split weight is not in the optimiser.
        """
        if self._handle is not None:
            raise InputError("This splitting is attached already.", "Call detach() first, or build another.")
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for weight in self.weights:
            if id(weight.tensor) not in held:
                raise InputError(
                    f"The optimiser does not train '{weight.name}', which this splitting splits.",
                    "Build the optimiser from the same model's parameters (after moving it to its device), or name other layers.",
                )
        self._handle = optimizer.register_step_pre_hook(self._before_step)
        return self._handle

    def detach(self) -> None:
        """Take the hook off the optimiser; nothing happens if there is none."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    @torch.no_grad()
    def sparsify_(self) -> None:
        """Make the model sparse in place: w becomes u."""
        self._warn_of_collapse()
        shadow = self.shadow()
        for weight in self.weights:
            weight.tensor.copy_(shadow[weight.name])

    @torch.no_grad()
    def sparse_model(self) -> nn.Module:
        """A copy of the model whose weights are u; the model itself stays dense."""
        self._warn_of_collapse()
        sparse = copy.deepcopy(self.model)
        shadow = self.shadow()
        parameters = dict(sparse.named_parameters())
        for name, tensor in shadow.items():
            parameters[name].copy_(tensor)
        return sparse

    @contextmanager
    def sparse_at(self, mu: float) -> Iterator[nn.Module]:
        """Within this context the model's weights are what u would be for this mu; afterwards they are w again."""
        with torch.no_grad():
            before, lam = [weight.tensor.detach().clone() for weight in self.weights], self.lam
            self.lam = mu * self.beta
            shadow = self.shadow()
            self.lam = lam
            for weight in self.weights:
                weight.tensor.copy_(shadow[weight.name])
            try:
                yield self.model
            finally:
                for weight, w in zip(self.weights, before, strict=True):
                    weight.tensor.copy_(w)

    def end_epoch(self) -> None:
        """Warn of layers that collapsed and, with ``restart=True``, go on from u as the authors' code does."""
        if self.restart:
            self.sparsify_()
        else:
            self._warn_of_collapse()

    def state_dict(self) -> dict[str, Any]:
        """The coefficients, as plain numbers; the splitting has no other state."""
        return {"lam": self.lam, "beta": self.beta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up coefficients saved by `state_dict`."""
        self.lam, self.beta = float(state["lam"]), float(state["beta"])

    def _warn_of_collapse(self) -> None:
        """Warn of each layer once; the run may go on for long."""
        for layer, message in self._collapsed().items():
            if layer not in self._warned:
                self._warned.add(layer)
                warnings.warn(message, CollapseWarning, stacklevel=3)

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # The optimiser itself stands first among the arguments that torch gives its hooks.
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        if closure is None or self.coupling == "decoupled":
            self._add(optimizer)
            return None

        # The closure zeroes the gradients and computes them anew, several times a step in LBFGS: the term belongs
        # inside it.
        def closure_with_coupling() -> Any:
            loss = closure()
            self._add(optimizer)
            return None if loss is None else loss + self.penalty_value().to(loss.device)

        if "closure" in kwargs:
            return args, {**kwargs, "closure": closure_with_coupling}
        return (optimizer, closure_with_coupling, *args[2:]), kwargs

    @torch.no_grad()
    def _add(self, optimizer: Optimizer) -> None:
        """Couple the weights that this step will move."""
        if self.coupling == "decoupled":
            # Past momentum and adaptive scaling, as decoupled weight decay does: w <- w - lr beta (w - u).
            rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
            tensors = [weight.tensor for weight in self.weights]
            self._couple(list(range(len(tensors))), [t.detach() for t in tensors], [-rates[id(t)] for t in tensors])
            return
        # A weight without a gradient took no part in this step; the optimiser leaves it alone, and so do we.
        chosen = [index for index, weight in enumerate(self.weights) if weight.tensor.grad is not None]
        # A fused optimiser under a GradScaler gets gradients still multiplied by the scale and divides inside its
        # kernel.
        scale = getattr(optimizer, "grad_scale", None)
        factor: float | Tensor = 1.0 if scale is None else scale
        gradients = [grad for weight in self.weights if (grad := weight.tensor.grad) is not None]
        self._couple(chosen, gradients, [factor] * len(chosen))


def parameter_count(model: nn.Module) -> int:
    """All parameters of a model, each counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
