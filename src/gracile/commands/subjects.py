"""What `gracile compress` works on: the networks and data of a run, or of a user's own file."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gracile import data as datasets
from gracile.core.errors import InputError, StorageError, nearest, pick
from gracile.data import Splits, batches
from gracile.recipes import schema
from gracile.recipes.kinds.train import Settings
from gracile.recipes.methods import RULES
from gracile.recipes.settings import build_network


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to compress.

    Attributes:
        name: of the arm or function.
        sparse: with exact zeros.
        dense: its twin without, if there is one.
        example: (2, ...) inputs.
        splits: its data, if there are any.
        folder: where the files go by default.
        note: what a reader must know.
    """

    name: str
    sparse: nn.Module
    dense: nn.Module | None
    example: Tensor
    splits: Splits | None
    folder: Path
    note: str = ""


def from_run(path: Path, arm: str | None, seed: int | None) -> Subject:
    """The sparse network of a run, and the dense one trained beside it.

    Args:
        path: the run's folder.
        arm: by default the first with a method.
        seed: by default the first.

    Raises:
        InputError: no such run, arm or seed, or the arm is not trained yet.
    """
    file = path / "recipe.toml"
    if not file.is_file():
        raise InputError(f"{path} holds no run.", "Name a run's folder such as runs/digits-1, or FILE.py:FUNCTION.")
    recipe = schema.load(str(file))
    if recipe.kind != "train":
        raise InputError(
            f"The run in {path} is of the kind '{recipe.kind}' and trains no network.", "Name a training run."
        )
    settings = schema.parse(Settings, recipe.settings, str(file))
    arms = settings.trained()
    methods = [name for name, one in arms.items() if one.method is not None and one.method not in RULES]
    if arm is None:
        if not methods:
            raise InputError(f"The run in {path} has no sparse arm.", "Name one of its arms with --arm.")
        arm = methods[0]
    chosen = pick(arms, arm, "arm")
    if chosen.method in RULES:
        raise InputError(
            f"The arm '{arm}' learned by {chosen.method} and has no logits to export.", "Choose another with --arm."
        )
    if seed is None:
        seed = settings.seeds[0]
    if seed not in settings.seeds:
        raise InputError(f"The run in {path} has no seed {seed}.", nearest(str(seed), map(str, settings.seeds)))
    splits = settings.data.splits()
    model = chosen.model or settings.model
    sparse = _trained(path, arm, seed, settings, build_network(model, splits, seed))
    dense = None
    for name, one in arms.items():
        if name != arm and one.method is None and (one.model or settings.model) == model and dense is None:
            dense = _trained(path, name, seed, settings, build_network(model, splits, seed))
    name = settings.folder_of(arm, seed)
    others = [other for other in methods if other != arm]
    note = f"the run has other sparse arms, chosen with --arm: {', '.join(others)}" if others else ""
    return Subject(name, sparse, dense, _example(splits), splits, path / "compressed" / name, note)


def from_function(
    file: Path,
    function: str,
    weights: Path | None,
    *,
    data: str | None,
    shape: tuple[int, ...] | None,
    label: str | None = None,
    image_size: int | None = None,
) -> Subject:
    """A network that a user's function returns.

    Args:
        file, function: the Python file, and the name in it of what is called without arguments. It is executed.
        weights: a safetensors file laid over the network's own weights.
        data: as `gracile.data.load` takes it.
        shape: of one input, where there are no data.
        label, image_size: for the data.

    Raises:
        InputError: the file, function, weights or shape cannot be used.
    """
    if (data is None) == (shape is None):
        raise InputError(
            "The network's inputs are given twice." if data else "Nothing tells the network's inputs.",
            "Give either --data, or --shape such as 3,32,32.",
        )
    make = _function(file, function)
    sparse = _network(make, file, function)
    dense = None
    if weights is not None:
        dense = _network(make, file, function)
        _load(sparse, weights)
    if shape is not None:
        splits, example = None, torch.zeros(2, *shape)
    else:
        assert data is not None
        splits = datasets.load(data, label=label, image_size=image_size)
        example = _example(splits)
    note = (
        "the dense network has the weights its function gives it, so its accuracy means nothing"
        if dense and splits
        else ""
    )
    return Subject(function, sparse, dense, example, splits, Path("compressed") / function, note)


def _example(splits: Splits) -> Tensor:
    return next(batches(splits.train, 2))[0]


def _trained(path: Path, arm: str, seed: int, settings: Settings, network: nn.Module) -> nn.Module:
    name = settings.folder_of(arm, seed)
    file = path / name / "model.safetensors"
    if not file.is_file():
        raise InputError(
            f"The arm '{name}' of {path} is not trained yet.", f"Finish it: gracile run --resume --out {path}"
        )
    _load(network, file)
    return network


def _load(network: nn.Module, file: Path) -> None:
    """Lay a file's weights over a network's."""
    if not file.is_file():
        raise StorageError(f"There is no file {file}.", "Check the path.")
    try:
        state = load_file(file)
    except SafetensorError as error:
        raise StorageError(
            f"{file} is not a safetensors file: {error}.",
            "Save the state dict with safetensors.torch.save_file; pickles are not read.",
        ) from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"The weights in {file} do not fit the network: {lines[min(1, len(lines) - 1)]}",
            "Use the network they were saved from.",
        ) from error


def _function(file: Path, function: str) -> object:
    if not file.is_file():
        raise InputError(f"There is no file {file}.", "Check the path.")
    # What lies beside a file can be imported from it, as when Python runs it.
    sys.path.insert(0, str(file.parent.absolute()))
    spec = importlib.util.spec_from_file_location(f"_gracile_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        # Dataclasses and the like look their module up by name.
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{file} cannot be imported: {type(error).__name__}: {error}.", "Mend it.") from error
    made = getattr(module, function, None)
    if not callable(made):
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise InputError(f"{file} has no function '{function}'.", nearest(function, known) if known else "Define it.")
    return made


def _network(make: object, file: Path, function: str) -> nn.Module:
    assert callable(make)
    try:
        network = make()
    except Exception as error:
        raise InputError(
            f"{function}() of {file} failed: {type(error).__name__}: {error}.",
            "It is called without arguments and returns the network.",
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{function}() of {file} returned {type(network).__name__}.", "Return a torch.nn.Module.")
    return network.cpu()
