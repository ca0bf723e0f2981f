"""The networks that a run has trained, to be compressed, attacked or used."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from gracile.core.errors import InputError, nearest, pick
from gracile.data import Splits, batches
from gracile.deploy import Candidate
from gracile.recipes import schema
from gracile.recipes.arms import Part
from gracile.recipes.kinds.train import Settings, load_trained
from gracile.recipes.methods import LEARNING_RULES
from gracile.recipes.runner import started_recipe


def trained(run: Path | str, arm: str | None = None, seed: int | None = None) -> Candidate:
    """A run's network, with the dense one trained beside it and their data.

    Args:
        run: the run's folder.
        arm: by default the first with a method.
        seed: by default the first.

    Returns:
        The network in evaluation mode with its zeros, the dense one trained beside it where there is one, two inputs as an example, and
        their data.

    Raises:
        InputError: no such run, arm or seed, or the arm is not trained yet.
    """
    path = Path(run)
    recipe = started_recipe(path, "Name a run's folder such as runs/digits-1, or FILE.py:FUNCTION.")
    if recipe.kind != "train":
        raise InputError(
            f"The run in {path} is of the kind '{recipe.kind}' and trains no network.", "Name a training run."
        )
    settings = schema.parse(Settings, recipe.settings, str(path / "recipe.toml"))
    arms = settings.trained()
    sparse = settings.sparse_arms()
    if arm is None:
        if not sparse:
            raise InputError(f"The run in {path} has no sparse arm.", "Name one of its arms with arm=.")
        arm = sparse[0]
    chosen = pick(arms, arm, "arm")
    if chosen.method in LEARNING_RULES:
        raise InputError(
            f"The arm '{arm}' learned by {chosen.method} and has no logits to export.", "Choose another with arm=."
        )
    if seed is None:
        seed = settings.seeds[0]
    if seed not in settings.seeds:
        raise InputError(f"The run in {path} has no seed {seed}.", nearest(str(seed), map(str, settings.seeds)))
    splits = settings.data.splits()
    twin = next(
        (name for name, one in arms.items()
         if name != arm and one.method is None and settings.model_of(name) == settings.model_of(arm)), None,
    )  # fmt: skip
    others = [other for other in sparse if other != arm]
    return Candidate(
        settings.folder_of(arm, seed),
        _network(path, settings, arm, seed, splits),
        next(batches(splits.train, 2))[0],
        dense=None if twin is None else _network(path, settings, twin, seed, splits),
        data=splits,
        note=f"the run has other sparse arms, chosen by arm: {', '.join(others)}" if others else "",
    )


def _network(run: Path, settings: Settings, arm: str, seed: int, splits: Splits) -> nn.Module:
    part = Part(arm, seed, run / settings.folder_of(arm, seed))
    if not (part.path / "model.safetensors").is_file():
        remedy = f"Finish it: gracile run --resume --out {run}"
        raise InputError(f"The arm '{part.path.name}' of {run} is not trained yet.", remedy)
    return load_trained(settings, part, splits)
