"""A run's folder: what was asked, where it ran, how far it got, what came out."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from gracile.core.errors import InputError, StorageError
from gracile.core.files import append_json_line, check_writable, read_json_lines, write_json, write_text
from gracile.core.names import inside, safe_name

# Where runs go that are given no folder.
RUNS = Path("runs")
Status = Literal["running", "interrupted", "failed", "done"]


class RunFolder:
    """One run's folder.

    ``recipe.toml`` (resolved), ``environment.json``, ``status.json``, ``log.txt``, and per arm a folder with
    ``metrics.jsonl``, checkpoints and models; at the end ``result.json``, ``table.md`` and ``plots/``.

    Args:
        path: the folder; made if absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"The run folder {path} cannot be made: {error.strerror}.", "Choose another folder with --out."
            ) from error

    def part(self, name: str) -> RunFolder:
        """A sub-folder with the same shape, one an arm or seed.

        Raises:
            InputError: the name cannot be a folder's, or a link leads out of the run.
        """
        inside(self.path, self.path / safe_name(name, "arm"))
        return RunFolder(self.path / name)

    def record(self, row: dict[str, Any]) -> None:
        """Append one row to ``metrics.jsonl``."""
        append_json_line(self.path / "metrics.jsonl", row)

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of ``metrics.jsonl``."""
        return read_json_lines(self.path / "metrics.jsonl")

    def rewrite_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Replace ``metrics.jsonl``: after a resume, rows later than the checkpoint are written again by the run itself."""
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))

    def set_status(self, status: Status, **more: Any) -> None:
        """Write ``status.json``."""
        write_json(self.path / "status.json", {"status": status, "time": now(), **more})

    def status(self) -> str | None:
        """The last status, None for a fresh folder."""
        file = self.path / "status.json"
        return json.loads(file.read_text())["status"] if file.exists() else None

    @contextlib.contextmanager
    def logged(self) -> Iterator[None]:
        """Send the ``gracile`` logger to ``log.txt`` too."""
        handler = logging.FileHandler(self.path / "log.txt", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger = logging.getLogger("gracile")
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            handler.close()


def check_results(folder: Path) -> None:
    """See that results about a network can be written in a folder, before they are worked for.

    Raises:
        InputError: a run stands there, whose own table they would replace.
        StorageError: files cannot be written there.
    """
    if (folder / "recipe.toml").exists():
        raise InputError(f"{folder} is a run's own folder.", f"Name one inside it: --out {folder / 'results'}.")
    check_writable(folder)


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def part_name(arm: str, seed: int, seeds: Sequence[int]) -> str:
    """The folder of an arm from one seed inside its run: it holds the seed only where there are several.

    Raises:
        InputError: the arm's name cannot be a folder's.
    """
    return safe_name(arm, "arm") if len(seeds) == 1 else f"{safe_name(arm, 'arm')}-seed{seed}"


def new_folder(root: Path, name: str) -> Path:
    """A folder ``root/name-1``, ``root/name-2``, ... that does not exist yet."""
    safe_name(name, "recipe")
    number = 1
    while (root / f"{name}-{number}").exists():
        number += 1
    return root / f"{name}-{number}"


def latest_folder(root: Path, name: str) -> Path:
    """The newest run of `name` under `root` that can be continued: one that failed before it kept anything cannot.

    Raises:
        InputError: there is none.
    """
    numbers = [
        int(folder.name[len(name) + 1 :])
        for folder in root.glob(f"{name}-*")
        if folder.is_dir() and folder.name[len(name) + 1 :].isdigit() and _holds_work(folder)
    ]
    if not numbers:
        raise InputError(f"There is no run of '{name}' under {root} to resume.", "Run it without --resume first.")
    return root / f"{name}-{max(numbers)}"


def _holds_work(run: Path) -> bool:
    if not (run / "recipe.toml").is_file():
        return False
    if RunFolder(run).status() != "failed":
        return True
    return any(next(run.glob(f"*/{kept}"), None) for kept in ("checkpoint*", "arm.json", "metrics.jsonl"))
