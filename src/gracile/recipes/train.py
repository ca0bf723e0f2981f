"""The kind of recipe that trains arms side by side: a dense baseline and its sparse twins, from the same seeds."""

from __future__ import annotations

import json
import logging
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file as load_weights
from safetensors.torch import save_file
from torch import nn

from gracile.channels import trace
from gracile.core.errors import InputError, nearest
from gracile.core.files import write_atomically, write_json
from gracile.core.monitor import Monitor
from gracile.core.runs import RunFolder
from gracile.core.seeding import derive_seed, generator
from gracile.data import Augmentation, Splits, batches
from gracile.dynamics import monitors
from gracile.recipes import methods
from gracile.recipes.arms import (
    Arm,
    ModelSettings,
    Settings,
    TrainingSettings,
    build_network,
    device_named,
    load_data,
    made_comparisons,
    objective_of,
    schedule_of,
    trained_arms,
    training_of,
)
from gracile.recipes.comparisons import check_comparisons, compared
from gracile.recipes.kinds import Outcome
from gracile.recipes.layers import write_layers
from gracile.recipes.robust import (
    TITLES,
    AttackSettings,
    fingerprint,
    leave_mark,
    other_commits,
    robustness,
    take_over,
    tried_on,
)
from gracile.report import figures, read, weights
from gracile.training import evaluate, fit, steps_per_epoch

log = logging.getLogger("gracile")


def execute(settings: Settings, folder: RunFolder, published: list[dict[str, Any]]) -> Outcome:
    """Train every arm from every seed, or what is left of it, and set the table."""
    settings = settings.model_copy(update={"arms": trained_arms(settings), "compare": made_comparisons(settings)})
    if not settings.arms or not settings.seeds:
        raise InputError("The recipe has no arm or no seed.", "Give at least one of each.")
    _check_found(settings.arms)
    _check_rules(settings)
    check_comparisons(settings.compare, list(settings.arms))
    device = device_named(settings.device)
    splits = load_data(settings.data, device)
    log.info("data: %s", splits.train.note or splits.train.name)
    results: dict[str, list[dict[str, Any]]] = {}
    notes = [splits.train.note] if splits.train.note else []
    if settings.attacks is not None:
        notes.append(tried_on(settings.attacks, len(splits.test)))
    for name, arm in settings.arms.items():
        for seed in settings.seeds:
            part = folder.part(part_name(name, seed, settings.seeds))
            result = _train_arm(settings, name, arm, seed, splits, part, device)
            if settings.attacks is not None:
                found = _attacked(settings.attacks, arm.model or settings.model, seed, splits, part, device)
                result |= found["accuracies"]
                notes += [f"{part.path.name}: {warning}" for warning in found["warnings"]]
            results.setdefault(name, []).append(result)
    rows = [
        _table_row(name, settings.arms[name], found, published, small=settings.weights)
        for name, found in results.items()
    ]
    values = {
        f"{name}.{key}": statistics.fmean(result[key] for result in found)
        for name, found in results.items()
        for key in found[0]
        if found[0][key] is not None
    }
    differences, sentences = compared(settings.compare, results)
    notes += other_commits(
        folder.part(part_name(name, seed, settings.seeds)) for name in results for seed in settings.seeds
    )
    return Outcome(rows, values | differences, _plots(settings, folder), sentences + notes)


