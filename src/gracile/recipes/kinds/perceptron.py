"""The kind of recipe that compares ways to train one perceptron, step by step."""

from __future__ import annotations

import logging
import math
import statistics
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from gracile.channels.layer_sizes import write_layers
from gracile.core.console import told
from gracile.core.errors import NonFiniteError, pick
from gracile.core.runs import RunFolder
from gracile.core.seeding import derive_seed
from gracile.core.tensor_files import save_weights
from gracile.data import Splits
from gracile.dynamics import SmoothnessMonitor
from gracile.models import Normalize, UnitNorm, mlp, plain_weights
from gracile.models.backpropagation import Loss, Reduction
from gracile.models.common import Initialisation
from gracile.penalties import L1
from gracile.recipes import arms, schema, tables
from gracile.recipes.kinds import Outcome
from gracile.recipes.settings import DataSettings
from gracile.recipes.tables import Column, Results, Rows, published_row, sampling_error, whole, with_error
from gracile.report import step_figures
from gracile.shrinking import stored_sizes
from gracile.training import (
    ExplicitDescent,
    History,
    OutputLoss,
    evaluate,
    fit,
    optimizer_factory,
    proximal,
    steps_per_epoch,
)
from gracile.training.formulas import is_plain
from gracile.training.optimizers import USUAL_MOMENTUM
from gracile.training.schedules import schedule_named

log = logging.getLogger("gracile")

# What is told as a share of the first arm's, and under which name.
SHARES = {
    "compressed_kb": "compressed_share", "loss_range": "loss_range_share", "gradient_change_high": "gradient_change_share",
    "beta_smoothness": "beta_smoothness_share",
}  # fmt: skip
COLUMNS = (
    Column("steps", "steps", 0, spread=False), Column("accuracy", "accuracy %"),
    Column("validation_accuracy", "validation accuracy %"), Column("train_loss", "train loss", 4),
    Column("zeros", "zeros %"), Column("parameters", "parameters", 0, spread=False),
    Column("parameters_shrunk", "parameters after shrink", 0), Column("file_kb", "file kB", 0),
    Column("shrunk_kb", "shrunk kB", 0), Column("compressed_kb", "shrunk and compressed kB", 0),
    Column("loss_range", "loss range", 4), Column("gradient_change_high", "gradient change", 4),
    Column("beta_smoothness", "beta smoothness", 3), Column("seconds", "seconds", 1),
)  # fmt: skip


class Network(schema.Strict):
    """Which perceptron; see `gracile.models.mlp`.

    Attributes:
        output: activation of the last layer, of which the loss is taken; the network itself gives what stands before it.
        inputs: ``unit interval`` takes pixels in [0, 1]; ``standardised`` by the training split's one mean and deviation; ``unit
            norm`` divides each standardised image by its l2 norm.
        input_scale: factor on the inputs after that.
        scale: factor on the initial weights.
    """

    widths: list[int] = Field(default_factory=lambda: [500] * 4)
    activation: str = "selu"
    output: str = "softmax"
    bias: bool = False
    norm: str | None = None
    dropout: float = 0.0
    initialisation: Initialisation = "glorot"
    scale: float = 1.0
    inputs: Literal["unit interval", "standardised", "unit norm"] = "standardised"
    input_scale: float = Field(default=1.0, gt=0)


class Training(schema.Strict):
    """How it is trained.

    Attributes:
        steps: of the optimiser.
        optimizer: a row of `gracile.training.optimizers.OPTIMIZERS`, without momentum; ``rmsprop`` with a mean square of weight 0.9.
        schedule: ``diminishing``: ``lr / (1 + decay lr l)``; ``averaged``: AdaGrad's sum of squares becomes their mean.
        lam: l2 penalty ``lam/2 |w|^2`` on all parameters.
        l1: penalty ``l1 |w|_1`` on weights, by its proximal map after each step.
        loss: ``squared`` is ``1/2 |z - t|^2``, ``cross_entropy`` the negative logarithm after a softmax.
        reduction: over the samples of a batch.
        every: steps between records.
        samples: of the validation split that the curve is taken on.
    """

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    optimizer: str = "sgd"
    lr: float = Field(gt=0)
    schedule: Literal["constant", "diminishing", "averaged"] = "constant"
    decay: float = 1e-3
    lam: float = 1e-3
    l1: float = 0.0
    loss: Loss = "cross_entropy"
    reduction: Reduction = "mean"
    every: int = Field(default=100, gt=0)
    samples: int = Field(default=1000, gt=0)


