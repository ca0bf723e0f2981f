"""Kind of recipe: ReDense in trained networks, beside "retrain the last layer with the same budget"."""

from __future__ import annotations

import itertools
import logging
import time
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from gracile.core.names import safe_name
from gracile.core.runs import RunFolder
from gracile.data import Dataset, Splits, batches
from gracile.layerwise.redense import ReDense, retrain_features
from gracile.layerwise.softmax import Features, HeldOutCurve
from gracile.recipes.arms import Part, Seeded, kept
from gracile.recipes.base_networks import Base, build, trained
from gracile.recipes.kinds import Outcome
from gracile.recipes.settings import Amounts
from gracile.recipes.tables import Results, Rows, mean, spread
from gracile.report.layerwise_figures import redense_curves
from gracile.training import evaluate

log = logging.getLogger("gracile")

INSIDE = (
    "At a layer inside the network the output layer stays as it was, and the new layer is trained in batches by Adam."
)


class Settings(Seeded, Amounts):
    """What a recipe of this kind may say.

    Attributes:
        data: name or path of a data set.
        network: "mlp", "cnn", or ``FILE.py:NAME`` or ``package.module:NAME`` of the user's own, trained already (then
            `base.epochs` is 0).
        hidden: units before the last layer of "mlp" and "cnn".
        base: how the network is trained.
        losses: one base network each: ce, mse, poisson, huber.
        m: rows of R, one arm each; none takes the features' own number.
        matrices: "orthonormal", "gaussian" (as published), one arm each.
        methods: "monotone", "adam", each with its control.
        epochs: full-batch steps of ReDense and of the control.
        lr: of Adam.
        seeds: one base network, R and split each.
        validation: share of the training data set aside and not used, as in the paper.
        inside: names of layers inside the network that get a ReDense layer too, one arm each.
        inside_epochs: passes over the data there.
        published_gain: what the paper says, for the table.
    """

    data: str
    network: str = "mlp"
    hidden: int = 512
    base: Base = Base()
    losses: list[str] = Field(default=["ce"])
    m: list[int] = Field(default=[])
    matrices: list[str] = Field(default=["orthonormal"])
    methods: list[str] = Field(default=["monotone"])
    epochs: int = 300
    lr: float = 1e-3
    seeds: list[int] = Field(default=[0, 1, 2])
    validation: float | int = 0.0
    inside: list[str] = Field(default=[])
    inside_epochs: int = 5
    published_gain: str = ""

    def names(self) -> list[str]:
        return self.losses


def train(settings: Settings, part: Part) -> dict[str, Any]:
    """All arms of one base network, which is trained or read."""
    splits = settings.load(settings.data, part.seed)
    wanted = itertools.product(settings.methods, settings.matrices, settings.m or [0])
    files = {("last", *arm): part.path / f"{arm[0]}-{arm[1]}-m{arm[2]}.json" for arm in wanted}
    for layer in settings.inside:
        files[layer, "adam", "orthonormal", 0] = part.path / safe_name(f"inside-{layer}.json", "layer")
    network = build(settings.network, splits.train, settings.hidden, part.seed)
    if settings.base.epochs:
        network = trained(network, splits, settings.base, part)
    network.eval()
    task = _Task(settings, network, part, splits, 100 * evaluate(network, splits.test).accuracy)
    log.info("base network, %s: %.2f %% of the test samples", part.label, task.start)
    return {"note": splits.test.note, "arms": [kept(file, partial(task.arm, *arm)) for arm, file in files.items()]}


