"""The page of what was measured, docs/speed.md, from benchmarks/speed.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tabulate import tabulate

KEPT = Path(__file__).with_name("speed.json")
PAGE = Path(__file__).parents[1] / "docs" / "speed.md"

HEAD = """# Speed

Written by `python -m benchmarks --keep`; do not edit. Each benchmark runs in a process of its own, beside what a user would pick
instead. Contenders take turns; the ratio is the median over rounds of the ratio within a round, in brackets the least and the most.
The floor is what the work cannot do without, at the speed of a matrix product and of a copy measured in the same process. A goal is
the largest ratio that was asked for beforehand.
"""


def page(kept: dict[str, Any]) -> str:
    """The whole page.

    Args:
        kept: benchmark to what `benchmarks.__main__.one` found; one without an entry was not run.
    """
    from benchmarks.table import BENCHMARKS

    parts = [HEAD]
    for name, (_, text) in BENCHMARKS.items():
        parts.append(f"## {name}\n{text[0].upper()}{text[1:]}.\n")
        parts.append(f"{table(kept[name])}\n\n{_where(kept[name])}\n" if name in kept else "Not run yet.\n")
    return "\n".join(parts)


def table(found: dict[str, Any]) -> str:
    """The rows of one benchmark as Markdown."""
    rows = found["rows"]
    shown = []
    for kind, line in (("ratio", _ratio), ("exponent", _exponent), ("times_its_size", _memory)):
        some = [line(row) for row in rows if kind in row]
        if some:
            filled = [key for key in some[0] if any(row[key] for row in some)]
            shown.append(
                tabulate([[row[key] for key in filled] for row in some], filled, "github", disable_numparse=True)
            )
    missing = [f"Left out: {why}." for why in found["missing"]]
    return "\n\n".join([*shown, *missing])


def _ratio(row: dict[str, Any]) -> dict[str, str]:
    is_base = row["contender"] == row["base"]
    goal = f"{row['goal']:.3g}, {'met' if row['met'] else 'missed'}" if "goal" in row else ""
    return {
        "case": row["case"] if is_base else "",
        "contender": row["contender"],
        "time": _seconds(row["seconds"]) + (" of cores" if row["clock"] == "cores" else ""),
        "ratio": "1" if is_base else f"{row['ratio']:.3g} ({row['least']:.3g} to {row['most']:.3g})",
        "floor": f"{row['floor_ratio']:.4g}" if "floor_ratio" in row else "",
        "goal": goal,
    }


def _exponent(row: dict[str, Any]) -> dict[str, str]:
    return {
        "case": row["case"],
        "against": f"{row['against']} {row['sizes'][0]:,} to {row['sizes'][-1]:,}",
        "exponent": f"{row['exponent']:.2f}" + (" of memory" if row["measure"] == "memory" else ""),
        "theory": f"{row['theory']:g}",
    }


def _memory(row: dict[str, Any]) -> dict[str, str]:
    goal = f"{row['goal']:g}, {'met' if row['met'] else 'missed'}" if "goal" in row else ""
    return {"case": row["case"], "times its own size": f"{row['times_its_size']:.2f}", "goal": goal}


def _seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def _where(found: dict[str, Any]) -> str:
    place = found["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in place["versions"].items())
    flops, moved = found["machine"]["flops"], found["machine"]["bytes"]
    commit = f", commit {place['commit'][:12]}" if place["commit"] else ""
    return (
        f"{found['date']}, {place['processor']}, {place['threads']} of {place['cores']} cores, {place['device']}; python "
        f"{place['python']}, {versions}{commit}. Here a float32 product runs at {flops / 1e9:.0f} GFLOP/s, a copy at "
        f"{moved / 1e9:.1f} GB/s."
    )
