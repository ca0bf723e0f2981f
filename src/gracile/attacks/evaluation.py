"""Robust accuracy under several attacks, with confidence intervals and the checks that catch a wrong evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gracile.attacks import checks
from gracile.attacks.table import ATTACKS
from gracile.attacks.victim import Model, attacking
from gracile.core.errors import InputError, pick


@dataclass(frozen=True)
class Entry:
    """A line of the report: an attack with settings.

    Attributes:
        title: how the report calls it.
        attack: a row of `gracile.attacks.ATTACKS`.
        options: its settings.
        counted: whether it counts queries.
    """

    title: str
    attack: str
    options: dict[str, Any] = field(default_factory=dict)
    counted: bool = False

    @property
    def gradients(self) -> bool:
        """Whether it needs gradients of the network."""
        return ATTACKS[self.attack].gradients


ENTRIES: dict[str, Entry] = {
    "fgsm": Entry("FGSM", "fgsm"),
    "ifgsm": Entry("IFGSM-20", "pgd", {"steps": 20, "random_start": False, "early_stop": True}),
    "pgd": Entry("PGD-20", "pgd", {"steps": 20, "early_stop": True}),
    "cw": Entry("C&W", "cw"),
    "cw_paper": Entry("C&W as the papers' code has it", "cw_paper"),
    "nattack": Entry("NAttack", "nattack", counted=True),
    "square": Entry("Square", "square", counted=True),
    "autoattack": Entry("AutoAttack", "autoattack"),
}
STANDARD = ("fgsm", "ifgsm", "cw", "nattack", "autoattack")


@dataclass(frozen=True)
class Score:
    """Accuracy under one attack.

    Attributes:
        name, title: of the entry.
        correct, samples: counts; each sample of `samples` was attacked.
        seconds: that it took.
        queries: mean queries an attacked sample took, where they are counted.
    """

    name: str
    title: str
    correct: int
    samples: int
    seconds: float = 0.0
    queries: float | None = None

    @property
    def percent(self) -> float:
        """Accuracy in percent."""
        return 100 * self.correct / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of 95 % confidence, percent."""
        from scipy.stats import binomtest

        found = binomtest(self.correct, self.samples).proportion_ci(0.95, method="wilson")
        return 100 * float(found.low), 100 * float(found.high)


@dataclass(frozen=True)
class Robustness:
    """What an evaluation found.

    Attributes:
        scores: ``clean`` first, ``worst`` last: the share of samples that no attack broke.
        warnings: signs that the evaluation says too much, each with what to do.
        eps, norm, draws, seed: as given.
    """

    scores: tuple[Score, ...]
    warnings: tuple[str, ...]
    eps: float
    norm: str
    draws: int
    seed: int

    def __getitem__(self, name: str) -> Score:
        return pick({score.name: score for score in self.scores}, name, "score")

    def __str__(self) -> str:
        from tabulate import tabulate

        rows = []
        for score in self.scores:
            low, high = score.interval
            asked = "" if score.queries is None else f"{score.queries:,.0f}"
            rows.append([score.title, f"{score.percent:.2f}", f"{low:.1f} to {high:.1f}", score.samples,
                         f"{score.seconds:.1f}", asked])  # fmt: skip
        heads = ["attack", "accuracy %", "95 % interval", "samples", "seconds", "queries"]
        table = tabulate(rows, headers=heads, tablefmt="github", disable_numparse=True)
        return "\n".join([table, *(f"\n- WARNING: {warning}" for warning in self.warnings)])

    def to_json(self) -> dict[str, Any]:
        """The same for a file."""
        scores = [
            {"name": one.name, "title": one.title, "accuracy": one.percent, "low": one.interval[0],
             "high": one.interval[1], "correct": one.correct, "samples": one.samples, "seconds": one.seconds,
             "queries": one.queries}
            for one in self.scores
        ]  # fmt: skip
        return {
            "eps": self.eps, "norm": self.norm, "draws": self.draws, "seed": self.seed, "scores": scores,
            "warnings": list(self.warnings),
        }  # fmt: skip


