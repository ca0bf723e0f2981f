"""The kind of recipe that trains arms side by side: a dense baseline and its sparse twins, from the same seeds."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from gracile.channels.layer_sizes import shares_left, write_layers
from gracile.core.console import muted, told
from gracile.core.devices import device_named
from gracile.core.errors import InputError, NonFiniteError, nearest
from gracile.core.files import write_json
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
from gracile.recipes.method_arms import MethodArm, build, seconds_per_step
from gracile.recipes.robust import AttackSettings, robustness, titles, tried_on
from gracile.recipes.schema import changed
from gracile.recipes.settings import DataSettings, ModelSettings, build_network
from gracile.recipes.tables import Column, Results, Rows, published_row
from gracile.recipes.training import TrainingSettings
from gracile.recipes.tries import beginning, best_try, check_tries, try_names, what_was_tried
from gracile.recipes.zero_channels import zero_channels
from gracile.report import read, weights
from gracile.splitting.dial import shares
from gracile.training import CatastrophicOverfitting, evaluate, fit

log = logging.getLogger("gracile")

# What a run beside this one has to have of an arm for it to be taken over; the first says that its training is whole.
TRAINED = ("trained.json", "layers.json", "model.safetensors", "metrics.jsonl", "answers.json", "robust.json")
# What of a recipe's training is an argument of `fit` under the same name.
GIVEN = {
    "epochs", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "nesterov", "precision", "compile", "lean_passes",
    "checkpoint_seconds",
}  # fmt: skip


class Settings(arms.ArmSettings[MethodArm]):
    """What a recipe of this kind holds.

    Attributes:
        device: ``auto`` takes a GPU if there is one.
        compare: numbers of two arms set against each other, by the names that criteria use.
        watch: record drift of conserved quantities, alignment and smoothness each epoch; see `gracile.dynamics`.
        attacks: what every arm is attacked with once it is trained.
        reuse: take over arms that a run beside this one has trained from the very same settings.
        weights: draw the figures of `gracile weights` too.
        tuning_seeds: what the arms' tries are trained from.
        layers: sets of layers by name, whose share of zero input channels is told, as ``ARM.zero_channels_SET``.
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
    tuning_seeds: list[int] = Field(default_factory=list)
    layers: dict[str, list[str]] = Field(default_factory=dict)

    def names(self) -> list[str]:
        begun = self.begun()
        return [
            one
            for arm, own in self.trained().items()
            for one in (*try_names(arm, own.tries), *([beginning(arm)] if arm in begun else []), arm)
        ]

    def begun(self) -> set[str]:
        """The arms with whose weights tries of other arms begin."""
        return {own.start for own in self.trained().values() if own.tries and own.start is not None}

    def seeds_of(self, arm: str) -> list[int]:
        # Settings of a try have what it begins with among their arms.
        return self.seeds if arm in self.arms and arm not in map(beginning, self.begun()) else self.tuning_seeds

    def tries(self) -> dict[str, Settings]:
        """The arms that are tries, and those that tries begin with, each with settings in which it is an arm like others."""
        found = {}
        for arm, own in self.trained().items():
            begun, settings = {}, self
            if own.tries and own.start is not None:
                first = beginning(own.start)
                begun, settings = {"start": first}, self.with_arm(first, self.arms[own.start])
                found[first] = settings
            for index, name in enumerate(try_names(arm, own.tries)):
                found[name] = settings.with_arm(name, self.tried(arm, index).model_copy(update=begun))
        return found

    def tried(self, arm: str, index: int) -> MethodArm:
        """An arm with one of its tries laid over it."""
        own = self.arms[arm]
        return changed(own, {**own.tries[index], "tries": []}, f"[settings.arms.{arm}], try {index + 1}")

    def with_arm(self, name: str, arm: MethodArm) -> Settings:
        """These settings with an arm more, or another in its place."""
        return self.model_copy(update={"arms": {**self.arms, name: arm}})

    def comparisons(self) -> dict[str, Comparison]:
        """Those that speak of arms this size trains; the best of several is the best of those that are left."""
        left_out = self.arms.keys() - self.trained().keys()
        return {name: left for name, one in self.compare.items() if (left := one.without(left_out)) is not None}

    def model_of(self, arm: str) -> ModelSettings:
        """The arm's network."""
        return self.arms[arm].model or self.model

    def training_of(self, arm: str) -> TrainingSettings:
        """The recipe's training with what the arm changes."""
        return changed(self.training, self.arms[arm].training, f"[settings.arms.{arm}.training]")

    def asked(self, name: str) -> tuple[MethodArm, ModelSettings, TrainingSettings]:
        """An arm, its network and its training, as `gracile.recipes.method_arms.build` takes them."""
        return self.arms[name], self.model_of(name), self.training_of(name)

    def sparse_arms(self) -> list[str]:
        """The arms with a method of sparse training."""
        return [
            name
            for name, arm in self.trained().items()
            if arm.method is not None and arm.method not in methods.LEARNING_RULES
        ]

    def needs(self, arm: str, seed: int) -> list[tuple[str, int]]:
        if arm not in self.arms:
            return [
                (beginning(own.start), seed)
                for name, own in self.trained().items()
                if own.start is not None and arm in try_names(name, own.tries)
            ]
        own = self.arms[arm]
        before = [(one, tuning) for one in try_names(arm, own.tries) for tuning in self.tuning_seeds]
        return before + [(one, seed) for one in (own.found, own.start) if one is not None]

    def check(self, published: Rows) -> None:
        if self.tuning_seeds and not any(arm.tries for arm in self.arms.values()):
            raise InputError(
                "The recipe has tuning_seeds, and no arm has tries.", "Give an arm tries, or leave them out."
            )
        arms.check_seeds(self.tuning_seeds, "--set tuning_seeds=[100,101]")
        for name, arm in self.trained().items():
            if arm.tries:
                self._check_tries(name, arm)
        super().check(published)
        check_comparisons(self.comparisons(), list(self.trained()))
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
            for settings in (self, *(self.with_arm(name, self.tried(name, index)) for index in range(len(arm.tries)))):
                settings.check_settle(name)
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

    def check_settle(self, name: str) -> None:
        """Refuse an arm whose dial, or choice of the checkpoint, does not fit into its run."""
        arm = self.arms[name]
        if arm.target is not None:
            shares(arm.method == "rvsm", arm.target.begin, arm.target.ramp, arm.target.settle)
        settle = arm.target.settle if arm.target else arm.options.get("retrain")
        self.training_of(name).check_choice(name, settle, sparse=arm.method is not None)

    def _check_tries(self, name: str, arm: MethodArm) -> None:
        check_tries(name, arm.tries, self.seeds, self.tuning_seeds, self.data.validation)
        first = self.arms.get(arm.start or "")
        if arm.found is not None or (first is not None and (first.tries or first.start or first.found)):
            raise InputError(
                f"The arm '{name}' starts from an arm that is chosen or started itself, and its tries are trained from seeds of their own.",
                "Leave its tries out, or give them to the arm it starts from.",
            )
        own = {*try_names(name, arm.tries), *map(beginning, self.begun())}
        for taken in own & set(self.arms):
            raise InputError(f"A try of the arm '{name}' would be called as the arm '{taken}'.", "Rename that arm.")

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
                built = build(*self.asked(name), seed, splits, device, found)
                for index in range(len(arm.tries)):
                    build(*self.with_arm(name, self.tried(name, index)).asked(name), seed, splits, device, found)
            parameters = sum(one.numel() for one in built.network.parameters())
            row = {
                "arm": name, "method": arm.method or "dense", "seeds": len(self.seeds), "parameters": parameters,
                "samples": len(splits.train), "epochs": training.epochs, "steps": built.steps,
            }  # fmt: skip
            times = len(self.seeds) + (len(arm.tries) + (name in self.begun())) * len(self.tuning_seeds)
            if arm.tries:
                row["tries"] = times - len(self.seeds)
            if timed:
                row["seconds"] = seconds_per_step(built, splits, training.batch_size, device) * built.steps * times
            rows.append(row)
        return rows


