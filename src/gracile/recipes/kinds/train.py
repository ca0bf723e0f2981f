"""The kind of recipe that trains arms side by side: a dense baseline and its sparse twins, from the same seeds."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import timeit
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from gracile.channels.layer_sizes import shares_left, write_layers
from gracile.core.console import muted
from gracile.core.devices import device_named
from gracile.core.errors import InputError, nearest
from gracile.core.files import write_json
from gracile.core.learning_rule import LearningRule
from gracile.core.runs import RunFolder
from gracile.core.seeding import derive_seed, generator
from gracile.core.sparsifier import Sparsifier
from gracile.core.tensor_files import load_weights, save_weights
from gracile.data import Augmentation, Splits, batches
from gracile.dynamics import monitors
from gracile.recipes import arms, methods, tables
from gracile.recipes.comparisons import Comparison, check_comparisons, compared
from gracile.recipes.described import write_data
from gracile.recipes.kinds import Outcome
from gracile.recipes.robust import AttackSettings, robustness, titles, tried_on
from gracile.recipes.schema import Strict, changed
from gracile.recipes.settings import DataSettings, ModelSettings, build_network
from gracile.recipes.tables import Column, Results, Rows, published_row
from gracile.recipes.training import TrainingSettings
from gracile.report import read, weights
from gracile.training import CatastrophicOverfitting, Objective, Schedule, evaluate, fit, steps_per_epoch

log = logging.getLogger("gracile")

# What a run beside this one has to have of an arm for it to be taken over; the first says that its training is whole.
TRAINED = ("trained.json", "layers.json", "model.safetensors", "metrics.jsonl", "answers.json", "robust.json")
# Steps that a rehearsal takes of each arm.
TIMED = 4
# What of a recipe's training is an argument of `fit` under the same name.
GIVEN = {
    "epochs", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "nesterov", "precision", "checkpoint_seconds",
}  # fmt: skip


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
        begin: share of the run, at its start, without any pull.
        ramp: share of the run, after that, during which the budget shrinks.
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
    begin: float = 0.3
    ramp: float = 0.2
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
    """

    method: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    target: Target | None = None
    found: str | None = None
    start: str | None = None
    model: ModelSettings | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    natural: bool = False


class Settings(arms.ArmSettings[MethodArm]):
    """What a recipe of this kind holds.

    Attributes:
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
    compare: dict[str, Comparison] = Field(default_factory=dict)
    device: str = "auto"
    watch: bool = False
    attacks: AttackSettings | None = None
    reuse: bool = False
    weights: bool = False

    def comparisons(self) -> dict[str, Comparison]:
        """Those that speak of no arm this size leaves out."""
        left_out = set(self.leave_out)
        return {name: one for name, one in self.compare.items() if not left_out & {one.arm, *one.others}}

    def model_of(self, arm: str) -> ModelSettings:
        """The arm's network."""
        return self.arms[arm].model or self.model

    def training_of(self, arm: str) -> TrainingSettings:
        """The recipe's training with what the arm changes."""
        return changed(self.training, self.arms[arm].training, f"[settings.arms.{arm}.training]")

    def sparse_arms(self) -> list[str]:
        """The arms with a method of sparse training."""
        return [
            name
            for name, arm in self.trained().items()
            if arm.method is not None and arm.method not in methods.LEARNING_RULES
        ]

    def needs(self, arm: str) -> list[str]:
        return [one for one in (self.arms[arm].found, self.arms[arm].start) if one is not None]

    def check(self, published: Rows) -> None:
        super().check(published)
        check_comparisons(self.comparisons(), self.names())
        device_named(self.device)
        earlier: list[str] = []
        trained: list[str] = []
        for name, arm in self.trained().items():
            if arm.found is not None and arm.found not in earlier:
                raise InputError(
                    f"The arm '{name}' starts from '{arm.found}', which is no sparse arm above it.",
                    nearest(arm.found, earlier) if earlier else "Put a sparse arm above it.",
                )
            if arm.start is not None:
                fits = [one for one in trained if self.model_of(one) == self.model_of(name)]
                if arm.start not in fits:
                    raise InputError(
                        f"The arm '{name}' begins with the weights of '{arm.start}', which is no arm above it with the same network.",
                        nearest(arm.start, fits) if fits else "Put an arm with the same network above it.",
                    )
            if arm.method is not None:
                earlier.append(name)
            if arm.method not in methods.LEARNING_RULES:
                trained.append(name)
            settle = arm.target.settle if arm.target else arm.options.get("retrain")
            self.training_of(name).check_choice(name, settle, sparse=arm.method is not None)
            # A rule that fills the gradients itself knows no attacked batches.
            if (
                arm.method in methods.LEARNING_RULES
                and not arm.natural
                and self.training_of(name).adversarial is not None
            ):
                raise InputError(
                    f"The arm '{name}' learns by a rule of its own, and the recipe trains on attacked samples.",
                    "Set natural = true for it, or leave training.adversarial out.",
                )

    def rehearse(self, *, timed: bool = False) -> Rows:
        device = device_named(self.device)
        splits = self.data.splits(device)
        rows = []
        for name, arm in self.trained().items():
            seed, training = self.seeds[0], self.training_of(name)
            # A network of the same shape stands for the one that is found later.
            found = None if arm.found is None else build_network(self.model_of(arm.found), splits, seed).to(device)
            # What building warns of is said when the arm is trained.
            with muted(not timed):
                built = _build(self, name, seed, splits, device, found)
            parameters = sum(one.numel() for one in built.network.parameters())
            row = {
                "arm": name, "method": arm.method or "dense", "seeds": len(self.seeds), "parameters": parameters,
                "samples": len(splits.train), "epochs": training.epochs, "steps": built.steps,
            }  # fmt: skip
            if timed:
                each = _seconds_per_step(built, splits, training.batch_size, device)
                row["seconds"] = each * built.steps * len(self.seeds)
            rows.append(row)
        return rows


