"""Auto-PGD: momentum, and a step length that halves itself where the loss no longer rises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.attacks.geometry import column, direction, project, size
from gracile.attacks.losses import climbed, dlr_towards
from gracile.attacks.victim import Loss, Mode, Model, Precision, Victim, attack, attacking, finished
from gracile.core.errors import InputError
from gracile.core.seeding import generator


@attack
def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 8 / 255,
    steps: int = 100,
    norm: str = "linf",
    loss: str = "ce",
    targets: int = 9,
    restarts: int = 1,
    rho: float = 0.75,
    targeted: bool = False,
    draws: int | None = None,
    seed: int = 0,
    mode: Mode = "eval",
    chunk: int | None = None,
    precision: Precision = "float32",
) -> Tensor:
    """Auto-PGD [@croce2020, algorithm 1].

    Samples leave the batch once broken, unless the network draws random numbers.

    Args:
        model, x, y, eps, norm, targeted, draws, seed, mode, chunk, precision: see `gracile.attacks.pgd`.
        steps: gradients a run.
        loss: ``ce``, ``margin``, ``dlr``, or ``dlr-targeted``: one run for each of the `targets` likeliest wrong classes.
        targets: see `loss`; no more than there are wrong classes.
        restarts: runs, each a target, from random points.
        rho: share of steps that must raise the loss, or the step is halved.

    Returns:
        (n, ...) in [0, 1], at most `eps` from `x`: what broke the sample, else its point of largest loss in the last run.

    Raises:
        InputError: an argument that cannot be used.
        NonFiniteError: gradients that are not finite.
    """
    many = loss == "dlr-targeted"
    if many and targeted:
        raise InputError("loss='dlr-targeted' chooses its targets itself.", "Use loss='dlr' with targeted=True.")
    climb = None if many else climbed(loss, targeted=targeted)
    given = x
    with attacking(
        model, x, y, eps=eps, norm=norm, targeted=targeted, draws=draws, seed=seed, mode=mode, chunk=chunk, precision=precision,
        steps=steps, restarts=restarts, targets=targets,
    ) as (victim, x, y):  # fmt: skip
        random = generator(seed, "attack", "apgd", device=x.device)
        logits = victim.logits(x)
        ranked = logits.scatter(1, y[:, None], float("-inf")).argsort(dim=1, descending=True)
        runs = min(targets, logits.shape[1] - 1) if many else 1
        adversarial, standing = x.clone(), ~victim.breaks(x, logits, y)
        for target in (ranked[:, run] for run in range(runs) for _ in range(restarts)):
            start = _start(x, eps, norm, random)
            rows = standing.nonzero().squeeze(1)
            if not len(rows):
                break
            one = _Run(victim, x[rows], y[rows], start[rows], eps, steps, norm, rho)
            found, broken = one.climb(climb or dlr_towards, (target[rows],) if many else ())
            adversarial[rows] = found
            standing[rows[broken]] = False
        return finished(adversarial, given)


def _start(x: Tensor, eps: float, norm: str, random: torch.Generator) -> Tensor:
    """A point on the ball's surface, drawn for all samples, so that none depends on the others' fate."""
    draw = torch.rand if norm == "linf" else torch.randn
    noise = draw(x.shape, generator=random, device=x.device, dtype=x.dtype)
    noise = 2 * noise - 1 if norm == "linf" else noise
    return project(x + eps * noise / column(size(noise, norm).clamp_min(1e-12), x), x, eps, norm)


@dataclass
class _State:
    """What goes with each sample that still stands; all are (k, ...) and leave together."""

    rows: Tensor
    x: Tensor
    at: Tensor
    before: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    last_loss: Tensor
    checked_loss: Tensor
    length: Tensor
    rises: Tensor
    halved: Tensor
    labels: tuple[Tensor, ...]

    def keep(self, mask: Tensor) -> None:
        for name, value in vars(self).items():
            setattr(self, name, tuple(one[mask] for one in value) if isinstance(value, tuple) else value[mask])


class _Run:
    """One run of Auto-PGD on samples that stand."""

    def __init__(
        self, victim: Victim, x: Tensor, y: Tensor, start: Tensor, eps: float, steps: int, norm: str, rho: float
    ) -> None:
        self.victim, self.x, self.y, self.start = victim, x, y, start
        self.eps, self.steps, self.norm, self.rho = eps, steps, norm, rho

    def climb(self, loss: Loss, extra: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Points for every sample, and which of them broke it."""
        x, labels = self.x, (self.y, *extra)
        losses, logits, gradient = self.victim.gradient(self.start, loss, *labels)
        result = self.start.clone()
        broken = self.victim.breaks(self.start, logits, self.y)
        state = _State(
            rows=torch.arange(len(x), device=x.device), x=x, at=self.start, before=self.start, gradient=gradient,
            best=self.start.clone(), best_gradient=gradient.clone(), best_loss=losses.clone(), last_loss=losses,
            checked_loss=losses.clone(), length=torch.full_like(losses, 2 * self.eps),
            rises=torch.zeros_like(losses), halved=torch.ones_like(broken), labels=labels,
        )  # fmt: skip
        # Where the network draws random numbers a break may be luck: such samples stay and are judged anew at the end.
        leave = not self.victim.random
        if leave:
            state.keep(~broken)
        # Checkpoints at 22 % of the steps, then at intervals shorter by 3 % each, down to 6 %.
        window, waited = max(int(0.22 * self.steps), 1), 0
        for step in range(self.steps):
            if not len(state.rows):
                break
            point = self._move(state, step)
            losses, logits, gradient = self.victim.gradient(point, loss, *state.labels)
            newly = self.victim.breaks(point, logits, state.labels[0]) if leave else broken
            state.before, state.at, state.gradient = state.at, point, gradient
            state.rises += losses > state.last_loss
            state.last_loss = losses
            higher = losses > state.best_loss
            state.best[higher], state.best_gradient[higher] = point[higher], gradient[higher]
            state.best_loss = losses.maximum(state.best_loss)
            if leave and bool(newly.any()):
                result[state.rows[newly]] = point[newly]
                broken[state.rows[newly]] = True
                state.keep(~newly)
            waited += 1
            if waited == window:
                self._check(state, window)
                window, waited = max(window - max(int(0.03 * self.steps), 1), max(int(0.06 * self.steps), 1)), 0
        result[state.rows] = state.best
        if not leave:
            broken = self.victim.verdict(result, self.y)
        return result, broken

    def _move(self, state: _State, step: int) -> Tensor:
        """The projected step, three quarters of it, and a quarter of the last movement."""
        ahead = state.at + column(state.length, state.at) * direction(state.gradient, self.norm)
        ahead = project(ahead, state.x, self.eps, self.norm)
        if step == 0:
            return ahead
        mixed = state.at + 0.75 * (ahead - state.at) + 0.25 * (state.at - state.before)
        return project(mixed, state.x, self.eps, self.norm)

    def _check(self, state: _State, window: int) -> None:
        """Halve the step of samples whose loss rose too seldom, or whose best is no better; they go back to it."""
        seldom = state.rises <= self.rho * window
        stuck = ~state.halved & (state.checked_loss >= state.best_loss)
        halve = seldom | stuck
        state.length = torch.where(halve, state.length / 2, state.length)
        # A sample that goes back starts from there afresh; its last movement is kept, as published code has it.
        state.at = torch.where(column(halve, state.at), state.best, state.at)
        state.gradient = torch.where(column(halve, state.at), state.best_gradient, state.gradient)
        state.halved, state.checked_loss = halve, state.best_loss.clone()
        state.rises = torch.zeros_like(state.rises)
