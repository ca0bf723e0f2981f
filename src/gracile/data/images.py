"""Encoded images -> uint8 arrays, in parallel threads."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gracile.core.errors import DataError, InputError
from gracile.data.source import Part

SUFFIXES = {
    ".bmp",
    ".gif",
    ".jfif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
}
GRAY = {"1", "L", "LA"}
# Of many errors so many are told.
MOST_NAMED = 10
# How many images are looked at to tell gray from colour, spread over the source.
PROBED = 64


@dataclass(frozen=True)
class Encoded:
    """An image as it stands in its source: its bytes, or the file that holds them.

    Attributes:
        content: bytes, a path, or None where the source has none.
        where: how messages name it.
    """

    content: bytes | Path | None
    where: str


@dataclass(frozen=True)
class Layout:
    """What every image of a source becomes.

    Attributes:
        shape: (c, h, w), c 1 or 3.
        resize: whether images of other sizes are brought to (h, w); else they are an error.
        forced: whether the channels were asked for, so that colour may become gray.
    """

    shape: tuple[int, int, int]
    resize: bool
    forced: bool = False

    def describe(self) -> str:
        """What beside the shape changes the decoded pixels."""
        return f"{'scaled' if self.resize else 'as they are'}, upright, over white"


def probe(images: Sequence[Encoded], image_size: tuple[int, int] | None) -> tuple[Layout, str]:
    """Look at some images of a source.

    Args:
        images: at least one; colour if any of them is. Gray with transparency stays gray.
        image_size: (height, width) asked for, or None to take that of the first.

    Returns:
        the layout, and a note on compression, possibly empty.

    Raises:
        DataError: none of them can be read, or one has more than 8 bits per channel.
    """
    opened: list[Image.Image] = []
    errors: list[UnreadableError] = []
    for image in images:
        try:
            opened.append(_opened(image))
        except UnreadableError as error:
            errors.append(error)
    if not opened:
        raise errors[0]
    channels = 1 if all(picture.mode in GRAY for picture in opened) else 3
    width, height = _upright_size(opened[0])
    size = image_size if image_size is not None else (height, width)
    lossy = sum(picture.format == "JPEG" for picture in opened)
    note = "" if not lossy else f"{'images' if lossy == len(opened) else 'some images'} are JPEG-compressed"
    return Layout((channels, size[0], size[1]), image_size is not None), note


def _upright_size(picture: Image.Image) -> tuple[int, int]:
    """(width, height) once the camera's orientation is applied: 5 to 8 lie on their side."""
    width, height = picture.size
    try:
        sideways = picture.getexif().get(0x0112, 1) >= 5
    except Exception:
        sideways = False
    return (height, width) if sideways else (width, height)


def with_channels(layout: Layout, channels: int, *, forced: bool) -> Layout:
    """The same layout with 1 or 3 channels."""
    return Layout((channels, layout.shape[1], layout.shape[2]), layout.resize, forced)


def without_corrupt(
    part: Part, read: Callable[[], Iterable[Sequence[Encoded]]], layout: Layout
) -> tuple[Part, list[str]]:
    """A part without the images that cannot be read.

    Args:
        part: whose rows the images are, in order.
        read: chunks of all its images.
        layout: what each is to become.

    Returns:
        the part, and what was left out, a sentence if anything.
    """
    bad, row = [], 0
    for chunk in read():
        for image in chunk:
            try:
                decode_one(image, layout)
            except UnreadableError as error:
                bad.append((row, error))
            except DataError:
                pass  # told with all others when it is read
            row += 1
    if not bad:
        return part, []
    kept = np.setdiff1d(np.arange(row), [place for place, _ in bad])

    def chosen(rows: np.ndarray | None) -> Iterator[np.ndarray]:
        return part.read(kept if rows is None else kept[rows])

    told = f"left out {len(bad)} image(s) that cannot be read: {_first(error for _, error in bad)}"
    options = f"{part.options}; without {[place for place, _ in bad]}"
    return replace(part, labels=part.labels[kept], read=chosen, options=options), [told]


def _first(errors: Iterable[DataError]) -> str:
    causes = [error.cause.rstrip(".") for error in errors]
    return "; ".join(causes[:MOST_NAMED]) + (
        f"; and {len(causes) - MOST_NAMED} more" if len(causes) > MOST_NAMED else ""
    )


