"""Names that become folders and files: a safe alphabet, and what is written stays inside its run."""

from __future__ import annotations

import re
from pathlib import Path

from gracile.core.errors import InputError

# Letters and digits of any script; no separator, no drive, and no dot in front, so that no name leads elsewhere.
SAFE = re.compile(r"\w(?:[\w .,=+@%-]*[\w,=+@%-])?")
# Windows opens devices by these names, whatever stands behind the dot.
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
LONGEST = 100


def safe_name(name: str, what: str) -> str:
    """A name that can be a folder's or a file's on every system.

    Args:
        name: as the user gave it.
        what: what it names, in the singular, for the message ("arm").

    Returns:
        The name itself.

    Raises:
        InputError: it is empty, longer than 100 characters, a device of Windows, or holds what could lead elsewhere.
    """
    if len(name) > LONGEST or not SAFE.fullmatch(name) or name.partition(".")[0].strip().lower() in DEVICES:
        raise InputError(
            f"The {what} {name!r} cannot be the name of a folder.",
            f"Take up to {LONGEST} letters, digits, spaces and . _ - + = , @ %, beginning with a letter or digit.",
        )
    return name


def inside(root: Path, path: Path) -> Path:
    """A path relative to the folder it must lie in, links followed.

    Raises:
        InputError: it lies elsewhere.
    """
    found = path.resolve()
    if not found.is_relative_to(root.resolve()):
        raise InputError(
            f"{path} does not lie inside {root}.", "Choose a name without '..', and a folder without links."
        )
    return found.relative_to(root.resolve())
