"""The kind of recipe that compares ways to train one perceptron, step by step: the study of one network over many workers."""

from __future__ import annotations

import json
import logging
import statistics
import time
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from gracile.core.errors import InputError
from gracile.core.files import write_json
from gracile.core.runs import RunFolder
from gracile.core.seeding import derive_seed
from gracile.data import Splits
from gracile.models import Normalize, UnitNorm, mlp, plain_weights
from gracile.models.backpropagation import Loss, Reduction
from gracile.models.common import Initialisation
from gracile.recipes import schema, study_pictures, study_sizes
from gracile.recipes.arms import DataSettings, load_data
from gracile.recipes.kinds import Outcome
from gracile.recipes.layers import write_layers
from gracile.recipes.study_training import Objective, train
from gracile.recipes.train import save_weights
from gracile.training import evaluate

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
        schedule: ``diminishing``: ``lr / (1 + beta lr l)``; ``averaged``: AdaGrad's sum of squares becomes their mean.
        lam: l2 penalty ``lam/2 |w|^2`` on all parameters. l1: penalty ``l1 |w|_1`` on weights, by its proximal map after each step.
        loss: ``squared`` is ``1/2 |z - t|^2``, ``cross_entropy`` the negative logarithm after a softmax.
        reduction: over the samples of a batch.
        every: steps between records; samples: of the validation split that the curve is taken on.
    """

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    optimizer: str = "sgd"
    lr: float = Field(gt=0)
    schedule: Literal["constant", "diminishing", "averaged"] = "constant"
    beta: float = 1e-3
    lam: float = 1e-3
    l1: float = 0.0
    loss: Loss = "cross_entropy"
    reduction: Reduction = "mean"
    every: int = Field(default=100, gt=0)
    samples: int = Field(default=1000, gt=0)


class Arm(schema.Strict):
    """What one arm changes.

    Attributes:
        network, training: keys of `Network` and `Training`.
        published: the leading cells of the published row that this arm answers to.
    """

    network: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    published: list[str | float] = Field(default_factory=list)


class Settings(schema.Strict):
    """What a recipe of this kind holds.

    Attributes:
        seeds: each arm is trained once from each; mean and spread are over them.
        smoothness: measure `gracile.dynamics.smoothness` at each record, on the batch of the step.
        sizes: measure the trained model's file, shrunk and compressed.
    """

    data: DataSettings
    network: Network = Network()
    training: Training
    arms: dict[str, Arm]
    seeds: list[int] = Field(default_factory=lambda: [0])
    smoothness: bool = False
    sizes: bool = False


def execute(settings: Settings, folder: RunFolder, published: list[dict[str, Any]]) -> Outcome:
    """Train every arm from every seed, or what is left of it, set the table and draw the curves."""
    if not settings.arms or not settings.seeds:
        raise InputError("The recipe has no arm or no seed.", "Give at least one of each.")
    parsed = {
        name: (_network(settings, name, arm), _training(settings, name, arm)) for name, arm in settings.arms.items()
    }
    splits = load_data(settings.data)
    results: dict[str, list[dict[str, Any]]] = {}
    curves: dict[str, list[list[dict[str, Any]]]] = {}
    for name, (network, training) in parsed.items():
        for seed in settings.seeds:
            part = folder.part(name if len(settings.seeds) == 1 else f"{name}-seed{seed}")
            results.setdefault(name, []).append(_arm(settings, name, network, training, seed, splits, part))
            curves.setdefault(name, []).append(part.metrics())
    rows = [_row(name, settings.arms[name], found, published) for name, found in results.items()]
    values = {
        f"{name}.{key}": _mean(found, key) for name, found in results.items() for key in found[0] if _whole(found, key)
    }
    values |= _compared(results)
    marks = {
        name: row["published accuracy"] for name, row in zip(results, rows, strict=True) if "published accuracy" in row
    }
    plots = study_pictures.draw(curves, marks, folder.path / "plots", smooth=settings.smoothness)
    notes = [splits.train.note] if splits.train.note else []
    return Outcome(rows, values, {name: path.relative_to(folder.path) for name, path in plots.items()}, notes)


def _network(settings: Settings, name: str, arm: Arm) -> Network:
    return schema.parse(
        Network, schema.merged(settings.network.model_dump(), arm.network), f"[settings.arms.{name}.network]"
    )


def _training(settings: Settings, name: str, arm: Arm) -> Training:
    return schema.parse(
        Training, schema.merged(settings.training.model_dump(), arm.training), f"[settings.arms.{name}.training]"
    )


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


def _arm(
    settings: Settings, name: str, wanted: Network, training: Training, seed: int, splits: Splits, part: RunFolder
) -> dict[str, Any]:
    """One arm from one seed: its numbers, from the folder where it is done already."""
    done = part.path / "arm.json"
    if done.exists():
        return json.loads(done.read_text())
    part.rewrite_metrics([])
    network = build(wanted, splits, seed)
    objective = Objective(wanted.output, training.loss, training.reduction)
    started = time.monotonic()
    rows = train(network, splits, training, objective, seed=seed, smoothness=settings.smoothness, record=part.record)
    seconds = time.monotonic() - started
    network = plain_weights(network.eval())
    reached = rows[-1]["step"] if rows else 0
    if reached < training.steps:
        log.warning("%s, seed %d: the loss was no longer finite after step %d", name, seed, reached)
        result: dict[str, Any] = {"steps": reached, "accuracy": None, "validation_accuracy": None, "train_loss": None}
        write_json(done, result)
        return result
    test, validation = evaluate(network, splits.test), evaluate(network, splits.validation)
    result = {
        "steps": training.steps,
        "accuracy": 100 * test.accuracy,
        "validation_accuracy": 100 * validation.accuracy,
        "train_loss": rows[-1]["train_loss"],
        "seconds": seconds,
    }
    if settings.smoothness:
        for key in study_pictures.SMOOTH:
            result[key] = statistics.fmean(row[key] for row in rows)
    save_weights(network, part.path / "model.safetensors")
    example = torch.zeros(2, *splits.train.input_shape)
    write_layers(network, example, part.path / "layers.json")
    if settings.sizes:
        result |= study_sizes.measure(network, splits, part.path)
    write_json(done, result)
    log.info("%s, seed %d: %.2f %% test accuracy (%.1f s)", name, seed, result["accuracy"], seconds)
    return result


def _whole(found: list[dict[str, Any]], key: str) -> bool:
    """Whether every seed has this number: one that diverged has not."""
    return all(one.get(key) is not None for one in found)


def _mean(found: list[dict[str, Any]], key: str) -> float:
    return statistics.fmean(one[key] for one in found)


def _compared(results: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Every arm against every other: ``lead_over`` in points of test accuracy; against the first one, shares of size and of smoothness."""
    values = {}
    first = next(iter(results.values()))
    for name, found in results.items():
        for other, theirs in results.items():
            if other != name and _whole(found, "accuracy") and _whole(theirs, "accuracy"):
                values[f"{name}.lead_over.{other}"] = _mean(found, "accuracy") - _mean(theirs, "accuracy")
        for key, share in SHARES.items():
            if _whole(found, key) and _whole(first, key):
                values[f"{name}.{share}"] = _mean(found, key) / _mean(first, key)
    return values