def train(settings: Settings, part: arms.Part) -> dict[str, Any]:
    """One arm from one seed, trained and attacked: its numbers."""
    device = device_named(settings.device)
    splits = settings.data.splits(device)
    write_data(part.path.parent, splits)
    if part.arm not in settings.arms:
        # Nothing of a try is judged on test samples.
        splits = replace(splits, test=splits.validation)
        try:
            return _trained(settings.tries()[part.arm], part, splits, device, judged_on="validation")
        except NonFiniteError as error:
            # A setting that diverges is what tries are there to find; what they begin with is not.
            if part.arm in map(beginning, settings.begun()):
                raise
            return {"accuracy": 0.0, "collapsed": "diverged", "notes": [f"{part.path.name}: {error.cause}"]}
    if own := settings.arms[part.arm].tries:
        names = try_names(part.arm, own)
        found = {
            name: [part.beside(settings, name, seed).numbers() for seed in settings.tuning_seeds] for name in names
        }
        settings = settings.with_arm(part.arm, settings.tried(part.arm, best_try(names, found)))
    result = _trained(settings, part, splits, device)
    part.notes.extend(result.pop("notes", []))
    if settings.layers:
        result |= zero_channels(part.path / "layers.json", settings.layers)
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


def _trained(
    settings: Settings, part: arms.Part, splits: Splits, device: torch.device, judged_on: str = "test"
) -> dict[str, Any]:
    """The numbers of the trained arm, from the folder where it is trained already, here or in a run beside this one."""
    done, arm = part.path / TRAINED[0], settings.arms[part.arm]
    training = settings.training_of(part.arm).model_dump(exclude={"checkpoint_seconds"})
    own = arm.model_dump(include={"method", "options", "target", "natural"})
    data, model = settings.data.model_dump(), settings.model_of(part.arm).model_dump()
    asked = {"data": data, "training": training, **own, "model": model, "seed": part.seed}
    if judged_on != "test":
        asked["judged_on"] = judged_on
    if model["weights"]:
        asked["weights"] = _digest(model["weights"])
    if settings.reuse and arm.found is None and arm.start is None and not done.exists():
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
        built = build(*settings.asked(part.arm), seed, splits, device, found, start)
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
    if training.precision == "auto":
        result["notes"].append(f"{part.path.name}: trained in {history.precision}")
    if training.compile == "auto" and history.compiled:
        # Measured, so that another run may differ in its last bits; why it is not compiled stands in the log.
        result["notes"].append(f"{part.path.name}: trained with compiled passes")
    told.info("%s: %.2f %% accuracy (%.1f s)", part.label, result["accuracy"], time.monotonic() - started)
    return result


