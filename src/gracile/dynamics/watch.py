"""`watch`: conserved quantities, ranks and alignment of any PyTorch training, recorded as it goes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.optim import Optimizer

from gracile.channels import ChannelGraph, Example
from gracile.core.errors import InputError
from gracile.core.monitor import Monitor, Series
from gracile.core.runs import RunFolder
from gracile.core.seeding import generator
from gracile.dynamics import bounds
from gracile.dynamics.junctions import Junction, of_graph, parameters_of, row_squares, traced
from gracile.dynamics.laws import Law, law_of
from gracile.dynamics.patterns import Patterns
from gracile.dynamics.spectra import leading, singular_values

# Up to this many neurons the whole of D is formed at every record; above, at full records only.
SMALL = 128
# Steps of power iteration at the first record and, warm, at later ones.
COLD, WARM = 50, 2

# Of a junction, what a checkpoint holds; the law is found again when the monitor is attached.
_KEPT = ("diagonal", "whole", "scale", "expected", "vectors", "cold", "lawful")

Row = dict[str, Any]


@dataclass(eq=False)
class _State:
    """What is remembered of a junction."""

    junction: Junction
    diagonal: Tensor  # of D, at the start
    whole: Tensor  # D at the start
    scale: float  # |W1|_F^2 + |W2|_F^2 at the start
    expected: Tensor  # the diagonal as the optimiser's law has it
    vectors: list[Tensor]  # of the last power iterations: top left of W1, top right of W2
    cold: bool = True
    law: Law | None = None
    lawful: bool = True

    def kept(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {key: getattr(self, key) for key in _KEPT}

    def take(self, saved: dict[str, Any]) -> None:
        """Take up what `kept` gave."""
        device = self.diagonal.device
        for key, value in saved.items():
            moved = [one.to(device) for one in value] if isinstance(value, list) else value
            setattr(self, key, moved.to(device) if isinstance(moved, Tensor) else moved)


class _Tops:
    """Norms and top singular vectors in one record: a weight that two junctions share is iterated on once."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._own = {one.untyped_storage().data_ptr() for one in parameters.values()}
        self._found: dict[tuple[Any, ...], tuple[float, Tensor]] = {}

    def of(self, matrix: Tensor, start: Tensor, steps: int) -> tuple[float, Tensor]:
        """The norm of a matrix (a, neurons) and its top right vector (neurons,), after `leading`; the start where it is zero."""
        place = (matrix.data_ptr(), matrix.shape, matrix.stride())
        if place in self._found:
            return self._found[place]
        norm, left, right = leading(matrix, start, steps)
        # What is put together for this junction alone is gone after it, and its memory another's.
        if norm and matrix.untyped_storage().data_ptr() in self._own:
            other = matrix.t()
            self._found[other.data_ptr(), other.shape, other.stride()] = norm, left
        return norm, right


