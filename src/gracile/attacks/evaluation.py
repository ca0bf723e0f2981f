"""Robust accuracy under several attacks, with confidence intervals and the checks that catch a wrong evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gracile.attacks import checks
from gracile.attacks.autoattack import PARTS
from gracile.attacks.square import square
from gracile.attacks.table import ATTACKS
from gracile.attacks.victim import Model, Precision, attacking
from gracile.core.errors import InputError, pick


@dataclass(frozen=True)
class Entry:
    """A line of the report: an attack with settings.

    Attributes:
        title: how the report calls it.
        attack: a row of `gracile.attacks.ATTACKS`.
        options: its settings.
        counted: whether it counts queries.
        parted: whether it tells which of its parts broke a sample.
    """

    title: str
    attack: str
    options: dict[str, Any] = field(default_factory=dict)
    counted: bool = False
    parted: bool = False

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
    "autoattack": Entry("AutoAttack", "autoattack", parted=True),
}


def preset(name: str) -> Entry:
    """What `evaluate` runs under a name: a row of `ENTRIES`, or any attack of the room with its own defaults.

    Raises:
        InputError: neither has such a row.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    pick({**ENTRIES, **ATTACKS}, name, "attack")
    # A function of the user's own, FILE.py:NAME, is called by its name.
    return Entry(name.rpartition(":")[2] if ":" in name else name.replace("_", " ").capitalize(), name)


TRANSFER = Entry("transfer from its surrogate", "pgd")
STANDARD = ("fgsm", "ifgsm", "cw", "nattack", "autoattack")