def _row(name: str, arm: Arm, found: list[dict[str, Any]], published: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": name}
    titles = {
        "steps": ("steps", 0), "accuracy": ("accuracy %", 2), "validation_accuracy": ("validation accuracy %", 2),
        "train_loss": ("train loss", 4), "zeros": ("zeros %", 2), "parameters": ("parameters", 0),
        "parameters_shrunk": ("parameters after shrink", 0), "file_kb": ("file kB", 0), "shrunk_kb": ("shrunk kB", 0),
        "compressed_kb": ("shrunk and compressed kB", 0), "loss_range": ("loss range", 4),
        "gradient_change_high": ("gradient change", 4), "beta_smoothness": ("beta smoothness", 3), "seconds": ("seconds", 1),
    }  # fmt: skip
    for key, (title, digits) in titles.items():
        if not any(key in one for one in found):
            continue
        if not _whole(found, key):
            row[title] = "diverged"
            continue
        row[title] = f"{_mean(found, key):.{digits}f}"
        if len(found) > 1 and key not in ("steps", "parameters"):
            row[title] += f" ± {statistics.stdev(one[key] for one in found):.{digits}f}"
    for answer in published:
        if arm.published and list(answer.values())[: len(arm.published)] == arm.published:
            row |= {f"published {key}": value for key, value in answer.items() if isinstance(value, (int, float))}
    return row