def train(settings: Settings, part: arms.Part) -> dict[str, Any]:
    """One arm from one seed, trained and attacked: its numbers."""
    device = device_named(settings.device)
    splits = settings.data.splits(device)
    write_data(part.path.parent, splits)
    result = _trained(settings, part, splits, device)
    part.notes.extend(result.pop("notes", []))
    if settings.attacks is not None:
        network = load_trained(settings, part, splits).to(device)
        found = robustness(network, splits.test, settings.attacks, part.folder)
        result |= found["accuracies"] | {"stands": found.get("stands", {})}
        part.notes.extend(f"{part.path.name}: {warning}" for warning in found["warnings"])
    return result


def load_trained(settings: Settings, part: arms.Part, splits: Splits) -> nn.Module:
    """A trained arm as it is kept, in evaluation mode."""
    network = build_network(settings.model_of(part.arm), splits, part.seed, empty=True)
    load_weights(network, part.path / "model.safetensors", "Restore a copy, or train the arm again.")
    return network.eval()


def _trained(settings: Settings, part: arms.Part, splits: Splits, device: torch.device) -> dict[str, Any]:
    """The numbers of the trained arm, from the folder where it is trained already, here or in a run beside this one."""
    done, arm = part.path / TRAINED[0], settings.arms[part.arm]
    training = settings.training_of(part.arm).model_dump(exclude={"checkpoint_seconds"})
    own = arm.model_dump(include={"method", "options", "target", "natural"})
    data, model = settings.data.model_dump(), settings.model_of(part.arm).model_dump()
    asked = {"data": data, "training": training, **own, "model": model, "seed": part.seed}
    if model["weights"]:
        asked["weights"] = _digest(model["weights"])
    if settings.reuse and not settings.needs(part.arm) and not done.exists():
        arms.take_over(part, asked, TRAINED)
    if not done.exists():
        with arms.heeded_warnings() as heard:
            result = _fitted(settings, part, splits, device)
        arms.leave_mark(part, asked)
        write_json(done, result | {"notes": [*result.get("notes", []), *heard]})
    return json.loads(done.read_text(encoding="utf-8"))


def _fitted(settings: Settings, part: arms.Part, splits: Splits, device: torch.device) -> dict[str, Any]:
    """Train the arm; its numbers."""
    started = time.monotonic()
    seed, arm, training = part.seed, settings.arms[part.arm], settings.training_of(part.arm)
    # What earlier arms left from the same seed: a sparse network, weights to begin with.
    found = None if arm.found is None else load_trained(settings, part.beside(settings, arm.found), splits).to(device)
    start = None if arm.start is None else load_trained(settings, part.beside(settings, arm.start), splits)
    with muted(seed != settings.seeds[0]):
        built = _build(settings, part.arm, seed, splits, device, found, start)
    if begun := arm.start or settings.model_of(part.arm).weights:
        _say_beginning(built.network, splits, part, begun)
    network, sparsifier, rule = built.network, built.sparsifier, built.rule
    example = torch.zeros(2, *splits.train.input_shape, device=device)
    # The graph of channels knows networks that give logits; what a rule trains has none to remove.
    left = lambda kept: {} if rule is not None else shares_left(kept, example)
    augment, watched = Augmentation(flip=settings.data.flip, crop=settings.data.crop), []
    if settings.watch:
        order = torch.randperm(len(splits.train), generator=generator(seed, "smoothness"))
        x, y = next(iter(batches(splits.train, training.batch_size, order=order)))
        watched = monitors(network, x.to(device), y.to(device), lr=training.lr)
    robust = training.robust_monitors(splits.validation)
    history = fit(
        network, splits, **training.model_dump(include=GIVEN), schedule=built.schedule, learning_rule=rule,
        sparsifier=sparsifier, objective=None if rule is not None else built.objective,
        augment=augment if settings.data.flip or settings.data.crop else None, seed=seed, folder=part.folder, resume=True,
        observe=[*watched, *robust.values(), left],
        progress=part.label if part.shown else None,
    )  # fmt: skip
    kept, file = network if sparsifier is None else sparsifier.sparse_model(), part.path / "model.safetensors"
    chosen = training.choose(kept, robust, history)
    save_weights(kept, file)
    if rule is None:
        write_layers(kept, example, part.path / "layers.json")
    result = _measured(kept, splits, part, device) | _sparsity(network, sparsifier, part)
    result |= chosen | {key: 100 * share for key, share in left(kept).items()}
    result |= {"seconds": history.seconds, "small_weights": 100 * weights.small_share(weights.read_weights(file))}
    result["notes"] = [
        f"{part.path.name}: {one.message}"
        for one in robust.values()
        if isinstance(one, CatastrophicOverfitting) and one.message
    ]
    log.info("%s: %.2f %% test accuracy (%.1f s)", part.label, result["accuracy"], time.monotonic() - started)
    return result


