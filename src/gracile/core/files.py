"""Atomic writes, so that a kill or a full disk never leaves half a file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from gracile.core.errors import StorageError

CHECKPOINT = "checkpoint.safetensors"
# No space, over quota, beyond the largest file allowed.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary neighbour of `path`, flush it to disk, then rename it into place.

    Args:
        path: final place; its folder is made if needed.
        write: called with the temporary path.

    Raises:
        StorageError: the disk is full or the folder cannot be written; whatever stood at `path` is intact, and named.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        # Where the folder itself cannot be, there is nothing to take away either.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) or (isinstance(error, SafetensorError) and _number(error) is not None):
            raise storage_error(error, path) from error
        raise


def storage_error(error: OSError | SafetensorError, path: Path) -> StorageError:
    """Turn an operating-system error on `path` into one that says what stands and what to do."""
    number = _number(error)
    stands = _last_good(path)
    again = "then run again with --resume." if stands else "then run again."
    kept = f"; {stands}" if stands else ""
    if number in FULL:
        return StorageError(
            f"The disk that holds {path.parent} is full or its quota used up: {path.name} was not written{kept}.",
            f"Free some space, {again}",
        )
    why = os.strerror(number) if number is not None else str(error)
    return StorageError(
        f"{path} cannot be written: {why}{kept}.",
        f"Choose another folder with --out, or make this one writable, {again}",
    )


def _number(error: OSError | SafetensorError) -> int | None:
    """The number of an operating-system error; safetensors says it in its message only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _last_good(path: Path) -> str | None:
    """What a person can go on from: the file as it was, or the checkpoint beside it."""
    checkpoint = path.with_name(CHECKPOINT)
    if checkpoint.is_file():
        return f"the last good checkpoint is {checkpoint}"
    return f"the last good version of {path.name} stands" if path.is_file() else None


def check_writable(folder: Path) -> None:
    """See that files can be written in a folder, before work that ends with them; nothing is left of the trial.

    Args:
        folder: there or not.

    Raises:
        StorageError: it cannot be made, or not be written.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise StorageError(
            f"No files can be written in {folder}: {error.strerror}.",
            "Choose another folder with --out, or make this one writable.",
        ) from error
    finally:
        for one in missing:
            with contextlib.suppress(OSError):
                one.rmdir()


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically as UTF-8."""
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def kept_json(path: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file holds; made and written where it is not there yet."""
    if not path.exists():
        write_json(path, make())
    return json.loads(path.read_text(encoding="utf-8"))


def append_json_line(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON object as a line; NaN is refused, because no JSON reader must accept it."""
    try:
        with open(path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(row, allow_nan=False) + "\n")
    except OSError as error:
        raise storage_error(error, path) from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a `metrics.jsonl`; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines) - 1:
                break
            raise StorageError(f"Line {number + 1} of {path} is not JSON.", "Delete that line, or the run.") from error
    return rows
