"""Fast adaptive boundary attack: the nearest adversarial, by projections on linearised decision boundaries."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gracile.attacks.geometry import column, size
from gracile.attacks.losses import margin
from gracile.attacks.victim import Mode, Model, Precision, Victim, attack, attacking, finished
from gracile.core.seeding import generator

# Newton's steps of a projection; about ten are taken.
NEWTON = 100
# The dual of each norm, by its exponent.
DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}


@attack
def fab(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | None = 8 / 255,
    steps: int = 100,
    norm: str = "linf",
    targets: int = 9,
    multi_targeted: bool = True,
    restarts: int = 1,
    alpha: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    targeted: bool = False,
    draws: int | None = None,
    seed: int = 0,
    mode: Mode = "eval",
    chunk: int | None = None,
    precision: Precision = "float32",
) -> Tensor:
    """FAB [@croce2020fab] against the boundary to each of the `targets` likeliest wrong classes, one after the other.

    It has no step length and seeks the smallest perturbation; with `eps`, samples leave the batch once broken within it.

    Args:
        model, x, y, norm, targeted, draws, seed, mode, chunk, precision: see `gracile.attacks.pgd`; with `targeted` the boundary is
            that between `y` and the likeliest other class.
        eps: what counts as broken; None keeps the smallest perturbation however large.
        steps: linearisations a target and restart.
        targets: no more than there are wrong classes.
        multi_targeted: one run a target, as in AutoAttack's standard ensemble; without, a single one that linearises the
            boundaries to all targets in every step and goes for the nearest.
        restarts: the first from `x`, others from random points half-way to the best found.
        alpha: most that a step leans back towards `x`.
        eta: overshoot beyond the boundary.
        beta: after success, go back to this share of the perturbation.

    Returns:
        (n, ...) in [0, 1]; a sample that was not broken within `eps` comes back as it was.

    Raises:
        InputError: an argument that cannot be used.
        NonFiniteError: gradients that are not finite.
    """
    given = x
    with attacking(
        model, x, y, eps=eps, norm=norm, targeted=targeted, draws=draws, seed=seed, mode=mode, chunk=chunk, precision=precision,
        steps=steps, restarts=restarts, targets=targets,
    ) as (victim, x, y):  # fmt: skip
        logits = victim.logits(x)
        ranked = logits.scatter(1, y[:, None], float("-inf")).argsort(dim=1, descending=True)
        # Boundaries are crossed from one class to others: pairs (from, to) of shapes (n,) and (n, k).
        # Towards a class wanted, the one to leave is whatever is the answer there.
        others = ranked[:, : min(targets, logits.shape[1] - 1)]
        parts = others.split(1, dim=1) if multi_targeted else [others]
        pairs = [(y, y[:, None])] if targeted else [(y, one) for one in parts]
        radius = math.inf if eps is None else eps
        adversarial, distance = x.clone(), torch.full((len(x),), math.inf, device=x.device, dtype=x.dtype)
        distance[victim.breaks(x, logits, y)] = 0
        random = generator(seed, "attack", "fab", device=x.device)
        for source, target in pairs:
            for restart in range(restarts):
                noise = torch.rand(x.shape, generator=random, device=x.device, dtype=x.dtype) * 2 - 1
                rows = ((distance > radius) if eps is not None else (distance > 0)).nonzero().squeeze(1)
                if not len(rows):
                    break
                start = x[rows]
                if restart:
                    reach = distance[rows].clamp_max(eps if eps is not None else 1.0) / 2
                    start = start + noise[rows] * column(reach / size(noise[rows], norm), start)
                found = _cross(
                    victim, x[rows], y[rows], source[rows], target[rows], start.clamp(0, 1), radius,
                    steps, norm, alpha, eta, beta,
                )  # fmt: skip
                nearer = found[1] < distance[rows]
                adversarial[rows[nearer]] = found[0][nearer]
                distance[rows[nearer]] = found[1][nearer]
        far = distance > radius
        adversarial[far] = x[far]
        return finished(adversarial, given)


def _lead(logits: Tensor, wanted: Tensor) -> Tensor:
    return -margin(logits, wanted)


def difference(logits: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """The logit of `target` less that of `source`."""
    return (logits.gather(1, target[:, None]) - logits.gather(1, source[:, None])).squeeze(1)


def _nearest_boundary(victim: Victim, at: Tensor, source: Tensor, targets: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """By the linearisation at `at`: the logits' gap (n,) to the one of `targets` (n, k) that is nearest, and its gradient."""
    if victim.targeted:
        gap, _, gradient = victim.gradient(at, _lead, source)
        return gap, gradient
    gap, _, gradient = victim.gradient(at, difference, source, targets[:, 0])
    for number in range(1, targets.shape[1]):
        other, _, slope = victim.gradient(at, difference, source, targets[:, number])
        one, two = (away(value, normal, norm) for value, normal in ((gap, gradient), (other, slope)))
        nearer = two < one
        gap, gradient = torch.where(nearer, other, gap), torch.where(column(nearer, at), slope, gradient)
    return gap, gradient


