"""A theorem held against many random starts, in words and numbers: what ``gracile one-layer`` prints and draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from gracile.core.files import check_writable
from gracile.one_layer.conditions import Theorem
from gracile.one_layer.starts import random_starts, sparse_teacher
from gracile.one_layer.verification import Verification, critical_lam, largest_beta, sample_deviation, verify

# Weights up to this share of 1/sqrt(d), the size of a teacher's entry, are zeroed by default.
RATIO, DELTA = 0.5, 0.5
# Starts that are also run on samples.
FEW = 4


@dataclass(frozen=True)
class OneLayer:
    """What became of the starts.

    Attributes:
        setting: ``theorem``, ``dim``, ``patches``, ``penalty``, ``delta``, ``beta``, ``lam``, ``starts``.
        verification: hypotheses, trajectories and conclusions.
        deviation: root mean square distance between where samples and the exact risk lead, with the number of samples,
            if asked.
        picture: of the trajectories, if one was drawn.
    """

    setting: dict[str, Any]
    verification: Verification
    deviation: tuple[int, float] | None = None
    picture: Path | None = None

    def shares(self) -> dict[str, float]:
        """Percent of starts: ``covered`` by the theorem, ``expected`` on the sphere, ``concluded`` of the covered and ``all_concluded``."""
        found = self.verification
        covered = float(found.admitted.double().mean())
        concluded = found.concluded.double()
        return {
            "covered": 100 * covered,
            "expected": 100 * found.exact,
            "concluded": 100 * float(concluded[found.admitted].mean()) if covered else math.nan,
            "all_concluded": 100 * float(concluded.mean()),
        }

    def spreads(self) -> dict[str, tuple[float, float, float]]:
        """Least, median and largest over all starts, by name."""
        seen, limit = self.verification.seen, self.verification.limit
        named = {
            "Lagrangian at the end": seen.lagrangian[-1],
            "its largest rise in one step": seen.lagrangian_rise,
            "angle at the start": seen.theta[0],
            "angle at the end": seen.theta[-1],
            "|w - w*|": limit.distance,
            "gradient at the end": seen.gradient[-1],
            "share of zeros in u": seen.sparsity[-1],
            "support recovered": seen.support[-1],
            "|w* - m (w - u) - C w|": limit.residual,
            "C": limit.constant,
        }
        return {name: (float(all.min()), float(all.median()), float(all.max())) for name, all in named.items()}

    def __str__(self) -> str:
        told, share = self.setting, self.shares()
        lines = [
            f"d = {told['dim']}, k = {told['patches']}, {told['penalty']}: delta {told['delta']:.4g}, beta {told['beta']:.4g}, "
            f"lam {told['lam']:.4g}\n\n{self.verification.conditions}\n",
            f"starts that the theorem covers: {share['covered']:.2f} % (of all starts on the sphere: {share['expected']:.4g} %); "
            f"of them {share['concluded']:.2f} % end as it says",
            f"starts that end as it says, covered or not: {share['all_concluded']:.2f} %\n",
            tabulate(
                [(name, *row) for name, row in self.spreads().items()],
                headers=["over all starts", "least", "median", "largest"], floatfmt=".4g",
            ) + "\n",
        ]  # fmt: skip
        if self.deviation is not None:
            n, distance = self.deviation
            lines.append(
                f"on {n} inputs, {FEW} starts end {distance:.3g} (root mean square) from where the exact risk leads"
            )
        return "\n".join([*lines, *([] if self.picture is None else [f"picture  {self.picture}"])])

    def to_json(self) -> dict[str, Any]:
        """The same for a program."""
        spread = {
            name: dict(zip(("least", "median", "largest"), row, strict=True)) for name, row in self.spreads().items()
        }
        found = {
            "setting": self.setting,
            "conditions": str(self.verification.conditions),
            "percent": self.shares(),
            "over_starts": spread,
        }
        if self.deviation is not None:
            found["samples"] = {"inputs": self.deviation[0], "deviation": self.deviation[1]}
        return found | ({} if self.picture is None else {"picture": str(self.picture)})


def one_layer(
    theorem: Theorem = "3.1",
    *,
    dim: int = 50,
    patches: int = 10,
    nonzero: int = 5,
    starts: int = 1000,
    steps: int = 500,
    penalty: str = "l1",
    delta: float | None = None,
    beta: float | None = None,
    lam: float | None = None,
    lr: float | None = None,
    samples: int | None = None,
    require: bool = False,
    seed: int = 0,
    folder: Path | str | None = None,
) -> OneLayer:
    """Run relaxed splitting on the one-layer network from many random starts and hold theorem 3.1 or 3.2 against it.

    Args:
        theorem: 3.1 for ReLU, 3.2 for the step function.
        dim: dimension d of a patch.
        patches: number k of patches.
        nonzero: non-zero entries of the teacher.
        starts: random starts on the sphere.
        steps: of each start.
        penalty: a penalty on single weights.
        delta: the theorem's; by default 0.5, or the least that `beta` needs.
        beta: coupling; by default the largest that `delta` admits.
        lam: weight of the penalty; by default zeroes weights up to 1/(2 sqrt(d)).
        lr: step size; by default the largest that the theorem admits.
        samples: also run on so many inputs, from 4 of the starts.
        require: stop where the theorem does not cover the setting.
        seed: of teacher, starts and samples.
        folder: for a picture of the trajectories; none by default.

    Raises:
        InputError: a number out of range, or with `require` a hypothesis that is not met.
        StorageError: no picture can be written in `folder`; that is tried before anything is run.
    """
    if folder is not None:
        check_writable(Path(folder))
    if delta is None and beta is None:
        delta = DELTA
    beta = largest_beta(theorem, delta or 0.0, patches) if beta is None else beta
    lam = critical_lam(penalty, beta, dim, RATIO) if lam is None else lam
    teacher, first = sparse_teacher(dim, nonzero, seed), random_starts(starts, dim, seed)
    setting = {"lam": lam, "beta": beta, "steps": steps, "penalty": penalty}
    found = verify(theorem, first, teacher, patches, **setting, lr=lr, delta=delta)
    if require:
        found.conditions.require()
    deviation = picture = None
    if samples:
        lr = found.conditions.sufficient_lr / 2 if lr is None else lr
        (deviation,) = sample_deviation(theorem, first[:FEW], teacher, patches, [samples], **setting, lr=lr, seed=seed)
    if folder is not None:
        from gracile.one_layer import pictures

        title = f"theorem {theorem}, d = {dim}, k = {patches}, β = {beta:.4g}, λ = {lam:.4g}, {len(first)} starts"
        picture = pictures.trajectories(
            Path(folder) / "trajectories.svg", {penalty: found.seen}, title, delta or found.conditions.delta
        )
    told = {"theorem": theorem, "dim": dim, "patches": patches, "starts": len(first), "delta": found.conditions.delta}
    return OneLayer(told | setting, found, deviation, picture)
