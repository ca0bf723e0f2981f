"""Arms with a method of sparse training, or none: what recipes say of one, and what its training begins with."""

from __future__ import annotations

import timeit
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import nn

from gracile.core.learning_rule import LearningRule
from gracile.core.sparsifier import Sparsifier
from gracile.data import Splits, batches
from gracile.recipes import arms, methods
from gracile.recipes.schema import Strict
from gracile.recipes.settings import ModelSettings, build_network
from gracile.recipes.training import TrainingSettings
from gracile.training import Objective, Schedule, steps_per_epoch

# Steps that a rehearsal takes of each arm.
TIMED = 4


class Target(Strict):
    """A budget that lam is steered to; see `gracile.splitting.Dial`. Shares in (0, 1); one of the first five at least.

    Attributes:
        macs: share of multiply-adds that stays after physical removal.
        params: share of parameters that stays.
        sparsity: share of exact zeros.
        latency: share of the latency that stays, measured by `gracile.deploy.Latency` with `runtime`, `threads` and `batch_size`.
        file_size: share of the file's bytes that stays, measured by `gracile.deploy.FileSize` with `form`.
        runtime: ``onnxruntime`` or ``torch``.
        threads: of the runtime.
        batch_size: samples per run.
        form: ``lean`` or ``onnx``.
        ranking: ``worth`` or ``size``: what orders groups.
        by_cost: weigh groups by what they cost of the budget.
        begin: share of the run, at its start, without any pull; the dial's own if left out.
        ramp: share of the run, after that, during which the budget shrinks; likewise.
        settle: share of the run, at its end, during which the choice is final.
    """

    macs: float | None = None
    params: float | None = None
    sparsity: float | None = None
    latency: float | None = None
    file_size: float | None = None
    runtime: str | None = None
    threads: int | None = None
    batch_size: int | None = None
    form: str | None = None
    ranking: str = "worth"
    by_cost: bool = True
    begin: float | None = None
    ramp: float | None = None
    settle: float = 0.5


class MethodArm(arms.Arm):
    """One method.

    Attributes:
        method: a row of `gracile.recipes.methods.METHODS` or `LEARNING_RULES`, or ``FILE.py:NAME``, a class of the user's own; None
            trains densely by backpropagation.
        options: what the method takes.
        target: a budget in place of lam.
        found: an earlier arm whose sparse network the method starts from.
        start: an earlier arm whose trained weights this one begins with, in place of fresh ones.
        model: another network than the recipe's.
        training: what differs from the recipe's training.
        natural: train on clean samples where the recipe trains on attacked ones.
        tries: tables of ``options``, ``target`` and ``training`` laid over these, of which validation samples choose one; see
            `gracile.recipes.tries`.
    """

    method: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    target: Target | None = None
    found: str | None = None
    start: str | None = None
    model: ModelSettings | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    natural: bool = False
    tries: list[dict[str, Any]] = Field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Built:
    """What an arm's training begins with."""

    network: nn.Module
    rule: LearningRule | None
    sparsifier: Sparsifier | None
    objective: Objective
    schedule: Schedule | None
    steps: int


def build(
    arm: MethodArm,
    model: ModelSettings,
    training: TrainingSettings,
    seed: int,
    splits: Splits,
    device: torch.device,
    found: nn.Module | None,
    start: nn.Module | None = None,
) -> Built:
    """An arm from one seed, before its first step.

    Args:
        arm: what it says.
        model: its network.
        training: its training.
        seed: of its weights.
        splits: its data.
        device: where it is trained.
        found: the network that the arm's `found` left.
        start: the network whose weights it begins with.
    """
    training.check_optimizer()
    network = build_network(model, splits, seed)
    if start is not None:
        network.load_state_dict(start.state_dict())
    rule = None
    if arm.method in methods.LEARNING_RULES:
        network, rule = methods.learn_by_rule(arm.method, network, splits.train, seed, arm.options)
    network.to(device)
    example = torch.zeros(2, *splits.train.input_shape, device=device)
    objective = training.objective(natural=arm.natural)
    an_epoch = steps_per_epoch(len(splits.train), training.batch_size)
    steps = training.epochs * an_epoch * objective.replays
    sparsifier: Sparsifier | None = None
    if arm.method is not None and rule is None:
        sparsifier = methods.build(arm.method, network, example, dict(arm.options), steps=steps, found=found)
    if arm.target is not None:
        sparsifier = methods.steer(sparsifier, example, steps, arm.target.model_dump(exclude_none=True))
    return Built(network, rule, sparsifier, objective, training.rates(an_epoch), steps)


def seconds_per_step(built: Built, splits: Splits, batch_size: int, device: torch.device) -> float:
    """Of a forward and a backward pass, the second best of a few: the first pays for what is set up once."""
    x, y = (one.to(device) for one in next(iter(batches(splits.train, batch_size))))
    built.network.train()
    learn = built.rule or (lambda x, y: built.objective.loss(built.network, x, y, 0.0, 0)[0].backward())
    return sorted(timeit.repeat(lambda: learn(x, y), number=1, repeat=TIMED))[1]
