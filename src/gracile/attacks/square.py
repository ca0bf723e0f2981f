"""Square attack: random search with squares that shrink, without gradients."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any

import torch
from torch import Tensor

from gracile.attacks.geometry import column, project, size
from gracile.attacks.losses import climbed
from gracile.attacks.victim import Mode, Model, Precision, Victim, attack, attacking, finished
from gracile.core.seeding import generator

# What to slice an image by.
Place = tuple[Any, ...]
# The share of pixels a square covers halves after these queries [@andriushchenko2020, section 4.1, for 10,000].
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# Single random numbers drawn at once.
DRAWN = 256


@attack
def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 8 / 255,
    steps: int = 5000,
    norm: str = "linf",
    share: float = 0.8,
    rescaled: bool = False,
    restarts: int = 1,
    targeted: bool = False,
    draws: int | None = None,
    seed: int = 0,
    mode: Mode = "eval",
    chunk: int | None = None,
    precision: Precision = "float32",
    queries: Tensor | None = None,
) -> Tensor:
    """Square attack [@andriushchenko2020], black-box: it asks for logits alone, so any callable will do.

    l-inf keeps each pixel on the ball's surface and tries the other signs on a square; l2 and l1 [@croce2021] move the
    perturbation's mass from one window to another. Samples leave the batch once broken.

    Args:
        model, x, y, eps, norm, targeted, draws, seed, mode, chunk, precision: see `gracile.attacks.pgd`; `model` may be any function
            from x to logits, such as an onnxruntime session's.
        steps: queries a sample and restart, at most.
        share: of the pixels in the first square.
        rescaled: stretch or shrink the schedule by which squares become smaller, which is for 10,000 queries, to `steps`.
            AutoAttack's 5,000 queries do not: they end in the middle of it.
        restarts: of the search.
        queries: int64 (n,); the queries each sample took are added to it.

    Returns:
        (n, ...) in [0, 1], at most `eps` from `x`: what broke the sample, else its point of largest margin.

    Raises:
        InputError: an argument that cannot be used.
        NonFiniteError: outputs that are not finite.
    """
    given = x
    with attacking(
        model, x, y, eps=eps, norm=norm, targeted=targeted, draws=draws, seed=seed, mode=mode, chunk=chunk, precision=precision,
        steps=steps, restarts=restarts,
    ) as (victim, x, y):  # fmt: skip
        rows = (~victim.breaks(x, victim.logits(x), y)).nonzero().squeeze(1)
        adversarial = x.clone()
        random = generator(seed, "attack", "square", device=x.device)
        for _ in range(restarts if eps > 0 else 0):
            if not len(rows):
                break
            # Features are images one pixel high.
            shape = x[rows].shape if x.ndim == 4 else (len(rows), 1, 1, x[0].numel())
            one = _Search(victim, x[rows].reshape(shape), y[rows], x.shape[1:], eps, norm, random)
            found, broken, used = one.run(steps, share, rescaled)
            adversarial[rows] = found.view(-1, *x.shape[1:])
            if queries is not None:
                queries[rows.to(queries.device)] += used.to(queries.device)
            rows = rows[~broken]
        return finished(adversarial, given)


class _Search:
    """One random search on (n, c, h, w)."""

    def __init__(
        self, victim: Victim, x: Tensor, y: Tensor, shape: torch.Size, eps: float, norm: str, random: torch.Generator
    ) -> None:
        self.victim, self.x, self.y, self.shape = victim, x, y, shape
        self.eps, self.norm, self.random = eps, norm, random
        self.gain = climbed("margin", targeted=victim.targeted)
        # Single numbers, drawn many at once: a call costs more than what it draws.
        self.drawn: list[float] = []

    def run(self, steps: int, share: float, rescaled: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The best points, which of them broke, and the queries each took."""
        result = self._first(self.x)
        gains, broken = self._ask(result, self.y)
        used = torch.ones_like(self.y)
        # What is still searched lies together, so that a query copies no images: its rows, and what goes with them.
        rows = (~broken).nonzero().squeeze(1)
        x, y, best, gains = (one[rows] for one in (self.x, self.y, result, gains))
        for query in range(steps - 1):
            if not len(rows):
                break
            spent = query / steps * 10_000 if rescaled else query
            portion = share / 2 ** bisect_left(HALVINGS, spent)
            place, patch = self._propose(x, best, portion)
            before = best[place].clone()
            best[place] = patch
            tried, newly = self._ask(best, y)
            better = (tried > gains) | newly
            best[place] = torch.where(better.view(-1, 1, 1, 1), patch, before)
            gains = torch.where(better, tried, gains)
            if bool(newly.any()):
                broken[rows[newly]], used[rows[newly]] = True, query + 2
                result[rows[newly]] = best[newly]
                rows, x, y, best, gains = (one[~newly] for one in (rows, x, y, best, gains))
        result[rows], used[rows] = best, steps
        return result, broken, used

    def _ask(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = x.view(-1, *self.shape)
        logits = self.victim.logits(x)
        return self.gain(logits, y), self.victim.breaks(x, logits, y)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.random, device=self.x.device, dtype=self.x.dtype)

    def _number(self) -> float:
        if not self.drawn:
            self.drawn = self._uniform(DRAWN).tolist()
        return self.drawn.pop()

    def _signs(self, *shape: int) -> Tensor:
        signs = torch.empty(shape, device=self.x.device, dtype=self.x.dtype)
        return signs.bernoulli_(0.5, generator=self.random).mul_(2).sub_(1)

    def _first(self, x: Tensor) -> Tensor:
        """Vertical stripes for l-inf; for l2 and l1 a tiling of fifths."""
        n, c, h, w = x.shape
        if self.norm == "linf":
            return (x + self.eps * self._signs(n, c, 1, w)).clamp_(0, 1)
        tile = max(min(h, w) // 5, 1)
        delta = torch.zeros_like(x)
        for top in range(0, h - tile + 1, tile):
            for left in range(0, w - tile + 1, tile):
                delta[:, :, top : top + tile, left : left + tile] = self._bump(tile, tile) * self._signs(n, c, 1, 1)
        return self._filled(x, delta)

    def _window(self, h: int, w: int, portion: float, least: int) -> tuple[slice, slice]:
        """A window of `portion` of the image, at one place for all samples, so that it can be sliced."""
        height = min(max(round(math.sqrt(portion * h * w)), least), h)
        width = min(max(round(portion * h * w / height), least), w)
        top, left = (int(self._number() * (room + 1)) for room in (h - height, w - width))
        return slice(top, top + height), slice(left, left + width)

    def _propose(self, x: Tensor, best: Tensor, portion: float) -> tuple[Place, Tensor]:
        """A part of the images and what to try there."""
        n, c, h, w = x.shape
        if self.norm != "linf":
            return (...,), self._move_mass(x, best, portion)
        place = (..., *self._window(h, w, portion, 1))
        return place, (x[place] + self.eps * self._signs(n, c, 1, 1)).clamp_(0, 1)

    def _move_mass(self, x: Tensor, best: Tensor, portion: float) -> Tensor:
        """Take the mass of one window, and what the ball still allows, to a bump in another (their algorithm 3)."""
        n, c, h, w = x.shape
        delta = best - x
        here = (..., *self._window(h, w, portion, min(3, h, w)))
        there = (..., *self._window(h, w, portion, min(3, h, w)))
        height, width = (one.stop - one.start for one in here[1:])
        both = torch.zeros(h, w, device=x.device, dtype=torch.bool)
        both[here], both[there] = True, True
        p = 1 if self.norm == "l1" else 2
        unit = lambda patch: patch / patch.flatten(2).norm(dim=2, p=p).clamp_min(1e-12)[..., None, None]
        free = (self.eps**p - size(delta, self.norm) ** p).clamp_min(0) / c
        mass = (delta.abs() ** p * both).flatten(2).sum(dim=2) + free[:, None]
        # In l1 the published code gives each channel as much as all would have; the projection takes back what is too much.
        reach = c * mass if p == 1 else mass.sqrt()
        new = unit(self._bump(height, width) * self._signs(n, c, 1, 1) + unit(delta[here])) * reach[..., None, None]
        delta[there] = 0
        delta[here] = new
        return self._filled(x, delta)

    def _filled(self, x: Tensor, delta: Tensor) -> Tensor:
        """A perturbation brought to the ball's surface, in l1 from outside alone, and into the box."""
        if self.norm == "l2":
            delta = self.eps * delta / column(size(delta, "l2").clamp_min(1e-12), x)
        return project(x + delta, x, self.eps, self.norm)

    def _bump(self, height: int, width: int) -> Tensor:
        """Two pyramids of opposite sign side by side, of unit norm, one way or the other."""
        flip = self._number() < 0.5
        a, b = (width, height) if flip else (height, width)
        power = 4 if self.norm == "l1" else 2
        halves = [_pyramid(a // 2, b, power), -_pyramid(a - a // 2, b, power)]
        bump = torch.cat([half for half in halves if half.numel()])
        bump = (bump / bump.norm(p=1 if self.norm == "l1" else 2)).to(self.x)
        return bump.T if flip else bump


def _pyramid(height: int, width: int, power: int) -> Tensor:
    """Falls off from the middle like the sum of 1 / k^power over the rings inside which a pixel lies."""
    if not height:
        return torch.zeros(0, width)
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(rows[:, None], columns[None, :])
    depth = max(height // 2, width // 2) + 1
    tail = torch.tensor([1.0 / (k + 1) ** power for k in range(depth)]).flip(0).cumsum(0).flip(0)
    return tail[ring]
