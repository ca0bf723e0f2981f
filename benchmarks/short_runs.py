"""How many steps a run needs for a dial: what steering costs against a dense run of the same length, by length.

Run it from the checkout: ``PYTHONPATH=src python benchmarks/short_runs.py``. Each row is one length; each cell the mean
over seeds of the points of test accuracy that the lean network lies below the dense one trained for as many steps, with how
many of the runs collapsed (`Evaluation.collapsed`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from gracile import RGSM, RVSM, data, fit
from gracile.core.seeding import derive_seed
from gracile.data import Splits
from gracile.models import lenet, mlp
from gracile.splitting import Dial
from gracile.training import Cosine, evaluate

STEPS = (40, 100, 250, 500)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Case:
    """A network, and what it is steered to."""

    name: str
    network: Callable[[], nn.Module]
    splitting: Callable[..., RGSM | RVSM]
    budget: dict[str, float]


def convolutions(widths: tuple[int, ...]) -> nn.Module:
    """Convolutions with batch-norm, the second and the last in steps of two pixels, and one linear layer."""
    layers: list[nn.Module] = []
    for place, (read, made) in enumerate(itertools.pairwise((1, *widths))):
        layers += [nn.Conv2d(read, made, 3, 1 + place % 2, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def cases(side: int) -> list[Case]:
    """Without and with batch-norm, groups and single weights."""
    plain = lambda: lenet(num_classes=10, in_channels=1, image_size=side)
    normed = lambda: convolutions((16, 32, 32, 64))
    full = lambda: mlp(num_classes=10, in_channels=1, image_size=side, widths=(64, 64))
    groups = lambda model, example: RGSM(model, beta=0.1, example=example)
    single = lambda model, _: RVSM(model, "l0", beta=0.1)
    return [
        Case("lenet, 25 % of macs", plain, groups, {"macs": 0.25}),
        Case("batch-normed, 25 % of macs", normed, groups, {"macs": 0.25}),
        Case("mlp, l0, 90 % zeros", full, single, {"sparsity": 0.9}),
    ]


def accuracy(case: Case, splits: Splits, steps: int, seed: int, *, lean: bool) -> tuple[float, bool]:
    """Test accuracy in percent, and whether the network collapsed."""
    torch.manual_seed(derive_seed(seed, "initialisation"))
    network, example = case.network(), torch.zeros(2, *splits.train.input_shape)
    dial = Dial(case.splitting(network, example), steps=steps, example=example, **case.budget) if lean else None
    fit(
        network, splits, steps=steps, record_every=steps, batch_size=32, lr=0.05, schedule=Cosine(steps * 32 / len(splits.train)),
        sparsifier=dial, seed=seed,
    )  # fmt: skip
    kept = network if dial is None else dial.sparse_model()
    found = evaluate(kept, splits.test)
    return 100 * found.accuracy, bool(found.collapsed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON of every run")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    splits = data.load("digits", image_size=16, validation=100)
    found: list[dict[str, Any]] = []
    rows = []
    dense: dict[tuple[Any, ...], float] = {}
    for steps in args.steps:
        row: dict[str, Any] = {"steps": steps}
        for case in cases(16):
            gaps, dead = [], 0
            for seed in args.seeds:
                key = (case.name.split(",")[0], steps, seed)
                if key not in dense:
                    dense[key] = accuracy(case, splits, steps, seed, lean=False)[0]
                lean, gone = accuracy(case, splits, steps, seed, lean=True)
                gaps.append(dense[key] - lean)
                dead += gone
                found.append(
                    {
                        "case": case.name,
                        "steps": steps,
                        "seed": seed,
                        "dense": dense[key],
                        "lean": lean,
                        "collapsed": gone,
                    }
                )
            row[case.name] = f"{statistics.mean(gaps):.1f}" + (f" ({dead} dead)" if dead else "")
            print(steps, case.name, row[case.name], flush=True)
            if args.out:
                args.out.write_text(json.dumps(found))
        rows.append(row)
    print(tabulate(rows, headers="keys", tablefmt="github"))


if __name__ == "__main__":
    main()
