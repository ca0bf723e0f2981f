"""Square attack: random search with squares that shrink, without gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gracile.attacks.geometry import column, project, size
from gracile.attacks.losses import climbed
from gracile.attacks.victim import Mode, Model, Victim, attacking, finished
from gracile.core.seeding import generator

# The share of pixels a square covers halves at these queries of 10,000 (Andriushchenko et al. 2020, section 4.1).
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 8 / 255,
    steps: int = 5000,
    norm: str = "linf",
    share: float = 0.8,
    restarts: int = 1,
    targeted: bool = False,
    draws: int = 1,
    seed: int = 0,
    mode: Mode = "eval",
    chunk: int | None = None,
    queries: Tensor | None = None,
) -> Tensor:
    """Square attack (Andriushchenko et al. 2020), black-box: it asks for logits alone, so any callable will do.

    l-inf keeps each pixel on the ball's surface and tries the other signs on a square; l2 moves the perturbation's mass from
    one window to another. Samples leave the batch once broken.

    Args:
        model, x, y, eps, norm, targeted, draws, seed, mode, chunk: see `gracile.attacks.pgd`; `model` may be any function
            from x to logits, such as an onnxruntime session's.
        steps: queries a sample and restart, at most.
        share: of the pixels in the first square.
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
        model, x, y, eps=eps, norm=norm, targeted=targeted, draws=draws, seed=seed, mode=mode, chunk=chunk,
        steps=steps, restarts=restarts,
    ) as (victim, x, y):  # fmt: skip
        rows = (~victim.broken(victim.logits(x), y)).nonzero().squeeze(1)
        adversarial = x.clone()
        random = generator(seed, "attack", "square", device=x.device)
        for _ in range(restarts if eps > 0 else 0):
            if not len(rows):
                break
            # Features are images one pixel high.
            shape = x[rows].shape if x.ndim == 4 else (len(rows), 1, 1, x[0].numel())
            one = _Search(victim, x[rows].reshape(shape), y[rows], x.shape[1:], eps, norm, random)
            found, broken, used = one.run(steps, share)
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

    def run(self, steps: int, share: float) -> tuple[Tensor, Tensor, Tensor]:
        """The best points, which of them broke, and the queries each took."""
        x, y = self.x, self.y
        best = self._first(x)
        gains, broken = self._ask(best, y)
        used = torch.ones_like(y)
        # What is still searched: rows of the whole, and what goes with them.
        rows = (~broken).nonzero().squeeze(1)
        for query in range(1, steps):
            if not len(rows):
                break
            portion = share / 2 ** sum(query / steps * 10_000 > halving for halving in HALVINGS)
            tried = self._propose(x[rows], best[rows], portion)
            tried_gains, newly = self._ask(tried, y[rows])
            used[rows] += 1
            better = (tried_gains > gains[rows]) | newly
            best[rows[better]], gains[rows[better]] = tried[better], tried_gains[better]
            broken[rows[newly]] = True
            rows = rows[~newly]
        return best, broken, used

    def _ask(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.victim.logits(x.view(-1, *self.shape))
        return self.gain(logits, y), self.victim.broken(logits, y)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.random, device=self.x.device, dtype=self.x.dtype)

    def _signs(self, *shape: int) -> Tensor:
        return (self._uniform(*shape) < 0.5).to(self.x.dtype) * 2 - 1

    def _first(self, x: Tensor) -> Tensor:
        """Vertical stripes for l-inf; for l2 a tiling of fifths."""
        n, c, h, w = x.shape
        if self.norm == "linf":
            return (x + self.eps * self._signs(n, c, 1, w)).clamp_(0, 1)
        tile = max(min(h, w) // 5, 1)
        delta = torch.zeros_like(x)
        for top in range(0, h - tile + 1, tile):
            for left in range(0, w - tile + 1, tile):
                delta[:, :, top : top + tile, left : left + tile] = self._bump(tile, tile) * self._signs(n, c, 1, 1)
        return project(x + self.eps * delta / column(size(delta, "l2").clamp_min(1e-12), x), x, self.eps, "l2")

    def _window(self, n: int, h: int, w: int, portion: float, least: int) -> tuple[Tensor, Tensor, int, int]:
        """Tops and lefts of a window a sample, and its height and width, `portion` of the image."""
        height = min(max(round(math.sqrt(portion * h * w)), least), h)
        width = min(max(round(portion * h * w / height), least), w)
        top = (self._uniform(n) * (h - height + 1)).long().clamp_max(h - height)
        left = (self._uniform(n) * (w - width + 1)).long().clamp_max(w - width)
        return top, left, height, width

    def _propose(self, x: Tensor, best: Tensor, portion: float) -> Tensor:
        n, c, h, w = x.shape
        if self.norm == "l2":
            return self._move_mass(x, best, portion)
        top, left, height, width = self._window(n, h, w, portion, 1)
        rows = torch.arange(h, device=x.device)[None, :, None] - top[:, None, None]
        columns = torch.arange(w, device=x.device)[None, None, :] - left[:, None, None]
        inside = ((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width))[:, None]
        painted = (x + self.eps * self._signs(n, c, 1, 1)).clamp_(0, 1)
        return torch.where(inside, painted, best)

    def _move_mass(self, x: Tensor, best: Tensor, portion: float) -> Tensor:
        """Take the mass of one window, and what the ball still allows, to a bump in another (their algorithm 3)."""
        n, c, h, w = x.shape
        delta = best - x
        # One place a step for all samples: windows can then be sliced.
        top, left, height, width = self._window(1, h, w, portion, min(3, h, w))
        away_top, away_left, *_ = self._window(1, h, w, portion, min(3, h, w))
        here = (..., slice(int(top), int(top) + height), slice(int(left), int(left) + width))
        there = (..., slice(int(away_top), int(away_top) + height), slice(int(away_left), int(away_left) + width))
        both = torch.zeros(h, w, device=x.device, dtype=torch.bool)
        both[here], both[there] = True, True
        free = (self.eps**2 - delta.square().flatten(1).sum(dim=1)).clamp_min(0) / c
        mass = (delta.square() * both).flatten(2).sum(dim=2) + free[:, None]
        old = delta[here]
        old = old / old.flatten(2).norm(dim=2).clamp_min(1e-12)[..., None, None]
        new = self._bump(height, width) * self._signs(n, c, 1, 1) + old
        new = new / new.flatten(2).norm(dim=2).clamp_min(1e-12)[..., None, None] * mass.sqrt()[..., None, None]
        delta[there] = 0
        delta[here] = new
        return project(x + self.eps * delta / column(size(delta, "l2").clamp_min(1e-12), x), x, self.eps, "l2")

    def _bump(self, height: int, width: int) -> Tensor:
        """Two pyramids of opposite sign side by side, of unit norm, one way or the other."""
        flip = bool(self._uniform(1) < 0.5)
        a, b = (width, height) if flip else (height, width)
        halves = [_pyramid(a // 2, b), -_pyramid(a - a // 2, b)]
        bump = torch.cat([half for half in halves if half.numel()])
        bump = (bump / bump.norm()).to(self.x)
        return bump.T if flip else bump


def _pyramid(height: int, width: int) -> Tensor:
    """Falls off from the middle like the sum of 1 / k^2 over the rings inside which a pixel lies."""
    if not height:
        return torch.zeros(0, width)
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(rows[:, None], columns[None, :])
    depth = max(height // 2, width // 2) + 1
    tail = torch.tensor([1.0 / (k + 1) ** 2 for k in range(depth)]).flip(0).cumsum(0).flip(0)
    return tail[ring]