def decode(images: Iterable[Sequence[Encoded]], layout: Layout) -> Iterator[np.ndarray]:
    """Decode chunks of images.

    Args:
        images: chunks of encoded images.
        layout: what each becomes.

    Yields:
        per chunk uint8 (k, c, h, w).

    Raises:
        DataError: an image cannot be read or has another size; all such images are named at once, at the end.
    """
    # Pillow lets other threads run while it decompresses.
    workers = min(8, os.cpu_count() or 1)
    errors: list[DataError] = []
    with ThreadPoolExecutor(workers, thread_name_prefix="gracile-images") as pool:
        for chunk in images:
            out = np.empty((len(chunk), *layout.shape), dtype=np.uint8)
            step = max(1, -(-len(chunk) // (4 * workers)))
            starts = range(0, len(chunk), step)
            for found in pool.map(partial(_fill, out, chunk, layout, step), starts):
                errors += found
            yield out
    if len(errors) == 1:
        raise errors[0]
    if errors:
        corrupt = all(isinstance(error, UnreadableError) for error in errors)
        remedy = (
            errors[0].remedy if not corrupt else "Replace or delete them, or leave them out with skip_corrupt=True."
        )
        raise DataError(f"{len(errors)} images cannot be used: {_first(errors)}.", remedy)


def _fill(out: np.ndarray, chunk: Sequence[Encoded], layout: Layout, step: int, start: int) -> list[DataError]:
    errors = []
    for index, image in enumerate(chunk[start : start + step], start):
        try:
            out[index] = decode_one(image, layout)
        except DataError as error:
            errors.append(error)
    return errors


def decode_one(image: Encoded, layout: Layout) -> np.ndarray:
    """Decode one image to uint8 (c, h, w)."""
    picture = _opened(image)
    try:
        # As the camera was held, which viewers show; the pixels may lie on their side.
        picture = ImageOps.exif_transpose(picture)
    except Exception as error:
        raise _unreadable(image, error) from error
    channels, height, width = layout.shape
    if not layout.resize and picture.size != (width, height):
        raise DataError(
            f"{image.where} is {picture.size[0]}x{picture.size[1]} pixels while the first image is {width}x{height}.",
            f"Pass image_size={min(height, width)} (or any other) to bring all to one size.",
        )
    try:
        if channels == 1 and picture.mode not in GRAY and not layout.forced:
            raise DataError(
                f"{image.where} is in colour while the first images are gray.",
                "Say what all are to become: channels=3, or channels=1.",
            )
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            # What shows through is white, as on a page; the colours below full transparency mean nothing.
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        mode = "L" if channels == 1 else "RGB"
        picture = picture if picture.mode == mode else picture.convert(mode)
        if layout.resize:
            picture = _fitted(picture, (width, height))
        pixels = np.frombuffer(picture.tobytes(), np.uint8).reshape(height, width, channels)
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(image, error) from error
    return pixels.transpose(2, 0, 1)


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled to cover (width, height) and cropped about the centre, so that nothing is stretched."""
    return picture if picture.size == size else ImageOps.fit(picture, size, Image.Resampling.BILINEAR)


def resized(part: Part, image_size: tuple[int, int]) -> Part:
    """A part of plain arrays whose images are brought to (height, width) as they are read.

    Raises:
        InputError: the samples are features, not images.
    """
    if len(part.shape) != 3:
        raise InputError(
            f"image_size is given, and the samples are rows of {part.shape[0]} features.",
            "Leave it out; where a recipe gives it, run the data without one: gracile run --data PATH.",
        )
    if part.shape[1:] == image_size:
        return part
    height, width = image_size

    def read(rows: np.ndarray | None) -> Iterator[np.ndarray]:
        for chunk in part.read(rows):
            out = np.empty((len(chunk), part.shape[0], height, width), np.uint8)
            for place, image in enumerate(chunk):
                for channel, plane in enumerate(image):
                    out[place, channel] = np.asarray(_fitted(Image.fromarray(plane), (width, height)))
            yield out

    return replace(
        part, shape=(part.shape[0], height, width), read=read, options=f"{part.options}size={height}x{width}"
    )


def _opened(image: Encoded) -> Image.Image:
    if image.content is None:
        raise UnreadableError(f"{image.where} holds no image.", "Drop the row, or fill the image in.")
    try:
        # Read whole: a lazily opened file would stay open until its image is collected.
        content = image.content.read_bytes() if isinstance(image.content, Path) else image.content
        picture = Image.open(io.BytesIO(content))
    except Exception as error:
        raise _unreadable(image, error) from error
    if picture.mode.startswith("I") or picture.mode == "F":
        raise DataError(
            f"{image.where} has more than 8 bits per channel (mode {picture.mode}).", "Convert it to 8 bits."
        )
    return picture


class UnreadableError(DataError):
    """An image that is none, or is cut short or damaged."""


def _unreadable(image: Encoded, error: Exception) -> DataError:
    # Pillow raises OSError, SyntaxError, ValueError, struct.error and more, depending on where the bytes go wrong.
    reason = str(error).split("\n")[0] or type(error).__name__
    # Pillow names the address of the buffer, which tells nobody anything.
    reason = "not an image, or cut short" if "BytesIO" in reason else reason.rstrip(".")
    return UnreadableError(
        f"{image.where} cannot be read: {reason}.", "Replace or delete it, or pass skip_corrupt=True."
    )
