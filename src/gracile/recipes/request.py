"""A recipe with what a caller changes in it, run in a folder: what ``gracile run`` and ``gracile reproduce`` do."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gracile.core.console import told
from gracile.core.errors import InputError, StorageError
from gracile.core.runs import RUNS, latest_folder, new_folder
from gracile.recipes import runner, schema
from gracile.recipes.settings import ModelSettings

# What a target may speak of, with the methods that can be steered to it: single zeros save no multiply-adds.
TARGETS = {
    "macs": ("rgsm",), "params": ("rgsm",), "sparsity": ("rvsm", "rgsm"), "latency": ("rgsm",), "file_size": ("rgsm",),
}  # fmt: skip
# Kinds of recipe that several processes of torchrun can share.
TOGETHER = ("train", "workers")


def run(
    recipe: schema.Recipe | str | Path | None = None,
    *,
    folder: Path | str | None = None,
    resume: bool = False,
    only: Sequence[str] = (),
    jobs: int = 1,
    cluster: str | None = None,
    track: Sequence[str] = (),
    **changes: Any,
) -> runner.Finished:
    """Run a recipe in a folder of its own.

    Args:
        recipe: a shipped one's name, a TOML file, or a recipe; by default ``classify``, with `weights` ``fine-tune``, which need `data`.
        folder: the run's folder; ``runs/NAME-1``, ``-2``, ... by default.
        resume: continue the run in `folder`, or the newest of this recipe.
        only: train these arms, ``ARM`` or ``ARM:SEED``, a name or a pattern such as ``*_50``, and what they need; all by default.
        jobs: arms trained at once, each in a process of its own.
        cluster: address of a Dask scheduler whose workers train the arms, such as ``tcp://host:8786``.
        track: ``tensorboard``, ``mlflow``, ``wandb`` or ``FILE.py:NAME``, which the run is shown to while it is trained.
        changes: of the recipe, as `gracile.recipes.prepare` takes them: `size`, `data`, `label`, `image_size`, `channels`, `missing`,
            `skip_corrupt`, `model`, `weights`, `epochs`, `batch_size`, `lr`, `seeds`, `device`, `target` such as ``{"macs": 0.3}``,
            and `settings`, any others by dotted key, such as ``{"arms.rgsm.options.lam": 0.05}``.

    Returns:
        The finished run, with its table, values and verdicts.

    Raises:
        InputError: a recipe, key or option that cannot be used, a folder that holds other files, or no run to `resume`; no folder is
            made then.
        GracileError: whatever the run met; the folder stays resumable.
    """
    if resume and recipe is None and folder is not None:
        if changes:
            raise InputError("A run is resumed with the settings it was started with.", "Leave out the other options.")
        recipe = runner.started_recipe(Path(folder))
    if not isinstance(recipe, schema.Recipe):
        recipe = prepare(recipe, **changes)
    name = recipe.name if recipe.size == "full" else f"{recipe.name}-{recipe.size}"
    out = Path(folder) if folder else latest_folder(RUNS, name) if resume else new_folder(RUNS, name)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if only or jobs > 1 or cluster is not None:
            raise InputError("torchrun has made the processes already.", "Leave out --only, --jobs and --cluster.")
        return _run_together(recipe, out, resume, track)
    try:
        return runner.run(recipe, out, resume=resume, only=only, jobs=jobs, cluster=cluster, track=track)
    except (KeyboardInterrupt, StorageError):
        if (out / "recipe.toml").exists():
            told.warning("The run in %s can be continued: gracile run --resume --out %s", out, out)
        raise


def _run_together(recipe: schema.Recipe, out: Path, resume: bool, track: Sequence[str]) -> runner.Finished:
    """A run under torchrun: rank 0's folder is the run's, the others' are put away; all go through the same recipe."""
    from gracile.training.parallel import joined

    if recipe.kind not in TOGETHER:
        raise InputError(f"A recipe of kind '{recipe.kind}' runs in one process.", "Start it without torchrun.")
    with ExitStack() as stack:
        # A network of workers makes its own connections.
        ranks = stack.enter_context(joined()) if recipe.kind == "train" else None
        folder = out
        if int(os.environ["RANK"]):
            # The first tells for all.
            track = ()
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / out.name
            if resume and out.exists():
                shutil.copytree(out, folder)
        if ranks is not None:
            ranks.wait()
        return runner.run(recipe, folder, resume=resume, track=track)


