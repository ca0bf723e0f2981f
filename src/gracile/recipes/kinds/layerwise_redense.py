"""Kind of recipe: ReDense in trained networks, beside "retrain the last layer with the same budget"."""

from __future__ import annotations

import itertools
import logging
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from gracile.core.names import safe_name
from gracile.core.runs import RunFolder
from gracile.data import Dataset, Splits, batches
from gracile.layerwise.redense import ReDense, bias_of
from gracile.layerwise.softmax import Features, fit_softmax
from gracile.recipes.arms import Part, Parts, kept
from gracile.recipes.base_networks import Base, build, trained
from gracile.recipes.kinds import Outcome
from gracile.recipes.settings import Amounts
from gracile.recipes.tables import mean, spread
from gracile.report.figures import save_all
from gracile.report.layerwise_figures import redense_curves
from gracile.training import evaluate

log = logging.getLogger("gracile")


class Settings(Parts, Amounts):
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

    def seeds_of(self, arm: str) -> list[int]:
        return self.seeds


def outcome(
    settings: Settings, folder: RunFolder, results: dict[str, list[dict[str, Any]]], published: list[dict[str, Any]]
) -> Outcome:
    """Put the table together."""
    each = [one for parts in results.values() for one in parts]
    # One seed after the other, as the bases were trained.
    arms = [arm for place in range(len(settings.seeds)) for parts in results.values() for arm in parts[place]["arms"]]
    note = each[-1]["note"]
    data = f"{Path(settings.data).name} ({note})" if note else Path(settings.data).name
    rows = [{"data": data, **_row(settings, group, published)} for group in _groups(arms)]
    drawn = {}
    for method in settings.methods:
        groups = [group for group in _groups(arms) if group[0]["layer"] == "last" and group[0]["method"] == method]
        title = (
            f"{settings.network} on {settings.data}, ReDense trained by {method} (mean of {len(settings.seeds)} seeds)"
        )
        drawn[f"curves-{method}"] = redense_curves(groups, title)
    notes = [f"{Path(settings.data).name}: {note}."] if note else []
    beside = "sample standard deviation" if len(settings.seeds) > 1 else "one seed, no spread"
    notes.append(
        f"Accuracies in percent, mean and {beside}, seeds {', '.join(map(str, settings.seeds))}. 'monotone' gives the "
        "last epoch, 'adam' the one of least training loss. 'control' trains the network's own last layer on with the "
        "same method and epochs, without a ball."
    )
    if settings.inside:
        notes.append(
            "At a layer inside the network the output layer stays as it was, and the new layer is trained in "
            "batches by Adam."
        )
    return Outcome(rows, _values(arms), save_all(drawn, folder.path / "plots"), notes)


def train(settings: Settings, part: Part) -> dict[str, Any]:
    """All arms of one base network, which is trained or read."""
    splits = settings.load(settings.data, part.seed)
    wanted = itertools.product(settings.methods, settings.matrices, settings.m or [0])
    files = {("last", *arm): part.path / f"{arm[0]}-{arm[1]}-m{arm[2]}.json" for arm in wanted}
    files |= {
        (layer, "adam", "orthonormal", 0): part.path / safe_name(f"inside-{layer}.json", "layer")
        for layer in settings.inside
    }
    network = build(settings.network, splits.train, settings.hidden, part.seed)
    if settings.base.epochs:
        network = trained(network, splits, settings.base, part)
    network.eval()
    task = _Task(settings, network, part, splits, 100 * evaluate(network, splits.test).accuracy)
    log.info("base network, %s: %.2f %% of the test samples", part.label, task.start)
    return {"note": splits.test.note, "arms": [kept(file, partial(task.arm, *arm)) for arm, file in files.items()]}


