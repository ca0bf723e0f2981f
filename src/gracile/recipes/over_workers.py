"""One network trained over many workers, in one call: what ``gracile workers`` does."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gracile.core.errors import pick
from gracile.recipes import request
from gracile.recipes.runner import Finished
from gracile.recipes.schema import Recipe
from gracile.workers import METHODS

# Steps a worker takes between exchanges where its method has them and none are asked for.
LOCAL_STEPS = 10


def train_over_workers(
    data: str = "digits",
    *,
    graph: str = "ring",
    edges: Sequence[Sequence[int]] | None = None,
    workers: int = 6,
    method: str = "dsgd",
    split: str = "iid",
    mixing: str = "metropolis",
    model: str = "mlp",
    model_options: dict[str, Any] | None = None,
    rounds: int = 100,
    batch_size: int = 32,
    lr: float | None = None,
    drop: float = 0.0,
    processes: int = 1,
    patience: float | None = None,
    restarts: int = 0,
    exact: bool = False,
    every: int = 10,
    train_limit: int | None = None,
    label: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    missing: str | None = None,
    skip_corrupt: bool | None = None,
    statistics: str = "averaged",
    seed: int = 0,
    folder: Path | str | None = None,
    **options: Any,
) -> Finished:
    """Train one network over many workers.

    For workers inside a program of your own, with any loss, see `gracile.workers.train`.

    Args:
        data: as `gracile.data.load` takes it.
        graph: a row of `gracile.workers.GRAPHS`.
        edges: pairs of workers, in place of `graph`.
        workers: how many.
        method: a row of `gracile.workers.METHODS`.
        split: who holds what: a row of `gracile.workers.SPLITS`, with its number, such as ``dirichlet:0.3``.
        mixing: a row of `gracile.workers.MIXINGS`.
        model: a row of `gracile.models.MODELS`, or ``FILE.py:FUNCTION``.
        model_options: what its factory takes.
        rounds: of the method.
        batch_size: samples per worker and step.
        lr: learning rate; None takes the method's own.
        drop: share of messages lost, in [0, 1).
        processes: real processes; 1 hosts all workers in this one. Under torchrun it is its world size.
        patience: seconds a late message is waited for in real processes; without, as long as it takes.
        restarts: how many killed processes are started again.
        exact: in one process, the bits that several would give.
        every: rounds between measurements.
        train_limit: samples of a stratified subset of the training data.
        label: the label's column, where `gracile.data.load` does not find it by itself.
        image_size: pixels to which images are resized.
        channels: 1 or 3, what images become; see `gracile.data.load`.
        missing: what becomes of empty cells; see `gracile.data.load`.
        skip_corrupt: leave out images that cannot be read.
        statistics: running ones, such as batch-norm's: ``averaged`` after each round, or ``local``, each worker's own.
        seed: of all that is random.
        folder: the run's folder; ``runs/workers-1``, ``-2``, ... by default.
        options: what else the method takes, such as ``local_steps``, ``compress``, ``server`` or ``participation``; see its class.

    Returns:
        The finished run: accuracies in per cent of the workers' networks and of their mean, bytes sent, and where everything is.

    Raises:
        InputError: an argument that cannot be used, or an option that the method does not have.
    """
    known = inspect.signature(pick(METHODS, method, "method")).parameters
    defaults = {"lr": lr, "local_steps": LOCAL_STEPS, "seed": seed}
    arm = {
        "graph": graph, "workers": workers, "mixing": mixing, "split": split, "method": method, "drop": drop,
        "edges": None if edges is None else [list(pair) for pair in edges],
        "options": {key: value for key, value in defaults.items() if key in known and value is not None} | options,
    }  # fmt: skip
    wanted = {
        "name": data, "train_limit": train_limit, "label": label, "image_size": image_size, "channels": channels, "missing": missing,
        "skip_corrupt": skip_corrupt,
    }  # fmt: skip
    training = {"rounds": rounds, "batch_size": batch_size, "every": every, "exact": exact, "statistics": statistics}
    settings = {
        "data": request.given(wanted), "model": {"name": model, "options": model_options or {}}, "training": training,
        "arms": {method: request.given(arm)}, "seeds": [seed], "processes": processes, "restarts": restarts,
        "patience": patience,
    }  # fmt: skip
    recipe = Recipe(name="workers", title=f"{method} on {graph}", kind="workers", settings=request.given(settings))
    return request.run(recipe, folder=folder)
