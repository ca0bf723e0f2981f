"""Other libraries' pruners at the budgets of the recipe `opponents`: its networks, data, epochs, schedule and seeds.

    python -m benchmarks.opponents --compare [--network vit] [--budget 0.3] [--pruner group_norm]
    python -m benchmarks.opponents [--network vit] [--pruner group_norm] [--budget 0.3] [--seed 15] [--split validation]

The second line trains a part of the epochs, with the pruner's regulariser where it has one, removes channels physically down to the
budget, trains the rest of them, and prints one line of JSON with the accuracy. ``--pruner rgsm`` is the recipe's own arm, and ``--set``
changes the recipe's settings. The first is the whole protocol: the tries of each of `PRUNERS` on validation images from the recipe's
tuning seed, then the best of them from its seeds on test images, each run in a process of its own, with the recipe's settings as they
are. It keeps the lines in benchmarks/opponents.jsonl, and does not run again what stands there; ``python tools/results.py`` makes a
table of them. Needs torch-pruning and nvidia-modelopt (``make peers``).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.metadata
import io
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gracile
from gracile.channels import trace
from gracile.commands.options import key_values
from gracile.core.provenance import environment
from gracile.data import Augmentation, Splits, batches
from gracile.models.vit import Attention
from gracile.recipes import load, schema
from gracile.recipes.kinds.train import Settings
from gracile.recipes.method_arms import build
from gracile.recipes.request import nested
from gracile.recipes.settings import build_network
from gracile.training import Schedule, evaluate, fit, steps_per_epoch
from gracile.training.optimizers import optimizer_factory
from tools.others import KEPT, PRUNERS, rows

BISECTIONS = 10
# The recipe's size that trains a network.
NETWORKS = {"resnet20": "budgets", "vgg16": "vgg", "mobilenet": "mobile", "vit": "vit"}
# Images that FastNAS judges each of some hundred choices by, and how often it is asked for a budget that it counts in its own way.
JUDGED_BY, REPEATS = 500, 6
# Batches from which it sets batch-norms anew.
CALIBRATION = 10
# Zero-padded channels are cut wrongly by torch-pruning and not traced by FastNAS; a projection does as well.
FOR_ALL = {"resnet20": {"shortcut": "B"}}


@dataclass(frozen=True)
class Later:
    """Another schedule from a later epoch on."""

    schedule: Schedule
    begin: float

    def factor(self, progress: float) -> float:
        """The factor after `progress` epochs of the later part."""
        return self.schedule.factor(self.begin + progress)


def macs(model: nn.Module, example: torch.Tensor) -> int:
    """Multiply-adds of a network as it stands."""
    return trace(model, example).dense().macs


# torch-pruning.


def pruner(kind: str, model: nn.Module, example: torch.Tensor, ratio: float, reg: float = 1e-4) -> Any:
    """One of torch-pruning's, over the whole network; the classifier keeps its outputs, and heads go as a whole."""
    import torch_pruning as tp

    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    heads = {one.qkv: one.num_heads for one in model.modules() if isinstance(one, Attention)}
    shared: dict[str, Any] = {"global_pruning": True, "pruning_ratio": ratio, "ignored_layers": [last]}
    if heads:
        shared |= {"num_heads": heads, "prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": ratio}
    importance = tp.importance.GroupMagnitudeImportance()
    if kind == "group_norm":
        return tp.pruner.GroupNormPruner(model, example, importance=importance, reg=reg, **shared)
    return tp.pruner.MagnitudePruner(model, example, importance=importance, isomorphic=True, **shared)


def pruned(kind: str, model: nn.Module, example: torch.Tensor, ratio: float) -> nn.Module | None:
    """The network itself, without this share of its channels and heads; None where a layer is left without any head."""
    made = pruner(kind, model, example, ratio)
    made.step()
    for one in model.modules():
        if isinstance(one, Attention):
            one.num_heads = made.num_heads[one.qkv]
            if not one.num_heads:
                return None
            one.head_dim = one.qkv.out_features // (3 * one.num_heads)
    return model


def cut(kind: str, model: nn.Module, example: torch.Tensor, budget: float) -> nn.Module:
    """The network without as few channels as bring it to the budget, by the pruner's own ranking."""
    dense, low, high, found = macs(model, example), 0.0, 0.99, None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        tried = pruned(kind, copy.deepcopy(model), example, middle)
        if tried is None:
            high = middle
        elif macs(tried, example) <= budget * dense:
            high, found = middle, tried
        else:
            low = middle
    if found is None:
        raise SystemExit(f"{kind} reaches no {budget:g} of the multiply-adds")
    return found


