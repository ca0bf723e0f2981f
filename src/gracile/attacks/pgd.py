"""Projected gradient ascent: IFGSM and PGD, in l-inf and l2."""

from __future__ import annotations

import torch
from torch import Tensor

from gracile.attacks.geometry import direction, project, random_in_ball
from gracile.attacks.losses import climbed
from gracile.attacks.victim import Loss, Mode, Model, Precision, Victim, attack, attacking, finished
from gracile.core.errors import InputError
from gracile.core.seeding import generator


@attack
def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 8 / 255,
    steps: int = 20,
    alpha: float | None = None,
    norm: str = "linf",
    loss: str = "ce",
    random_start: bool = True,
    start: Tensor | None = None,
    restarts: int = 1,
    early_stop: bool = False,
    targeted: bool = False,
    draws: int | None = None,
    seed: int = 0,
    mode: Mode = "eval",
    chunk: int | None = None,
    precision: Precision = "float32",
    channels_last: bool = True,
) -> Tensor:
    """``x <- Proj(x + alpha sign(grad L))``, projected on the ball and on [0, 1] [@madry2018].

    Without a random start this is IFGSM [@kurakin2017]. For l2 the gradient of unit norm stands in place of its
    sign. No gradient of any weight is computed, and the network is left as it was found.

    Args:
        model: maps `x` to logits (n, classes).
        x: (n, c, h, w) or (n, features), in [0, 1].
        y: int64 (n,): the labels; with `targeted` the classes wanted.
        eps: radius of the ball, at least 0.
        steps: gradients taken.
        alpha: length of a step; None for a quarter of `eps` (2/255 at 8/255).
        norm: ``linf``, ``l2`` or ``l1``.
        loss: what is climbed: ``ce``, ``margin`` (Carlini and Wagner's) or ``dlr`` (AutoAttack's).
        random_start: begin at a point drawn uniformly from the ball.
        start: begin here instead, (n, ...) in [0, 1]; only for the first of `restarts`.
        restarts: runs from other random points on the samples that still stand; each sample keeps the point that broke
            it, else the one of largest loss.
        early_stop: a sample leaves the batch at the first point that breaks it, `x` itself included. For evaluation; training
            wants all steps. Without effect where the network draws random numbers: there a break may be luck.
        targeted: climb towards the classes `y`.
        draws: passes that each gradient is the mean of (expectation over transformation), for networks that draw random
            numbers. None finds out by asking twice, and takes 20 where answers differ, else 1. Where they differ, a break
            counts only if it holds in the mean of at least 20 fresh draws, however many the gradients saw.
        seed: of the start and of the network's own random numbers.
        mode: ``eval`` attacks the network in evaluation mode; ``found`` in the mode each module is in, where
            batch-norm moves its statistics as it does in any pass.
        chunk: samples a pass; None lets it choose. Results do not depend on it, unless the network mixes its batch.
        precision: ``bf16`` runs the network under autocast, which is faster where the processor has it and moves a tenth of
            the final pixels. What counts as broken is decided in the network's own precision all the same.
        channels_last: lay images out channels last on a CPU, which is faster and moves gradients by rounding alone. Without,
            results are bit for bit those of the formula.

    Returns:
        (n, ...) in [0, 1], at most `eps` from `x`.

    Raises:
        InputError: an argument that cannot be used, inputs outside [0, 1], or a network without gradients.
        NonFiniteError: gradients that are not finite.

    Example:
        >>> import torch
        >>> from gracile.attacks import pgd
        >>> model = torch.nn.Linear(4, 2)
        >>> x, y = torch.rand(8, 4), torch.zeros(8, dtype=torch.int64)
        >>> (pgd(model, x, y, eps=0.1) - x).abs().max() <= 0.1 + 1e-6
        tensor(True)
    """
    if alpha is not None and not 0 < alpha < float("inf"):
        raise InputError(f"alpha is {alpha}.", "Give the length of a step, above 0, such as 2/255.")
    if restarts > 1 and not random_start:
        raise InputError(f"{restarts} restarts without random_start take the same way.", "Set random_start=True.")
    given = x
    with attacking(
        model, x, y, eps=eps, norm=norm, targeted=targeted, draws=draws, seed=seed, mode=mode, chunk=chunk, precision=precision,
        channels_last=channels_last, steps=steps, restarts=restarts,
    ) as (victim, x, y):  # fmt: skip
        climb = _Climb(victim, climbed(loss, targeted=targeted), eps, steps, eps / 4 if alpha is None else alpha, norm)
        random = generator(seed, "attack", "start", device=x.device)
        first = random_in_ball(x, eps, norm, random) if random_start else x
        if start is not None:
            first = _checked_start(start, x)
        early_stop = early_stop and not victim.random
        if early_stop:
            adversarial, rows = x.clone(), (~victim.breaks(x, victim.logits(x), y)).nonzero().squeeze(1)
            if len(rows):
                adversarial[rows] = climb.run(x[rows], y[rows], first[rows], early_stop)
        else:
            adversarial = climb.run(x, y, first, early_stop)
        for _ in range(restarts - 1):
            # Drawn for all samples, so that one sample's start does not depend on the fate of the others.
            begin = random_in_ball(x, eps, norm, random)
            losses, logits, _ = victim.gradient(adversarial, climb.loss, y)
            rows = (~victim.breaks(adversarial, logits, y)).nonzero().squeeze(1)
            if not len(rows):
                break
            again = climb.run(x[rows], y[rows], begin[rows], early_stop)
            more, logits, _ = victim.gradient(again, climb.loss, y[rows])
            better = victim.breaks(again, logits, y[rows]) | (more > losses[rows])
            adversarial[rows[better]] = again[better]
        return finished(adversarial, given)


class _Climb:
    """One run of projected ascent."""

    def __init__(self, victim: Victim, loss: Loss, eps: float, steps: int, alpha: float, norm: str) -> None:
        self.victim, self.loss = victim, loss
        self.eps, self.steps, self.alpha, self.norm = eps, steps, alpha, norm

    def run(self, x: Tensor, y: Tensor, at: Tensor, early_stop: bool) -> Tensor:
        """The last point of every sample, or the first that broke it."""
        result, rows = at.clone(), None
        # The mean over the batch, as others take it: scaling a gradient can move its last bit, and with it a sign.
        weight = 1 / len(x)
        for _ in range(self.steps):
            _, logits, gradient = self.victim.gradient(at, self.loss, y, weight=weight)
            if early_stop:
                broken = self.victim.breaks(at, logits, y)
                if bool(broken.any()):
                    standing = ~broken
                    rows = torch.arange(len(x), device=x.device) if rows is None else rows
                    result[rows[broken]] = at[broken]
                    rows, x, y, at, gradient = (one[standing] for one in (rows, x, y, at, gradient))
                    if not len(rows):
                        return result
            at = project(at + self.alpha * direction(gradient, self.norm), x, self.eps, self.norm)
        if rows is None:
            return at
        result[rows] = at
        return result


def _checked_start(start: Tensor, x: Tensor) -> Tensor:
    if start.shape != x.shape or not bool(((start >= 0) & (start <= 1)).all()):
        raise InputError(
            f"The start has shape {tuple(start.shape)} for inputs {tuple(x.shape)}, or lies outside [0, 1].",
            "Give one point in [0, 1] an input.",
        )
    return torch.empty_like(x).copy_(start.detach())
