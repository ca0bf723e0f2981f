"""What a recipe of trained arms says, and what it says turned into data, a network, a schedule, an objective."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from gracile import data as datasets
from gracile.core.errors import InputError, pick
from gracile.core.seeding import derive_seed
from gracile.data import Splits
from gracile.models import build, normalized
from gracile.recipes.comparisons import Comparison
from gracile.recipes.robust import AttackSettings
from gracile.recipes.schema import Strict, merged, parse
from gracile.training import Averaged, Cosine, CrossEntropy, Diminishing, Milestones, Objective, Schedule, adversary


class DataSettings(Strict):
    """Which data: a name, a path or a hub's ``owner/name``, and how much of it.

    Attributes:
        name: as `gracile.data.load` takes it.
        validation: share or count held out of the training split.
        train_limit, test_limit: stratified subsets.
        image_size: resize to this.
        label: the label's column, where it is not found by itself.
        flip, crop: augmentation: random mirror images, random crops after padding by this many pixels.
        split_seed: draws validation and subsets; the same for all seeds of a run.
    """

    name: str
    validation: float | int = 0.1
    train_limit: int | None = None
    test_limit: int | None = None
    image_size: int | None = None
    label: str | None = None
    flip: bool = False
    crop: int = 0
    split_seed: int = 0


class ModelSettings(Strict):
    """Which network.

    Attributes:
        name: a row of `gracile.models.MODELS`, or ``auto``: resnet20 for images of 24 pixels and more, lenet below,
            mlp for features.
        options: what its factory takes beyond what the data fix.
    """

    name: str = "auto"
    options: dict[str, Any] = Field(default_factory=dict)


class AdversarialSettings(Strict):
    """Training on attacked samples.

    Attributes:
        method: a row of `gracile.training.ADVERSARIES`.
        options: what it takes: ``eps``, ``steps``, ...
    """

    method: str = "pgd"
    options: dict[str, Any] = Field(default_factory=dict)


class TrainingSettings(Strict):
    """How it is trained; the names are those of `gracile.fit`.

    Attributes:
        adversarial: attacks the batches of all arms that are not `natural`.
        beta: of the schedule ``diminishing``, ``lr / (1 + beta lr l)`` at step l; ``averaged`` belongs to adagrad.
    """

    epochs: int
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    schedule: Literal["constant", "milestones", "cosine", "diminishing", "averaged"] = "constant"
    milestones: list[float] = Field(default_factory=list)
    gamma: float = 0.1
    warmup: float = 0.0
    beta: float = 1e-3
    precision: Literal["auto", "float32", "bf16"] = "auto"
    adversarial: AdversarialSettings | None = None


class Target(Strict):
    """A budget that lam is steered to; see `gracile.splitting.Dial`. Shares in (0, 1); one of the first three.

    Attributes:
        macs, params: share that stays after physical removal.
        sparsity: share of exact zeros.
        by_cost: weigh groups by what they cost of the budget.
        begin: share of the run, at its start, without any pull.
        ramp: share of the run, after that, during which the budget shrinks.
        settle: share of the run, at its end, during which the choice is final.
    """

    macs: float | None = None
    params: float | None = None
    sparsity: float | None = None
    by_cost: bool = True
    begin: float = 0.0
    ramp: float = 0.5
    settle: float = 0.5


class Arm(Strict):
    """One method.

    Attributes:
        method: a row of `gracile.recipes.methods.METHODS` or `RULES`; None trains densely by backpropagation.
        options: what the method takes.
        target: a budget in place of lam.
        found: an earlier arm whose sparse network the method starts from.
        model: another network than the recipe's.
        training: what differs from the recipe's training.
        natural: train on clean samples where the recipe trains on attacked ones.
        published: the leading cells of the published row that this arm answers to.
    """

    method: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    target: Target | None = None
    found: str | None = None
    model: ModelSettings | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    natural: bool = False
    published: list[str | float] = Field(default_factory=list)


class Settings(Strict):
    """What a recipe of this kind holds.

    Attributes:
        leave_out: arms that a smaller size does without.
        seeds: each arm is trained once from each; mean and spread are over them.
        device: ``auto`` takes a GPU if there is one.
        compare: numbers of two arms set against each other, by the names that criteria use.
        watch: record drift of conserved quantities, alignment and smoothness each epoch; see `gracile.dynamics`.
        attacks: what every arm is attacked with once it is trained.
        reuse: take over arms that a run beside this one has trained from the very same settings.
        weights: draw the figures of `gracile weights` too.
    """

    data: DataSettings
    model: ModelSettings = ModelSettings()
    training: TrainingSettings
    arms: dict[str, Arm]
    leave_out: list[str] = Field(default_factory=list)
    seeds: list[int] = Field(default_factory=lambda: [0])
    compare: dict[str, Comparison] = Field(default_factory=dict)
    device: str = "auto"
    watch: bool = False
    attacks: AttackSettings | None = None
    reuse: bool = False
    weights: bool = False


def trained_arms(settings: Settings) -> dict[str, Arm]:
    """The arms without those that this size leaves out.

    Raises:
        InputError: an arm that is left out is not there.
    """
    for name in settings.leave_out:
        pick(settings.arms, name, "arm")
    return {name: arm for name, arm in settings.arms.items() if name not in settings.leave_out}


def made_comparisons(settings: Settings) -> dict[str, Comparison]:
    """The comparisons without those that speak of an arm this size leaves out."""
    left_out = set(settings.leave_out)
    return {name: one for name, one in settings.compare.items() if not left_out & {one.arm, one.to}}


def load_data(settings: DataSettings, device: torch.device | str = "cpu") -> Splits:
    """The recipe's data."""
    return datasets.load(
        settings.name,
        validation=settings.validation,
        seed=settings.split_seed,
        device=device,
        train_limit=settings.train_limit,
        test_limit=settings.test_limit,
        image_size=settings.image_size,
        label=settings.label,
    )


