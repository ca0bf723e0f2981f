"""The kind of recipe that compares ways to train one perceptron, step by step: the study of one network over many workers."""

from __future__ import annotations

import logging
import lzma
import statistics
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from gracile.channels.layer_sizes import write_layers
from gracile.core.errors import NonFiniteError
from gracile.core.runs import RunFolder
from gracile.core.seeding import derive_seed
from gracile.data import Splits
from gracile.dynamics import SmoothnessMonitor
from gracile.models import Normalize, UnitNorm, mlp, plain_weights
from gracile.models.backpropagation import Loss, Reduction
from gracile.models.common import Initialisation
from gracile.recipes import arms, schema, tables
from gracile.recipes.kinds import Outcome
from gracile.recipes.perceptrons import ExplicitDescent, OutputLoss, is_plain, with_l1
from gracile.recipes.settings import DataSettings
from gracile.recipes.tables import Column, mean, published_row, whole
from gracile.recipes.weights import save_weights
from gracile.report import step_figures
from gracile.shrinking import save_lean, shrink
from gracile.training import (
    Averaged,
    Constant,
    Diminishing,
    History,
    Schedule,
    evaluate,
    fit,
    optimizer_factory,
    steps_per_epoch,
)

log = logging.getLogger("gracile")

# What is told as a share of the first arm's, and under which name.
SHARES = {
    "compressed_kb": "compressed_share", "loss_range": "loss_range_share", "gradient_change_high": "gradient_change_share",
    "beta_smoothness": "beta_smoothness_share",
}  # fmt: skip


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
        values = schema.merged(self.network.model_dump(), self.arms[arm].network)
        return schema.parse(Network, values, f"[settings.arms.{arm}.network]")

    def training_of(self, arm: str) -> Training:
        """The recipe's training with what the arm changes."""
        values = schema.merged(self.training.model_dump(), self.arms[arm].training)
        return schema.parse(Training, values, f"[settings.arms.{arm}.training]")

    def check(self, published: list[dict[str, Any]]) -> None:
        super().check(published)
        for arm in self.names():
            self.network_of(arm)
            self.training_of(arm)


COLUMNS = (
    Column("steps", "steps", 0, spread=False),
    Column("accuracy", "accuracy %"),
    Column("validation_accuracy", "validation accuracy %"),
    Column("train_loss", "train loss", 4),
    Column("zeros", "zeros %"),
    Column("parameters", "parameters", 0, spread=False),
    Column("parameters_shrunk", "parameters after shrink", 0),
    Column("file_kb", "file kB", 0),
    Column("shrunk_kb", "shrunk kB", 0),
    Column("compressed_kb", "shrunk and compressed kB", 0),
    Column("loss_range", "loss range", 4),
    Column("gradient_change_high", "gradient change", 4),
    Column("beta_smoothness", "beta smoothness", 3),
    Column("seconds", "seconds", 1),
)


def outcome(
    settings: Settings, folder: RunFolder, results: dict[str, list[dict[str, Any]]], published: list[dict[str, Any]]
) -> Outcome:
    """Set the table and draw the curves."""
    answer = lambda arm: published_row(arm, settings.arms[arm].published, published)
    rows = tables.arm_rows(results, COLUMNS, last=answer, missing="diverged")
    marks = {row["arm"]: row["published accuracy"] for row in rows if "published accuracy" in row}
    records = arms.records_of(settings, folder)
    curves = {arm: [_with_range(rows) for rows in seeds] for arm, seeds in records.items()}
    plots = step_figures.draw(curves, marks, folder.path / "plots", smooth=settings.smoothness)
    note = settings.data.splits().train.note
    return Outcome(rows, tables.means(results) | _compared(results), plots, [note] if note else [])


def build(settings: Network, splits: Splits, seed: int) -> nn.Sequential:
    """The perceptron behind its inputs' scaling, as the children ``normalize``, ``unit``, ``scale`` (as asked for) and ``network``."""
    shape = splits.train.input_shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        network = mlp(
            num_classes=splits.train.num_classes, in_channels=shape[0], image_size=(shape[1], shape[2]), widths=settings.widths,
            activation=settings.activation, bias=settings.bias, norm=settings.norm, dropout=settings.dropout,
            initialisation=settings.initialisation,
        )  # fmt: skip
    with torch.no_grad():
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


# What a row of the optimisers needs for its decay of the past; plain gradient descent has none.
MOMENTUM = {"sgd": 0.0, "adagrad": 0.0, "rmsprop": 0.9, "adam": 0.9, "adamw": 0.9}


