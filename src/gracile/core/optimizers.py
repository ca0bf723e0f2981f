"""What may stand around an optimiser's step: wrappers, closures, gradient scaling, skipped steps; found here, once.

A method of sparse training adds to the gradients between the backward pass and the step. Where exactly that is depends on
who calls the step, and a term that is left out, doubled or scaled wrongly shows nowhere. So what cannot be found is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gracile.core.errors import InputError

# Where wrappers keep what they wrap: accelerate, Lightning and Lookahead; SAM; post-local SGD.
INNER = ("optimizer", "base_optimizer", "optim")


def opened(optimizer: Any) -> Optimizer:
    """The optimiser inside a trainer's wrapper, whose `step` runs torch's hooks.

    Args:
        optimizer: a `torch.optim.Optimizer`, or a wrapper that keeps one as ``.optimizer``, ``.base_optimizer`` or ``.optim``.

    Raises:
        InputError: no such optimiser is inside, or its weights move elsewhere than in `step`.
    """
    given = optimizer
    while not _has_hooks(optimizer) or _steps_in_two(optimizer):
        found = [inner for name in INNER if (inner := getattr(optimizer, name, None)) is not None]
        inner = next((inner for inner in found if hasattr(inner, "step") and inner is not optimizer), None)
        if inner is None or type(optimizer).__module__.startswith("deepspeed"):
            raise _cannot_hook(given, optimizer)
        optimizer = inner
    if getattr(optimizer, "_overlap_with_ddp", False):
        raise InputError(
            "This ZeroRedundancyOptimizer takes its steps while gradients arrive, before anything can be added to them.",
            "Build it with overlap_with_ddp=False.",
        )
    return optimizer


def _has_hooks(optimizer: Any) -> bool:
    """Whether the steps of this object run hooks: wrappers often copy an optimiser's attributes and not its step."""
    there = isinstance(optimizer, Optimizer) and "_optimizer_step_pre_hooks" in vars(optimizer)
    return there and getattr(type(optimizer).step, "hooked", False)


def _steps_in_two(optimizer: Any) -> bool:
    """Whether it is sharpness-aware (SAM): `first_step` and `second_step` go past `step`."""
    return hasattr(optimizer, "first_step") and hasattr(optimizer, "second_step")


def _cannot_hook(given: Any, reached: Any) -> InputError:
    name = type(given).__name__
    if _steps_in_two(reached):
        return InputError(
            f"{name} moves the weights in first_step and second_step, past step, where hooks would run.",
            "Attach to the optimiser that it steps inside.",
        )
    if hasattr(given, "base"):
        return InputError(
            f"{name} evaluates gradients at other weights than its base optimiser moves, and runs no hooks.",
            "Take an optimiser that has it built in, such as schedulefree.AdamWScheduleFree or SGDScheduleFree.",
        )
    return InputError(
        f"{name} is not an optimiser whose step runs torch's hooks, and holds none.",
        "Attach to the torch.optim.Optimizer that moves the weights.",
    )


def held(optimizers: Iterable[Optimizer]) -> set[int]:
    """The ids of all parameters that these optimisers move."""
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}


def gradient_scale(optimizer: Optimizer, kwargs: dict[str, Any]) -> float | Tensor:
    """What the gradients are still multiplied by when the step begins, because the step itself will divide it out.

    A `GradScaler` unscales beforehand, except for optimisers that ask for it inside: to them it hands its scale as an attribute
    or, the older way, itself by keyword.

    Args:
        optimizer: the one that steps.
        kwargs: of its step.

    Raises:
        InputError: a scaler is there and its scale cannot be read.
    """
    scaler = kwargs.get("grad_scaler")
    if scaler is None:
        scale = getattr(optimizer, "grad_scale", None)
        return 1.0 if scale is None else scale
    states = getattr(scaler, "_per_optimizer_states", None)
    stage = None if states is None else states[id(optimizer)].get("stage")
    if getattr(stage, "name", None) == "UNSCALED":
        return 1.0
    for read in ("_get_scale_async", "get_scale"):
        found = getattr(scaler, read, None)
        scale = found() if callable(found) else None
        if isinstance(scale, (float, Tensor)):
            return scale
    raise InputError(
        f"{type(scaler).__name__} scales the gradients by a factor that cannot be read.",
        "Use torch.amp.GradScaler, or call its unscale_ before the step.",
    )


def overflow(optimizer: Optimizer, kwargs: dict[str, Any]) -> Tensor | None:
    """Above 0 where the step will be skipped because a gradient overflowed; None where no step skips itself."""
    scaler = kwargs.get("grad_scaler")
    if scaler is None:
        return getattr(optimizer, "found_inf", None)
    found = scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"] or scaler._check_inf_per_device(
        optimizer
    )
    return torch.stack([one.to("cpu") for one in found.values()]).sum()


