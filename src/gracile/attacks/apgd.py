"""Auto-PGD: a step length that shortens itself where the loss no longer rises, with momentum; in l1 sparse steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.attacks.geometry import column, direction, project, size, sparse_sign
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
    """Auto-PGD [@croce2020, algorithm 1]; in l1 with steps that move few coordinates [@croce2021, algorithm 1].

    In l1 each run takes 30 % of its steps in a ball three times as wide, 30 % in one twice as wide and the rest in the ball itself,
    from the best point before. Samples leave the batch once broken, unless the network draws random numbers.

    Args:
        model, x, y, eps, norm, targeted, draws, seed, mode, chunk, precision: see `gracile.attacks.pgd`.
        steps: gradients a run.
        loss: ``ce``, ``margin``, ``dlr``, or ``dlr-targeted``: one run for each of the `targets` likeliest wrong classes.
        targets: see `loss`; no more than there are wrong classes.
        restarts: runs, each a target, from random points.
        rho: share of steps that must raise the loss, or the step is halved; not for l1.

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
            one = _Run(victim, x[rows], y[rows], climb or dlr_towards, (target[rows],) if many else ())
            rule = _Sparse(eps, steps) if norm == "l1" else _Momentum(eps, steps, norm, rho)
            found, broken = one.climb(start[rows], rule)
            adversarial[rows] = found
            standing[rows[broken]] = False
        return finished(adversarial, given)


def _start(x: Tensor, eps: float, norm: str, random: torch.Generator) -> Tensor:
    """A point on the ball's surface, in l1 that of the widest ball, drawn for all samples, so that none depends on the others' fate."""
    draw = torch.rand if norm == "linf" else torch.randn
    noise = draw(x.shape, generator=random, device=x.device, dtype=x.dtype)
    if norm == "l1":
        return project(x + noise, x, _Sparse.WIDER[0][0] * eps, norm)
    noise = 2 * noise - 1 if norm == "linf" else noise
    return project(x + eps * noise / column(size(noise, norm).clamp_min(1e-12), x), x, eps, norm)


@dataclass
class _State:
    """What goes with each sample that still stands; all are (k, ...) and leave together.

    Attributes:
        length: of its next step.
        mark: what its rule remembers of the last checkpoint: the loss, or in l1 how many coordinates the best point moved.
        share: in l1, of the coordinates a step moves.
    """

    rows: Tensor
    x: Tensor
    at: Tensor
    before: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    last_loss: Tensor
    mark: Tensor
    length: Tensor
    share: Tensor
    rises: Tensor
    halved: Tensor
    labels: tuple[Tensor, ...]

    def keep(self, mask: Tensor) -> None:
        for name, value in vars(self).items():
            setattr(self, name, tuple(one[mask] for one in value) if isinstance(value, tuple) else value[mask])

    def go_back(self, which: Tensor) -> None:
        """Let some samples start afresh from their best point; their last movement is kept, as published code has it."""
        self.at = torch.where(column(which, self.at), self.best, self.at)
        self.gradient = torch.where(column(which, self.at), self.best_gradient, self.gradient)


class _Momentum:
    """The steps in l-inf and l2."""

    def __init__(self, eps: float, steps: int, norm: str, rho: float) -> None:
        self.eps, self.steps, self.norm, self.rho = eps, steps, norm, rho
        self.stages = ((eps, steps),)

    def begin(self, state: _State, eps: float, steps: int) -> int:
        """Set the first length; the steps until the first checkpoint, 22 % of all."""
        state.length = torch.full_like(state.best_loss, 2 * eps)
        state.mark = state.best_loss.clone()
        return max(int(0.22 * steps), 1)

    def move(self, state: _State, eps: float, *, first: bool) -> Tensor:
        """The projected step, three quarters of it, and a quarter of the last movement."""
        ahead = state.at + column(state.length, state.at) * direction(state.gradient, self.norm)
        ahead = project(ahead, state.x, eps, self.norm)
        if first:
            return ahead
        mixed = state.at + 0.75 * (ahead - state.at) + 0.25 * (state.at - state.before)
        return project(mixed, state.x, eps, self.norm)

    def check(self, state: _State, window: int, eps: float) -> int:
        """Halve the step of samples whose loss rose too seldom, or whose best is no better; they go back to it.

        The next checkpoint comes 3 % of the steps sooner, after at least 6 %.
        """
        seldom = state.rises <= self.rho * window
        stuck = ~state.halved & (state.mark >= state.best_loss)
        halve = seldom | stuck
        state.length = torch.where(halve, state.length / 2, state.length)
        state.go_back(halve)
        state.halved, state.mark = halve, state.best_loss.clone()
        return max(window - max(int(0.03 * self.steps), 1), max(int(0.06 * self.steps), 1))