def prepare(
    recipe: str | Path | None = None,
    *,
    size: str = "full",
    data: str | None = None,
    label: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    missing: str | None = None,
    skip_corrupt: bool | None = None,
    model: str | None = None,
    weights: str | Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seeds: Sequence[int] | None = None,
    device: str | None = None,
    target: Mapping[str, float] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> schema.Recipe:
    """A recipe with some of its settings changed.

    An arm that cannot take a change, or has a setting of its own there, is named in the log.

    Args:
        recipe: a shipped one's name, or a TOML file; ``classify`` by default, with `weights` ``fine-tune``.
        size: one of the recipe's sizes.
        data: a path, a data set's name, or ``owner/name`` on the hub.
        label: the label's column, where it is not found by itself.
        image_size: resize images to this many pixels.
        channels: 1 or 3: what images become.
        missing: what becomes of empty cells of a table: ``error``, ``mean`` or ``drop``.
        skip_corrupt: leave out images that cannot be read.
        model: a network's name, or ``FILE.py:NAME``, a function of your own.
        weights: a safetensors file that the network begins from.
        epochs: passes over the training data; a warm-up that would not fit keeps its share of them.
        batch_size: samples per step.
        lr: learning rate.
        seeds: each arm is trained once from each.
        device: ``cpu``, ``cuda`` or ``auto``.
        target: ``macs``, ``params``, ``latency`` or ``file_size``, the share that stays after physical removal, or ``sparsity``, the
            share of zeros; lam is steered to it in the arms that can take it.
        settings: any others, by dotted key, such as ``{"arms.rgsm.options.lam": 0.05}``, or as nested tables.

    Raises:
        InputError: there is nothing to run, no such recipe or size, or no arm that can take the target.
    """
    if recipe is None and data is None:
        raise InputError("There is nothing to run.", "Name a recipe, such as digits, or your data with --data.")
    found = schema.resized(schema.load(str(recipe or ("classify" if weights is None else "fine-tune"))), size)
    reading = {"label": label, "image_size": image_size, "channels": channels, "missing": missing}
    wanted = {
        "data": given({"name": data, **reading, "skip_corrupt": skip_corrupt}),
        "model": given({"name": model}) | ({} if weights is None else _begun(weights)),
        "training": given({"epochs": epochs, "batch_size": batch_size, "lr": lr}),
    }
    changes: dict[str, Any] = {table: values for table, values in wanted.items() if values}
    changes |= given({"seeds": None if seeds is None else list(seeds), "device": device})
    own = nested(settings or {})
    if "options" in found.settings.get("model", {}) and model is not None:
        # The options of another network mean nothing to this one.
        told.info("the options of the recipe's model are left out: %s", found.settings["model"]["options"])
        found = found.model_copy(update={"settings": copy.deepcopy(found.settings)})
        found.settings["model"].pop("options")
    asked = schema.merged(schema.merged(copy.deepcopy(found.settings), changes), own)
    arms = asked.get("arms", {})
    for key in (f"{table}.{key}" for table in ("model", "training") for key in wanted[table]):
        table, _, last = key.partition(".")
        if keeping := [name for name, arm in arms.items() if last in (arm.get(table) or {})]:
            told.info("%s: its own %s stays; arms.%s.%s changes it", _listed(keeping), key, keeping[0], key)
    if epochs is not None and "warmup" not in own.get("training", {}):
        _fit_warmup(asked["training"], found.settings.get("training", {}).get("epochs"))
    _aim(arms, given(target or {}))
    return found.model_copy(update={"settings": asked})


def _begun(weights: str | Path) -> dict[str, Any]:
    """What the model's table says of weights that it begins from, also to who opens the run when their file is gone."""
    return {"weights": str(weights), "normalized": ModelSettings(weights=str(weights)).standardised()}


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of a recipe from dotted keys: ``{"training.lr": 0.1}`` is ``{"training": {"lr": 0.1}}``."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        found = schema.merged(found, value)
    return found


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None: not asked for."""
    return {key: value for key, value in values.items() if value is not None}


def _fit_warmup(training: dict[str, Any], epochs: int | None) -> None:
    """Where the recipe's warm-up is as long as all the epochs asked for, take its share of them."""
    warmup, asked = training.get("warmup", 0), training["epochs"]
    if epochs and 0 < asked <= warmup:
        training["warmup"] = warmup * asked / epochs
        told.info("the warm-up of %g of %d epochs becomes %.3g of %d", warmup, epochs, training["warmup"], asked)


def _aim(arms: Mapping[str, dict[str, Any]], target: Mapping[str, float]) -> None:
    """Give each arm the budget that its method can be steered to, and say which arms go on without."""
    if not target:
        return
    every = {
        name: {budget: share for budget, share in target.items() if arm.get("method") in TARGETS[budget]}
        for name, arm in arms.items()
    }
    if any(set(fits) == {"sparsity"} for fits in every.values()) and len(target) > 1:
        # Zeros are for the arms that take nothing else; groups are removed for multiply-adds or parameters.
        every = {
            name: {budget: fits[budget] for budget in fits if len(fits) == 1 or budget != "sparsity"}
            for name, fits in every.items()
        }
    steered = {name: fits for name, fits in every.items() if fits}
    for name, fits in steered.items():
        ramp = {key: value for key, value in (arms[name].get("target") or {}).items() if key not in TARGETS}
        arms[name]["target"] = ramp | fits
    names = " and ".join(f"--target-{budget.replace('_', '-')}" for budget in target)
    if not steered:
        methods = " or ".join(dict.fromkeys(method for budget in target for method in TARGETS[budget]))
        raise InputError(
            f"No arm of the recipe can be steered to {names}.", f"It takes an arm of the method {methods}."
        )
    set_to = [
        f"{name} to {', '.join(f'{budget}={share:g}' for budget, share in fits.items())}"
        for name, fits in steered.items()
    ]
    kept = [name for name in arms if name not in steered]
    told.info("%s: %s%s", names, _listed(set_to), f"; {_listed(kept)} as the recipe has it" if kept else "")


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