@dataclass(frozen=True, eq=False)
class Built:
    """What an arm's training begins with."""

    network: nn.Module
    rule: LearningRule | None
    sparsifier: Sparsifier | None
    objective: Objective
    schedule: Schedule | None
    steps: int


def _build(
    settings: Settings,
    name: str,
    seed: int,
    splits: Splits,
    device: torch.device,
    found: nn.Module | None,
    start: nn.Module | None = None,
) -> Built:
    """An arm from one seed, before its first step.

    Args:
        settings: of the recipe.
        name: of the arm.
        seed: of its weights.
        splits: its data.
        device: where it is trained.
        found: the network that the arm's `found` left.
        start: the network whose weights it begins with.
    """
    arm, training = settings.arms[name], settings.training_of(name)
    network = build_network(settings.model_of(name), splits, seed)
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


def _digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _say_beginning(network: nn.Module, splits: Splits, part: arms.Part, source: str) -> None:
    """How good the weights are that training begins with; a warning where they are worth nothing on these data."""
    watched = splits.validation if len(splits.validation) else splits.train
    found = evaluate(network, watched)
    log.info(
        "%s begins with %s: %.2f %% accuracy on %d samples", part.label, source, 100 * found.accuracy, len(watched)
    )
    if found.collapsed:
        log.warning(
            "%s begins with %s, which is worth nothing on these data (%s). Look whether its classes are numbered as in the data, and "
            "whether it takes images in [0, 1] (model.normalized).", part.label, source, found.collapsed,
        )  # fmt: skip


def _seconds_per_step(built: Built, splits: Splits, batch_size: int, device: torch.device) -> float:
    """Of a forward and a backward pass, the second best of a few: the first pays for what is set up once."""
    x, y = (one.to(device) for one in next(iter(batches(splits.train, batch_size))))
    built.network.train()
    learn = built.rule or (lambda x, y: built.objective.loss(built.network, x, y, 0.0, 0)[0].backward())
    return sorted(timeit.repeat(lambda: learn(x, y), number=1, repeat=TIMED))[1]


def _measured(kept: nn.Module, splits: Splits, part: arms.Part, device: torch.device) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Some networks draw noise in evaluation too.
        torch.manual_seed(derive_seed(part.seed, "test"))
        test = evaluate(kept, splits.test)
    write_json(part.path / "answers.json", test.to_json(splits.test.classes))
    right = tables.digits([] if test.right is None else test.right.tolist())
    return {"accuracy": 100 * test.accuracy, "loss": test.loss, "collapsed": test.collapsed, "right": right}


def _sparsity(network: nn.Module, sparsifier: Sparsifier | None, part: arms.Part) -> dict[str, Any]:
    if sparsifier is None:
        parameters = sum(tensor.numel() for tensor in network.parameters())
        return {"sparsity": 0.0, "channel_sparsity": None, "nonzero": parameters}
    summary = sparsifier.summary()
    log.info("%s:\n%s", part.label, summary)
    channels = summary.channel_sparsity
    return {
        "sparsity": 100 * summary.sparsity,
        "channel_sparsity": None if channels is None else 100 * channels,
        "nonzero": summary.nonzero,
    }


def outcome(settings: Settings, folder: RunFolder, results: Results, published: Rows) -> Outcome:
    """Set the table, compare, draw."""
    splits = settings.data.splits(device_named(settings.device))
    columns = [
        Column("accuracy", "accuracy %"), *(Column(key, title) for key, title in titles().items()), Column("loss", "loss", 4),
        Column("sparsity", "sparsity %"), Column("channel_sparsity", "channel sparsity %"),
        Column("nonzero", "nonzero parameters", 0),
        *([Column("small_weights", "weights below 1e-3 %")] if settings.weights else []),
        Column("macs_left", "MACs left %"), Column("seconds", "seconds", 1),
    ]  # fmt: skip
    answer = lambda arm: published_row(arm, settings.arms[arm].published, published)
    rows = tables.arm_rows(results, columns, last=answer)
    differences, notes = compared(settings.comparisons(), results)
    notes.append(splits.train.note)
    if settings.attacks is not None:
        notes.append(tried_on(settings.attacks, len(splits.test)))
    return Outcome(rows, tables.means(results) | differences, _plots(settings, folder), notes)


def _plots(settings: Settings, folder: RunFolder) -> dict[str, Path]:
    """The figures of `gracile weights` where they are asked for; the page itself draws the rest."""
    return weights.draw(read(folder.path), folder.path / "plots", only=settings.names()) if settings.weights else {}
