"""torch-pruning's own pruners at the budgets of the recipe `opponents`: the same data, epochs, schedule and seeds.

    python -m benchmarks.opponents [--pruner group_norm] [--budget 0.3] [--seed 0] [--epochs 10] [--image-size 16]

Trains half of the epochs, with the pruner's regulariser where it has one, removes channels physically down to the budget, and trains
the other half. Prints one line of JSON with the validation accuracy, beside which RGSM's defaults can be run by `--pruner rgsm`.
Needs torch-pruning (`make peers`).
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import gracile
from gracile.channels import trace
from gracile.data import Augmentation, Splits, load
from gracile.splitting import Dial
from gracile.training import Cosine, evaluate, fit, steps_per_epoch

BISECTIONS = 10
# Those that torch-pruning's documentation calls its best: group norms with sparse learning, and isomorphic magnitudes.
PRUNERS = ("group_norm", "isomorphic", "rgsm")
NETWORKS = {
    # Option A pads channels, which torch-pruning cuts wrongly; option B projects.
    "resnet20": lambda size: gracile.models.resnet20(shortcut="B"),
    "vgg16": lambda size: gracile.models.vgg16(width=0.5, image_size=size),
}


@dataclass(frozen=True)
class Later:
    """Another schedule from a later epoch on."""

    schedule: Cosine
    begin: float

    def factor(self, progress: float) -> float:
        """The factor after `progress` epochs of the later part."""
        return self.schedule.factor(self.begin + progress)


def macs(model: nn.Module, example: torch.Tensor) -> int:
    """Multiply-adds of a network as it stands."""
    return trace(model, example).dense().macs


def pruner(kind: str, model: nn.Module, example: torch.Tensor, ratio: float) -> Any:
    """One of torch-pruning's, over the whole network; the classifier keeps its outputs."""
    import torch_pruning as tp

    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    shared = {"global_pruning": True, "pruning_ratio": ratio, "ignored_layers": [last]}
    if kind == "group_norm":
        return tp.pruner.GroupNormPruner(model, example, importance=tp.importance.GroupMagnitudeImportance(), **shared)
    return tp.pruner.MagnitudePruner(
        model, example, importance=tp.importance.GroupMagnitudeImportance(), isomorphic=True, **shared
    )


def cut(kind: str, model: nn.Module, example: torch.Tensor, budget: float) -> nn.Module:
    """The network without as few channels as bring it to the budget, by the pruner's own ranking."""
    dense, low, high, found = macs(model, example), 0.0, 0.99, None
    for _ in range(BISECTIONS):
        middle, tried = (low + high) / 2, copy.deepcopy(model)
        pruner(kind, tried, example, middle).step()
        if macs(tried, example) <= budget * dense:
            high, found = middle, tried
        else:
            low = middle
    if found is None:
        raise SystemExit(f"{kind} reaches no {budget:g} of the multiply-adds")
    return found


def by_torch_pruning(
    kind: str,
    model: nn.Module,
    data: Splits,
    example: torch.Tensor,
    budget: float,
    epochs: int,
    settings: dict[str, Any],
) -> nn.Module:
    """Train, prune, train."""
    half, schedule = epochs // 2, Cosine(epochs)
    regulariser = pruner(kind, model, example, 0.5) if kind == "group_norm" else None

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        made = torch.optim.SGD(parameters, lr=settings["lr"], momentum=0.9, weight_decay=5e-4)
        if regulariser is not None:
            made.register_step_pre_hook(lambda *_: regulariser.regularize(model))
        return made

    if regulariser is not None:
        regulariser.update_regularizer()
    fit(model, data, epochs=half, optimizer=optimizer, schedule=schedule, **settings)
    lean = cut(kind, model, example, budget)
    fit(lean, data, epochs=epochs - half, schedule=Later(schedule, half), momentum=0.9, weight_decay=5e-4, **settings)
    return lean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pruner", choices=PRUNERS, default="group_norm")
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--budget", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--train-limit", type=int, default=15000)
    parser.add_argument("--precision", default="bf16")
    args = parser.parse_args()
    data = load("cifar10", image_size=args.image_size, train_limit=args.train_limit, validation=5000)
    torch.manual_seed(args.seed)
    model, example = NETWORKS[args.network](args.image_size), torch.zeros(2, 3, args.image_size, args.image_size)
    dense = macs(model, example)
    settings = {
        "lr": 0.1, "batch_size": 128, "seed": args.seed, "precision": args.precision,
        "augment": Augmentation(flip=True, crop=2),
    }  # fmt: skip
    if args.pruner == "rgsm":
        steps = args.epochs * steps_per_epoch(len(data.train), 128)
        dial = Dial(gracile.RGSM(model, beta=0.1, example=example), steps=steps, macs=args.budget, example=example)
        fit(
            model,
            data,
            epochs=args.epochs,
            schedule=Cosine(args.epochs),
            sparsifier=dial,
            momentum=0.9,
            weight_decay=5e-4,
            **settings,
        )
        lean = gracile.shrink(dial.sparse_model().eval(), example)
    else:
        lean = by_torch_pruning(args.pruner, model, data, example, args.budget, args.epochs, settings)
    print(json.dumps({
        **vars(args), "accuracy": round(100 * evaluate(lean, data.validation).accuracy, 2),
        "macs_left": round(100 * macs(lean, example) / dense, 2),
        "parameters": sum(p.numel() for p in lean.parameters()),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