def build_network(settings: ModelSettings, splits: Splits, seed: int) -> nn.Module:
    """The recipe's network, its inputs standardised by a first layer of its own, initialised from the seed."""
    shape = splits.train.input_shape
    name = settings.name
    if name == "auto":
        name = "mlp" if len(shape) == 1 else ("resnet20" if min(shape[1:]) >= 24 and shape[0] == 3 else "lenet")
    known: dict[str, Any] = {"num_classes": splits.train.num_classes}
    if len(shape) == 1:
        if name != "mlp":
            raise InputError(
                f"The model '{name}' needs images, and the data are rows of {shape[0]} features.", "Use 'mlp'."
            )
        known["in_features"] = shape[0]
    else:
        known |= {"in_channels": shape[0], "image_size": (shape[1], shape[2])}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        network = build(name, **known, **settings.options)
    return normalized(network, *splits.train.statistics())


def training_of(settings: Settings, name: str, arm: Arm) -> TrainingSettings:
    """The recipe's training with what the arm changes."""
    values = merged(settings.training.model_dump(), arm.training)
    return parse(TrainingSettings, values, f"[settings.arms.{name}.training]")


def schedule_of(training: TrainingSettings, steps: int) -> Schedule | None:
    """The factor on the learning rate, at so many steps an epoch."""
    if training.schedule == "cosine":
        return Cosine(training.epochs, training.warmup)
    if training.schedule == "milestones":
        return Milestones(training.milestones, training.gamma)
    if training.schedule == "diminishing":
        return Diminishing(training.beta * training.lr, steps)
    if training.schedule == "averaged":
        return Averaged(steps)
    if training.milestones or training.warmup:
        raise InputError(
            "milestones or warmup are given, and schedule is 'constant'.", "Set schedule to 'milestones' or 'cosine'."
        )
    return None


def objective_of(training: TrainingSettings, arm: Arm) -> Objective:
    """What the arm minimises."""
    if training.adversarial is None or arm.natural:
        return CrossEntropy()
    return adversary(training.adversarial.method, **training.adversarial.options)


def device_named(name: str) -> torch.device:
    """``auto`` is a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"The device '{name}' is not there: {str(error).splitlines()[0]}.", "Use device = 'auto'."
        ) from None
    return device
