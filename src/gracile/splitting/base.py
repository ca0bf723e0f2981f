"""Relaxed variable splitting as a gradient hook.

The splitting minimises ``f(w) + lam P(u) + beta/2 |w - u|^2`` over the weights w and a shadow u. With ``u = prox(w)``
recomputed from the current w before each step, ``beta (w - u)`` is exactly the gradient of the penalty's Moreau envelope
[@dinh2020, section 3.1; @moreau1965]. So a splitting has no state of its own: it adds one term to the gradients just before
the optimiser reads them, and works with any optimiser, gradient scaling, accumulation, clipping and loop.
"""

from __future__ import annotations

import logging
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gracile.core.errors import CollapseWarning, InputError, NonFiniteError, check_state
from gracile.core.optimizers import StepHooks, held, opened
from gracile.core.prunable import Weight, apply_zeros, copied, left_out, plain_name, unwrapped, weights
from gracile.core.shards import full, is_sharded, laid_out_alike, local, reshard
from gracile.core.summary import Summary, not_acted_on

Coupling = Literal["gradient", "decoupled"]
log = logging.getLogger("gracile")


class VariableSplitting(ABC):
    """What RVSM and RGSM share: the hook, the swap of w for u, the checks.

    Attributes:
        lam: weight of the penalty, free to be changed between steps.
        beta: strength of the coupling, likewise.
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
        _check_coefficients(lam, beta)
        if coupling not in ("gradient", "decoupled"):
            raise InputError(f"There is no coupling '{coupling}'.", "Choose 'gradient' or 'decoupled'.")
        self.model = unwrapped(model)
        self.lam = float(lam)
        # Set by a dial, so that advice speaks of what its user chose.
        self.steered_to = ""
        self.beta = float(beta)
        self.coupling: Coupling = coupling
        self.restart = restart
        self.weights: list[Weight] = weights(self.model, layers)
        self._hooks: StepHooks | None = None
        # The parameters as they were when the optimisers were last seen to hold them.
        self._trained: list[nn.Parameter] = []
        self._warned: set[str] = set()

    @property
    def mu(self) -> float:
        """``lam / beta``, the proximal map's parameter."""
        return self.lam / self.beta

    # What a splitting defines.

    @abstractmethod
    def shadow(self) -> dict[str, Tensor]:
        """u, by parameter name: shaped and laid out like the weights, on their device and processes."""

    @abstractmethod
    def penalty_value(self) -> Tensor:
        """``lam P(u) + beta/2 |w - u|^2`` and whatever else it adds to the loss: a scalar on the weights' device."""

    @abstractmethod
    def summary(self) -> Summary:
        """Per layer: weights, exact zeros of u, zero groups; and what share of the parameters is not split, and why."""

    @abstractmethod
    def critical_mus(self) -> Tensor:
        """Per weight or group, flat, the smallest mu at which it becomes 0 in u.

        Raises:
            InputError: the penalty does not say.
        """

    @abstractmethod
    def _couple(
        self, tensors: list[Tensor], chosen: list[int], targets: list[Tensor], factors: list[float | Tensor]
    ) -> None:
        """Add ``factor * d(penalty_value)/dw`` to each target.

        Args:
            tensors: all weights, the parts that lie here.
            chosen: which of them are coupled.
            targets: one for each that is chosen, laid out like it.
            factors: likewise.
        """

    @abstractmethod
    def _collapsed(self) -> dict[str, str]:
        """Per layer whose u has nothing left, or would have had but for `keep_last`, one sentence with its remedy."""

    # What all have.

    def _milder(self, less: str) -> str:
        """What keeps a layer from losing all: less of lam, or of the budget that steers it."""
        return f"Choose a milder budget than {self.steered_to}" if self.steered_to else less

    def attach(self, *optimizers: Any) -> StepHooks:
        """Hook this splitting into the optimisers; the training loop stays as it is.

        Args:
            optimizers: `torch.optim` optimisers, or a trainer's wrappers of them, that together hold all the split weights;
                each step of one couples the weights it holds.

        Returns:
            A handle whose ``remove()`` ends the splitting.

        Raises:
            InputError: attached already, a split weight is in none of the optimisers, or what is given is no optimiser whose
                step can be hooked; or a dial steers it, and is what to attach.
        """
        if self.steered_to:
            raise InputError(
                f"A dial steers this splitting to {self.steered_to}, and does so only if it is attached itself.",
                "Attach the dial in its place: dial.attach(optimizer).",
            )
        return self.attach_steered(*optimizers)

    def attach_steered(self, *optimizers: Any) -> StepHooks:
        """As `attach`, for the dial that steers it."""
        if self._hooks is not None and self._hooks.active:
            raise InputError("This splitting is attached already.", "Call detach() first, or build another.")
        if not optimizers:
            raise InputError("No optimiser is given to attach to.", "Pass the one that trains the model.")
        inner = [opened(optimizer) for optimizer in optimizers]
        reshard(self.model)
        self._check_trained(held(inner), [weight.tensor for weight in self.weights])
        if not self._trained:
            self._say_left_out()
        self._trained = [weight.tensor for weight in self.weights]
        self._hooks = StepHooks(inner, self._trained, couple=self._before_step, value=self._closure_value)
        return self._hooks

    def detach(self) -> None:
        """Take the hooks off the optimisers; nothing happens if there are none."""
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None

    @torch.no_grad()
    def sparsify_(self) -> None:
        """Make the model sparse in place: w becomes u.

        Raises:
            NonFiniteError: a weight is NaN or infinite.
        """
        for tensor, u in self._sparse_values():
            local(tensor).copy_(local(u))

    @torch.no_grad()
    def sparse_model(self) -> nn.Module:
        """A copy of the model whose weights are u; the model itself stays dense.

        Raises:
            NonFiniteError: a weight is NaN or infinite.
            InputError: the model is sharded over processes, and no process has it whole.
        """
        if any(is_sharded(parameter) for parameter in self.model.parameters()):
            raise InputError(
                "The model lies in parts on several processes, and no copy of it can be made.",
                "Take sparse_state_dict(), and load that into the model as it is on one process.",
            )
        values = self._sparse_values()
        sparse = copied(self.model)
        for weight, (_, u) in zip(self.weights, values, strict=True):
            replace(weight, model=sparse).tensor.copy_(u)
        return sparse

    @torch.no_grad()
    def sparse_state_dict(self) -> dict[str, Tensor]:
        """The model's state with u for w, whole on every process, on the CPU; all processes must call this.

        Raises:
            NonFiniteError: a weight is NaN or infinite.
        """
        values = {id(parameter): u for parameter, u in self._sparse_values()}
        state = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if isinstance(tensor, Tensor):
                value = values.get(id(tensor))
                state[plain_name(name)] = full(tensor.detach() if value is None else value).cpu().clone()
        return state

    @torch.no_grad()
    def apply_zeros_(self, module: nn.Module) -> None:
        """Zero in another module of the same architecture what is zero in u; its other weights stay.

        For averages of the weights (EMA, SWA): what is zero in the network of the last step rarely is in an average.

        Args:
            module: such as an `AveragedModel`, which is opened.

        Raises:
            InputError: it lacks one of the split weights, or has it in another shape.
        """
        reshard(self.model)
        apply_zeros(module, {name: full(u) == 0 for name, u in self.shadow().items()})

    @contextmanager
    def sparse_at(self, mu: float) -> Iterator[nn.Module]:
        """Within this context the model's weights are what u would be for this mu; afterwards they are w again."""
        with torch.no_grad():
            tensors, lam = [local(weight.tensor) for weight in self.weights], self.lam
            before = [tensor.clone() for tensor in tensors]
            self.lam = mu * self.beta
            shadow = self.shadow()
            self.lam = lam
            for weight, tensor in zip(self.weights, tensors, strict=True):
                tensor.copy_(local(shadow[weight.name]))
            try:
                yield self.model
            finally:
                for tensor, w in zip(tensors, before, strict=True):
                    tensor.copy_(w)

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
        """Take up coefficients saved by `state_dict`.

        Raises:
            InputError: they are out of range, or missing.
        """
        check_state(state, ("lam", "beta"), self)
        lam, beta = float(state["lam"]), float(state["beta"])
        _check_coefficients(lam, beta)
        self.lam, self.beta = lam, beta

    def tensors(self) -> list[Tensor]:
        """The weights w as they stand, detached; of a sharded one the part that lies here."""
        return [local(weight.tensor.detach()) for weight in self.weights]

    def _sparse_values(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Each weight with its u, once it is known to be finite."""
        reshard(self.model)
        self._warn_of_collapse()
        shadow = self.shadow()
        for weight in self.weights:
            if not bool(local(shadow[weight.name]).isfinite().all()):
                raise NonFiniteError(
                    f"'{weight.name}' is no longer finite.",
                    "Lower the learning rate, or resume from the last good checkpoint.",
                )
        return [(weight.tensor, shadow[weight.name]) for weight in self.weights]

    def _left_out(self) -> dict[str, int]:
        """How many parameters are not split, by reason."""
        return left_out(self.model, self.weights)

    def _say_left_out(self) -> None:
        """Log what is not split; as a warning, which everybody sees, where it is the larger part."""
        parameters, reasons = parameter_count(self.model), self._left_out()
        missing = sum(reasons.values())
        if missing:
            level = logging.WARNING if 2 * missing > parameters else logging.INFO
            log.log(level, "%s: %s", type(self).__name__, not_acted_on(reasons, parameters))

    def _warn_of_collapse(self) -> None:
        """Warn of each layer once; the run may go on for long."""
        for layer, message in self._collapsed().items():
            if layer not in self._warned:
                self._warned.add(layer)
                warnings.warn(message, CollapseWarning, stacklevel=3)

    def _check_trained(self, trained: set[int], parameters: list[nn.Parameter]) -> None:
        for weight, parameter in zip(self.weights, parameters, strict=True):
            if id(parameter) not in trained:
                raise InputError(
                    f"The optimiser does not train '{weight.name}', which this splitting splits.",
                    "Build the optimiser from the same model's parameters (after moving it to its device, replacing layers or "
                    "loading with assign=True) and attach to it, to all of them if there are several, or name other layers.",
                )

    def _closure_value(self) -> Tensor:
        return self.penalty_value() if self.coupling == "gradient" else torch.zeros(())

    @torch.no_grad()
    def _before_step(self, optimizer: Any, scale: float | Tensor, overflow: Tensor | None, first: bool) -> None:
        """Couple the weights that this step will move: those of this optimiser that have a gradient."""
        assert self._hooks is not None
        parameters = [weight.tensor for weight in self.weights]
        if any(now is not then for now, then in zip(parameters, self._trained, strict=True)):
            self._check_trained(held(self._hooks.optimizers), parameters)
        self._trained = parameters
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        chosen, gradients = [], []
        for index, parameter in enumerate(parameters):
            gradient = parameter.grad
            if gradient is not None and id(parameter) in rates and parameter.requires_grad:
                self._check_gradient(index, parameter, gradient)
                chosen.append(index)
                gradients.append(local(gradient))
        tensors = [local(parameter.detach()) for parameter in parameters]
        if self.coupling == "gradient":
            # A fused optimiser under a GradScaler gets gradients still multiplied by the scale and divides inside its kernel.
            self._couple(tensors, chosen, gradients, [scale] * len(chosen))
        elif first:
            # Past momentum and adaptive scaling, as decoupled weight decay does: w <- w - lr beta (w - u).
            factors: list[float | Tensor] = [-rates[id(parameters[index])] for index in chosen]
            if overflow is not None:
                factors = [torch.where(overflow > 0, 0.0, factor) for factor in factors]
            self._couple(tensors, chosen, [tensors[index] for index in chosen], factors)

    def _check_gradient(self, index: int, parameter: nn.Parameter, gradient: Tensor) -> None:
        if gradient.layout is not torch.strided:
            raise InputError(
                f"The gradient of '{self.weights[index].name}' is sparse, and the coupling acts on all of its rows.",
                "Build the embedding with sparse=False, or leave it out with layers=[...].",
            )
        if not laid_out_alike(parameter, gradient):
            raise InputError(
                f"The gradient of '{self.weights[index].name}' is not laid out over processes as the weight is.",
                "Reduce it before the step, as fully_shard does.",
            )


def parameter_count(model: nn.Module) -> int:
    """All parameters of a model, each counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _check_coefficients(lam: float, beta: float) -> None:
    if not (_is_number(lam) and lam >= 0 and math.isfinite(lam)):
        raise InputError(
            f"lam must be a finite number of at least 0, not {lam!r}.", "Start from 1e-3 and raise it for more zeros."
        )
    if not (_is_number(beta) and beta > 0 and math.isfinite(beta)):
        raise InputError(f"beta must be a finite number above 0, not {beta!r}.", "The papers use 1e-2 to 1.")


def _is_number(value: object) -> bool:
    """Whether it is one of Python, numpy or torch, and no text."""
    return hasattr(value, "__float__") and not isinstance(value, str)
