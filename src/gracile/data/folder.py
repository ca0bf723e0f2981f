"""A folder of images: a folder a class, or ``train/``, ``test/`` and ``val/`` with a folder a class in each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from gracile.core.errors import DataError
from gracile.data import images
from gracile.data.parquet import SPLITS
from gracile.data.source import Opened, Part, Request, check_same_shape, chunk_rows


def open_source(request: Request) -> Opened:
    """Open a folder of images; the classes are the names of its folders in alphabetical order.

    Raises:
        DataError: there are no class folders, one holds no image, or a split has a class that training has not.
    """
    root = Path(request.name)
    name = root.resolve().name
    inner = _folders(root)
    splits = {SPLITS[folder.name.lower()]: folder for folder in inner if folder.name.lower() in SPLITS}
    if "train" not in splits:
        splits = {"train": root}
    classes = tuple(folder.name for folder in _class_folders(splits["train"]))
    found = {split: _images_by_class(folder, classes) for split, folder in splits.items()}
    probes = {split: images.probe(_spread(files), request.image_size) for split, (files, _) in found.items()}
    channels = max(layout.shape[0] for layout, _ in probes.values())
    parts = {}
    for split, (files, labels) in found.items():
        layout = images.with_channels(probes[split][0], channels)
        parts[split] = Part(
            labels,
            layout.shape,
            np.uint8,
            partial(_read, files, layout),
            tuple(files),
            encoded=True,
            options=layout.describe(),
        )
    check_same_shape(parts, name)
    return Opened(name, classes, parts, next((note for _, note in probes.values() if note), ""))


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _class_folders(folder: Path) -> list[Path]:
    found = _folders(folder)
    if not found:
        raise DataError(
            f"{folder} has no class folders: images are expected in a folder a class, as in {folder.name}/cat/1.png.",
            "Sort the images into one folder a class, or name a folder with parquet files.",
        )
    return found


def _images_by_class(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    files: list[Path] = []
    labels: list[int] = []
    for inner in _class_folders(folder):
        if inner.name not in classes:
            raise DataError(
                f"The class folder {inner} has no counterpart among the training classes {', '.join(classes)}.",
                "Give every class a folder in train/, or remove it.",
            )
        members = sorted(
            file
            for file in inner.rglob("*")
            if file.suffix.lower() in images.SUFFIXES and not file.name.startswith(".")
        )
        if not members:
            raise DataError(
                f"The class folder {inner} holds no images.",
                f"Fill or remove it; images end in {', '.join(sorted(images.SUFFIXES))}.",
            )
        files += members
        labels += [classes.index(inner.name)] * len(members)
    return files, np.array(labels, dtype=np.int64)


def _encoded(files: list[Path]) -> list[images.Encoded]:
    return [images.Encoded(file, str(file)) for file in files]


def _spread(files: list[Path]) -> list[images.Encoded]:
    step = max(1, len(files) // images.PROBED)
    return _encoded(files[::step])


def _read(files: list[Path], layout: images.Layout, rows: np.ndarray | None) -> Iterator[np.ndarray]:
    wanted = files if rows is None else [files[row] for row in rows]
    size = chunk_rows(layout.shape)
    return images.decode((_encoded(wanted[start : start + size]) for start in range(0, len(wanted), size)), layout)