def away(gap: Tensor, normal: Tensor, norm: str) -> Tensor:
    """Distances (n,) to hyperplanes of this gap (n,) and normal (n, ...)."""
    flat = normal.flatten(1)
    dual = flat.norm(dim=1, p=DUAL[norm])
    return gap.abs() / dual.clamp_min(torch.finfo(flat.dtype).tiny)


def _cross(
    victim: Victim, x: Tensor, y: Tensor, source: Tensor, target: Tensor, at: Tensor, radius: float,
    steps: int, norm: str, alpha: float, eta: float, beta: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Nearest adversarial points found across one boundary, and their distances, infinite where there is none."""
    best, distance = x.clone(), torch.full((len(x),), math.inf, device=x.device, dtype=x.dtype)
    rows = torch.arange(len(x), device=x.device)
    for _ in range(steps):
        gap, gradient = _nearest_boundary(victim, at, source, target, norm)
        # The boundary's linearisation at the current point: {p : w . p = level}.
        level = (gradient * at).flatten(1).sum(dim=1) - gap
        # Both in one call: on small images the calls cost more than the sums.
        both = project_on_plane(torch.cat([at, x]), gradient.repeat(2, *[1] * (x.ndim - 1)), level.repeat(2), norm)
        here, origin = both.chunk(2)
        near, far = (size(step, norm).clamp_min(1e-8) for step in (here, origin))
        lean = column((near / (near + far)).clamp_max(alpha), x)
        at = ((1 - lean) * (at + eta * here) + lean * (x + eta * origin)).clamp(0, 1)
        length = size(at - x, norm)
        broken = victim.broken(logits := victim.logits(at), y)
        nearer = victim.breaks(at, logits, y, among=length < distance[rows])
        best[rows[nearer]], distance[rows[nearer]] = at[nearer], length[nearer]
        at = torch.where(column(broken, x), x + beta * (at - x), at)
        standing = distance[rows] > radius
        if math.isfinite(radius) and not bool(standing.all()):
            rows, x, y, source, target, at = (one[standing] for one in (rows, x, y, source, target, at))
            if not len(rows):
                break
    return best, distance


def project_on_plane(points: Tensor, w: Tensor, level: Tensor, norm: str) -> Tensor:
    """The shortest steps from points of the unit box, within it, onto hyperplanes ``w . p = level``.

    Along each coordinate the step is ``min(lam v_i, room_i)`` towards the plane, with v = 1 for l-inf and v = ``|w|`` for l2
    [@croce2020fab, appendix]; the progress it makes is concave and piecewise linear in lam, so Newton's method
    from 0 climbs to the root without passing it, in finitely many steps and without sorting. For l1 the coordinates of largest
    ``|w|`` go as far as they can, one after the other.

    Args:
        points: (n, ...) in [0, 1].
        w: normal vectors of the planes (n, ...).
        level: (n,).
        norm: ``linf``, ``l2`` or ``l1``.

    Returns:
        (n, ...); where the box does not reach the plane, the step to the corner nearest to it.
    """
    p, flat = points.flatten(1), w.flatten(1)
    missing = level - (flat * p).sum(dim=1)
    scale = flat.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
    towards = flat * missing.sign()[:, None]
    room = torch.where(towards > 0, 1 - p, p)
    weight, missing = flat.abs() / scale, (missing.abs() / scale[:, 0])[:, None]
    if norm == "l1":
        ranked, order = weight.sort(dim=1, descending=True)
        room = room.gather(1, order)
        made = (ranked * room).cumsum(dim=1)
        step = (
            ((missing - made + ranked * room) / ranked.clamp_min(torch.finfo(w.dtype).tiny)).clamp_min(0).minimum(room)
        )
        return (torch.zeros_like(p).scatter_(1, order, step) * towards.sign()).view_as(points)
    # In l-inf all coordinates move alike, those without weight too, whose step `towards` takes back.
    speed = weight if norm == "l2" else None
    slopes = weight if speed is None else weight.square()
    lam = torch.zeros_like(missing)
    step = torch.zeros_like(weight)
    for _ in range(NEWTON):
        left = missing - torch.linalg.vecdot(weight, step)[:, None]
        slope = torch.linalg.vecdot(slopes, (step < room).to(w.dtype))[:, None]
        go = (left > 1e-6 * missing) & (slope > 0)
        if not bool(go.any()):
            break
        lam = torch.where(go, lam + left / slope, lam)
        step = torch.minimum(room, lam if speed is None else lam * speed)
    return (step * towards.sign()).view_as(points)
