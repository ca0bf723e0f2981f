"""What a run was given to learn from, kept for its page."""

from __future__ import annotations

from pathlib import Path

from gracile.core.files import write_json
from gracile.data import Splits
from gracile.data.examples import described

DATA = "data.json"


def write_data(folder: Path, splits: Splits) -> None:
    """Write ``data.json`` into a run's folder, where it is not there yet."""
    if not (folder / DATA).exists():
        write_json(folder / DATA, described(splits))
