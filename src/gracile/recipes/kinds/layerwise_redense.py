"""Kind of recipe: ReDense in trained networks, beside "retrain the last layer with the same budget"."""

from __future__ import annotations

import itertools
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field

from gracile.core.console import told
from gracile.core.files import kept_json
from gracile.core.names import safe_name
from gracile.core.runs import RunFolder
from gracile.data.batching import whole
from gracile.layerwise.beside_control import BesideControl
from gracile.recipes.arms import Part, Seeded
from gracile.recipes.base_networks import Base, build, trained
from gracile.recipes.kinds import Outcome
from gracile.recipes.settings import Amounts
from gracile.recipes.tables import Results, Rows, collapsed, mean, spread, with_error
from gracile.report.layerwise_figures import redense_curves

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
    epochs: int = Field(default=300, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    seeds: list[int] = Field(default=[0, 1, 2])
    validation: float | int = 0.0
    inside: list[str] = Field(default=[])
    inside_epochs: int = Field(default=5, ge=1)
    published_gain: str = ""

    def names(self) -> list[str]:
        return self.losses


def train(settings: Settings, part: Part) -> dict[str, Any]:
    """All arms of one base network, which is trained or read."""
    splits = settings.load(settings.data, part.seed)
    network = build(settings.network, splits.train, settings.hidden, part.seed)
    if settings.base.epochs:
        network = trained(network, splits, settings.base, part)
    beside = BesideControl(network.eval(), whole(splits.train), whole(splits.test))
    start = beside.accuracy(network)
    told.info("base network, %s: %.2f %% of the test samples", part.label, start)

    def arm(layer: str, method: str, matrix: str, m: int) -> dict[str, Any]:
        found: dict[str, Any] = {
            "loss": part.arm,
            "seed": part.seed,
            "layer": layer,
            "method": method,
            "matrix": matrix,
        }
        found |= {"m": m, "base": start}
        options = {"epochs": settings.epochs, "method": method, "lr": settings.lr}
        if layer == "last":
            found |= beside.at_the_end(m=m or None, matrix=matrix, seed=part.seed, **options)
            found |= kept_json(part.path / f"control-{method}.json", partial(beside.control, **options))
        else:
            found |= beside.inside(layer, epochs=settings.inside_epochs, lr=settings.lr, seed=part.seed)
        seen = (layer, found["m"], method, start, found["redense"], found.get("control"))
        told.info("%s m=%s %s: %.2f -> %.2f, control %s", *seen)
        return found

    # m = 0 takes the features' own number.
    wanted = itertools.product(settings.methods, settings.matrices, settings.m or [0])
    files = {("last", *one): part.path / f"{one[0]}-{one[1]}-m{one[2]}.json" for one in wanted}
    for layer in settings.inside:
        files[layer, "adam", "orthonormal", 0] = part.path / safe_name(f"inside-{layer}.json", "layer")
    found = [kept_json(file, partial(arm, *one)) for one, file in files.items()]
    failed = beside.collapsed(network) or next(filter(None, (one.get("collapsed") for one in found)), "")
    return {"note": splits.test.note, "arms": found, "collapsed": failed}


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
    row |= {"seconds": round(mean(group, "seconds"), 1), "published": _published(settings, first, published)}
    return row | collapsed(group)


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
    gains: dict[str, float] = {}
    others: dict[str, float] = {}
    for group in groups:
        first = group[0]
        place = "" if first["layer"] == "last" else f"_{first['layer']}"
        raw = "_gaussian" if first["matrix"] == "gaussian" else ""
        name = f"{first['loss']}_{first['method']}{raw}_m{first['m'] or 'n'}{place}"
        gains |= with_error(f"gain_{name}", [arm["redense"] - arm["base"] for arm in group])
        others[f"seconds_{name}"] = mean(group, "seconds")
        if "control" in first:
            others |= with_error(f"over_control_{name}", [arm["redense"] - arm["control"] for arm in group])
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
            "least_gain": min(gain for name, gain in gains.items() if not name.endswith(".error")),
        }
    )
