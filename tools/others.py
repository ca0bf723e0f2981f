"""Other libraries' pruners beside RGSM, from benchmarks/opponents.jsonl."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from gracile.recipes.tables import spread, standard_error

# Where it stands, and between which markers.
FILE, NAME = "docs/comparison.md", "others"
KEPT = Path(__file__).parents[1] / "benchmarks" / "opponents.jsonl"


@dataclass(frozen=True)
class Pruner:
    """One that is compared.

    Attributes:
        called: in the table.
        package: its distribution's name; empty of ours.
        tries: options of the benchmark that it is tried with; RGSM takes the tries of the recipe's arm by their number.
    """

    called: str
    package: str
    tries: Sequence[Mapping[str, float]]


WHEN = ({"prune_at": 0.5}, {"prune_at": 0.3}, {"prune_at": 0.15})
PRUNERS = {
    "rgsm": Pruner("**RGSM**", "", ({"attempt": 0}, {"attempt": 1}, {"attempt": 2})),
    "group_norm": Pruner("group norms", "torch-pruning", ({"reg": 1e-4}, {"reg": 1e-3}, {"reg": 1e-2})),
    "isomorphic": Pruner("isomorphic magnitudes", "torch-pruning", WHEN),
    "fastnas": Pruner("FastNAS", "nvidia-modelopt", WHEN),
}

Row = Mapping[str, Any]


def rows(kept: Path = KEPT) -> list[dict[str, Any]]:
    """The lines that ``python -m benchmarks.opponents --compare`` has kept."""
    return [json.loads(line) for line in kept.read_text("utf-8").splitlines()] if kept.exists() else []


def others(found: Sequence[Row]) -> str:
    """Each network at each budget, a line a pruner, best first, as Markdown.

    Differences are those of RGSM's accuracies and the pruner's, seed by seed; what is not whole yet is left out.

    Args:
        found: lines of the protocol.
    """
    shown = []
    for network, budget in dict.fromkeys((row["network"], row["budget"]) for row in found):
        here = [row for row in found if (row["network"], row["budget"]) == (network, budget)]
        tested = {
            pruner: {row["seed"]: row for row in here if row["pruner"] == pruner and row["split"] == "test"}
            for pruner in PRUNERS
        }
        ours = tested["rgsm"]
        whole = [pruner for pruner, by_seed in tested.items() if by_seed and by_seed.keys() == ours.keys()]
        for pruner in sorted(whole, key=lambda one: -statistics.fmean(_accuracies(tested[one]))):
            shown.append({"network": f"{network}, {100 * budget:g} %", **_line(pruner, tested[pruner], ours)})
        shown += [
            {
                "network": f"{network}, {100 * budget:g} %",
                "pruner": _called(pruner, refused[0]),
                "accuracy %": "out of its reach",
            }
            for pruner in PRUNERS
            if len(refused := [row for row in here if row["pruner"] == pruner and "refused" in row])
            == len(PRUNERS[pruner].tries)
        ]
    table = tabulate(shown, headers="keys", tablefmt="github") if shown else "None is run."
    commits = sorted({row["commit"][:12] for row in found if "commit" in row})
    return f"{table}\n\nOf commit {', '.join(commits)}; {_seeds(found)}." if commits else table


def _line(pruner: str, by_seed: Mapping[int, Row], ours: Mapping[int, Row]) -> dict[str, str]:
    some = next(iter(by_seed.values()))
    leads = [ours[seed]["accuracy"] - row["accuracy"] for seed, row in by_seed.items()]
    error = standard_error(leads)
    lead = f"{statistics.fmean(leads):.2f}" + ("" if error is None else f" ± {error:.2f}")
    return {
        "pruner": _called(pruner, some),
        "accuracy %": spread(_accuracies(by_seed)),
        "multiply-adds left %": f"{statistics.fmean(row['macs_left'] for row in by_seed.values()):.1f}",
        "parameters left %": f"{statistics.fmean(row['parameters_left'] for row in by_seed.values()):.0f}",
        "RGSM minus it": "" if pruner == "rgsm" else lead,
    }


def _accuracies(by_seed: Mapping[int, Row]) -> list[float]:
    return [row["accuracy"] for row in by_seed.values()]


def _called(pruner: str, row: Row) -> str:
    options = ", ".join(f"{key} = {value:g}" for key, value in row.get("options", {}).items())
    library = row.get("library") or PRUNERS[pruner].package
    parts = [library, PRUNERS[pruner].called, "" if "refused" in row or pruner == "rgsm" else options]
    return ", ".join(filter(None, parts))


def _seeds(found: Sequence[Row]) -> str:
    seeds = {
        network: sorted({row["seed"] for row in found if row["network"] == network and row["split"] == "test"})
        for network in dict.fromkeys(row["network"] for row in found)
    }
    return "seeds " + "; ".join(f"{', '.join(map(str, some))} of {network}" for network, some in seeds.items() if some)