@dataclass(frozen=True)
class Score:
    """Accuracy under one attack.

    Attributes:
        name: of the entry.
        title: of the entry, for a reader.
        correct: samples that stand.
        samples: that were attacked.
        seconds: that it took.
        queries: mean queries an attacked sample took, where they are counted.
        parts: by part of an ensemble, how many samples it broke; each counts for the first that did.
    """

    name: str
    title: str
    correct: int
    samples: int
    seconds: float = 0.0
    queries: float | None = None
    parts: Mapping[str, int] | None = None

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
        eps: as given.
        norm: as given.
        seed: as given.
        draws: passes each gradient is the mean of.
        judged: fresh passes each answer is the mean of, 1 unless the network draws random numbers.
        examples: (n, ...) the samples as the first attack within the ball left them that broke them, else as they were.
        stands: by score, bool (k,): which of the first k samples it leaves right.
    """

    scores: tuple[Score, ...]
    warnings: tuple[str, ...]
    eps: float
    norm: str
    draws: int
    seed: int
    judged: int = 1
    examples: Tensor | None = field(default=None, repr=False, compare=False)
    stands: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

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
        return "\n".join(
            [table, *(f"\n- {note}" for note in self.notes), *(f"\n- WARNING: {one}" for one in self.warnings)]
        )

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers must know: over how many draws they are, and which part of an ensemble broke what."""
        found = []
        if self.judged > 1:
            found.append(
                f"the network draws random numbers: each answer is the mean of {self.judged} fresh draws, each gradient of {self.draws}"
            )
        for score in self.scores:
            if score.parts:
                each = ", ".join(f"{name} {count}" for name, count in score.parts.items())
                found.append(f"{score.title}, samples by the part that broke them first: {each}")
        return found

    def to_json(self) -> dict[str, Any]:
        """The same for a file."""
        scores = [
            {"name": one.name, "title": one.title, "accuracy": one.percent, "low": one.interval[0],
             "high": one.interval[1], "correct": one.correct, "samples": one.samples, "seconds": one.seconds,
             "queries": one.queries, "parts": None if one.parts is None else dict(one.parts)}
            for one in self.scores
        ]  # fmt: skip
        return {
            "eps": self.eps, "norm": self.norm, "draws": self.draws, "judged": self.judged, "seed": self.seed, "scores": scores,
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
    draws: int | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    progress: Callable[[str], None] = lambda line: None,
) -> Robustness:
    """Attack a network in several ways and say what stands, and whether that can be believed.

    Args:
        model: maps `x` to logits; any callable if no attack needs gradients.
        x: inputs (n, ...) in [0, 1].
        y: labels (n,).
        eps: radius of the ball.
        norm: of the ball, ``linf``, ``l2`` or ``l1``.
        attacks: rows of `ENTRIES`, or of `gracile.attacks.ATTACKS` for their own defaults.
        surrogate: a differentiable network much like `model`; PGD on cross-entropy and on the margin against it are tried on
            `model`, as the score ``transfer``.
        options: settings by entry that differ from its own.
        limits: samples an entry is tried on, the first ones; all without.
        draws: passes that each gradient is the mean of, for networks that draw random numbers; see `gracile.attacks.pgd`.
        seed: of the attacks' own random numbers and the network's.
        precision: ``bf16`` for attacks that take it; verdicts are in the network's own precision.
        progress: called with a line an attack.

    Raises:
        InputError: an argument that cannot be used; an attack that needs gradients of what has none.
        NonFiniteError: outputs or gradients that are not finite.
    """
    entries = {name: preset(name) for name in attacks}
    for entry in entries.values():
        if norm not in (ATTACKS[entry.attack].norms or (norm,)):
            raise InputError(f"{entry.title} knows no {norm} ball.", "Leave it out with --attacks, or use linf.")
    judge = _Judge(model, x, y, eps, norm, draws, seed)
    began = time.perf_counter()
    right = judge.right(x)
    scores = [_score("clean", "clean", right, began)]
    broken_by: dict[str, Tensor] = {}
    examples = x.detach().clone()
    if surrogate is not None:
        entries = {"transfer": TRANSFER, **entries}
    for name, entry in entries.items():
        began = time.perf_counter()
        count = min((limits or {}).get(name, len(x)), len(x))
        rows, stands = right[:count].nonzero().squeeze(1), right[:count].clone()
        queries = torch.zeros(len(rows), dtype=torch.int64) if entry.counted else None
        parts: dict[str, Tensor] = {}
        if len(rows):
            if name == "transfer" and surrogate is not None:
                tries = _transferred(surrogate, x[rows], y[rows], eps, norm, seed)
            else:
                settings = _settings(entry, (options or {}).get(name, {}), eps, norm)
                settings |= {"queries": queries} if entry.counted else {}
                settings |= {"broken_by": parts} if entry.parted else {}
                settings |= {"precision": precision} if ATTACKS[entry.attack].precisions else {}
                tries = [
                    ATTACKS[entry.attack].attack(model, x[rows], y[rows], **settings, draws=judge.draws, seed=seed)
                ]
            for tried in tries:
                now = judge.right(tried, rows)
                if ATTACKS[entry.attack].norms:
                    # The first that breaks a sample within the ball is kept.
                    first = ~now & (examples[rows] == x[rows]).flatten(1).all(dim=1)
                    examples[rows[first]] = tried[first].to(examples)
                stands[rows] &= now
        broken = right[:count] & ~stands
        for part, found in parts.items():
            broken_by[f"{name}: {part}"] = (
                torch.zeros_like(broken).index_fill_(0, rows[found], True).logical_and_(broken).cpu()
            )
        broken_by[name] = broken.cpu()
        asked = float(queries.double().mean()) if queries is not None and len(rows) else None
        counts = {part: int(broken_by[f"{name}: {part}"].sum()) for part in parts} if parts else None
        scores.append(_score(name, entry.title, stands, began, asked, counts))
        progress(f"{entry.title}: {scores[-1].percent:.2f} %")
    right = right.cpu()
    stands_by = {"clean": right} | {name: right[: len(broken_by[name])] & ~broken_by[name] for name in entries}
    stands_by["worst"] = _worst(right, broken_by)
    scores.append(Score("worst", "worst case a sample", int(stands_by["worst"].sum()), len(x)))
    warned = checks.beaten(broken_by, right, _kinds(broken_by, entries), random=judge.judged > 1)
    warned += checks.network(model, x, y, eps=eps, norm=norm, draws=judge.draws, seed=seed)
    return Robustness(tuple(scores), tuple(warned), eps, norm, judge.draws, seed, judge.judged, examples, stands_by)


