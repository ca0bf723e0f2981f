"""Tables that recipes of several kinds share, and what they say turned into data, a network, a device."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from gracile import data as datasets
from gracile.core.errors import InputError
from gracile.core.seeding import derive_seed
from gracile.core.tensor_files import SAVE, load_weights, read_tensors
from gracile.core.user_code import known_of, made
from gracile.data import Splits
from gracile.data.source import Missing
from gracile.models import build, normalized
from gracile.recipes.own import is_own
from gracile.recipes.schema import Strict

log = logging.getLogger("gracile")


@lru_cache(maxsize=2)
def loaded(name: str, **options: Any) -> Splits:
    """A data set by `gracile.data.load`, kept for the next part of the run; a run begins and ends with `loaded.cache_clear`."""
    splits = datasets.load(name, **options)
    log.info("data: %s", splits.train.note or splits.train.name)
    return splits


class Amounts(Strict):
    """How much of the data.

    Attributes:
        validation: share or count held out of the training split.
        train_limit: samples of a stratified subset; all by default.
        test_limit: the same of the test split.
    """

    validation: float | int = 0.1
    train_limit: int | None = None
    test_limit: int | None = None

    def load(self, name: str, seed: int, **options: Any) -> Splits:
        """These amounts of a data set.

        Args:
            name: as `gracile.data.load` takes it.
            seed: draws validation and subsets.
            options: the loader's others.
        """
        amounts = {key: getattr(self, key) for key in Amounts.model_fields}
        return loaded(name, seed=seed, **amounts, **options)


class DataSettings(Amounts):
    """Which data: a name, a path or a hub's ``owner/name``, and how much of it.

    Attributes:
        name: as `gracile.data.load` takes it.
        image_size: resize to this.
        label: the label's column, where it is not found by itself.
        channels: 1 or 3: what images become; as they are by default.
        missing: ``mean`` fills the empty cells of a table with the training mean, ``drop`` leaves their rows out.
        skip_corrupt: leave out images that cannot be read.
        flip: augmentation by random mirror images.
        crop: augmentation by random crops after padding by this many pixels.
        split_seed: draws validation and subsets; the same for all seeds of a run.
    """

    name: str
    image_size: int | None = None
    label: str | None = None
    channels: int | None = None
    missing: Missing = "error"
    skip_corrupt: bool = False
    flip: bool = False
    crop: int = Field(default=0, ge=0)
    split_seed: int = 0

    def splits(self, device: torch.device | str = "cpu") -> Splits:
        """The recipe's data."""
        return self.load(
            self.name, self.split_seed, device=device, image_size=self.image_size, label=self.label, channels=self.channels,
            missing=self.missing, skip_corrupt=self.skip_corrupt,
        )  # fmt: skip


class ModelSettings(Strict):
    """Which network.

    Attributes:
        name: a row of `gracile.models.MODELS`; ``FILE.py:NAME``, a function of the user's own; or ``auto``: resnet20 for
            colour images of 24 pixels and more, lenet from 12 on, cnn from 4 on, mlp for features and what is smaller.
        options: what its factory takes beyond what the data fix.
        weights: a safetensors file that it begins from, instead of weights drawn from the seed.
        normalized: put a layer in front that standardises inputs by the data's statistics; without it the network is given images in
            [0, 1], or features as they stand. By default yes, unless `weights` are of a network without it.
    """

    name: str = "auto"
    options: dict[str, Any] = Field(default_factory=dict)
    weights: str = ""
    normalized: bool | None = None

    def standardised(self) -> bool:
        """Whether the layer stands in front.

        Raises:
            StorageError: the weights are to tell, and cannot be read.
        """
        if self.normalized is None and self.weights:
            return any(name.startswith("normalize.") for name in read_tensors(Path(self.weights), SAVE)[1])
        return self.normalized is not False


def named_network(settings: ModelSettings, splits: Splits) -> tuple[str, dict[str, Any]]:
    """The name of the recipe's network, and what of the data its factory takes.

    Raises:
        InputError: a model that does not take the data.
    """
    shape, name = splits.train.input_shape, settings.name
    flat = len(shape) == 1
    if name == "auto":
        side = 0 if flat else min(shape[1:])
        colour = {24: "resnet20"} if shape[0] == 3 else {}
        name = next(one for least, one in {**colour, 12: "lenet", 4: "cnn", 0: "mlp"}.items() if side >= least)
    if flat and name != "mlp" and not is_own(name):
        raise InputError(
            f"The model '{name}' needs images, and the data are rows of {shape[0]} features.", "Use 'mlp'."
        )
    return name, known_of(shape, splits.train.num_classes)


def build_network(settings: ModelSettings, splits: Splits, seed: int, *, empty: bool = False) -> nn.Module:
    """The recipe's network, its inputs standardised by a first layer of its own, with the weights named or drawn from the seed.

    Args:
        settings: which.
        splits: the data it is for.
        seed: of its weights.
        empty: leave the weights of the file out: others are laid over it.

    Raises:
        StorageError: the weights cannot be read.
        InputError: no such model, or one that does not take the data or the options.
    """
    name, known = named_network(settings, splits)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        if is_own(name):
            log.info("running code of your own: the model %s", name)
            network = made(name, known, settings.options)
        else:
            network = build(name, **known, **settings.options)
    if settings.standardised():
        network = normalized(network, *splits.train.statistics())
    if settings.weights and not empty:
        load_weights(network, Path(settings.weights), SAVE)
    return network
