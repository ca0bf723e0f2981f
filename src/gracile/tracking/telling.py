"""Reads what a run writes, while it writes it, and tells the trackers.

Nothing that trains knows of this: ``metrics.jsonl`` is followed by a thread, whoever appends to it, in this process or another.
``tracking.json`` beside it keeps how many records each tracker has been told, so that a resumed run tells each record once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gracile.core.errors import InputError, MissingDependencyError, pick
from gracile.core.files import write_json
from gracile.core.user_code import is_reference, load_name
from gracile.tracking.base import Tracked, Tracker, numbers_of
from gracile.tracking.table import TRACKERS

log = logging.getLogger("gracile")

# Seconds between looks; what is kept beside the records.
POLL, KEPT = 1.0, "tracking.json"
STEPS = ("step", "round", "epoch")
SHOWN = ("report.html", "table.md", "result.json", "recipe.toml", "environment.json", "arm.json", "layers.json")


def check(names: Sequence[str]) -> dict[str, type[Tracker]]:
    """The trackers of these names, before anything is trained.

    Args:
        names: rows of `TRACKERS`, or ``FILE.py:NAME``, a subclass of `Tracker`.

    Raises:
        InputError: no such tracker.
        MissingDependencyError: its client is not installed.
    """
    found: dict[str, type[Tracker]] = {}
    for name in names:
        one: Any = load_name(name) if is_reference(name) else pick(TRACKERS, name, "tracker")
        if not (isinstance(one, type) and issubclass(one, Tracker)):
            raise InputError(f"{name} is no tracker.", "Name a subclass of gracile.tracking.Tracker.")
        if importlib.util.find_spec(one.package) is None:
            wanted = f"'gracile[{one.extra}]'" if one.extra else one.package
            raise MissingDependencyError(
                f"Tracking with {name} needs {one.package}, which is not installed.",
                f"Install it: pip install {wanted}",
            )
        found[name] = one
    return found


@contextlib.contextmanager
def following(names: Sequence[str], run: Tracked) -> Iterator[None]:
    """Tell trackers of a run's records while the block works on it, and of its result if the block ends well.

    Args:
        names: as `check` takes them; none of them makes this do nothing.
        run: its folder may be empty as yet.

    Raises:
        InputError, MissingDependencyError: see `check`.
    """
    told = [_Telling(name, kind(), run) for name, kind in check(names).items() if not _finished(run, name)]
    if not told:
        yield
        return
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(POLL):
            for one in told:
                one.records()

    thread = threading.Thread(target=look, daemon=True, name=f"tracking {run.name}")
    thread.start()
    done = False
    try:
        yield
        done = True
    finally:
        stop.set()
        thread.join()
        for one in told:
            one.end(done=done)


def send(names: Sequence[str], run: Tracked) -> None:
    """Tell trackers of a finished run what they have not been told yet.

    Args:
        names: as `check` takes them.
        run: all of it lies in its folder.

    Raises:
        InputError, MissingDependencyError: see `check`.
    """
    with following(names, run):
        pass


def _kept(run: Tracked) -> dict[str, dict[str, Any]]:
    file = run.folder / KEPT
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _finished(run: Tracked, name: str) -> bool:
    return _kept(run).get(name, {}).get("done", False)


class _Telling:
    """One tracker, told of one run. What it raises ends the telling with a warning: the run goes on."""

    def __init__(self, name: str, tracker: Tracker, run: Tracked) -> None:
        self.name, self.tracker, self.run = name, tracker, run
        kept = _kept(run).get(name, {})
        self.id: str | None = kept.get("id")
        # Records told, in earlier sittings too; lines read of the file as it stands, and its bytes.
        self.told: int = kept.get("records", 0)
        self.line = self.offset = self.inode = 0
        self.broken = False
        self._guarded(self._begin)

    def records(self) -> None:
        """Tell what has been recorded since the last look."""
        self._guarded(self._records)

    def end(self, *, done: bool) -> None:
        """Tell what is left, the result where there is one, and that it is over."""
        self._guarded(self._records)
        self._guarded(lambda: self._end(done))

    def _begin(self) -> None:
        self.id = self.tracker.begin(self.run, self.id)
        self._keep()

    def _records(self) -> None:
        before = self.told
        for row in self._new_rows():
            step = next((row[key] for key in STEPS if isinstance(row.get(key), int)), self.line)
            if numbers := numbers_of({key: value for key, value in row.items() if key != "step"}):
                self.tracker.log(numbers, step)
            self.told = self.line
        if self.told > before:
            self._keep()

    def _end(self, done: bool) -> None:
        if done:
            files = [file for name in SHOWN if (file := self.run.folder / name).is_file()]
            self.tracker.result(_result(self.run.folder), files)
        self.tracker.end(done=done)
        self._keep(done=done)

    def _new_rows(self) -> Iterator[Mapping[str, Any]]:
        file = self.run.folder / "metrics.jsonl"
        if not file.is_file():
            return
        with open(file, "rb") as handle:
            now = os.fstat(handle.fileno())
            if now.st_ino != self.inode or now.st_size < self.offset:
                # Written anew, as on resume: the records told already are read again and passed over.
                self.line, self.offset, self.inode = 0, 0, now.st_ino
            handle.seek(self.offset)
            for line in handle:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                self.line += 1
                if self.line > self.told:
                    yield json.loads(line)

    def _keep(self, *, done: bool = False) -> None:
        mine = {"id": self.id, "records": self.told, "done": done}
        write_json(self.run.folder / KEPT, _kept(self.run) | {self.name: mine})

    def _guarded(self, work: Callable[[], None]) -> None:
        if self.broken:
            return
        try:
            work()
        except Exception as error:
            self.broken = True
            log.warning(
                "Tracking %s with %s ended: %s: %s. Its records are kept, and sent by: gracile run --resume --out %s --track %s",
                self.run.name, self.name, type(error).__name__, error, self.run.whole, self.name,
            )  # fmt: skip


def _result(folder: Path) -> dict[str, float]:
    """The final numbers: of a part, or of a whole run."""
    for name in ("arm.json", "result.json"):
        if (folder / name).is_file():
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            return numbers_of(found.get("values", found))
    return {}