# Model-Optimizer.


def searched(model: nn.Module, example: torch.Tensor, budget: float, data: Splits, batch_size: int) -> nn.Module:
    """What FastNAS finds: validation accuracy is its score, batch-norms are set anew on training batches.

    Channels go in steps of a twentieth of their layer, as by default, but by pairs where its default has multiples of 32, of which these
    layers have one or two; not one by one, since it takes a depthwise convolution of one channel for one without groups and fails. It
    counts operations in its own way, so that what it is asked for is lowered until multiply-adds as counted here keep to the budget.

    It is not for the transformer: of that it knows linear layers alone and no heads but those of its own modules, so that more than
    half of the multiply-adds stay with no hidden neuron left. It says so.
    """
    import modelopt.torch.prune as mtp
    from modelopt.torch.prune.fastnas import FastNASConfig

    config = FastNASConfig().model_dump()
    for rule in config.values():
        for one in rule.values() if isinstance(rule, dict) else ():
            if isinstance(one, dict):
                one.update({key: 2 for key in one if key.endswith("_divisor")})
    judges = data.validation.subset(torch.arange(min(JUDGED_BY, len(data.validation))))
    dense, asked = macs(model, example), budget
    with tempfile.TemporaryDirectory() as folder:
        search = {
            "score_func": lambda network: evaluate(network, judges).accuracy,
            "data_loader": list(islice(batches(data.train, batch_size), CALIBRATION)), "collect_func": lambda batch: batch[0],
            # What each choice costs in accuracy is found once.
            "checkpoint": str(Path(folder) / "search.pth"), "verbose": False,
        }  # fmt: skip
        for _ in range(REPEATS):
            lean = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
            quiet = io.StringIO()
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    lean = mtp.prune(lean, [("fastnas", config)], {"flops": f"{100 * asked}%"}, example, config=search)[
                        0
                    ]
                except ValueError as error:
                    raise SystemExit(
                        f"FastNAS reaches no {budget:g} of the multiply-adds: {str(error).splitlines()[-1]}"
                    ) from error
            left = macs(lean, example) / dense
            if left <= budget:
                return lean
            asked *= budget / left
    raise SystemExit(f"FastNAS reaches no {budget:g} of the multiply-adds")


# All.


def in_two_parts(
    kind: str, model: nn.Module, data: Splits, example: torch.Tensor, args: argparse.Namespace, settings: Settings
) -> tuple[nn.Module, float]:
    """Train, prune, train; the lean network, and the seconds that pruning took."""
    training = settings.training
    schedule = training.rates(steps_per_epoch(len(data.train), training.batch_size))
    before = max(1, round(args.prune_at * training.epochs))
    shared: dict[str, Any] = {
        "batch_size": training.batch_size, "seed": args.seed, "precision": training.precision, "augment": augmentation(settings),
    }  # fmt: skip
    plain = optimizer_factory(
        training.optimizer, lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
    )
    regulariser = pruner(kind, model, example, 0.5, args.reg) if kind == "group_norm" else None

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        made = plain(parameters)
        if regulariser is not None:
            made.register_step_pre_hook(lambda *_: regulariser.regularize(model))
        return made

    if regulariser is not None:
        regulariser.update_regularizer()
    fit(model, data, epochs=before, optimizer=optimizer, lr=training.lr, schedule=schedule, **shared)
    started = time.process_time()
    way = partial(searched, data=data, batch_size=training.batch_size) if kind == "fastnas" else partial(cut, kind)
    lean = way(model, example, args.budget)
    spent = time.process_time() - started
    rest = training.epochs - before
    fit(lean, data, epochs=rest, optimizer=plain, lr=training.lr, schedule=Later(schedule, before), **shared)
    return lean, spent


def by_rgsm(data: Splits, example: torch.Tensor, args: argparse.Namespace, settings: Settings) -> nn.Module:
    """The recipe's own arm, by one of its tries."""
    tried = settings.tried(f"rgsm_{round(100 * args.budget)}", args.attempt)
    arm, _, training = settings.with_arm("rgsm", tried).asked("rgsm")
    built = build(arm, settings.model, training, args.seed, data, torch.device("cpu"), None)
    fit(
        built.network, data, epochs=training.epochs, optimizer=training.optimizer, lr=training.lr, momentum=training.momentum,
        weight_decay=training.weight_decay, schedule=built.schedule, sparsifier=built.sparsifier, seed=args.seed,
        batch_size=training.batch_size, precision=training.precision, augment=augmentation(settings),
    )  # fmt: skip
    assert built.sparsifier is not None
    return gracile.shrink(built.sparsifier.sparse_model().eval(), example)