def _digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _say_beginning(network: nn.Module, splits: Splits, part: arms.Part, source: str) -> None:
    """How good the weights are that training begins with; a warning where they are worth nothing on these data."""
    watched = splits.validation if len(splits.validation) else splits.train
    found = evaluate(network, watched)
    told.info(
        "%s begins with %s: %.2f %% accuracy on %d samples", part.label, source, 100 * found.accuracy, len(watched)
    )
    if found.collapsed:
        log.warning(
            "%s begins with %s, which is worth nothing on these data (%s). Look whether its classes are numbered as in the data, and "
            "whether it takes images in [0, 1] (model.normalized).", part.label, source, found.collapsed,
        )  # fmt: skip


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
    tried = [what_was_tried(arm, own.tries, results) for arm, own in settings.trained().items() if own.tries]
    results = {arm: results[arm] for arm in settings.trained()}
    columns = [
        Column("accuracy", "accuracy %"), *(Column(key, title) for key, title in titles().items()), Column("loss", "loss", 4),
        Column("sparsity", "sparsity %"), Column("channel_sparsity", "channel sparsity %"),
        Column("nonzero", "nonzero parameters", 0),
        *([Column("small_weights", "weights below 1e-3 %")] if settings.weights else []),
        *(Column(f"zero_channels_{name}", f"zero channels of the {name} layers %") for name in settings.layers),
        Column("macs_left", "MACs left %"), Column("seconds", "seconds", 1),
    ]  # fmt: skip
    answer = lambda arm: published_row(arm, settings.arms[arm].published, published)
    rows = tables.arm_rows(results, columns, last=answer)
    differences, notes = compared(settings.comparisons(), results)
    notes += [splits.train.note, *tried]
    if settings.attacks is not None:
        notes.append(tried_on(settings.attacks, len(splits.test)))
    return Outcome(rows, tables.means(results) | differences, _plots(settings, folder), notes)


def _plots(settings: Settings, folder: RunFolder) -> dict[str, Path]:
    """The figures of `gracile weights` where they are asked for; the page itself draws the rest."""
    return (
        weights.draw(read(folder.path), folder.path / "plots", only=list(settings.trained()))
        if settings.weights
        else {}
    )