def _settings(entry: Entry, changes: dict[str, Any], eps: float, norm: str) -> dict[str, Any]:
    """What an entry's attack is called with; an attack that knows one norm is not told, one without a ball gets no eps."""
    norms = ATTACKS[entry.attack].norms
    ball = ({"eps": eps} if norms else {}) | ({"norm": norm} if len(norms) > 1 else {})
    return {**entry.options, **changes, **ball}


def _worst(right: Tensor, broken_by: dict[str, Tensor]) -> Tensor:
    """Which samples stand under every attack that keeps to the ball."""
    stands = right.clone()
    for name, broken in broken_by.items():
        attack = ENTRIES[name].attack if name in ENTRIES else name
        if attack not in ATTACKS or ATTACKS[attack].norms:
            stands[: len(broken)] &= ~broken
    return stands


def _kinds(broken_by: Mapping[str, Tensor], entries: Mapping[str, Entry]) -> dict[str, tuple[str, bool | None]]:
    """Of every attack and part of one its title, and whether it asks for gradients.

    An ensemble counts by its parts; transfer asks another network for gradients; the papers' C&W keeps to no ball.
    """
    kinds: dict[str, tuple[str, bool | None]] = {}
    for name in broken_by:
        ensemble, _, part = name.partition(": ")
        entry = entries[ensemble]
        if part:
            kinds[name] = f"{PARTS[part][0].__name__.capitalize()} in {entry.title}", PARTS[part][0] is not square
        elif name == "transfer":
            kinds[name] = entry.title, False
        else:
            counts = bool(ATTACKS[entry.attack].norms) and not any(other.startswith(f"{name}: ") for other in broken_by)
            kinds[name] = entry.title, entry.gradients if counts else None
    return kinds


def _score(
    name: str,
    title: str,
    stands: Tensor,
    began: float,
    queries: float | None = None,
    parts: dict[str, int] | None = None,
) -> Score:
    return Score(name, title, int(stands.sum()), len(stands), round(time.perf_counter() - began, 2), queries, parts)


def _transferred(surrogate: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str, seed: int) -> list[Tensor]:
    # Without early stop: a point deep behind the surrogate's boundary transfers, one just across it does not.
    attack = ATTACKS["pgd"].attack
    return [attack(surrogate, x, y, eps=eps, norm=norm, steps=20, loss=loss, seed=seed) for loss in ("ce", "margin")]


class _Judge:
    """Whether the network is right about perturbed samples, by the mean of fresh draws.

    Attributes:
        draws: passes each gradient should be the mean of: as given, or found out.
        judged: passes each answer is the mean of.
    """

    def __init__(self, model: Model, x: Tensor, y: Tensor, eps: float, norm: str, draws: int | None, seed: int) -> None:
        self.model, self.x, self.y = model, x, y
        with attacking(model, x, y, eps=eps, norm=norm, draws=draws, seed=seed) as (victim, _, _):
            self.draws, self.judged = victim.draws, victim.judged
        self.settings: dict[str, Any] = {"eps": eps, "norm": norm, "draws": self.draws, "seed": seed + 1}

    def right(self, at: Tensor, rows: Tensor | None = None) -> Tensor:
        """Which answers (k,) are right at `at`, the perturbed samples of `rows`."""
        x, y = (self.x, self.y) if rows is None else (self.x[rows], self.y[rows])
        with attacking(self.model, x, y, **self.settings) as (victim, _, y):
            return ~victim.verdict(at.detach(), y)