def augmentation(settings: Settings) -> Augmentation:
    """The recipe's."""
    return Augmentation(flip=settings.data.flip, crop=settings.data.crop)


# The protocol.


Row = dict[str, Any]


def compare(settings: Settings, args: argparse.Namespace, pruners: Sequence[str], kept: Path = KEPT) -> None:
    """Run the protocol for one network at one budget, and keep its lines; what is kept already is not run again."""
    # Before a line is added, which changes what is committed.
    found, commit = rows(kept), environment()["commit"]

    def run(pruner: str, seed: int, split: str, options: Mapping[str, float]) -> Row:
        asked = {
            "network": args.network,
            "budget": args.budget,
            "pruner": pruner,
            "seed": seed,
            "split": split,
            "options": dict(options),
        }
        for row in found:
            if all(row[key] == value for key, value in asked.items()):
                return row
        row = asked | one(asked)
        row |= {"commit": commit} if "commit" in row else {}
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(pruner, seed, split, options, row.get("accuracy", row.get("refused")), flush=True)
        return row

    for pruner in pruners:
        judged = [run(pruner, settings.tuning_seeds[0], "validation", options) for options in PRUNERS[pruner].tries]
        reached = [row for row in judged if "accuracy" in row]
        if reached:
            best = max(reached, key=lambda row: row["accuracy"])
            for seed in settings.seeds:
                run(pruner, seed, "test", best["options"])


def one(asked: Row) -> Row:
    """One run in a process of its own; where the budget is out of the pruner's reach, why."""
    given = {key: value for key, value in asked.items() if key != "options"} | asked["options"]
    words = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.opponents", *words], capture_output=True, text=True, check=False
    )
    if done.returncode and "reaches no" in done.stderr:
        return {"refused": done.stderr.strip().splitlines()[-1]}
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", action="store_true", help="the whole protocol, kept")
    parser.add_argument("--pruner", choices=PRUNERS, help="group_norm by default; all of them with --compare")
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--budget", type=float, default=0.3)
    parser.add_argument("--seed", type=int, help="the recipe's first by default")
    parser.add_argument("--prune-at", type=float, default=0.5, help="share of the epochs after which channels go")
    parser.add_argument("--reg", type=float, default=1e-4, help="of group_norm's sparse learning")
    parser.add_argument("--attempt", type=int, default=0, help="which of the tries of the recipe's arm rgsm takes")
    parser.add_argument("--split", choices=("validation", "test"), default="validation", help="what is judged on")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the recipe")
    args = parser.parse_args()
    own_to_one = ("seed", "prune_at", "reg", "attempt", "split", "set")
    if args.compare and (given := [name for name in own_to_one if getattr(args, name) != parser.get_default(name)]):
        parser.error(
            f"--{given[0].replace('_', '-')} is for a single run, and --compare has its own: leave one of them out"
        )
    recipe = schema.resized(load("opponents"), NETWORKS[args.network])
    own = {"model": {"options": FOR_ALL.get(args.network, {})}}
    changes = schema.merged(own, nested(key_values("--set", args.set, "training.epochs=2")))
    settings = Settings(**schema.merged(recipe.settings, changes))
    if args.compare:
        compare(settings, args, [args.pruner] if args.pruner else list(PRUNERS))
        return
    args.pruner = args.pruner or "group_norm"
    args.seed = settings.seeds[0] if args.seed is None else args.seed
    data = settings.data.splits(torch.device("cpu"))
    model, example = build_network(settings.model, data, args.seed), torch.zeros(2, *data.train.input_shape)
    dense, started, spent = trace(model, example).dense(), time.process_time(), 0.0
    if args.pruner == "rgsm":
        lean = by_rgsm(data, example, args, settings)
    else:
        lean, spent = in_two_parts(args.pruner, model, data, example, args, settings)
    seconds = time.process_time() - started
    accuracy = evaluate(lean, data.test if args.split == "test" else data.validation).accuracy
    where = environment()
    library = PRUNERS[args.pruner].package
    print(json.dumps({
        "accuracy": round(100 * accuracy, 2), "macs_left": round(100 * macs(lean, example) / dense.macs, 2),
        "parameters_left": round(100 * sum(p.numel() for p in lean.parameters()) / dense.parameters, 2),
        "seconds": round(seconds, 1), "pruning": round(spent, 1), "set": args.set, "commit": where["commit"],
        "processor": where["processor"], "threads": where["threads"], "torch": where["versions"]["torch"],
        "library": f"{library} {importlib.metadata.version(library)}" if library else "",
    }))  # fmt: skip


if __name__ == "__main__":
    main()
