"""Kind of recipe: ReDense in trained networks, beside "retrain the last layer with the same budget"."""

from __future__ import annotations

import itertools
import json
import logging
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from gracile.core.files import write_json
from gracile.core.runs import RunFolder
from gracile.data import Dataset, Splits, batches, load
from gracile.layerwise.redense import ReDense, bias_of
from gracile.layerwise.softmax import Features, fit_softmax
from gracile.recipes.kinds import Outcome
from gracile.recipes.layerwise_networks import Base, accuracy, build, trained
from gracile.recipes.schema import Strict

log = logging.getLogger("gracile")


class Settings(Strict):
    """What a recipe of this kind may say.

    Attributes:
        data: name or path of a data set.
        network: "mlp", "cnn", or "package.module:function" of the user's own, trained already (then `base.epochs` is
            0).
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
        train_limit, test_limit: samples; all by default.
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
    validation: float = 0.0
    train_limit: int | None = None
    test_limit: int | None = None
    inside: list[str] = Field(default=[])
    inside_epochs: int = 5
    published_gain: str = ""


def execute(settings: Settings, folder: RunFolder, published: list[dict[str, Any]]) -> Outcome:
    """Train or read every base network, run every arm not yet on disk, then put the table together."""
    arms: list[dict[str, Any]] = []
    note = ""
    for seed in settings.seeds:
        splits = load(
            settings.data,
            validation=settings.validation,
            seed=seed,
            train_limit=settings.train_limit,
            test_limit=settings.test_limit,
        )
        note = splits.test.note
        for loss in settings.losses:
            arms += _arms(settings, splits, loss, seed, folder)
    data = f"{Path(settings.data).name} ({note})" if note else Path(settings.data).name
    rows = [{"data": data, **_row(settings, group, published)} for group in _groups(arms)]
    plots = _plots(settings, arms, folder)
    notes = [f"{Path(settings.data).name}: {note}."] if note else []
    spread = "sample standard deviation" if len(settings.seeds) > 1 else "one seed, no spread"
    notes.append(
        f"Accuracies in percent, mean and {spread}, seeds {', '.join(map(str, settings.seeds))}. 'monotone' gives the "
        "last epoch, 'adam' the one of least training loss. 'control' trains the network's own last layer on with the "
        "same method and epochs, without a ball."
    )
    if settings.inside:
        notes.append(
            "At a layer inside the network the output layer stays as it was, and the new layer is trained in "
            "batches by Adam."
        )
    return Outcome(rows, _values(arms), plots, notes)


def _arms(settings: Settings, splits: Splits, loss: str, seed: int, folder: RunFolder) -> list[dict[str, Any]]:
    """All arms of one base network."""
    part = folder.part(f"{loss}-seed{seed}")
    wanted = itertools.product(settings.methods, settings.matrices, settings.m or [0])
    files = {("last", *arm): part.path / f"{arm[0]}-{arm[1]}-m{arm[2]}.json" for arm in wanted}
    files |= {(layer, "adam", "orthonormal", 0): part.path / f"inside-{layer}.json" for layer in settings.inside}
    if all(file.exists() for file in files.values()):
        return [json.loads(file.read_text()) for file in files.values()]
    network = build(settings.network, splits.train, settings.hidden, seed)
    if settings.base.epochs:
        network = trained(network, splits.train, settings.base, loss, seed, part.path / "base.safetensors")
    else:
        network.eval()
    data, test = _whole(splits.train), _whole(splits.test)
    start = accuracy(network, splits.test)
    log.info("base network, loss %s, seed %d: %.2f %% of the test samples", loss, seed, start)
    last = ReDense(network)
    features = Extracted(*last.features(data), *last.features(test))
    for (layer, method, matrix, m), file in files.items():
        if file.exists():
            continue
        arm: dict[str, Any] = {"loss": loss, "seed": seed, "layer": layer, "method": method, "matrix": matrix, "m": m}
        arm["base"] = start
        if layer == "last":
            wider = ReDense(network, m=m or None, matrix=matrix, seed=seed)
            arm |= _at_the_end(settings, network, wider, features, test[0][:1000], method)
            arm |= _control(settings, network, features, method, part.path / f"control-{method}.json")
        else:
            arm |= _inside(settings, network, data, splits.test, layer, seed)
        write_json(file, arm)
        log.info(
            "%s m=%s %s: %.2f -> %.2f, control %s", layer, arm["m"], method, start, arm["redense"], arm.get("control")
        )
    return [json.loads(file.read_text()) for file in files.values()]


@dataclass(frozen=True)
class Extracted:
    """What the network makes of the samples before its last layer: h (J, n) and labels (J,)."""

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


def _at_the_end(
    settings: Settings, network: nn.Module, wider: ReDense, data: Extracted, samples: Tensor, method: str
) -> dict[str, Any]:
    """ReDense at the last layer."""
    difference = _start_difference(network, wider, samples)
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


def _control(settings: Settings, network: nn.Module, data: Extracted, method: str, file: Path) -> dict[str, Any]:
    """The network's own last layer trained on with the same method and epochs, without a ball."""
    if not file.exists():
        last = network.get_submodule(ReDense(network).layer)
        assert isinstance(last, nn.Linear)
        plain = _Curve(Features(data.test_inputs, data.test_labels))
        control = fit_softmax(
            Features(data.inputs, data.labels), last.weight.data.T.contiguous(), bias_of(last),
            epochs=settings.epochs, method=method, lr=settings.lr, monitor=plain,
        )  # fmt: skip
        write_json(
            file,
            {
                "control": plain.accuracy(control.weights, control.bias),
                "control_kept_loss": min(control.losses),
                "control_losses": control.losses,
                "control_curve": plain.rows,
            },
        )
    return json.loads(file.read_text())