def add_term(target: Tensor, term: Tensor, factor: float | Tensor, alpha: float = 1.0) -> None:
    """``target += alpha factor term``, in place.

    Args:
        target: a gradient, or a weight.
        term: of the same shape.
        factor: a number, or a scalar tensor, such as `gradient_scale` gives.
        alpha: another.
    """
    if not isinstance(factor, Tensor):
        target.add_(term, alpha=alpha * factor)
    elif term.dtype == torch.float32:
        target.addcmul_(term, factor.to(term), value=alpha)
    else:
        # A scale of 65536 is infinite in float16.
        wide = torch.promote_types(term.dtype, torch.float32)
        target.add_(term.to(wide) * factor.to(term.device, wide) * alpha)


class StepHooks:
    """Calls a method of sparse training at every step of its optimisers.

    Hooks of an optimiser do not survive its being copied or pickled; a copy of this registers anew on the copies.

    Args:
        optimizers: each moves some of the weights; as `opened` returns them.
        weights: what the method acts on.
        couple: called with the optimiser, the gradients' scale and `overflow` when the gradients of a step stand: before the
            step, or within its closure, each time that one was evaluated; and whether it is the first time of this step.
        value: what the coupling adds to the closure's loss; None leaves it.
        after: called after each step of one, with whether that ends a step of the run: one of every optimiser that moves any of
            the weights.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        weights: Iterable[Tensor],
        *,
        couple: Callable[[Optimizer, float | Tensor, Tensor | None, bool], None] | None = None,
        value: Callable[[], Tensor] | None = None,
        after: Callable[[bool], None] | None = None,
    ) -> None:
        self.optimizers = list(optimizers)
        acted = {id(weight) for weight in weights}
        self._movers = {place for place, one in enumerate(self.optimizers) if acted & held([one])}
        self._missing = set(self._movers)
        self._couple, self._value, self._after = couple, value, after
        self._register()

    def _register(self) -> None:
        # The step under way, by optimiser, and how many steps are nested in it: a subclass that calls super().step() runs hooks
        # once for either.
        self._running: dict[int, tuple[FrameType, int]] = {}
        self._handles: list[RemovableHandle] = []
        for optimizer in self.optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    @property
    def active(self) -> bool:
        """Whether the hooks are on."""
        return bool(self._handles)

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_handles": [], "_running": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._register()

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        running = self._running.get(id(optimizer))
        if running is not None and _called_from(running[0]):
            self._running[id(optimizer)] = running[0], running[1] + 1
            return None
        self._running[id(optimizer)] = sys._getframe(1), 0
        if self._couple is None:
            return None
        # The optimiser itself stands first among the arguments that torch gives its hooks.
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        if closure is None:
            self._couple(optimizer, gradient_scale(optimizer, kwargs), overflow(optimizer, kwargs), True)
            return None
        wrapped = self._coupled(optimizer, closure, kwargs)
        if "closure" in kwargs:
            return args, {**kwargs, "closure": wrapped}
        return (optimizer, wrapped, *args[2:]), kwargs

    def _coupled(self, optimizer: Optimizer, closure: Callable[[], Any], kwargs: dict[str, Any]) -> Callable[[], Any]:
        """The closure zeroes the gradients and computes them anew, several times a step in LBFGS: the term belongs inside."""
        first = True

        def closure_with_coupling() -> Any:
            nonlocal first
            assert self._couple is not None
            loss = closure()
            self._couple(optimizer, gradient_scale(optimizer, kwargs), overflow(optimizer, kwargs), first)
            first = False
            if not isinstance(loss, (Tensor, float)) or self._value is None:
                return loss
            value = self._value()
            return loss + (value.to(loss.device) if isinstance(loss, Tensor) else float(value))

        return closure_with_coupling

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        frame, nested = self._running[id(optimizer)]
        if nested:
            self._running[id(optimizer)] = frame, nested - 1
            return
        del self._running[id(optimizer)]
        self._missing.discard(next(place for place, one in enumerate(self.optimizers) if one is optimizer))
        whole = not self._missing
        if whole:
            self._missing = set(self._movers)
        if self._after is not None:
            self._after(whole)


# A compiled step runs its hooks as they are: what they look at, frames and identities, is not there to be traced. This is what
# torch.compiler.disable sets, which would import the compiler with this module.
for _hook in (StepHooks._before_step, StepHooks._after_step):
    _hook._torchdynamo_disable = True  # pyright: ignore[reportFunctionMemberAccess]


def _called_from(frame: FrameType) -> bool:
    """Whether this frame is still running, beneath the present one; a step that raised an error is not."""
    here: FrameType | None = sys._getframe(1)
    while here is not None:
        if here is frame:
            return True
        here = here.f_back
    return False
