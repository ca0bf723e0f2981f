"""The checkpoint of a run: written now and then, read on resume."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gracile.core.errors import InputError
from gracile.core.learning_rule import LearningRule
from gracile.core.monitor import Monitor
from gracile.core.runs import RunFolder
from gracile.core.sparsifier import Sparsifier
from gracile.core.tensor_files import check_shapes, reading
from gracile.training import checkpoints
from gracile.training.checkpoints import CHECKPOINT
from gracile.training.objectives import LossObjective, Objective
from gracile.training.precision import Taken
from gracile.training.state import History, TrainingState, check_weights

# What a run is made with besides its network, in words for one of them.
PARTS = {
    "optimizer": "optimiser",
    "sparsifier": "method of sparse training",
    "learning_rule": "learning rule",
    "objective": "objective",
    "monitors": "monitor",
}
ANEW = "or start anew without resume."


class Checkpointer:
    """Writes and reads the checkpoint and keeps the time; writes nothing without a folder."""

    def __init__(
        self,
        place: RunFolder | None,
        model: nn.Module,
        optimizer: Optimizer,
        sparsifier: Sparsifier | None,
        objective: Objective,
        learning_rule: LearningRule | None,
        monitors: Sequence[Monitor],
        history: History,
        every_seconds: float,
        *,
        writes: bool = True,
    ) -> None:
        self.place, self.model, self.optimizer, self.writes = place, model, optimizer, writes
        self.sparsifier, self.objective, self.monitors, self.history = sparsifier, objective, monitors, history
        self.every_seconds = every_seconds
        # A loss is known by its function.
        minimised = objective.function if isinstance(objective, LossObjective) else objective
        self.made_with: dict[str, str | None] = {
            "optimizer": _name(optimizer),
            "sparsifier": None if sparsifier is None else _name(sparsifier),
            "learning_rule": None if learning_rule is None else _name(learning_rule),
            "objective": _name(minimised),
            "monitors": " + ".join(map(_name, monitors)) or None,
        }
        self._clock = self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether the last checkpoint is long enough ago."""
        return self.writes and self.place is not None and time.monotonic() - self._saved > self.every_seconds

    def spent(self) -> float:
        """Seconds so far, added to the history."""
        now = time.monotonic()
        self.history.seconds += now - self._clock
        self._clock = now
        return self.history.seconds

    def begin(self, position: TrainingState) -> TrainingState:
        """Start anew: what an earlier start left behind goes."""
        assert self.place is not None
        if self.writes:
            (self.place.path / CHECKPOINT).unlink(missing_ok=True)
            self.place.rewrite_metrics([])
        return position

    def save(self, position: TrainingState, row: dict[str, Any] | None = None) -> None:
        self.spent()
        if self.place is None or not self.writes:
            return
        check_weights(self.model, position, self.place)
        if row is not None:
            self.place.record(row)
        state = {
            "position": asdict(position),
            "history": asdict(self.history),
            "made_with": self.made_with,
            "network": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": None if self.sparsifier is None else self.sparsifier.state_dict(),
            "objective": self.objective.state_dict(),
            "monitors": [monitor.state_dict() for monitor in self.monitors],
            "random": checkpoints.random_state(),
        }
        checkpoints.save(self.place.path / CHECKPOINT, state)
        self._saved = time.monotonic()

    def restore(self, position: TrainingState) -> TrainingState:
        assert self.place is not None
        file = self.place.path / CHECKPOINT
        if not file.exists():
            return self.begin(position)
        state = checkpoints.load(file)
        # A file that was tampered with is refused as a whole, and one of another network or method before anything is taken up.
        with reading(file, checkpoints.DAMAGED):
            found = self._position(state["position"], position.loss.device)
            self._check_made_with(state)
            check_shapes(self.model, state["network"], file)
            _check_optimizer(self.optimizer, state["optimizer"], file)
            self._take_up(state)
            return found

    def _check_made_with(self, state: dict[str, Any]) -> None:
        """Refuse to go on with another method: it would take up a state that is not its own, or none."""
        # Before the names were kept, a file told only whether there was a method of sparse training.
        now = self.made_with["sparsifier"]
        nameless = {"sparsifier": None if state["sparsifier"] is None else now or f"a {PARTS['sparsifier']}"}
        made_with = state.get("made_with", nameless)
        for part, word in PARTS.items():
            given = self.made_with[part]
            before = made_with.get(part, given)
            if before != given:
                raise InputError(
                    f"This run began {f'without a {word}' if before is None else f'with {before}'}, "
                    f"and {given or 'none'} is given.",
                    f"Resume {'without it' if before is None else 'with it'}, {ANEW}",
                )

    def _take_up(self, state: dict[str, Any]) -> None:
        rows, seconds = list(map(dict, state["history"]["rows"])), float(state["history"]["seconds"])
        # Before it was kept, nothing but float32 was chosen on a processor.
        on_gpu = next(self.model.parameters()).is_cuda
        precision = state["history"].get("precision", None if on_gpu else "float32")
        if precision not in (None, *get_args(Taken)):
            raise ValueError(f"{precision!r} is no precision")
        lean = state["history"].get("lean")
        if lean is not None and not 0 <= float(lean) <= 1:
            raise ValueError(f"{lean!r} is no share of the multiply-adds")
        self.model.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        # The file holds tensors in logical order. Laid out otherwise than their weights they would go through other
        # kernels, which round differently: an exact resume needs the layout too.
        for parameter, kept in self.optimizer.state.items():
            for key, value in kept.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    kept[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        if self.sparsifier is not None:
            self.sparsifier.load_state_dict(state["sparsifier"])
        self.objective.load_state_dict(state["objective"])
        for monitor, kept in zip(self.monitors, state.get("monitors", []), strict=False):
            monitor.load_state_dict(kept)
            monitor.resume(self.model)
        checkpoints.set_random_state(state["random"])
        self.history.rows[:], self.history.seconds, self.history.precision = rows, seconds, precision
        self.history.compiled = bool(state["history"].get("compiled", False))
        self.history.lean = None if lean is None else float(lean)
        # Rows are appended before the checkpoint is replaced; a kill in between left one too many.
        if self.writes and self.place is not None:
            self.place.rewrite_metrics(self.history.rows)

    @staticmethod
    def _position(found: dict[str, Any], device: torch.device) -> TrainingState:
        sums = found["loss"].double().to(device), found["correct"].long().to(device)
        for number in (found["epoch"], found["step"], found["seen"], *(int(one.numel() == 1) - 1 for one in sums)):
            if not isinstance(number, int) or number < 0:
                raise ValueError(f"{number!r} is no place in a run")
        return TrainingState(found["epoch"], found["step"], *sums, found["seen"])


def _name(one: object) -> str:
    """What a message calls a function or an object: by its own name or its class's."""
    return getattr(one, "__qualname__", type(one).__qualname__).rsplit("<locals>.", 1)[-1]


def _check_optimizer(optimizer: Optimizer, state: dict[str, Any], file: Path) -> None:
    """What torch takes unseen and would only fail over in a step: settings of another type, state of another shape."""
    groups, known = state["param_groups"], optimizer.state_dict()["param_groups"]
    sizes, own_sizes = ([len(group["params"]) for group in some] for some in (groups, known))
    lacking = {key for group, own in zip(groups, known, strict=False) for key in own.keys() - group.keys()}
    if sizes != own_sizes or lacking:
        differs = (
            f"has no '{min(lacking)}'" if lacking else f"trains groups of {sizes} parameters in place of {own_sizes}"
        )
        raise InputError(
            f"The optimiser of {file} is not the {type(optimizer).__name__} that is given: it {differs}.",
            f"Resume with the one it was made with, {ANEW}",
        )
    for group, own in zip(groups, known, strict=True):
        for key, value in own.items():
            number = isinstance(value, (int, float)) and isinstance(group[key], (int, float))
            # JSON knows no tuples.
            row = (
                isinstance(value, (tuple, list))
                and isinstance(group[key], (tuple, list))
                and len(value) == len(group[key])
            )
            if key != "initial_lr" and type(group[key]) is not type(value) and not number and not row:
                raise ValueError(f"the optimiser's {key} is {group[key]!r}")
    if not type(optimizer).__module__.startswith("torch.optim") or isinstance(optimizer, torch.optim.LBFGS):
        # What others keep is theirs to know.
        return
    shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
    keys = {frozenset(kept) for kept in state["state"].values()}
    if len(keys) > 1:
        raise ValueError("the optimiser keeps other things for some parameters than for others")
    for index, kept in state["state"].items():
        for key, value in kept.items():
            expected = torch.Size() if key == "step" else shapes[index]
            fits = isinstance(value, Tensor) and value.is_floating_point() and value.shape == expected
            # SGD has none before its first step.
            if not fits and not (key == "momentum_buffer" and value is None):
                raise ValueError(f"the optimiser's {key} does not fit its parameter")
