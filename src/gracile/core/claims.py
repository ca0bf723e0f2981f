"""Claims: which of several processes, on one machine or many, works in a folder that they share.

A claim is a file ``claim-1`` made exclusively in the folder, touched every few seconds while its process lives. A claim
is dead once its process is gone from this machine, or its file has not been touched for long. Who takes over from
``claim-k`` makes ``claim-(k+1)``, exclusively again, so that of any number of others only one succeeds.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import tempfile
import threading
from pathlib import Path
from types import TracebackType

from gracile.core.files import storage_error

# Seconds between touches, and after which a claim nobody touched is dead: network file systems may show times a minute old.
BEAT, DEAD = 10.0, 180.0


class Claim:
    """A folder held by this process, until `release` or the end of its ``with`` block; made by `take`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._released = threading.Event()
        threading.Thread(target=self._beat, daemon=True, name=f"claim of {file.parent.name}").start()

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            # A file system that is away for a moment must not end the work; the claim only grows older.
            with contextlib.suppress(OSError):
                os.utime(self.file)

    def release(self) -> None:
        """Give the folder free, and clear away the dead claims before this one."""
        self._released.set()
        for number in range(_number(self.file), 0, -1):
            self.file.with_name(f"claim-{number}").unlink(missing_ok=True)

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def take(folder: Path) -> Claim | None:
    """Claim a folder for this process.

    Args:
        folder: made if absent; on a file system that all processes see.

    Returns:
        The claim; None while another living process holds the folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        latest = max(folder.glob("claim-*"), key=_number, default=None)
        if latest is not None and _alive(latest):
            return None
        mine = folder / f"claim-{1 if latest is None else _number(latest) + 1}"
        return Claim(mine) if _made(mine) else None
    except OSError as error:
        raise storage_error(error, folder) from error


def held(folder: Path) -> bool:
    """Whether a living process holds the folder."""
    latest = max(folder.glob("claim-*"), key=_number, default=None)
    return latest is not None and _alive(latest)


def _number(file: Path) -> int:
    last = file.name.rpartition("-")[2]
    return int(last) if last.isdigit() else 0


def _made(file: Path) -> bool:
    """Make the file with all that stands in it, unless it is there."""
    handle, temporary = tempfile.mkstemp(prefix=".claim-", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as writing:
            json.dump({"machine": _machine(), "process": os.getpid()}, writing)
        # Whoever else shares the folder has to read it.
        os.chmod(temporary, 0o644)
        try:
            os.link(temporary, file)
        except FileExistsError:
            return False
        except OSError:
            # Some file systems have no links; there the file is made first and filled after.
            try:
                with open(file, "x", encoding="utf-8") as writing:
                    writing.write(Path(temporary).read_text(encoding="utf-8"))
            except FileExistsError:
                return False
        return True
    finally:
        os.unlink(temporary)


def _alive(file: Path) -> bool:
    try:
        who = json.loads(file.read_text(encoding="utf-8"))
        if who["machine"] == _machine() and not _running(who["process"]):
            return False
    except FileNotFoundError:
        return False
    except (ValueError, KeyError):
        # Just being filled, or cut short: only its age can tell.
        pass
    try:
        # The file system's own clock: those of two machines need not agree.
        with tempfile.NamedTemporaryFile(prefix=".clock-", dir=file.parent) as clock:
            return os.stat(clock.name).st_mtime - file.stat().st_mtime < DEAD
    except FileNotFoundError:
        return False


def _running(process: int) -> bool:
    if os.name == "nt":
        # There os.kill would end the process; its file's age has to tell.
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _machine() -> str:
    """This machine, and in it the room in which process numbers mean the same: containers have their own."""
    numbers = Path("/proc/self/ns/pid")
    return f"{platform.node()} {os.stat(numbers).st_ino if numbers.exists() else ''}".strip()