class ChangedArm(arms.Arm):
    """What one arm changes.

    Attributes:
        network: keys of `Network`.
        training: keys of `Training`.
    """

    network: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)


class Settings(arms.ArmSettings[ChangedArm]):
    """What a recipe of this kind holds.

    Attributes:
        smoothness: measure `gracile.dynamics.smoothness` at each record, on the batch of the step.
        sizes: measure the trained model's file, shrunk and compressed.
    """

    data: DataSettings
    network: Network = Network()
    training: Training
    smoothness: bool = False
    sizes: bool = False

    def network_of(self, arm: str) -> Network:
        """The recipe's network with what the arm changes."""
        return schema.changed(self.network, self.arms[arm].network, f"[settings.arms.{arm}.network]")

    def training_of(self, arm: str) -> Training:
        """The recipe's training with what the arm changes."""
        return schema.changed(self.training, self.arms[arm].training, f"[settings.arms.{arm}.training]")

    def check(self, published: Rows) -> None:
        super().check(published)
        for arm in self.names():
            self.network_of(arm)
            self.training_of(arm)


def build(settings: Network, splits: Splits, seed: int) -> nn.Sequential:
    """The perceptron behind its inputs' scaling, as the children ``normalize``, ``unit``, ``scale`` (as asked for) and ``network``."""
    asked = settings.model_dump(exclude={"output", "scale", "inputs", "input_scale"})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(derive_seed(seed, "initialisation"))
        network = mlp(num_classes=splits.train.num_classes, in_features=math.prod(splits.train.input_shape), **asked)
        for module in network.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(settings.scale)
    model = nn.Sequential()
    if settings.inputs != "unit interval":
        model.add_module("normalize", Normalize(*splits.train.statistics()))
    if settings.inputs == "unit norm":
        model.add_module("unit", UnitNorm())
    if settings.input_scale != 1:
        model.add_module("scale", Normalize(0.0, 1 / settings.input_scale))
    model.add_module("network", network)
    return model


def descend(
    network: nn.Sequential,
    splits: Splits,
    training: Training,
    loss: OutputLoss,
    *,
    smoothness: bool = False,
    **where: Any,
) -> History:
    """Train `network` in place, by the explicit formulas where they apply; `where` goes to `gracile.fit`.

    Raises:
        NonFiniteError: a reading diverged; the records before that stand in the folder.
    """
    per_epoch = steps_per_epoch(len(splits.train), training.batch_size, drop_last=True)
    epochs = training.steps / per_epoch
    schedule = schedule_named(training.schedule, epochs=epochs, steps=per_epoch, lr=training.lr, decay=training.decay)
    momentum = pick(USUAL_MOMENTUM, training.optimizer, "optimiser")
    factory = optimizer_factory(training.optimizer, lr=training.lr, momentum=momentum, weight_decay=training.lam)
    rule = None
    if is_plain(network) and training.optimizer == "sgd":
        rule = ExplicitDescent(network, loss, training.lr, training.lam)
        factory = rule.optimizer
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Linear)]
    curve = splits.validation.subset(torch.arange(min(training.samples, len(splits.validation))))
    return fit(
        network, Splits(splits.train, curve, splits.test), steps=training.steps, record_every=training.every,
        batch_size=training.batch_size, drop_last=True, optimizer=proximal(factory, weights, L1(), training.l1),
        schedule=schedule, learning_rule=rule, objective=loss if rule is None else None,
        observe=[SmoothnessMonitor(network, lr=training.lr, loss=loss)] if smoothness else [], precision="float32", **where,
    )  # fmt: skip


