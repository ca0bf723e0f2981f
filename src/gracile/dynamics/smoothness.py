"""How smooth the loss is where training goes.

After @santurkar2018, *How does batch normalization help optimization?*, section 3.1, figure
4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from gracile.core.errors import InputError
from gracile.core.monitor import Monitor, Series
from gracile.core.runs import RunFolder

# Steps along the gradient, in units of the learning rate.
FACTORS = (0.5, 1.0, 2.0, 4.0)

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Smoothness:
    """The loss along its gradient g at one point w: at ``w - eta g`` for several steps eta.

    Attributes:
        loss: at w.
        gradient_norm: ``|g|``, l2, over all parameters.
        loss_low: least loss over the steps.
        loss_high: largest loss over the steps.
        gradient_change_low: least ``|g(w - eta g) - g(w)|`` over the steps.
        gradient_change_high: the largest: small where the gradient predicts the next one.
        beta_smoothness: the largest ``|g(w - eta g) - g(w)| / |eta g|``: the effective constant of smoothness; 0 where
            g is 0.
    """

    loss: float
    gradient_norm: float
    loss_low: float
    loss_high: float
    gradient_change_low: float
    gradient_change_high: float
    beta_smoothness: float


def smoothness(
    model: nn.Module,
    x: Tensor,
    targets: Tensor,
    *,
    lr: float,
    factors: Sequence[float] = FACTORS,
    loss: Loss = nn.functional.cross_entropy,
) -> Smoothness:
    """Measure how loss and gradient change along the gradient, in the mode in which the model stands.

    Neither weights, gradients, buffers (running statistics among them) nor any random stream change; dropout draws the
    same masks at every step.

    Args:
        model: any module.
        x: a batch of inputs.
        targets: what `loss` takes beside the outputs.
        lr: the unit of the steps, positive: that of training.
        factors: the steps eta are these times `lr`, each positive.
        loss: from outputs and targets to a scalar.

    Raises:
        InputError: a step is not positive, or nothing is trained.

    Example:
        >>> import torch
        >>> from gracile.dynamics import smoothness
        >>> line = torch.nn.Linear(1, 1, bias=False)  # loss 3 w^2, whose gradient changes by 6 a unit
        >>> one = torch.ones(1, 1)
        >>> round(smoothness(line, one, one, lr=0.1, loss=lambda y, t: 3 * y.square().sum()).beta_smoothness, 4)
        6.0
    """
    if not factors or not all(factor * lr > 0 for factor in factors):
        raise InputError(
            f"Steps of {list(factors)} times {lr} do not lead along a gradient.", "Pass lr and factors above 0."
        )
    start = {name: one.detach() for name, one in model.named_parameters() if one.requires_grad}
    if not start:
        raise InputError(
            "The model has no parameter that is trained.", "Call requires_grad_(True) on some of its parameters."
        )
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        states = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in devices]

        def at(parameters: Mapping[str, Tensor]) -> tuple[float, list[Tensor]]:
            torch.set_rng_state(states[0])
            for device, state in zip(devices, states[1], strict=True):
                torch.cuda.set_rng_state(state, device)
            return _loss_and_gradient(model, parameters, x, targets, loss)

        here, gradient = at(start)
        norm = _norm(gradient)
        losses, changes, betas = [], [], []
        for factor in factors:
            eta = factor * lr
            moved = {name: one - eta * g for (name, one), g in zip(start.items(), gradient, strict=True)}
            there, other = at(moved)
            losses.append(there)
            changes.append(_norm([one - g for one, g in zip(other, gradient, strict=True)]))
            betas.append(changes[-1] / (eta * norm) if norm else 0.0)
    return Smoothness(here, norm, min(losses), max(losses), min(changes), max(changes), max(betas))


def _loss_and_gradient(
    model: nn.Module, parameters: Mapping[str, Tensor], x: Tensor, targets: Tensor, loss: Loss
) -> tuple[float, list[Tensor]]:
    leaves = {name: one.detach().requires_grad_() for name, one in parameters.items()}
    buffers = {name: one.clone() for name, one in model.named_buffers()}
    with torch.enable_grad():
        value = loss(functional_call(model, {**leaves, **buffers}, (x,)), targets)
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    gradient = [
        torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, leaves.values(), strict=True)
    ]
    return value.item(), gradient


def _norm(tensors: Sequence[Tensor]) -> float:
    return torch.stack([one.double().square().sum() for one in tensors]).sum().sqrt().item()


class SmoothnessMonitor(Monitor):
    """Records `smoothness` on one batch while a network is trained, always in training mode.

    Args:
        model: watched, never changed.
        x: the batch's inputs; None measures on the batch of each recorded step, before that step, inside `gracile.fit`.
        targets: what `loss` takes beside the outputs; given with `x`.
        lr: see `smoothness`.
        factors: see `smoothness`.
        loss: see `smoothness`.
        every: steps between records, where attached to an optimiser.
        folder: rows are appended to its ``metrics.jsonl``.

    Attributes:
        rows: what was recorded: ``step`` and the attributes of `Smoothness`.

    Raises:
        InputError: `every` is not positive, or only one of `x` and `targets` is given.
    """

    title: ClassVar[str] = "the loss and its gradient along the gradient of one batch"
    series: ClassVar[dict[str, Series]] = {
        "gradient_norm": Series("Gradient", "l2 norm", True, "On one batch."),
        "loss_high": Series(
            "Loss along the gradient", "largest loss", True, "Over steps along the gradient of one batch."
        ),
        "gradient_change_high": Series(
            "Change of the gradient", "largest change, l2", True, "Small where the gradient predicts the next one."
        ),
        "beta_smoothness": Series(
            "Effective smoothness", "beta", True, "Largest change of the gradient over distance moved; small is smooth."
        ),
    }

    def __init__(
        self,
        model: nn.Module,
        x: Tensor | None = None,
        targets: Tensor | None = None,
        *,
        lr: float,
        factors: Sequence[float] = FACTORS,
        loss: Loss = nn.functional.cross_entropy,
        every: int = 10,
        folder: RunFolder | Path | str | None = None,
    ) -> None:
        if every < 1:
            raise InputError(f"every={every} must be at least 1.", "Pass every=1 to record after each step.")
        if (x is None) != (targets is None):
            raise InputError("Inputs were given without targets, or targets without inputs.", "Give both, or neither.")
        self.model, self.lr, self.factors, self.loss, self.every = model, lr, factors, loss, every
        self.batch = None if x is None or targets is None else (x, targets)
        self.folder = RunFolder(Path(folder)) if isinstance(folder, str | Path) else folder
        self.rows: list[dict[str, Any]] = []
        self.steps = 0
        self._found: Smoothness | None = None
        self._handle: Any = None

    @classmethod
    def on(cls, model: nn.Module, x: Tensor, y: Tensor, *, lr: float) -> SmoothnessMonitor:
        """One for `gracile.fit`: see `gracile.dynamics.monitors`."""
        return cls(model, x, y, lr=lr)

    def attach(self, optimizer: Optimizer) -> SmoothnessMonitor:
        """Record after every `every`-th step of an optimiser by itself.

        Raises:
            InputError: attached already.
        """
        if self._handle is not None:
            raise InputError("The monitor is attached to an optimiser already.", "Call detach() first.")
        self._handle = optimizer.register_step_post_hook(lambda *_: self.step())
        return self

    def detach(self) -> None:
        """Take the hook away."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    def step(self) -> None:
        """Count a training step, and record at every `every`-th; `attach` calls it by itself."""
        self.steps += 1
        if self.steps % self.every == 0:
            self.record()

    def record(self) -> dict[str, Any]:
        """Measure now, on the batch that was given.

        Raises:
            InputError: no batch was given.
        """
        if self.batch is None:
            raise InputError("The monitor has no batch to measure on.", "Pass x and targets when you build it.")
        row = {"step": self.steps, **asdict(self._measured(*self.batch))}
        self.rows.append(row)
        if self.folder is not None:
            self.folder.record({"monitor": "smoothness", **row})
        return row

    def before_step(self, x: Tensor, y: Tensor) -> None:
        """Measure on the step's batch, where none was given."""
        if self.batch is None:
            self._found = self._measured(x, y)

    def observe(self, model: nn.Module) -> dict[str, float]:
        """Record, and return what joins the row of `gracile.fit`.

        Args:
            model: not looked at: what was given at the start is measured.

        Raises:
            InputError: no batch was given, and no step seen.
        """
        if self._found is not None:
            found, self._found = asdict(self._found), None
        else:
            found = self.record()
        return {key: found[key] for key in RECORDED}

    def _measured(self, x: Tensor, targets: Tensor) -> Smoothness:
        with training_mode(self.model):
            return smoothness(self.model, x, targets, lr=self.lr, factors=self.factors, loss=self.loss)


# What joins a row of training: the loss at the point itself is there already.
RECORDED = (
    "loss_low",
    "loss_high",
    "gradient_norm",
    "gradient_change_low",
    "gradient_change_high",
    "beta_smoothness",
)


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """The model in training mode, each module's own mode put back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