@dataclass(eq=False)
class DynamicsMonitor(Monitor):
    """Conserved quantities, ranks and alignment of a network while it is trained; made by `watch`.

    Attributes:
        junctions: pairs of adjacent layers, with the invariance that theory grants each.
        rows: what was recorded, one dictionary per record; see `record`.
    """

    title: ClassVar[str] = "conserved quantities, ranks and alignment of adjacent layers"
    series: ClassVar[dict[str, Series]] = {
        "drift_conserved": Series(
            "Drift of what is conserved", "change of D, relative", True, "What flow conserves; steps move it."
        ),
        "drift_free": Series(
            "Drift of the rest", "change of D, relative", True, "Entries of D that nothing conserves."
        ),
        "drift_unexplained": Series(
            "Unexplained drift", "change of D, relative", True, "Less what the optimiser's law explains."
        ),
        "alignment": Series(
            "Alignment", "least |cosine|", False, "Of top singular vectors of adjacent layers; 1 is aligned."
        ),
        "margin": Series("Margin", "least margin", False, "True class less the largest other, least over the batch."),
        "sign_changes": Series(
            "Sign changes", "share of weights", False, "Weights that changed sign since the record before."
        ),
        "sign_changes_from_start": Series(
            "Sign changes since the start", "share of weights", False, "Weights of another sign than at the start."
        ),
    }

    model: nn.Module
    graph: ChannelGraph
    every: int
    full_every: int
    folder: RunFolder | None
    board: Any = None
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.junctions = of_graph(self.graph)
        self.steps: int = 0
        self._handles: list[Any] = []
        # The step at which the second-order term was seen last; whether `begin` attached the monitor, which then records when asked.
        self._seen, self._asked = 0, False
        self._outputs: Tensor | None = None
        self._targets: Tensor | None = None
        self._states = [self._start(number, one) for number, one in enumerate(self.junctions)]
        self._scales = {name: one.numel() for name, one in self._parameters().items() if one.dim() > 1}
        self._signs = {name: one > 0 for name, one in self._parameters().items() if name in self._scales}
        self._first_signs = {name: one.clone() for name, one in self._signs.items()}
        self.tail = bounds.tail(self.junctions, self._parameters())
        self.patterns = Patterns(self.model, self.graph, self.junctions)

    def _parameters(self) -> Mapping[str, Tensor]:
        return parameters_of(self.model)

    def _start(self, number: int, junction: Junction) -> _State:
        parameters = self._parameters()
        first, second = junction.stacked(parameters)
        whole = junction.difference(parameters)
        draw = generator(number, "power iteration")
        vectors = [torch.randn(junction.size, generator=draw, dtype=torch.float64).to(first) for _ in range(2)]
        scale = first.square().sum().item() + second.square().sum().item()
        diagonal = whole.diagonal().clone()
        return _State(junction, diagonal, whole, scale, diagonal.clone(), vectors)

    # What a training loop calls.

    def attach(self, optimizer: Optimizer) -> DynamicsMonitor:
        """Record after the optimiser's steps by themselves, and compare with the law the optimiser follows.

        Raises:
            InputError: attached already.
        """
        if self._handles:
            raise InputError("The monitor is attached to an optimiser already.", "Call detach() first.")
        for state in self._states:
            state.law = law_of(optimizer, self.model, state.junction)
        self._handles = [
            optimizer.register_step_post_hook(self._after_step),
            self.model.register_forward_hook(self._keep_outputs),
            *self.patterns.attach(),
        ]
        self.patterns.due = self._due_next()
        return self

    def detach(self) -> None:
        """Take every hook away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._outputs = None

    def begin(self, optimizer: Optimizer) -> None:
        """Follow the optimiser's law from now on, and record when `observe` asks; nothing where it is attached already."""
        if not self._handles:
            self.attach(optimizer)
            self._asked, self.patterns.due = True, False

    def end(self) -> None:
        """Undo `begin`."""
        if self._asked:
            self.detach()
            self._asked = False

    def before_step(self, x: Tensor, y: Tensor) -> None:
        """Look at the patterns and the margin of the step to come."""
        if self._asked:
            self.patterns.due, self._targets = True, y

    def __deepcopy__(self, memo: dict[int, Any]) -> DynamicsMonitor:
        # A copy of a watched network carries its hooks; they must neither copy the monitor nor see what the copy does, which
        # is evaluation, where gradients are off.
        return self

    def _after_step(self, *_: Any) -> None:
        if self._asked:
            self.steps += 1
            self._follow_laws(self.patterns.due)
        else:
            self.step()

    def _keep_outputs(self, _module: nn.Module, _inputs: Any, outputs: Any) -> None:
        if self.patterns.due and torch.is_grad_enabled() and isinstance(outputs, Tensor):
            self._outputs = outputs.detach()

    def _due_next(self) -> bool:
        return (self.steps + 1) % self.every == 0

    def step(self, *, loss: float | Tensor | None = None, targets: Tensor | None = None) -> Row | None:
        """Count a training step, and record at every `every`-th; `attach` calls it by itself.

        Args:
            loss: see `record`.
            targets: see `record`.
        """
        self.steps += 1
        due = self.steps % self.every == 0
        self._follow_laws(due)
        row = self.record(loss=loss, targets=targets) if due else None
        self.patterns.due = self._due_next()
        return row

    def _follow_laws(self, due: bool) -> None:
        laws = [state.law for state in self._states if state.law is not None and state.law.known]
        wanted = due and any(law.second_order for law in laws)
        parameters = self.model.named_parameters() if wanted else ()
        gradients = {name: one.grad.detach() for name, one in parameters if one.grad is not None}
        for state in self._states:
            law = state.law
            if law is None or not law.known or state.junction.invariance == "none":
                continue
            factor = law.decay()
            if factor != 1:
                state.expected *= factor
            if not due or not law.second_order:
                continue
            names = [name for term in state.junction.terms for name in (term.weight, term.bias) if name is not None]
            if all(name in gradients for name in names):
                # Seen at one step, and taken to stand for all since the last one seen.
                state.expected += (self.steps - self._seen) * law.rate() ** 2 * state.junction.diagonal(gradients)
            else:
                state.lawful = False
        if due:
            self._seen = self.steps

    def record(
        self,
        *,
        loss: float | Tensor | None = None,
        outputs: Tensor | None = None,
        targets: Tensor | None = None,
        full: bool | None = None,
    ) -> Row:
        """Measure everything now; neither weights, gradients, buffers nor any random stream change.

        Args:
            loss: kept with the row.
            outputs: (n, classes) or (n, 1), for the margin; by default those of the last forward pass, where attached.
            targets: (n,) class numbers, or +-1 for one output.
            full: also what is costly: the whole of D for wide layers, all singular values, the bounds. By default at
                every `full_every`-th step.

        Returns:
            ``step``, ``loss``, ``margin``, ``margin_normalised`` (over the product of Frobenius norms),
            ``sign_changes`` (share of weights since the last record), in full records ``sign_changes_from_start`` and
            ``bounds`` (per layer of the linear tail ``value, bound, ratio, limit, paper_limit``), and ``junctions``:
            per name a dictionary of

            - ``drift_conserved``, ``drift_free``: Frobenius norms of the change of D since the start, over the entries gradient flow
              must conserve and over the others, relative to ``|W1|_F^2 + |W2|_F^2`` at the start; ``drift_diagonal`` alike;
            - ``drift_unexplained``: of the diagonal, less what the optimiser's own law explains (`attach`);
            - ``norm, ratio, stable_rank`` of W1, ``next_norm, next_ratio`` of W2, ``alignment`` of their top singular vectors;
            - ``layer_sum``: ``tr D``; ``always_active`` and ``alike``: shares of neurons, and of pairs, seen switched on, and alike;
            - full records: ``singular_values``.
        """
        full = self.steps % self.full_every == 0 if full is None else full
        with torch.no_grad():
            parameters = self._parameters()
            row: Row = {"step": self.steps}
            if loss is not None:
                row["loss"] = float(loss)
            row.update(self._margin(outputs if outputs is not None else self._outputs, targets))
            row.update(self._sign_changes(parameters, full))
            tops = _Tops(parameters)
            row["junctions"] = {one.junction.name: self._junction(one, parameters, full, tops) for one in self._states}
            if full and self.tail:
                row["bounds"] = {link.name: self._bound(link, parameters) for link in self.tail}
        self._outputs = None
        self.rows.append(row)
        self._write(row)
        return row

    # What a record holds.

    def _junction(self, state: _State, parameters: Mapping[str, Tensor], full: bool, tops: _Tops) -> Row:
        junction = state.junction
        small = junction.size <= SMALL
        # Without biases a single maker is a view of its weight, so that nothing large is copied.
        plain, second = junction.stacked(parameters, biases=False)
        rows, columns = row_squares(plain), row_squares(second.t())
        whole_square, next_square = rows.sum().item(), columns.sum().item()
        diagonal = rows + junction.bias_squares(parameters) - columns
        found: Row = {"invariance": junction.invariance, "layer_sum": diagonal.sum().item()}
        if small or full:
            first, _ = junction.stacked(parameters)
            whole = torch.addmm(first @ first.t(), second.t(), second, alpha=-1)
            found.update(self._split(state, whole - state.whole))
        found["drift_diagonal"] = ((diagonal - state.diagonal).norm() / state.scale).item()
        if not (small or full) and junction.invariance in ("pattern", "diagonal"):
            found["drift_conserved"] = found["drift_diagonal"]
        if state.law is not None and state.law.known and state.lawful and junction.invariance != "none":
            found["drift_unexplained"] = ((diagonal - state.expected).norm() / state.scale).item()
            found["law"] = state.law.name
        steps = COLD if state.cold else WARM
        state.cold = False
        norm, state.vectors[0] = tops.of(plain.t(), state.vectors[0], steps)
        after, state.vectors[1] = tops.of(second, state.vectors[1], steps)
        found.update(
            norm=norm,
            ratio=norm**2 / whole_square if whole_square else 0.0,
            stable_rank=whole_square / norm**2 if norm else 0.0,
            next_norm=after,
            next_ratio=after**2 / next_square if next_square else 0.0,
            alignment=abs(torch.dot(state.vectors[0], state.vectors[1]).item()),
        )
        found.update(self.patterns.shares(junction))
        if full:
            found["singular_values"] = singular_values(plain).tolist()
        return found

    def _split(self, state: _State, change: Tensor) -> Row:
        """The change of D over what must stay and over what need not."""
        kind = state.junction.invariance
        if kind == "none":
            return {"drift_free": (change.norm() / state.scale).item()}
        must = torch.ones_like(change, dtype=torch.bool) if kind == "full" else self.patterns.alike(state.junction)
        if must is None:
            must = torch.eye(len(change), dtype=torch.bool, device=change.device)
        kept = change.masked_fill(~must, 0).norm()
        return {
            "drift_conserved": (kept / state.scale).item(),
            "drift_free": (change.masked_fill(must, 0).norm() / state.scale).item(),
        }

    def _bound(self, link: bounds.Link, parameters: Mapping[str, Tensor]) -> Row:
        value, bound, whole = link.bound(parameters)
        return {
            "value": value, "bound": bound, "ratio": value / whole if whole else 0.0, "limit": 1 / link.factor,
            "paper_limit": 1 / link.paper,
        }  # fmt: skip

    def _sign_changes(self, parameters: Mapping[str, Tensor], full: bool) -> Row:
        changed = started = 0
        for name, signs in self._signs.items():
            now = parameters[name] > 0
            # In place: fresh memory for every comparison costs more than comparing.
            changed += int(torch.count_nonzero(signs.logical_xor_(now)))
            started += int(torch.count_nonzero(now ^ self._first_signs[name])) if full else 0
            signs.copy_(now)
        total = max(1, sum(self._scales.values()))
        found = {"sign_changes": changed / total}
        return found | {"sign_changes_from_start": started / total} if full else found

    def _margin(self, outputs: Tensor | None, targets: Tensor | None) -> Row:
        """The least margin of a batch, alone and divided by the product of the layers' Frobenius norms."""
        if outputs is None or targets is None:
            return {}
        margins = margin(outputs, targets)
        size = math.prod(self._parameters()[name].norm().item() for name in self._scales)
        least = margins.min().item()
        return {"margin": least, "margin_normalised": least / size if size else 0.0}

    # Where it goes.

    def _write(self, row: Row) -> None:
        if self.folder is not None:
            self.folder.record({"monitor": "dynamics", **row})
        if self.board is not None:
            for name, value in flat(row).items():
                self.board.add_scalar(f"dynamics/{name}", value, row["step"])

    def summary(self) -> dict[str, float]:
        """The last record's largest drift, least alignment and the like, flat, for one row of a table.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> from gracile.dynamics import watch
            >>> net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 1, bias=False))
            >>> monitor = watch(net, torch.zeros(1, 3))
            >>> monitor.record()["junctions"]["0 -> 1"]["drift_conserved"]
            0.0
            >>> monitor.summary()["drift_conserved"]
            0.0
        """
        if not self.rows:
            return {}
        row = self.rows[-1]
        result = {key: row[key] for key in ("margin", "sign_changes", "sign_changes_from_start") if key in row}
        for key, pick in (
            ("drift_conserved", max),
            ("drift_free", max),
            ("drift_unexplained", max),
            ("alignment", min),
        ):
            found = [one[key] for one in row["junctions"].values() if key in one]
            if found:
                result[key] = pick(found)
        return result

    @classmethod
    def on(cls, model: nn.Module, x: Tensor, y: Tensor, *, lr: float) -> DynamicsMonitor:
        """One for `gracile.fit`: see `gracile.dynamics.monitors`."""
        return watch(model, x[:2])

    def observe(self, model: nn.Module) -> dict[str, float]:
        """Record in full and return the summary.

        Args:
            model: not looked at: what was given to `watch` is measured, since flow moves the dense weights.
        """
        outputs, targets = self._outputs, self._targets
        fits = outputs is not None and targets is not None and outputs.shape[:1] == targets.shape
        self.record(full=True, targets=targets if fits else None)
        self._targets = None
        if self._asked:
            self.patterns.due = False
        return self.summary()

    def state_dict(self) -> dict[str, Any]:
        """What later records are compared with."""
        return {
            "steps": self.steps,
            "seen": self._seen,
            "signs": {name: one.clone() for name, one in self._signs.items()},
            "first_signs": dict(self._first_signs),
            "junctions": [state.kept() for state in self._states],
            "patterns": self.patterns.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state; rows recorded before are not in it."""
        self.steps, self._seen = state["steps"], state["seen"]
        for own, saved in ((self._signs, state["signs"]), (self._first_signs, state["first_signs"])):
            for name, now in own.items():
                now.copy_(saved[name])
        for own, saved in zip(self._states, state["junctions"], strict=True):
            own.take(saved)
        self.patterns.load_state_dict(state["patterns"])

    def __str__(self) -> str:
        """The junctions and what theory grants each, as a table."""
        rows = [
            {"junction": one.name, "case": one.case + (f" ({one.number})" if one.number else ""), "neurons": one.size,
             "conserved": one.invariance, "because": one.reason}
            for one in self.junctions
        ]  # fmt: skip
        return tabulate(rows, headers="keys", tablefmt="github") if rows else "No two adjacent layers were found."


def margin(outputs: Tensor, targets: Tensor) -> Tensor:
    """Per example the true class's output less the largest other one; ``y f`` for one output and y = +-1.

    Raises:
        InputError: shapes that do not fit.
    """
    if outputs.dim() != 2 or targets.shape != outputs.shape[:1]:
        raise InputError(
            f"Outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)} have no margin.",
            "Give outputs (n, classes) and targets (n,).",
        )
    if outputs.shape[1] == 1:
        return outputs[:, 0] * targets
    own = outputs.gather(1, targets[:, None])[:, 0]
    others = outputs.scatter(1, targets[:, None], -math.inf)
    return own - others.max(dim=1).values


def flat(row: Row, prefix: str = "") -> dict[str, float]:
    """Numbers of a nested row, their places joined by slashes; lists and words are left out."""
    found: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + key] = float(value)
    return found


def watch(
    model: nn.Module,
    example: Example,
    *,
    optimizer: Optimizer | None = None,
    every: int = 10,
    full_every: int = 1000,
    folder: RunFolder | Path | str | None = None,
    tensorboard: bool = True,
) -> DynamicsMonitor:
    """Watch the conserved quantities, ranks and alignment of a network while it is trained.

    Args:
        model: any module the channel graph can trace; never changed.
        example: one batch of inputs; only its shape matters.
        optimizer: attach to it: records are then made by themselves after its steps.
        every: steps between records.
        full_every: steps between full records; made a multiple of `every`.
        folder: rows are appended to its ``metrics.jsonl``.
        tensorboard: also write for TensorBoard into the folder, where it is installed.

    Returns:
        The monitor; printing it shows every pair of adjacent layers and what theory grants it.

    Raises:
        InputError: the model cannot be traced or shares weights, or `every` is not positive.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gracile.dynamics import watch
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> watch(net, torch.zeros(1, 3)).junctions[0].invariance
        'pattern'
    """
    if every < 1 or full_every < 1:
        raise InputError(
            f"every={every} and full_every={full_every} must be at least 1.", "Pass whole numbers of steps from 1 on."
        )
    place = RunFolder(Path(folder)) if isinstance(folder, str | Path) else folder
    board = _board(place) if tensorboard and place is not None else None
    whole = every * max(1, full_every // every)
    monitor = DynamicsMonitor(model, traced(model, example), every, whole, place, board)
    if optimizer is not None:
        monitor.attach(optimizer)
    return monitor


def _board(folder: RunFolder) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder.path / "tensorboard"))