def _inside(
    settings: Settings, network: nn.Module, data: tuple[Tensor, Tensor], test: Dataset, layer: str, seed: int
) -> dict[str, Any]:
    wider = ReDense(network, layer=layer, seed=seed)
    difference = _start_difference(network, wider, _whole(test)[0][:1000])
    began = time.perf_counter()
    fitted = wider.fit(data, epochs=settings.inside_epochs, lr=settings.lr, seed=seed)
    return {
        "redense": accuracy(wider, test), "seconds": time.perf_counter() - began, "eps": wider.eps,
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
            row[name] = _mean_and_spread([arm[name] for arm in group])
    row["gain"] = _mean_and_spread([arm["redense"] - arm["base"] for arm in group])
    if "control" in first:
        row["over control"] = _mean_and_spread([arm["redense"] - arm["control"] for arm in group])
    row["train loss"] = (
        f"{_mean(arm['losses'][0] for arm in group):.3f} -> {_mean(arm['kept_loss'] for arm in group):.3f}"
    )
    if "control" in first:
        row["control's"] = f"{_mean(arm['control_kept_loss'] for arm in group):.3f}"
    row["seconds"] = round(_mean(arm["seconds"] for arm in group), 1)
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


def _mean(values: Any) -> float:
    return statistics.fmean(values)


def _mean_and_spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def _values(arms: list[dict[str, Any]]) -> dict[str, float]:
    """Numbers that criteria speak of; gains are means over seeds, in percentage points."""
    last = [arm for arm in arms if arm["layer"] == "last"]
    values = {
        "largest_start_difference": max(a["start_difference"] for a in arms if a["matrix"] == "orthonormal"),
        "largest_loss_increase": max(arm["kept_loss"] - arm["losses"][0] for arm in arms),
        "largest_norm_over_eps": max(arm["norm"] / arm["eps"] for arm in last),
        "slowest_seconds": max(arm["seconds"] for arm in last),
        "base_accuracy": _mean(arm["base"] for arm in last),
    }
    for arm_group in _groups(arms):
        first = arm_group[0]
        place = "" if first["layer"] == "last" else f"_{first['layer']}"
        raw = "_gaussian" if first["matrix"] == "gaussian" else ""
        name = f"{first['loss']}_{first['method']}{raw}_m{first['m'] or 'n'}{place}"
        values[f"seconds_{name}"] = _mean(arm["seconds"] for arm in arm_group)
        values[f"gain_{name}"] = _mean(arm["redense"] - arm["base"] for arm in arm_group)
        if "control" in first:
            values[f"over_control_{name}"] = _mean(arm["redense"] - arm["control"] for arm in arm_group)
    values["least_gain"] = min(value for name, value in values.items() if name.startswith("gain_"))
    monotone = [arm for arm in last if arm["method"] == "monotone"]
    if monotone:
        values["largest_rise_within_monotone"] = max(
            max((b - a for a, b in zip(arm["losses"], arm["losses"][1:], strict=False)), default=0.0)
            for arm in monotone
        )
    return values


def _plots(settings: Settings, arms: list[dict[str, Any]], folder: RunFolder) -> dict[str, Path]:
    """Training loss, testing loss and testing accuracy against the epoch, one picture a method."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plots: dict[str, Path] = {}
    for method in settings.methods:
        figure = Figure(figsize=(13, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 3)
        groups = [group for group in _groups(arms) if group[0]["layer"] == "last" and group[0]["method"] == method]
        for number, group in enumerate(groups):
            first = group[0]
            label = f"{first['loss']}" if len(settings.losses) > 1 else f"{first['matrix']} R, m = {first['m']}"
            for kind, losses, curve, style in (
                ("", "losses", "curve", "-"),
                (" control", "control_losses", "control_curve", ":"),
            ):
                # The control does not depend on m: one line a loss is enough.
                if kind and len(settings.losses) == 1 and number:
                    continue
                named = "control" if kind and len(settings.losses) == 1 else label + kind
                colour = "black" if named == "control" else f"C{number}"
                for panel, series in zip(panels, _series(group, losses, curve), strict=True):
                    panel.plot(series, style, color=colour, label=named, linewidth=1.4)
        for panel, title in zip(panels, ("Training loss", "Testing loss", "Testing accuracy [%]"), strict=True):
            panel.set_title(title)
            panel.set_xlabel("epoch of ReDense")
            panel.grid(alpha=0.3)
        panels[0].legend(fontsize=8)
        figure.suptitle(
            f"{settings.network} on {settings.data}, ReDense trained by {method} (mean of {len(settings.seeds)} seeds)",
            fontsize=10,
        )
        file = folder.path / "plots" / f"curves-{method}.png"
        file.parent.mkdir(exist_ok=True)
        figure.savefig(file, dpi=130)
        plots[f"curves-{method}"] = Path("plots") / file.name
    return plots


def _series(group: list[dict[str, Any]], losses: str, curve: str) -> list[list[float]]:
    """Means over seeds of training loss, testing loss, testing accuracy."""
    across = lambda columns: [_mean(values) for values in zip(*columns, strict=True)]
    return [
        across([arm[losses] for arm in group]),
        across([[row[0] for row in arm[curve]] for arm in group]),
        across([[row[1] for row in arm[curve]] for arm in group]),
    ]
