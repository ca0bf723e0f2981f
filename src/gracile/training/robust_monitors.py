"""The table of what follows adversarial training: a monitor is a file and a row here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gracile.core.errors import pick, refuse_unknown
from gracile.core.monitor import Monitor
from gracile.data import Dataset
from gracile.training.averaging import WeightAverage
from gracile.training.best_robust import BestRobust
from gracile.training.catastrophic import CatastrophicOverfitting

ROBUST_MONITORS: dict[str, Callable[..., Monitor]] = {
    "average": WeightAverage,
    "best": BestRobust,
    "catastrophic": CatastrophicOverfitting,
}


def robust_monitor(name: str, data: Dataset, **options: Any) -> Any:
    """A monitor of adversarial training by name.

    Args:
        name: a row of `ROBUST_MONITORS`.
        data: validation samples.
        options: what it takes.

    Raises:
        InputError: no such monitor, an option it does not have, or a value that cannot be.
    """
    made = pick(ROBUST_MONITORS, name, "monitor of adversarial training")
    refuse_unknown(options, inspect.signature(made).parameters, f"The monitor '{name}'")
    return made(data=data, **options)


def robust_monitors(asked: Mapping[str, Mapping[str, Any]], data: Dataset) -> dict[str, Monitor]:
    """Several of them, in the order in which they must look.

    Args:
        asked: options by row; where ``average`` is among them, ``best`` judges and keeps averaged weights.
        data: validation samples.

    Raises:
        InputError: as `robust_monitor`.
    """
    made: dict[str, Monitor] = {}
    for name in sorted(asked, key=lambda name: name != "average"):
        more = {"average": made["average"]} if name == "best" and "average" in made else {}
        made[name] = robust_monitor(name, data, **asked[name], **more)
    return made