@dataclass(frozen=True)
class Extracted:
    """What the network makes of the samples before its last layer: h (J, n) and labels (J,)."""

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


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
        return _whole(self.splits.train)

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        return _whole(self.splits.test)

    @cached_property
    def features(self) -> Extracted:
        last = ReDense(self.network)
        return Extracted(*last.features(self.data), *last.features(self.test))

    def arm(self, layer: str, method: str, matrix: str, m: int) -> dict[str, Any]:
        """The numbers of one arm; m = 0 takes the features' own number."""
        found: dict[str, Any] = {
            "loss": self.part.arm, "seed": self.part.seed, "layer": layer, "method": method, "matrix": matrix, "m": m,
            "base": self.start,
        }  # fmt: skip
        if layer == "last":
            wider = ReDense(self.network, m=m or None, matrix=matrix, seed=self.part.seed)
            found |= self._at_the_end(wider, method)
            found |= kept(self.part.path / f"control-{method}.json", lambda: self._control(method))
        else:
            found |= self._inside(layer)
        log.info(
            "%s m=%s %s: %.2f -> %.2f, control %s", layer, found["m"], method, self.start, found["redense"],
            found.get("control"),
        )  # fmt: skip
        return found

    def _at_the_end(self, wider: ReDense, method: str) -> dict[str, Any]:
        """ReDense at the last layer."""
        settings, data = self.settings, self.features
        difference = _start_difference(self.network, wider, self.test[0][:1000])
        seen = _Curve(Features(data.test_inputs, data.test_labels, wider.expand))
        began = time.perf_counter()
        fitted = wider.fit_features(
            data.inputs, data.labels, epochs=settings.epochs, method=method, lr=settings.lr, monitor=seen
        )
        return {
            "m": len(fitted.weights) // 2,
            "redense": seen.accuracy(fitted.weights, fitted.bias),
            "seconds": time.perf_counter() - began,
            "eps": wider.eps,
            "norm": float(torch.linalg.vector_norm(fitted.weights)),
            "start_difference": difference,
            "kept_loss": min(fitted.losses),
            "losses": fitted.losses,
            "curve": seen.rows,
        }

    def _control(self, method: str) -> dict[str, Any]:
        """The network's own last layer trained on with the same method and epochs, without a ball."""
        last, data = self.network.get_submodule(ReDense(self.network).layer), self.features
        assert isinstance(last, nn.Linear)
        plain = _Curve(Features(data.test_inputs, data.test_labels))
        control = fit_softmax(
            Features(data.inputs, data.labels), last.weight.data.T.contiguous(), bias_of(last),
            epochs=self.settings.epochs, method=method, lr=self.settings.lr, monitor=plain,
        )  # fmt: skip
        return {
            "control": plain.accuracy(control.weights, control.bias),
            "control_kept_loss": min(control.losses),
            "control_losses": control.losses,
            "control_curve": plain.rows,
        }

    def _inside(self, layer: str) -> dict[str, Any]:
        wider = ReDense(self.network, layer=layer, seed=self.part.seed)
        difference = _start_difference(self.network, wider, self.test[0][:1000])
        began = time.perf_counter()
        fitted = wider.fit(self.data, epochs=self.settings.inside_epochs, lr=self.settings.lr, seed=self.part.seed)
        return {
            "redense": 100 * evaluate(wider, self.splits.test).accuracy, "seconds": time.perf_counter() - began, "eps": wider.eps,
            "start_difference": difference, "kept_loss": min(fitted.losses), "losses": fitted.losses,
        }  # fmt: skip


def _start_difference(network: nn.Module, wider: ReDense, samples: Tensor) -> float:
    """The largest difference of a predicted probability before training."""
    with torch.no_grad():
        return float((network(samples).softmax(1) - wider(samples).softmax(1)).abs().max())


class _Curve:
    """Collects test loss and accuracy after each epoch."""

    def __init__(self, features: Features) -> None:
        self.features, self.rows = features, []

    def __call__(self, epoch: int, loss: float, weights: Tensor, bias: Tensor) -> None:
        logits = self.features.logits(weights, bias)
        self.rows.append((float(nn.functional.cross_entropy(logits, self.features.labels)), self._percent(logits)))

    def accuracy(self, weights: Tensor, bias: Tensor) -> float:
        """In percent."""
        return self._percent(self.features.logits(weights, bias))

    def _percent(self, logits: Tensor) -> float:
        return 100 * float((logits.argmax(1) == self.features.labels).double().mean())


