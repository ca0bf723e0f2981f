"""A folder of images: a folder per class, or ``train/``, ``test/`` and ``val/`` with a folder per class in each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from gracile.core.errors import DataError
from gracile.data import images
from gracile.data.parquet import SPLITS
from gracile.data.source import Opened, Part, Request, check_same_shape, chunk_rows

# Of what was passed over so many names are told.
MOST_NAMED = 5


def open_source(request: Request) -> Opened:
    """Open a folder of images; the classes are the names of its folders in alphabetical order.

    Links to folders are followed. A folder that holds nothing but one folder is entered.

    Raises:
        DataError: there are no class folders or only one, one holds no image, a split has a class that training has
            not, or it cannot be told whether a folder is a class or a split.
    """
    root = Path(request.name)
    name = root.resolve().name
    passed = _Passed()
    root, told = _entered(root)
    splits = _splits(root)
    classes: tuple[str, ...] = tuple(folder.name for folder in _class_folders(splits["train"], passed))
    if len(classes) < 2:
        raise DataError(
            f"{splits['train']} holds one class folder only, '{', '.join(classes)}': there is nothing to tell apart.",
            "Name the folder whose folders are the classes.",
        )
    found = {split: _images_by_class(folder, classes, passed) for split, folder in splits.items()}
    probes = {split: images.probe(_spread(files), request.image_size) for split, (files, _) in found.items()}
    channels = request.channels or max(layout.shape[0] for layout, _ in probes.values())
    parts = {}
    for split, (files, labels) in found.items():
        layout = images.with_channels(probes[split][0], channels, forced=request.channels is not None)
        part = Part(
            labels,
            layout.shape,
            np.uint8,
            partial(_read, files, layout),
            tuple(files),
            encoded=True,
            options=layout.describe(),
        )
        told.append(f"read {len(files)} images of {len(np.unique(labels))} classes as the {split} split")
        if request.skip_corrupt:
            part, dropped = images.without_corrupt(part, lambda files=files: [_encoded(files)], layout)
            told += dropped
        parts[split] = part
    check_same_shape(parts, name)
    note = next((note for _, note in probes.values() if note), "")
    return Opened(name, classes, parts, note, (*told, *passed.told()))


@dataclass
class _Passed:
    """What lies in the folder and was not read."""

    files: list[Path] = field(default_factory=list)

    def told(self) -> list[str]:
        """A sentence, if anything was passed over."""
        if not self.files:
            return []
        names = ", ".join(str(file) for file in self.files[:MOST_NAMED])
        more = f" and {len(self.files) - MOST_NAMED} more" if len(self.files) > MOST_NAMED else ""
        return [
            f"passed over {len(self.files)} file(s) that are no images or lie outside the class folders: {names}{more}"
        ]


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX")))


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in images.SUFFIXES


def _entered(root: Path) -> tuple[Path, list[str]]:
    """The folder below `root` from which on there is more than one entry, and a sentence if it is another."""
    folder = root
    while len(entries := _entries(folder)) == 1 and entries[0].is_dir() and _folders(entries[0]):
        folder = entries[0]
    return folder, [] if folder == root else [f"{root} holds nothing but {folder}, which is read in its place"]


def _splits(root: Path) -> dict[str, Path]:
    """Split to folder; the whole is training data unless all folders are named like splits and hold class folders."""
    inner = _folders(root)
    named = [folder for folder in inner if folder.name.lower() in SPLITS]
    holding = [folder for folder in named if _folders(folder)]
    if not holding:
        return {"train": root}
    others = [folder.name for folder in inner if folder not in holding]
    if others:
        raise DataError(
            f"{root} holds {', '.join(f'{folder.name}/' for folder in holding)} with folders inside, as a split has, beside "
            f"{', '.join(f'{other}/' for other in others)}: which of them are classes cannot be told.",
            "Put nothing but train/, test/ and val/ there, or the class folders alone.",
        )
    found: dict[str, Path] = {}
    for folder in holding:
        split = SPLITS[folder.name.lower()]
        if split in found:
            raise DataError(
                f"{root} holds both {found[split].name}/ and {folder.name}/, which name the same split.",
                "Move the images of one into the other.",
            )
        found[split] = folder
    if "train" not in found:
        raise DataError(
            f"{root} has no training split, only {', '.join(folder.name for folder in holding)}.",
            "Add train/ with a folder per class, or name the one folder to be split.",
        )
    return found


def _class_folders(folder: Path, passed: _Passed) -> list[Path]:
    found = _folders(folder)
    if not found:
        raise DataError(
            f"{folder} has no class folders: images are expected in a folder per class, as in {folder.name}/cat/1.png.",
            "Sort the images into one folder per class, or name a folder with parquet files.",
        )
    passed.files += [entry for entry in _entries(folder) if entry.is_file()]
    return found


def _images_by_class(folder: Path, classes: tuple[str, ...], passed: _Passed) -> tuple[list[Path], np.ndarray]:
    files: list[Path] = []
    labels: list[int] = []
    # Those of the training split were counted when its classes were found.
    for inner in _class_folders(folder, _Passed()):
        if inner.name not in classes:
            raise DataError(
                f"The class folder {inner} has no counterpart among the training classes {', '.join(classes)}.",
                "Give every class a folder in train/, or remove it.",
            )
        members = _files(inner)
        passed.files += [file for file in members if not _is_image(file)]
        members = [file for file in members if _is_image(file)]
        if not members:
            raise DataError(
                f"The class folder {inner} holds no images.",
                f"Fill or remove it; images end in {', '.join(sorted(images.SUFFIXES))}.",
            )
        files += members
        labels += [classes.index(inner.name)] * len(members)
    return files, np.array(labels, dtype=np.int64)


def _files(folder: Path) -> list[Path]:
    """All files below a folder, through links to folders too, each folder once."""
    found: list[Path] = []
    entered: set[str] = set()
    for place, inner, names in os.walk(folder, followlinks=True):
        # A link may lead back up.
        real = os.path.realpath(place)
        if real in entered:
            inner.clear()
            continue
        entered.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        found += [Path(place, name) for name in sorted(names) if not name.startswith(".")]
    return found


def _encoded(files: list[Path]) -> list[images.Encoded]:
    return [images.Encoded(file, str(file)) for file in files]


def _spread(files: list[Path]) -> list[images.Encoded]:
    step = max(1, len(files) // images.PROBED)
    return _encoded(files[::step])


def _read(files: list[Path], layout: images.Layout, rows: np.ndarray | None) -> Iterator[np.ndarray]:
    wanted = files if rows is None else [files[row] for row in rows]
    size = chunk_rows(layout.shape)
    return images.decode((_encoded(wanted[start : start + size]) for start in range(0, len(wanted), size)), layout)
