"""The kind of recipe that trains arms side by side: a dense baseline and its sparse twins, from the same seeds."""

from __future__ import annotations

import json
import logging
import statistics
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file as load_weights
from safetensors.torch import save_file
from torch import nn

from gracile import data as datasets
from gracile.channels import trace
from gracile.core.errors import InputError, nearest, pick
from gracile.core.files import write_atomically, write_json
from gracile.core.runs import RunFolder
from gracile.core.seeding import derive_seed
from gracile.data import Augmentation, Splits
from gracile.dynamics import watch
from gracile.models import build, normalized
from gracile.recipes import methods
from gracile.recipes.kinds import Outcome
from gracile.recipes.layers import write_layers
from gracile.recipes.robust import TITLES, AttackSettings, fingerprint, leave_mark, robustness, take_over
from gracile.recipes.schema import Strict
from gracile.report import figures, read, weights
from gracile.training import (
    Cosine,
    CrossEntropy,
    Milestones,
    Objective,
    Schedule,
    adversary,
    evaluate,
    fit,
    steps_per_epoch,
)

log = logging.getLogger("gracile")


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
    """

    epochs: int
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    schedule: Literal["constant", "milestones", "cosine"] = "constant"
    milestones: list[float] = Field(default_factory=list)
    gamma: float = 0.1
    warmup: float = 0.0
    precision: Literal["auto", "float32", "bf16"] = "auto"
    adversarial: AdversarialSettings | None = None


class Target(Strict):
    """A budget that lam is steered to; see `gracile.splitting.Dial`. Shares in (0, 1); one of the first three.

    Attributes:
        macs, params: share that stays after physical removal.
        sparsity: share of exact zeros.
        ramp: share of the run during which the budget shrinks.
        settle: share of the run, at its end, during which the choice is final.
    """

    macs: float | None = None
    params: float | None = None
    sparsity: float | None = None
    ramp: float = 0.5
    settle: float = 0.5


class Arm(Strict):
    """One method.

    Attributes:
        method: a row of `gracile.recipes.methods.METHODS`; None trains densely.
        options: what the method takes.
        target: a budget in place of lam.
        found: an earlier arm whose sparse network the method starts from.
        model: another network than the recipe's.
        natural: train on clean samples where the recipe trains on attacked ones.
        published: the leading cells of the published row that this arm answers to.
    """

    method: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    target: Target | None = None
    found: str | None = None
    model: ModelSettings | None = None
    natural: bool = False
    published: list[str | float] = Field(default_factory=list)


class Settings(Strict):
    """What a recipe of this kind holds.

    Attributes:
        seeds: each arm is trained once from each; mean and spread are over them.
        device: ``auto`` takes a GPU if there is one.
        watch: record drift of conserved quantities and alignment each epoch; see `gracile.dynamics`.
        attacks: what every arm is attacked with once it is trained.
        against: by name two arms; for each number they have, the mean difference of the first to the second becomes
            the value ``name.number``.
        only: the arms to train; all of them if empty.
        reuse: take over arms that a run beside this one has trained from the very same settings.
        weights: draw the figures of `gracile weights` too.
    """

    data: DataSettings
    model: ModelSettings = ModelSettings()
    training: TrainingSettings
    arms: dict[str, Arm]
    seeds: list[int] = Field(default_factory=lambda: [0])
    device: str = "auto"
    watch: bool = False
    attacks: AttackSettings | None = None
    against: dict[str, list[str]] = Field(default_factory=dict)
    only: list[str] = Field(default_factory=list)
    reuse: bool = False
    weights: bool = False

    def chosen(self) -> dict[str, Arm]:
        """The arms to train, by name."""
        return {name: pick(self.arms, name, "arm") for name in self.only} if self.only else self.arms


def execute(settings: Settings, folder: RunFolder, published: list[dict[str, Any]]) -> Outcome:
    """Train every arm from every seed, or what is left of it, and set the table."""
    if not settings.arms or not settings.seeds:
        raise InputError("The recipe has no arm or no seed.", "Give at least one of each.")
    _check_found(settings.arms)
    for name, pair in settings.against.items():
        if len([pick(settings.arms, arm, "arm") for arm in pair]) != 2:
            raise InputError(
                f"against.{name} names {len(pair)} arms.", "Name two: the first is held against the second."
            )
    device = _device(settings.device)
    splits = load_data(settings.data, device)
    log.info("data: %s", splits.train.note or splits.train.name)
    results: dict[str, list[dict[str, Any]]] = {}
    notes = [splits.train.note] if splits.train.note else []
    for name, arm in settings.chosen().items():
        for seed in settings.seeds:
            part = folder.part(_part(name, seed, settings.seeds))
            result = _train_arm(settings, name, arm, seed, splits, part, device)
            if settings.attacks is not None:
                found = _attacked(settings.attacks, arm.model or settings.model, seed, splits, part, device)
                result |= found["accuracies"]
                notes += [f"{part.path.name}: {warning}" for warning in found["warnings"]]
            results.setdefault(name, []).append(result)
    rows = [_table_row(name, settings.arms[name], found, published) for name, found in results.items()]
    values = {
        f"{name}.{key}": statistics.fmean(result[key] for result in found)
        for name, found in results.items()
        for key in found[0]
        if found[0][key] is not None
    }
    for name, pair in settings.against.items():
        one, other = (
            {key[len(arm) + 1 :]: value for key, value in values.items() if key.startswith(f"{arm}.")} for arm in pair
        )
        values |= {f"{name}.{key}": one[key] - other[key] for key in one if key in other}
    return Outcome(rows, values, _plots(settings, folder), notes)


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


def _train_arm(
    settings: Settings, name: str, arm: Arm, seed: int, splits: Splits, part: RunFolder, device: torch.device
) -> dict[str, Any]:
    """One arm from one seed: its numbers, from the folder where it is done already."""
    done = part.path / "arm.json"
    mark = fingerprint(
        {
            **settings.model_dump(include={"data", "training"}),
            **arm.model_dump(include={"method", "options", "target", "found", "natural"}),
            "model": (arm.model or settings.model).model_dump(),
            "seed": seed,
        }
    )
    if settings.reuse and arm.found is None and not done.exists():
        take_over(part, mark)
    if done.exists():
        return json.loads(done.read_text())
    started = time.monotonic()
    network = build_network(arm.model or settings.model, splits, seed).to(device)
    example = torch.zeros(2, *splits.train.input_shape, device=device)
    training = settings.training
    sparsifier = None
    objective = _objective(training, arm)
    steps = training.epochs * steps_per_epoch(len(splits.train), training.batch_size) * objective.replays
    if arm.method is not None:
        found = None if arm.found is None else _found(settings, arm, seed, splits, part).to(device)
        sparsifier = methods.build(arm.method, network, example, dict(arm.options), steps=steps, found=found)
    if arm.target is not None:
        sparsifier = methods.steer(sparsifier, example, steps, arm.target.model_dump(exclude_none=True))
    augment = Augmentation(flip=settings.data.flip, crop=settings.data.crop)
    monitor = watch(network, example) if settings.watch else None
    history = fit(
        network,
        splits,
        epochs=training.epochs,
        batch_size=training.batch_size,
        optimizer=training.optimizer,
        lr=training.lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        nesterov=training.nesterov,
        schedule=_schedule(training),
        sparsifier=sparsifier,
        objective=objective,
        augment=augment if settings.data.flip or settings.data.crop else None,
        seed=seed,
        precision=training.precision,
        folder=part,
        resume=True,
        observe=lambda kept: _what_is_left(kept, example) | (monitor.observe(kept) if monitor is not None else {}),
        progress=f"{name}, seed {seed}",
    )
    kept = network if sparsifier is None else sparsifier.sparse_model()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Some networks draw noise in evaluation too.
        torch.manual_seed(derive_seed(seed, "test"))
        test = evaluate(kept, splits.test)
    result: dict[str, Any] = {"accuracy": 100 * test.accuracy, "loss": test.loss}
    parameters = sum(tensor.numel() for tensor in network.parameters())
    summary = None if sparsifier is None else sparsifier.summary()
    channels = None if summary is None else summary.channel_sparsity
    result["sparsity"] = 0.0 if summary is None else 100 * summary.sparsity
    result["channel_sparsity"] = None if channels is None else 100 * channels
    result["nonzero"] = parameters if summary is None else summary.nonzero
    result |= {key: 100 * share for key, share in _what_is_left(kept, example).items()}
    result["seconds"] = history.seconds
    if summary is not None:
        log.info("%s, seed %d:\n%s", name, seed, summary)
    save_weights(kept, part.path / "model.safetensors")
    result["small_weights"] = 100 * weights.small_share(weights.read_weights(part.path / "model.safetensors"))
    write_layers(kept, example, part.path / "layers.json")
    leave_mark(part, mark)
    write_json(done, result)
    log.info("%s, seed %d: %.2f %% test accuracy (%.1f s)", name, seed, result["accuracy"], time.monotonic() - started)
    return result


def _attacked(
    attacks: AttackSettings, model: ModelSettings, seed: int, splits: Splits, part: RunFolder, device: torch.device
) -> dict[str, Any]:
    """A trained arm under attack."""
    network = build_network(model, splits, seed)
    network.load_state_dict(load_weights(part.path / "model.safetensors"))
    return robustness(network.to(device).eval(), splits.test, attacks, part)


def _found(settings: Settings, arm: Arm, seed: int, splits: Splits, part: RunFolder) -> nn.Module:
    """The sparse network that the arm's `found` left from the same seed."""
    assert arm.found is not None
    network = build_network(settings.arms[arm.found].model or settings.model, splits, seed)
    folder = part.path.parent / _part(arm.found, seed, settings.seeds)
    network.load_state_dict(load_weights(folder / "model.safetensors"))
    return network