@dataclass
class _Task:
    """A base network, and what its arms share."""

    settings: Settings
    network: nn.Module
    part: Part
    splits: Splits
    start: float

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """All training samples."""
        return _whole(self.splits.train)

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        """All test samples."""
        return _whole(self.splits.test)

    @cached_property
    def features(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """What the network makes of training and test samples before its last layer, with their labels."""
        last = ReDense(self.network)
        return last.features(self.data), last.features(self.test)

    def arm(self, layer: str, method: str, matrix: str, m: int) -> dict[str, Any]:
        """The numbers of one arm; m = 0 takes the features' own number."""
        which = {
            "loss": self.part.arm,
            "seed": self.part.seed,
            "layer": layer,
            "method": method,
            "matrix": matrix,
            "m": m,
        }
        options = {"m": m or None, "matrix": matrix} if layer == "last" else {"layer": layer}
        wider = ReDense(self.network, seed=self.part.seed, **options)
        with torch.no_grad():
            before, after = (net(self.test[0][:1000]).softmax(1) for net in (self.network, wider))
        numbers = {"base": self.start, "eps": wider.eps, "start_difference": float((before - after).abs().max())}
        began = time.perf_counter()
        found = self._at_the_end(wider, method) if layer == "last" else self._inside(wider)
        found = {**which, **numbers, "seconds": time.perf_counter() - began, **found}
        if layer == "last":
            found |= kept(self.part.path / f"control-{method}.json", lambda: self._control(method))
        told = (layer, found["m"], method, self.start, found["redense"], found.get("control"))
        log.info("%s m=%s %s: %.2f -> %.2f, control %s", *told)
        return found

    def _options(self, method: str) -> dict[str, Any]:
        return {"epochs": self.settings.epochs, "method": method, "lr": self.settings.lr}

    def _at_the_end(self, wider: ReDense, method: str) -> dict[str, Any]:
        """ReDense at the last layer."""
        data, test = self.features
        seen = HeldOutCurve(Features(*test, wider.expand))
        fitted = wider.fit_features(*data, **self._options(method), monitor=seen)
        return {
            "m": len(fitted.weights) // 2, "redense": seen.measured(fitted.weights, fitted.bias)[1],
            "norm": float(torch.linalg.vector_norm(fitted.weights)), "kept_loss": min(fitted.losses),
            "losses": fitted.losses, "curve": seen.rows,
        }  # fmt: skip

    def _control(self, method: str) -> dict[str, Any]:
        """The network's own last layer trained on with the same method and epochs, without a ball."""
        data, test = self.features
        plain = HeldOutCurve(Features(*test))
        fitted = retrain_features(self.network, *data, **self._options(method), monitor=plain)
        accuracy = plain.measured(fitted.weights, fitted.bias)[1]
        numbers = {"kept_loss": min(fitted.losses), "losses": fitted.losses, "curve": plain.rows}
        return {"control": accuracy, **{f"control_{key}": value for key, value in numbers.items()}}

    def _inside(self, wider: ReDense) -> dict[str, Any]:
        """ReDense at a layer inside the network, trained in batches."""
        fitted = wider.fit(self.data, epochs=self.settings.inside_epochs, lr=self.settings.lr, seed=self.part.seed)
        accuracy = 100 * evaluate(wider, self.splits.test).accuracy
        return {"redense": accuracy, "kept_loss": min(fitted.losses), "losses": fitted.losses}


def _whole(data: Dataset) -> tuple[Tensor, Tensor]:
    x, y = zip(*batches(data, 4096), strict=True)
    return torch.cat(x), torch.cat(y)


def outcome(settings: Settings, folder: RunFolder, results: Results, published: Rows) -> Outcome:
    """Put the table together."""
    # One seed after the other, as the bases were trained.
    arms = [arm for place in range(len(settings.seeds)) for parts in results.values() for arm in parts[place]["arms"]]
    name, note = Path(settings.data).name, next(reversed(results.values()))[-1]["note"]
    groups = _groups(arms)
    rows = [{"data": f"{name} ({note})" if note else name, **_row(settings, group, published)} for group in groups]
    drawn = {}
    for method in settings.methods:
        shown = [group for group in groups if group[0]["layer"] == "last" and group[0]["method"] == method]
        over = f"(mean of {len(settings.seeds)} seeds)"
        title = f"{settings.network} on {settings.data}, ReDense trained by {method} {over}"
        drawn[f"curves-{method}"] = redense_curves(shown, title)
    beside = "sample standard deviation" if len(settings.seeds) > 1 else "one seed, no spread"
    about = (
        f"Accuracies in percent, mean and {beside}, seeds {', '.join(map(str, settings.seeds))}. 'monotone' gives the last "
        "epoch, 'adam' the one of least training loss. 'control' trains the network's own last layer on with the same method "
        "and epochs, without a ball."
    )
    return Outcome(
        rows, _values(arms, groups), drawn, [note and f"{name}: {note}.", about, INSIDE if settings.inside else ""]
    )


def _groups(arms: Rows) -> list[Rows]:
    """The seeds of each arm."""
    groups: dict[tuple[Any, ...], Rows] = {}
    for arm in arms:
        groups.setdefault(tuple(arm[key] for key in ("loss", "layer", "method", "matrix", "m")), []).append(arm)
    return list(groups.values())


def _row(settings: Settings, group: Rows, published: Rows) -> dict[str, Any]:
    first = group[0]
    control = "control" in first
    row = {
        "base loss": first["loss"],
        "layer": first["layer"],
        "R": first["matrix"],
        "m": first["m"] or "n",
        "method": first["method"],
    }
    row |= {name: spread(arm[name] for arm in group) for name in ("base", "redense", "control") if name in first}
    row["gain"] = spread(arm["redense"] - arm["base"] for arm in group)
    if control:
        row["over control"] = spread(arm["redense"] - arm["control"] for arm in group)
    row["train loss"] = f"{fmean(arm['losses'][0] for arm in group):.3f} -> {mean(group, 'kept_loss'):.3f}"
    if control:
        row["control's"] = f"{mean(group, 'control_kept_loss'):.3f}"
    return row | {"seconds": round(mean(group, "seconds"), 1), "published": _published(settings, first, published)}


def _published(settings: Settings, arm: dict[str, Any], published: Rows) -> str:
    """What the paper gives for this arm, as it gives it."""
    if arm["layer"] != "last":
        return ""
    for line in published:
        if line.get("dataset") == settings.data:
            return f"{line['without']} -> {line['with_redense']} (BiT-M-R50x1)"
    named = {line["name"]: line["value"] for line in published if "name" in line}
    after = named.get(f"redense_{arm['m']}")
    return settings.published_gain if after is None else f"{named['mlp']} -> {after}"


def _values(arms: Rows, groups: list[Rows]) -> dict[str, float]:
    """Numbers that criteria speak of; gains are means over seeds, in percentage points."""
    last = [arm for arm in arms if arm["layer"] == "last"]
    gains, others = {}, {}
    for group in groups:
        first = group[0]
        place = "" if first["layer"] == "last" else f"_{first['layer']}"
        raw = "_gaussian" if first["matrix"] == "gaussian" else ""
        name = f"{first['loss']}_{first['method']}{raw}_m{first['m'] or 'n'}{place}"
        gains[f"gain_{name}"] = fmean(arm["redense"] - arm["base"] for arm in group)
        others[f"seconds_{name}"] = mean(group, "seconds")
        if "control" in first:
            others[f"over_control_{name}"] = fmean(arm["redense"] - arm["control"] for arm in group)
    rises = [b - a for arm in last if arm["method"] == "monotone" for a, b in pairwise(arm["losses"])]
    if any(arm["method"] == "monotone" for arm in last):
        others["largest_rise_within_monotone"] = max(rises, default=0.0)
    return (
        gains
        | others
        | {
            "largest_start_difference": max(arm["start_difference"] for arm in arms if arm["matrix"] == "orthonormal"),
            "largest_loss_increase": max(arm["kept_loss"] - arm["losses"][0] for arm in arms),
            "largest_norm_over_eps": max(arm["norm"] / arm["eps"] for arm in last),
            "slowest_seconds": max(arm["seconds"] for arm in last),
            "base_accuracy": mean(last, "base"),
            "least_gain": min(gains.values()),
        }
    )