def evaluate(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 8 / 255,
    norm: str = "linf",
    attacks: Sequence[str] = STANDARD,
    surrogate: nn.Module | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    limits: dict[str, int] | None = None,
    draws: int = 1,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Robustness:
    """Attack a network in several ways and say what stands, and whether that can be believed.

    Args:
        model: maps `x` to logits; any callable if no attack needs gradients.
        x, y: as `gracile.attacks.pgd` takes them.
        eps, norm, draws, seed: see `gracile.attacks.pgd`.
        attacks: rows of `ENTRIES`.
        surrogate: a differentiable network much like `model`; PGD on cross-entropy and on the margin against it are tried on
            `model`, as the score ``transfer``.
        options: settings by entry that differ from its own.
        limits: samples an entry is tried on, the first ones; all without.
        progress: called with a line an attack.

    Raises:
        InputError: an argument that cannot be used; an attack that needs gradients of what has none.
        NonFiniteError: outputs or gradients that are not finite.
    """
    entries = {name: pick(ENTRIES, name, "attack") for name in attacks}
    for entry in entries.values():
        if norm not in (ATTACKS[entry.attack].norms or (norm,)):
            raise InputError(f"{entry.title} knows no {norm} ball.", "Leave it out with --attacks, or use linf.")
    judge = _Judge(model, x, y, eps, norm, draws, seed)
    began = time.perf_counter()
    right = judge.right(x)
    scores = [_score("clean", "clean", right, began)]
    broken_by: dict[str, Tensor] = {}
    if surrogate is not None:
        entries = {"transfer": Entry("transfer from its surrogate", "pgd"), **entries}
    for name, entry in entries.items():
        began = time.perf_counter()
        count = min((limits or {}).get(name, len(x)), len(x))
        rows, stands = right[:count].nonzero().squeeze(1), right[:count].clone()
        queries = torch.zeros(len(rows), dtype=torch.int64) if entry.counted else None
        if len(rows):
            if name == "transfer" and surrogate is not None:
                tries = _transferred(surrogate, x[rows], y[rows], eps, norm, seed)
            else:
                settings = _settings(entry, (options or {}).get(name, {}), eps, norm, queries)
                attack = ATTACKS[entry.attack].attack
                tries = [attack(model, x[rows], y[rows], **settings, draws=draws, seed=seed)]
            for tried in tries:
                stands[rows] &= judge.right(tried, rows)
        asked = float(queries.double().mean()) if queries is not None and len(rows) else None
        scores.append(_score(name, entry.title, stands, began, asked))
        broken_by[name] = (right[:count] & ~stands).cpu()
        progress(f"{entry.title}: {scores[-1].percent:.2f} %")
    scores.append(Score("worst", "worst case a sample", _worst(right.cpu(), broken_by), len(x)))
    warned = checks.beaten(broken_by, right.cpu(), entries)
    warned += checks.network(model, x, y, eps=eps, norm=norm, draws=draws, seed=seed)
    return Robustness(tuple(scores), tuple(warned), eps, norm, draws, seed)


def _settings(entry: Entry, changes: dict[str, Any], eps: float, norm: str, queries: Tensor | None) -> dict[str, Any]:
    """What an entry's attack is called with; an attack that knows one norm is not told, one without a ball gets no eps."""
    norms = ATTACKS[entry.attack].norms
    ball = ({"eps": eps} if norms else {}) | ({"norm": norm} if len(norms) > 1 else {})
    return {**entry.options, **changes, **ball, **({} if queries is None else {"queries": queries})}


def _worst(right: Tensor, broken_by: dict[str, Tensor]) -> int:
    """How many samples stand under every attack that keeps to the ball."""
    stands = right.clone()
    for name, broken in broken_by.items():
        if ATTACKS[ENTRIES[name].attack if name in ENTRIES else "pgd"].norms:
            stands[: len(broken)] &= ~broken
    return int(stands.sum())


def _score(name: str, title: str, stands: Tensor, began: float, queries: float | None = None) -> Score:
    return Score(name, title, int(stands.sum()), len(stands), round(time.perf_counter() - began, 2), queries)


def _transferred(surrogate: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str, seed: int) -> list[Tensor]:
    # Without early stop: a point deep behind the surrogate's boundary transfers, one just across it does not.
    attack = ATTACKS["pgd"].attack
    return [attack(surrogate, x, y, eps=eps, norm=norm, steps=20, loss=loss, seed=seed) for loss in ("ce", "margin")]


class _Judge:
    """Whether the network is right about perturbed samples."""

    def __init__(self, model: Model, x: Tensor, y: Tensor, eps: float, norm: str, draws: int, seed: int) -> None:
        self.model, self.x, self.y = model, x, y
        self.settings: dict[str, Any] = {"eps": eps, "norm": norm, "draws": draws, "seed": seed + 1}

    def right(self, at: Tensor, rows: Tensor | None = None) -> Tensor:
        """bool (k,): right answers at `at`, the perturbed samples of `rows`, with draws of its own."""
        x, y = (self.x, self.y) if rows is None else (self.x[rows], self.y[rows])
        with attacking(self.model, x, y, **self.settings) as (victim, _, y):
            return ~victim.broken(victim.logits(at.detach()), y)