def descend(
    network: nn.Sequential,
    splits: Splits,
    training: Training,
    loss: OutputLoss,
    *,
    seed: int,
    folder: RunFolder | None = None,
    smoothness: bool = False,
    progress: str | None = None,
) -> History:
    """Train `network` in place, by the explicit formulas where they apply.

    Raises:
        NonFiniteError: a reading diverged; the records before that stand in `folder`.
    """
    per_epoch = steps_per_epoch(len(splits.train), training.batch_size, drop_last=True)
    schedules: dict[str, Schedule] = {
        "constant": Constant(),
        "diminishing": Diminishing(training.decay * training.lr, per_epoch),
        "averaged": Averaged(per_epoch),
    }
    rule = None
    if is_plain(network) and training.optimizer == "sgd":
        rule = ExplicitDescent(network, loss, training.lr, training.lam)
    factory = (
        optimizer_factory(
            training.optimizer, lr=training.lr, momentum=MOMENTUM[training.optimizer], weight_decay=training.lam
        )
        if rule is None
        else rule.optimizer
    )
    curve = splits.validation.subset(torch.arange(min(training.samples, len(splits.validation))))
    return fit(
        network,
        Splits(splits.train, curve, splits.test),
        steps=training.steps,
        record_every=training.every,
        batch_size=training.batch_size,
        drop_last=True,
        optimizer=with_l1(factory, network, training.l1),
        schedule=schedules[training.schedule],
        learning_rule=rule,
        objective=loss if rule is None else None,
        seed=seed,
        precision="float32",
        folder=folder,
        resume=True,
        observe=[SmoothnessMonitor(network, lr=training.lr, loss=loss)] if smoothness else [],
        progress=progress,
    )


def train(settings: Settings, part: arms.Part) -> dict[str, Any]:
    """One arm from one seed: its numbers."""
    splits = settings.data.splits()
    wanted, training = settings.network_of(part.arm), settings.training_of(part.arm)
    network = build(wanted, splits, part.seed)
    loss = OutputLoss(wanted.output, training.loss, training.reduction)
    try:
        history = descend(
            network, splits, training, loss, seed=part.seed, folder=part.folder, smoothness=settings.smoothness,
            progress=part.label if part.shown else None,
        )  # fmt: skip
    except NonFiniteError as error:
        # A reading that diverges is a finding.
        log.warning("%s: %s", part.label, error.cause)
        reached = max((row["step"] for row in part.folder.metrics()), default=0)
        return {"steps": reached, "accuracy": None, "validation_accuracy": None, "train_loss": None}
    network = plain_weights(network.eval())
    test, validation = evaluate(network, splits.test), evaluate(network, splits.validation)
    rows = _with_range(part.folder.metrics())
    result = {
        "steps": training.steps,
        "accuracy": 100 * test.accuracy,
        "validation_accuracy": 100 * validation.accuracy,
        "train_loss": rows[-1]["train_loss"],
        "seconds": history.seconds,
        "collapsed": test.collapsed,
    }
    if settings.smoothness:
        for key in step_figures.SMOOTH:
            result[key] = statistics.fmean(row[key] for row in rows)
    save_weights(network, part.path / "model.safetensors")
    write_layers(network, torch.zeros(2, *splits.train.input_shape), part.path / "layers.json")
    if settings.sizes:
        result |= measure_sizes(network, splits, part.path)
    log.info("%s: %.2f %% test accuracy (%.1f s)", part.label, result["accuracy"], history.seconds)
    return result


def _with_range(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records, where smoothness was measured with the range of the loss."""
    return [row | ({"loss_range": row["loss_high"] - row["loss_low"]} if "loss_low" in row else {}) for row in rows]


def measure_sizes(network: nn.Module, splits: Splits, folder: Path) -> dict[str, Any]:
    """Sizes of a network whose exact zeros are to go.

    Args:
        network: in evaluation mode.
        splits: the test split tells what the smaller network's accuracy is.
        folder: holds ``model.safetensors`` already; ``lean.safetensors`` and ``lean.safetensors.xz`` are written there.

    Returns:
        ``zeros``: percent of weights; ``parameters`` and ``parameters_shrunk``; ``file_kb``, ``shrunk_kb`` and ``compressed_kb``: of the
        file as trained, after `gracile.shrink`, and that compressed by xz (1 kB is 1000 bytes); ``shrunk_accuracy``: percent, test.
    """
    lean = shrink(network, torch.zeros(2, *splits.train.input_shape), dead="fold")
    files = folder / "model.safetensors", folder / "lean.safetensors", folder / "lean.safetensors.xz"
    save_lean(lean, files[1])
    files[2].write_bytes(lzma.compress(files[1].read_bytes(), preset=6))
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Linear)]
    zeros = sum(int((one == 0).sum()) for one in weights) / sum(one.numel() for one in weights)
    found: dict[str, Any] = {
        "zeros": 100 * zeros,
        "parameters": sum(one.numel() for one in network.parameters()),
        "parameters_shrunk": sum(one.numel() for one in lean.parameters()),
        "shrunk_accuracy": 100 * evaluate(lean, splits.test).accuracy,
    }
    for name, file in zip(("file_kb", "shrunk_kb", "compressed_kb"), files, strict=True):
        found[name] = file.stat().st_size / 1000
    return found


def _compared(results: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Every arm against every other: ``lead_over`` in points of test accuracy; against the first one, shares of size and of smoothness."""
    values = {}
    first = next(iter(results.values()))
    for name, found in results.items():
        for other, theirs in results.items():
            if other != name and whole(found, "accuracy") and whole(theirs, "accuracy"):
                values[f"{name}.lead_over.{other}"] = mean(found, "accuracy") - mean(theirs, "accuracy")
        for key, share in SHARES.items():
            if whole(found, key) and whole(first, key):
                values[f"{name}.{share}"] = mean(found, key) / mean(first, key)
    return values