def train(settings: Settings, part: arms.Part) -> dict[str, Any]:
    """One arm from one seed: its numbers."""
    splits = settings.data.splits()
    wanted, training = settings.network_of(part.arm), settings.training_of(part.arm)
    network = build(wanted, splits, part.seed)
    loss = OutputLoss(wanted.output, training.loss, training.reduction)
    try:
        history = descend(
            network, splits, training, loss, smoothness=settings.smoothness, seed=part.seed, folder=part.folder,
            resume=True, progress=part.label if part.shown else None,
        )  # fmt: skip
    except NonFiniteError as error:
        # A reading that diverges is a finding.
        log.warning("%s: %s", part.label, error.cause)
        reached = max((row["step"] for row in part.folder.metrics()), default=0)
        return {"steps": reached, "accuracy": None, "validation_accuracy": None, "train_loss": None}
    network = plain_weights(network.eval())
    test, validation = evaluate(network, splits.test), evaluate(network, splits.validation)
    rows, example = _with_range(part.folder.metrics()), torch.zeros(2, *splits.train.input_shape)
    result = {
        "steps": training.steps,
        "accuracy": 100 * test.accuracy,
        "validation_accuracy": 100 * validation.accuracy,
        "train_loss": rows[-1]["train_loss"],
        "seconds": history.seconds,
        "collapsed": test.collapsed,
        "right": tables.digits([] if test.right is None else test.right.tolist()),
    }
    if settings.smoothness:
        result |= {key: statistics.fmean(row[key] for row in rows) for key in step_figures.SMOOTH}
    write_layers(network, example, part.path / "layers.json")
    if settings.sizes:
        lean, sizes = stored_sizes(network, example, part.path)
        result |= {**sizes, "shrunk_accuracy": 100 * evaluate(lean, splits.test).accuracy}
    else:
        save_weights(network, part.path / "model.safetensors")
    told.info("%s: %.2f %% test accuracy (%.1f s)", part.label, result["accuracy"], history.seconds)
    return result


def _with_range(rows: Rows) -> Rows:
    """The records, where smoothness was measured with the range of the loss."""
    return [row | ({"loss_range": row["loss_high"] - row["loss_low"]} if "loss_low" in row else {}) for row in rows]


def outcome(settings: Settings, folder: RunFolder, results: Results, published: Rows) -> Outcome:
    """Set the table and draw the curves."""
    answer = lambda arm: published_row(arm, settings.arms[arm].published, published)
    rows = tables.arm_rows(results, COLUMNS, last=answer, missing="diverged")
    marks = {row["arm"]: row["published accuracy"] for row in rows if "published accuracy" in row}
    records = arms.records_of(settings, folder)
    curves = {arm: [_with_range(rows) for rows in seeds] for arm, seeds in records.items()}
    plots = step_figures.draw(curves, marks, folder.path / "plots", smooth=settings.smoothness)
    return Outcome(rows, tables.means(results) | _compared(results), plots, [settings.data.splits().train.note])


def _compared(results: Results) -> dict[str, float]:
    """Every arm against every other: ``lead_over`` in points of test accuracy; against the first one, shares of size and of smoothness."""
    values = {}
    first = next(iter(results.values()))
    for name, found in results.items():
        for other, theirs in results.items():
            if other != name and whole(found, "accuracy") and whole(theirs, "accuracy"):
                leads = [one["accuracy"] - two["accuracy"] for one, two in zip(found, theirs, strict=True)]
                values |= with_error(f"{name}.lead_over.{other}", leads, sampling_error(found, theirs))
        for key, share in SHARES.items():
            if whole(found, key) and whole(first, key) and all(one[key] for one in first):
                shares = [one[key] / two[key] for one, two in zip(found, first, strict=True)]
                values |= with_error(f"{name}.{share}", shares)
    return values
