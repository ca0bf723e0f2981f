"""The study's loop: a number of steps, not epochs, records within the first of them, and explicit backpropagation where it applies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gracile.core.seeding import derive_seed, generator
from gracile.data import Dataset, Splits, batches
from gracile.dynamics import SmoothnessMonitor
from gracile.dynamics import smoothness as measure_smoothness
from gracile.models import ACTIVATIONS, sgd_step_
from gracile.models.backpropagation import Loss, Reduction
from gracile.penalties import L1
from gracile.training import Averaged, Constant, Diminishing, Schedule, evaluate, optimizer_factory

if TYPE_CHECKING:
    from gracile.recipes.study import Training


@dataclass(frozen=True)
class Objective:
    """What is minimised beside the penalties, from what stands before the last activation.

    Attributes:
        output: that activation.
        loss, reduction: as for `gracile.models.mlp_gradients`.
    """

    output: str
    loss: Loss
    reduction: Reduction

    def __call__(self, h: Tensor, labels: Tensor) -> Tensor:
        if self.loss == "cross_entropy":
            return nn.functional.cross_entropy(h, labels, reduction=self.reduction)
        targets = nn.functional.one_hot(labels, h.shape[1]).to(h)
        each = (ACTIVATIONS[self.output].module()(h) - targets).square().sum(dim=1) / 2
        return each.mean() if self.reduction == "mean" else each.sum()


def train(
    network: nn.Sequential,
    splits: Splits,
    training: Training,
    objective: Objective,
    *,
    seed: int,
    smoothness: bool,
    record: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Train `network` in place for `training.steps` steps.

    Returns:
        The records: ``step, epoch, train_loss`` (mean over the steps since the last record), ``val_accuracy`` (in [0, 1], on the curve's
        samples of the validation split) and, if wanted, what `gracile.dynamics.smoothness` finds on the batch of the step. They end
        where the loss is no longer a number: a reading that diverges is a finding.
    """
    curve = splits.validation.subset(torch.arange(min(training.samples, len(splits.validation))))
    take = _stepper(network, training, objective)
    rows: list[dict[str, Any]] = []
    total, since = torch.zeros(()), 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "training"))
        network.train()
        for step, (x, y) in enumerate(_stream(splits.train, training.batch_size, training.steps, seed), 1):
            due = step % training.every == 0 or step == training.steps
            found = {}
            if due and smoothness:
                found = asdict(measure_smoothness(network, x, y, lr=training.lr, loss=objective))
                found["loss_range"] = found["loss_high"] - found["loss_low"]
                found.pop("loss")
            total += take(step, x, y)
            since += 1
            if due:
                loss = (total / since).item()
                if not math.isfinite(loss):
                    break
                accuracy = evaluate(network, curve).accuracy
                rows.append(
                    {"step": step, "epoch": step * training.batch_size / len(splits.train), "train_loss": loss, "val_accuracy": accuracy}
                    | found | ({"series": SmoothnessMonitor.described()} if found and not rows else {})
                )  # fmt: skip
                record(rows[-1])
                total, since = torch.zeros(()), 0
    return rows


def _stream(train: Dataset, batch_size: int, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Full batches of ever new orders of the data."""
    epoch = 0
    while True:
        order = torch.randperm(len(train), generator=generator(seed, "order", epoch))
        for x, y in batches(train, batch_size, order=order, drop_last=len(train) >= batch_size):
            yield x, y
            steps -= 1
            if not steps:
                return
        epoch += 1


def _schedule(training: Training) -> Schedule:
    # Progress is counted in steps here: an epoch of one.
    if training.schedule == "diminishing":
        return Diminishing(training.beta * training.lr, 1)
    return Averaged(1) if training.schedule == "averaged" else Constant()


def _stepper(
    network: nn.Sequential, training: Training, objective: Objective
) -> Callable[[int, Tensor, Tensor], Tensor]:
    """What takes a step and gives the loss before it, a sample's where the loss is a mean."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    shrink = (lambda rate: _shrink(layers, rate * training.l1)) if training.l1 else lambda rate: None
    schedule = _schedule(training)
    plain = all(type(module) in PLAIN for module in network.network.children())  # pyright: ignore[reportAttributeAccessIssue]
    if plain and training.optimizer == "sgd":
        return _by_formula(network, layers, training, objective, schedule, shrink)
    built = optimizer_factory(training.optimizer, lr=training.lr, momentum=MOMENTUM[training.optimizer], weight_decay=training.lam)(
        network.parameters()
    )  # fmt: skip

    def step(number: int, x: Tensor, y: Tensor) -> Tensor:
        rate = training.lr * schedule.factor(number - 1)
        for group in built.param_groups:
            group["lr"] = rate
        loss = objective(network(x), y)
        built.zero_grad(set_to_none=True)
        loss.backward()
        built.step()
        shrink(rate)
        return loss.detach()

    return step


# What a row of the optimisers needs for its decay of the past; plain gradient descent has none.
MOMENTUM = {"sgd": 0.0, "adagrad": 0.0, "rmsprop": 0.9, "adam": 0.9, "adamw": 0.9}
# Layers the explicit formulas know.
PLAIN = {nn.Flatten, nn.Linear, *(type(row.module()) for row in ACTIVATIONS.values())}


def _by_formula(
    network: nn.Sequential, layers: list[nn.Linear], training: Training, objective: Objective, schedule: Schedule,
    shrink: Callable[[float], None],
) -> Callable[[int, Tensor, Tensor], Tensor]:  # fmt: skip
    """Steps of plain gradient descent by the explicit formulas: at batch 1 twice as fast as autograd and an optimiser."""
    weights, biases = (
        [one.weight.detach() for one in layers],
        [None if one.bias is None else one.bias.detach() for one in layers],
    )
    hidden = [name for name in (_named(one) for one in network.network.children()) if name]  # pyright: ignore[reportAttributeAccessIssue]
    before = network[:-1]

    def step(number: int, x: Tensor, y: Tensor) -> Tensor:
        rate = training.lr * schedule.factor(number - 1)
        with torch.no_grad():
            x = before(x).flatten(1)
        targets = nn.functional.one_hot(y, layers[-1].out_features).to(x)
        loss, _ = sgd_step_(
            weights, x, targets, biases=biases, activations=[*hidden, objective.output], lr=rate, lam=training.lam,
            loss=objective.loss, reduction=objective.reduction,
        )  # fmt: skip
        shrink(rate)
        return loss

    return step


def _named(module: nn.Module) -> str:
    return next((name for name, row in ACTIVATIONS.items() if type(row.module()) is type(module)), "")


def _shrink(layers: list[nn.Linear], mu: float) -> None:
    """The proximal map of ``mu |w|_1`` on every weight."""
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(L1().shadow(layer.weight, mu))