def _whole(data: Dataset) -> tuple[Tensor, Tensor]:
    parts = list(batches(data, 4096))
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def _groups(arms: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    place = lambda arm: (arm["loss"], arm["layer"], arm["method"], arm["matrix"], arm["m"])
    return [[arm for arm in arms if place(arm) == key] for key in dict.fromkeys(map(place, arms))]


def _row(settings: Settings, group: list[dict[str, Any]], published: list[dict[str, Any]]) -> dict[str, Any]:
    first = group[0]
    row: dict[str, Any] = {
        "base loss": first["loss"],
        "layer": first["layer"],
        "R": first["matrix"],
        "m": first["m"] or "n",
        "method": first["method"],
    }
    for name in ("base", "redense", "control"):
        if name in first:
            row[name] = spread(arm[name] for arm in group)
    row["gain"] = spread(arm["redense"] - arm["base"] for arm in group)
    if "control" in first:
        row["over control"] = spread(arm["redense"] - arm["control"] for arm in group)
    row["train loss"] = f"{fmean(arm['losses'][0] for arm in group):.3f} -> {mean(group, 'kept_loss'):.3f}"
    if "control" in first:
        row["control's"] = f"{mean(group, 'control_kept_loss'):.3f}"
    row["seconds"] = round(mean(group, "seconds"), 1)
    row["published"] = _published(settings, first, published)
    return row


def _published(settings: Settings, arm: dict[str, Any], published: list[dict[str, Any]]) -> str:
    """What the paper gives for this arm, as it gives it."""
    if arm["layer"] != "last":
        return ""
    for line in published:
        if line.get("dataset") == settings.data:
            return f"{line['without']} -> {line['with_redense']} (BiT-M-R50x1)"
    named = {line["name"]: line["value"] for line in published if "name" in line}
    after = named.get(f"redense_{arm['m']}")
    if after is not None:
        return f"{named['mlp']} -> {after}"
    return settings.published_gain


def _values(arms: list[dict[str, Any]]) -> dict[str, float]:
    """Numbers that criteria speak of; gains are means over seeds, in percentage points."""
    last = [arm for arm in arms if arm["layer"] == "last"]
    values = {
        "largest_start_difference": max(a["start_difference"] for a in arms if a["matrix"] == "orthonormal"),
        "largest_loss_increase": max(arm["kept_loss"] - arm["losses"][0] for arm in arms),
        "largest_norm_over_eps": max(arm["norm"] / arm["eps"] for arm in last),
        "slowest_seconds": max(arm["seconds"] for arm in last),
        "base_accuracy": mean(last, "base"),
    }
    for arm_group in _groups(arms):
        first = arm_group[0]
        place = "" if first["layer"] == "last" else f"_{first['layer']}"
        raw = "_gaussian" if first["matrix"] == "gaussian" else ""
        name = f"{first['loss']}_{first['method']}{raw}_m{first['m'] or 'n'}{place}"
        values[f"seconds_{name}"] = mean(arm_group, "seconds")
        values[f"gain_{name}"] = fmean(arm["redense"] - arm["base"] for arm in arm_group)
        if "control" in first:
            values[f"over_control_{name}"] = fmean(arm["redense"] - arm["control"] for arm in arm_group)
    values["least_gain"] = min(value for name, value in values.items() if name.startswith("gain_"))
    monotone = [arm for arm in last if arm["method"] == "monotone"]
    if monotone:
        values["largest_rise_within_monotone"] = max(
            max((b - a for a, b in zip(arm["losses"], arm["losses"][1:], strict=False)), default=0.0)
            for arm in monotone
        )
    return values