def _check_found(arms: dict[str, Arm]) -> None:
    """An arm can only start from a sparse one that is trained before it."""
    earlier: list[str] = []
    for name, arm in arms.items():
        if arm.found is not None and arm.found not in earlier:
            raise InputError(
                f"The arm '{name}' starts from '{arm.found}', which is no sparse arm above it.",
                nearest(arm.found, earlier) if earlier else "Put a sparse arm above it.",
            )
        if arm.method is not None:
            earlier.append(name)


def _what_is_left(kept: nn.Module, example: torch.Tensor) -> dict[str, float]:
    """Shares of channels, parameters and multiply-adds that would stay after physical removal of exact zeros."""
    graph = trace(kept, example)
    dense, left = graph.dense(), graph.count()
    return {
        "channels_left": left.channels / max(1, dense.channels),
        "parameters_left": left.parameters / dense.parameters,
        "macs_left": left.macs / dense.macs,
    }


def save_weights(network: nn.Module, path: Path) -> None:
    """A plain state dict as safetensors."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    write_atomically(path, lambda temporary: save_file(state, temporary))


def _schedule(training: TrainingSettings) -> Schedule | None:
    if training.schedule == "cosine":
        return Cosine(training.epochs, training.warmup)
    if training.schedule == "milestones":
        return Milestones(training.milestones, training.gamma)
    if training.milestones or training.warmup:
        raise InputError(
            "milestones or warmup are given, and schedule is 'constant'.", "Set schedule to 'milestones' or 'cosine'."
        )
    return None


def _objective(training: TrainingSettings, arm: Arm) -> Objective:
    if training.adversarial is None or arm.natural:
        return CrossEntropy()
    return adversary(training.adversarial.method, **training.adversarial.options)


def _device(name: str) -> torch.device:
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


def _part(name: str, seed: int, seeds: list[int]) -> str:
    return name if len(seeds) == 1 else f"{name}-seed{seed}"


def _table_row(name: str, arm: Arm, found: list[dict[str, Any]], published: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": name}
    titles = {
        "accuracy": "accuracy %",
        **TITLES,
        "loss": "loss",
        "sparsity": "sparsity %",
        "channel_sparsity": "channel sparsity %",
        "nonzero": "nonzero parameters",
        "macs_left": "MACs left %",
        "seconds": "seconds",
    }
    for key, title in titles.items():
        values = [result[key] for result in found if result.get(key) is not None]
        if key in TITLES and not values:
            continue
        row[title] = _mean_and_spread(values, key) if values else ""
    for answer in published:
        if arm.published and list(answer.values())[: len(arm.published)] == arm.published:
            row |= {f"published {key}": value for key, value in answer.items() if isinstance(value, (int, float))}
    return row


def _mean_and_spread(values: list[float], key: str) -> str:
    digits = {"loss": 4, "nonzero": 0, "seconds": 1}.get(key, 2)
    text = f"{statistics.fmean(values):.{digits}f}"
    return text + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def _plots(settings: Settings, folder: RunFolder) -> dict[str, Path]:
    rows = {
        name: [folder.part(_part(name, seed, settings.seeds)).metrics() for seed in settings.seeds]
        for name in settings.chosen()
    }
    plots = folder.path / "plots"
    drawn = {"learning curves": figures.learning_curves(rows, plots / "learning.png")}
    sparse = {name: found for name, found in rows.items() if settings.arms[name].method is not None}
    if sparse:
        drawn["zeros"] = figures.sparsity_curves(sparse, plots / "zeros.png")
    kept = {
        name: weights.read_weights(
            folder.part(_part(name, settings.seeds[0], settings.seeds)).path / "model.safetensors"
        )
        for name in settings.chosen()
    }
    flat = {name: np.concatenate([one.ravel() for one in found.values()]) for name, found in kept.items()}
    drawn["weights"] = figures.weight_histograms(flat, plots / "weights.png")
    if settings.weights:
        drawn |= weights.draw(read(folder.path), plots, only=list(kept))
    return {name: path.relative_to(folder.path) for name, path in drawn.items()}
