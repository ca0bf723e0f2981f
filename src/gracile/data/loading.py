"""From a name, a path or data in memory to three splits of tensors."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch

from gracile.core.errors import DataError, InputError, pick
from gracile.data import cache, images, table
from gracile.data.dataset import Dataset, Splits
from gracile.data.mapped import MappedRows
from gracile.data.memory import open_memory
from gracile.data.source import Missing, Opened, Request
from gracile.data.stratify import draw

log = logging.getLogger("gracile")

# Taken from the training split of a source that has no test split.
HELD_OUT = 0.2


def load(
    name_or_path: str | Path,
    *,
    root: str | Path | None = None,
    validation: float | int = 0.1,
    seed: int = 0,
    device: torch.device | str = "cpu",
    train_limit: int | None = None,
    test_limit: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    label: str | None = None,
    channels: int | None = None,
    missing: Missing = "error",
    skip_corrupt: bool = False,
    max_bytes: int | None = None,
) -> Splits:
    """Load a data set as uint8 images or float32 features.

    Args:
        name_or_path: what a row of `gracile.data.table.SOURCES` recognises: a data set's name, a file, a folder, or
            ``owner/name`` on the hub.
        root: folder with a folder per data set; the variable GRACILE_DATA by default.
        validation: share (float) or number (int) of training samples set aside, each class in proportion; never from
            the test split. A source with a validation split of its own keeps that one.
        seed: which samples are drawn.
        device: where the tensors go.
        train_limit: keep that many training samples; a validation share shrinks in proportion.
        test_limit: keep that many test samples.
        image_size: side, or (height, width), that images are scaled and centre-cropped to.
        label: the label column of a table.
        channels: 1 or 3: what images become. By default 3 as soon as one of those looked at first is in colour.
        missing: what becomes of empty cells in a table of numbers: ``error``; ``mean`` fills them with the mean of
            their column over the training split; ``drop`` leaves their rows out.
        skip_corrupt: leave out images that cannot be read, and say which.
        max_bytes: data larger than this stay in a file and are streamed; half of the free memory by default.

    Returns:
        train, validation (possibly empty) and test. Without a test split in the source a fifth is held out; see `note`.
        `told` says what was read as what, and what was left out; the log of the library (logger ``gracile``) has it
        too.

    Raises:
        DataError: the data cannot be found, read or understood.
        InputError: neither a name nor a path, or an option out of its range.
    """
    if not isinstance(name_or_path, (str, Path)):
        raise InputError(
            f"Data are loaded by a name or a path, not by a {type(name_or_path).__name__}.",
            "Data that are in memory already become splits by gracile.data.splits((x, y)).",
        )
    _check_options(validation, image_size, train_limit=train_limit, test_limit=test_limit)
    if channels not in (None, 1, 3):
        raise InputError(f"channels is {channels}.", "Give 1 for gray, 3 for colour.")
    pick(dict.fromkeys(get_args(Missing)), missing, "way with missing cells")
    if max_bytes is not None and max_bytes < 0:
        raise InputError(f"max_bytes is {max_bytes}.", "Give a number of bytes; 0 streams everything.")
    folder = root if root is not None else os.environ.get("GRACILE_DATA") or None
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    place = Path(folder) if folder is not None else None
    opened = table.open_source(Request(str(name_or_path), place, label, size, channels, missing, skip_corrupt))
    return _read(_resized(opened, image_size), validation, seed, device, missing, train_limit, test_limit, max_bytes)


def splits(
    train: Any,
    test: Any = None,
    *,
    validation: Any = 0.1,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    image_size: int | tuple[int, int] | None = None,
    missing: Missing = "error",
    name: str = "data",
) -> Splits:
    """The splits of data that are in memory already, as everything here takes them.

    Each of `train`, `test` and, unless it is a number, `validation` is a pair ``(x, y)`` of arrays, tensors or frames; a
    ``torch.utils.data.Dataset`` of such pairs, such as torchvision's, or a DataLoader of one, whose samples are taken in
    order as their transform gives them; or a list of pairs. Inputs are images (n, h, w), (n, h, w, c) or (n, c, h, w),
    levels from 0 to 255 or numbers from 0 to 1, which become the nearest of 256 levels, or numbers (n, features). Labels are
    class numbers or names, (n,) or (n, 1), or one-hot.

    Args:
        train: what is trained on.
        test: what is read once, at the end; by default a fifth of `train` is held out, see `Dataset.note`.
        validation: data, or a share (float) or number (int) of training samples set aside, each class in proportion.
        classes: their names, in the order of their numbers; those that a data set of torchvision declares by default.
        seed: which samples are drawn.
        device: where the tensors go.
        image_size: side, or (height, width), that images are scaled and centre-cropped to.
        missing: see `load`.
        name: of the data, in messages and tables.

    Returns:
        train, validation (possibly empty) and test.

    Raises:
        InputError: it is nothing of the kind, or an option is out of its range.
        DataError: shapes, types or values do not fit.
    """
    given = {"train": train}
    if test is not None:
        given["test"] = test
    share: float | int = 0.0
    if isinstance(validation, (int, float)):
        share = validation
    else:
        given["validation"] = validation
    _check_options(share, image_size)
    pick(dict.fromkeys(get_args(Missing)), missing, "way with missing cells")
    opened = open_memory(name, given, classes, missing)
    # They fit into memory once, and are not to be sought by the files they never came from.
    return _read(_resized(opened, image_size), share, seed, device, missing, max_bytes=sys.maxsize)


def _resized(opened: Opened, image_size: int | tuple[int, int] | None) -> Opened:
    """Plain arrays of images brought to a size; encoded images are brought to it where they are decoded."""
    if image_size is None:
        return opened
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    parts = {split: part if part.encoded else images.resized(part, size) for split, part in opened.parts.items()}
    return replace(opened, parts=parts)


def _read(
    opened: Opened,
    validation: float | int,
    seed: int,
    device: torch.device | str,
    missing: Missing,
    train_limit: int | None = None,
    test_limit: int | None = None,
    max_bytes: int | None = None,
) -> Splits:
    """Choose the rows of each split, and read them."""
    chosen, notes = _choose(opened, validation, seed, train_limit, test_limit)
    note = "; ".join([note for note in (opened.note, *notes) if note])
    limit = free_bytes(torch.device(device)) // 2 if max_bytes is None else max_bytes
    needed = sum(opened.parts[part].nbytes(len(rows)) for part, rows in chosen.values())
    stream = needed > limit
    found: dict[str, Dataset] = {}
    for part_name, part in opened.parts.items():
        takers = {split: rows for split, (source, rows) in chosen.items() if source == part_name}
        wanted = np.unique(np.concatenate(list(takers.values())))
        whole = len(wanted) == len(part.labels) or cache.holds_all(part)
        stored, mapped = cache.samples(part, None if whole else wanted, name=opened.name, stream=stream)
        for split, rows in takers.items():
            places = torch.from_numpy(rows if whole else np.searchsorted(wanted, rows))
            if stream:
                inputs = cast(torch.Tensor, MappedRows(stored, places, device))
            elif len(places) == len(stored) and not mapped:
                inputs = stored.to(device)
            else:
                inputs = stored.index_select(0, places).to(device)
            labels = torch.from_numpy(part.labels[rows]).to(device)
            found[split] = Dataset(inputs, labels, opened.classes, opened.name, note)
    told = [*opened.told]
    if missing != "error":
        found, how = _without_missing(found, missing)
        told += how
    if "validation" not in found:
        found["validation"] = found["train"].subset([])
    for sentence in told:
        log.info("%s: %s", opened.name, sentence)
    return Splits(found["train"], found["validation"], found["test"], tuple(told))


def _without_missing(found: dict[str, Dataset], missing: Missing) -> tuple[dict[str, Dataset], list[str]]:
    """The splits with their empty cells (NaN) filled in or their rows dropped, and a sentence each on what was done.

    Raises:
        InputError: the data stay in a file.
        DataError: a column has no value at all, or no row is left.
    """
    if found["train"].is_image:
        return found, []
    if any(isinstance(data.inputs, MappedRows) for data in found.values()):
        raise InputError(
            f"{found['train'].name} is streamed from a file, and missing='{missing}' needs it in memory.",
            "Fill the cells in beforehand, or raise max_bytes.",
        )
    empty = {split: data.inputs.isnan() for split, data in found.items()}
    if missing == "drop":
        kept = {split: ~bad.any(dim=1) for split, bad in empty.items()}
        for split, rows in kept.items():
            if not bool(rows.any()):
                raise DataError(f"Every row of the {split} split has an empty cell.", 'Fill them in: missing="mean".')
        told = [
            f"dropped {count} rows with empty cells from the {split} split"
            for split, rows in kept.items()
            if (count := int((~rows).sum()))
        ]
        return {split: data.subset(kept[split]) for split, data in found.items()}, told
    means = found["train"].inputs.double().nanmean(dim=0).float()
    if bool(means.isnan().any()):
        raise DataError(
            f"Feature {int(means.isnan().int().argmax())} of {found['train'].name} is empty in every training row.",
            "Drop the column.",
        )
    filled = {
        split: replace(data, inputs=torch.where(empty[split], means, data.inputs)) for split, data in found.items()
    }
    told = [
        f"filled {count} empty cells of the {split} split with training means"
        for split, bad in empty.items()
        if (count := int(bad.sum()))
    ]
    return filled, told


def _check_options(validation: float | int, image_size: int | tuple[int, int] | None, **limits: int | None) -> None:
    if isinstance(validation, bool) or validation < 0 or (isinstance(validation, float) and validation >= 1):
        raise InputError(f"validation is {validation}.", "Give a share from 0 to below 1, or a number of samples.")
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise InputError(f"{name} is {limit}.", "Give a whole number from 1 on, or leave it out.")
    sides = (image_size,) if isinstance(image_size, int) else image_size or ()
    if any(side < 1 for side in sides):
        raise InputError(f"image_size is {image_size}.", "Give pixels, 1 or more.")


def _choose(
    opened: Opened, validation: float | int, seed: int, train_limit: int | None, test_limit: int | None
) -> tuple[dict[str, tuple[str, np.ndarray]], list[str]]:
    """Which rows of which part make each split, before any sample is read."""
    name, names, parts, notes = opened.name, opened.classes, opened.parts, []
    for split, part in parts.items():
        if not len(part.labels):
            raise DataError(f"The {split} split of {name} has no rows.", "Give it samples, or remove it.")
    labels = parts["train"].labels
    train = np.arange(len(labels))
    if "test" in parts:
        test, test_part = np.arange(len(parts["test"].labels)), "test"
    else:
        held = _share(HELD_OUT, labels)
        what = f"the test split of {name}"
        test, test_part = draw(labels, held, seed, "test", what=what, classes=names, rest=True), "train"
        train = np.setdiff1d(train, test, assume_unique=True)
        notes.append(f"no test split of its own: a stratified fifth ({held} samples, seed {seed}) is held out")
    absent = [names[number] for number in np.setdiff1d(np.arange(len(names)), labels)]
    if absent:
        notes.append(f"no training samples of {len(absent)} of {len(names)} classes, such as '{absent[0]}'")
    chosen: dict[str, tuple[str, np.ndarray]] = {}
    if "validation" in parts:
        chosen["validation"] = ("validation", np.arange(len(parts["validation"].labels)))
        notes.append("its own validation split")
    elif validation:
        what = f"the validation split of {name}"
        count = validation if isinstance(validation, int) else _share(validation, labels[train])
        held = train[draw(labels[train], count, seed, "validation", what=what, classes=names, rest=True)]
        train = np.setdiff1d(train, held, assume_unique=True)
        if train_limit is not None and train_limit < len(train) and isinstance(validation, float):
            count = max(round(count * train_limit / len(train)), len(np.unique(labels[held])))
            held = held[draw(labels[held], count, seed, "validation-limit", what=what, classes=names)]
        chosen["validation"] = ("train", held)
    if train_limit is not None:
        what = f"the train_limit of {name}"
        train = train[draw(labels[train], train_limit, seed, "train-limit", what=what, classes=names)]
    if test_limit is not None:
        found = parts[test_part].labels[test]
        test = test[draw(found, test_limit, seed, "test-limit", what=f"the test_limit of {name}", classes=names)]
    chosen |= {"train": ("train", train), "test": (test_part, test)}
    return chosen, notes


def _share(share: float, labels: np.ndarray) -> int:
    """A share of the rows as a number, never below one per class."""
    return max(round(share * len(labels)), len(np.unique(labels)))


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken on a device, as the system tells it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = 2**33
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        # A container's own limit is often far below what the machine has.
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return max(free, 0)