def _train_arm(
    settings: Settings, name: str, arm: Arm, seed: int, splits: Splits, part: RunFolder, device: torch.device
) -> dict[str, Any]:
    """One arm from one seed: its numbers, from the folder where it is done already."""
    done = part.path / "arm.json"
    training = training_of(settings, name, arm)
    mark = fingerprint(
        {
            "data": settings.data.model_dump(),
            "training": training.model_dump(),
            **arm.model_dump(include={"method", "options", "target", "natural"}),
            "model": (arm.model or settings.model).model_dump(),
            "seed": seed,
        }
    )
    if settings.reuse and arm.found is None and not done.exists():
        take_over(part, mark)
    if done.exists():
        return json.loads(done.read_text())
    started = time.monotonic()
    network = build_network(arm.model or settings.model, splits, seed)
    sparsifier = rule = None
    if arm.method in methods.RULES:
        network, rule = methods.learn_by_rule(arm.method, network, splits.train, seed, arm.options)
    network.to(device)
    example = torch.zeros(2, *splits.train.input_shape, device=device)
    # The graph of channels knows networks that give logits; what a rule trains has none to remove.
    left = lambda kept: {} if rule is not None else _what_is_left(kept, example)
    objective = objective_of(training, arm)
    an_epoch = steps_per_epoch(len(splits.train), training.batch_size)
    steps = training.epochs * an_epoch * objective.replays
    if arm.method is not None and rule is None:
        found = None if arm.found is None else _found(settings, arm, seed, splits, part).to(device)
        sparsifier = methods.build(arm.method, network, example, dict(arm.options), steps=steps, found=found)
    if arm.target is not None:
        sparsifier = methods.steer(sparsifier, example, steps, arm.target.model_dump(exclude_none=True))
    augment = Augmentation(flip=settings.data.flip, crop=settings.data.crop)
    watching = _monitors(network, splits, training, seed, device) if settings.watch else []
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
        schedule=schedule_of(training, an_epoch),
        learning_rule=rule,
        sparsifier=sparsifier,
        objective=None if rule is not None else objective,
        augment=augment if settings.data.flip or settings.data.crop else None,
        seed=seed,
        precision=training.precision,
        folder=part,
        resume=True,
        observe=[left, *watching],
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
    result |= {key: 100 * share for key, share in left(kept).items()}
    result["seconds"] = history.seconds
    if summary is not None:
        log.info("%s, seed %d:\n%s", name, seed, summary)
    save_weights(kept, part.path / "model.safetensors")
    result["small_weights"] = 100 * weights.small_share(weights.read_weights(part.path / "model.safetensors"))
    if rule is None:
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
    folder = part.path.parent / part_name(arm.found, seed, settings.seeds)
    network.load_state_dict(load_weights(folder / "model.safetensors"))
    return network


def _check_rules(settings: Settings) -> None:
    """A rule that fills the gradients itself knows no attacked batches."""
    for name, arm in settings.arms.items():
        if arm.method in methods.RULES and not arm.natural and training_of(settings, name, arm).adversarial is not None:
            raise InputError(
                f"The arm '{name}' learns by a rule of its own, and the recipe trains on attacked samples.",
                "Set natural = true for it, or leave training.adversarial out.",
            )


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


def _monitors(
    network: nn.Module, splits: Splits, training: TrainingSettings, seed: int, device: torch.device
) -> list[Monitor]:
    """What is recorded of a watched arm, on one batch of training data."""
    order = torch.randperm(len(splits.train), generator=generator(seed, "smoothness"))
    x, y = next(iter(batches(splits.train, training.batch_size, order=order)))
    return monitors(network, x.to(device), y.to(device), lr=training.lr)


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


def part_name(name: str, seed: int, seeds: list[int]) -> str:
    """The folder of an arm from one seed inside its run."""
    return name if len(seeds) == 1 else f"{name}-seed{seed}"


def _table_row(
    name: str, arm: Arm, found: list[dict[str, Any]], published: list[dict[str, Any]], *, small: bool
) -> dict[str, Any]:
    """A line of the table; `small` asks for the share of small weights too."""
    row: dict[str, Any] = {"arm": name}
    titles = {
        "accuracy": "accuracy %",
        **TITLES,
        "loss": "loss",
        "sparsity": "sparsity %",
        "channel_sparsity": "channel sparsity %",
        "nonzero": "nonzero parameters",
        **({"small_weights": "weights below 1e-3 %"} if small else {}),
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
        name: [folder.part(part_name(name, seed, settings.seeds)).metrics() for seed in settings.seeds]
        for name in settings.arms
    }
    plots = folder.path / "plots"
    drawn = {"learning curves": figures.learning_curves(rows, plots / "learning.png")}
    sparse = {name: found for name, found in rows.items() if settings.arms[name].method in methods.METHODS}
    if sparse:
        drawn["zeros"] = figures.sparsity_curves(sparse, plots / "zeros.png")
    kept = {
        name: weights.read_weights(
            folder.part(part_name(name, settings.seeds[0], settings.seeds)).path / "model.safetensors"
        )
        for name in settings.arms
    }
    flat = {name: np.concatenate([one.ravel() for one in found.values()]) for name, found in kept.items()}
    drawn["weights"] = figures.weight_histograms(flat, plots / "weights.png")
    if settings.weights:
        drawn |= weights.draw(read(folder.path), plots, only=list(kept))
    return {name: path.relative_to(folder.path) for name, path in drawn.items()}