class _Sparse:
    """The steps in l1: the signs of the largest gradients, as many as two thirds of what the best point moves."""

    # Balls by their multiple of eps, and the share of the steps taken in each; the last takes what is left.
    WIDER = ((3, 0.3), (2, 0.3), (1, 0.4))
    # Fewer coordinates than the best point moves; shorter steps where it moves no fewer than before, down to a tenth of eps.
    FEWER, SHORTER, LEAST, SPARSER = 1.5, 1.5, 0.1, 0.95

    def __init__(self, eps: float, steps: int) -> None:
        wide = [(times * eps, int(share * steps)) for times, share in self.WIDER[:-1]]
        self.stages = (*(stage for stage in wide if stage[1]), (eps, steps - sum(taken for _, taken in wide)))

    def begin(self, state: _State, eps: float, steps: int) -> int:
        """Set length and share; the steps from checkpoint to checkpoint, 4 % of all."""
        state.length = torch.full_like(state.best_loss, eps)
        state.mark = _moved(state.at, state.x)
        state.share = state.mark / state.x[0].numel() / self.FEWER
        return max(int(0.04 * steps), 1)

    def move(self, state: _State, eps: float, *, first: bool) -> Tensor:
        """The projected step."""
        step = column(state.length, state.at) * sparse_sign(state.gradient, state.share)
        return project(state.at + step, state.x, eps, "l1")

    def check(self, state: _State, window: int, eps: float) -> int:
        """Samples whose best point has become sparser go back to it with the full step; others shorten theirs."""
        now = _moved(state.best, state.x)
        sparser = now < self.SPARSER * state.mark
        shorter = (state.length / self.SHORTER).clamp_min(self.LEAST * eps)
        state.length = torch.where(sparser, torch.full_like(state.length, eps), shorter)
        state.go_back(sparser)
        state.mark, state.share = now, now / state.x[0].numel() / self.FEWER
        return window


def _moved(at: Tensor, x: Tensor) -> Tensor:
    """How many coordinates differ from the sample's: (n,)."""
    return (at != x).flatten(1).sum(dim=1).to(x.dtype)


class _Run:
    """One run of Auto-PGD on samples that stand.

    Args:
        victim: attacked.
        x: (n, ...).
        y: int64 (n,).
        loss: climbed.
        extra: what else the loss takes, a row a sample.
    """

    def __init__(self, victim: Victim, x: Tensor, y: Tensor, loss: Loss, extra: tuple[Tensor, ...]) -> None:
        self.victim, self.x, self.y, self.loss, self.labels = victim, x, y, loss, (y, *extra)

    def climb(self, start: Tensor, rule: _Momentum | _Sparse) -> tuple[Tensor, Tensor]:
        """Points for every sample, and which of them broke it in the last of the rule's balls."""
        *wider, (eps, steps) = rule.stages
        for radius, taken in wider:
            start, _ = self._stage(project(start, self.x, radius, "l1"), radius, taken, rule, leave=False)
        if wider:
            start = project(start, self.x, eps, "l1")
        # Where the network draws random numbers a break may be luck: such samples stay and are judged anew at the end.
        found, broken = self._stage(start, eps, steps, rule, leave=not self.victim.random)
        return found, self.victim.verdict(found, self.y) if self.victim.random else broken

    def _stage(
        self, start: Tensor, eps: float, steps: int, rule: _Momentum | _Sparse, *, leave: bool
    ) -> tuple[Tensor, Tensor]:
        """The points of largest loss within one ball; with `leave` what breaks a sample, which then leaves, and which did."""
        x = self.x
        losses, logits, gradient = self.victim.gradient(start, self.loss, *self.labels)
        result = start.clone()
        broken = self.victim.breaks(start, logits, self.y) if leave else torch.zeros_like(self.y, dtype=torch.bool)
        state = _State(
            rows=torch.arange(len(x), device=x.device), x=x, at=start, before=start, gradient=gradient,
            best=start.clone(), best_gradient=gradient.clone(), best_loss=losses.clone(), last_loss=losses,
            mark=losses, length=losses, share=losses, rises=torch.zeros_like(losses),
            halved=torch.ones_like(losses, dtype=torch.bool), labels=self.labels,
        )  # fmt: skip
        window, waited = rule.begin(state, eps, steps), 0
        if leave:
            state.keep(~broken)
        for step in range(steps):
            if not len(state.rows):
                break
            point = rule.move(state, eps, first=step == 0)
            losses, logits, gradient = self.victim.gradient(point, self.loss, *state.labels)
            state.before, state.at, state.gradient = state.at, point, gradient
            state.rises += losses > state.last_loss
            state.last_loss = losses
            higher = losses > state.best_loss
            state.best[higher], state.best_gradient[higher] = point[higher], gradient[higher]
            state.best_loss = losses.maximum(state.best_loss)
            if leave:
                newly = self.victim.breaks(point, logits, state.labels[0])
                if bool(newly.any()):
                    result[state.rows[newly]] = point[newly]
                    broken[state.rows[newly]] = True
                    state.keep(~newly)
            waited += 1
            if waited == window:
                window, waited = rule.check(state, window, eps), 0
                state.rises = torch.zeros_like(state.rises)
        result[state.rows] = state.best
        return result, broken
