"""The page of what was found: a table of the tools, and a row for each architecture."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

Row = Mapping[str, Any]

RESULTS = ("exact", "whole", "other function", "refused", "broken", "timed out")
OWN = "gracile"
HEAD = """# Architectures

Can known architectures lose half of their channels, and does the smaller network compute what the larger one does?
`benchmarks/architectures` asks this of {number} networks with random weights: at least one of every family of timm {timm},
torchvision's classifiers and segmenters ({torchvision}), and families of transformers ({transformers}); {asked} stand below. Each is
treated in double precision and in a process of its own, on one thread of {processor}, with torch {torch}, {days}. Rows are kept
as networks are asked, with the code of their day, so that not all of them are of one commit.

```sh
PYTHONPATH=src python -m benchmarks.architectures --tools ours torch-pruning torch-kirigami modelopt
PYTHONPATH=src python -m benchmarks.architectures --page docs/architectures.md
```

The smaller network is held against the larger one with zeros in place of all that was removed, on noise not seen before. *Exact* is
a smaller network whose outputs differ by less than 1e-9 of the largest one; the largest difference of ours is {difference}. *Whole* is
one from which nothing was removed, *other function* one that computes something else. *Refused* is an error in which the tool says
why it cannot; *broken* is any other error, or a result that does not run. *Timed out* is what took more processor time than its
limit, building the network and comparing included.

{about}

What cannot be removed exactly stays: the residual stream of a transformer keeps its width, since its layer-norms divide by a
statistic of all of it. A smaller share left is no better where the function is another one.

"""
ABOUT = {
    "ours": "**gracile** zeroes half of the groups at random, never all that a layer reads, and shrinks. Another draw moves a share by "
    "some hundredths:\n"
    "  regnety_002 is left with .22 to .32 over twelve draws, .28 in the mean.",
    "torch-pruning": "**torch-pruning**: `MagnitudePruner` at a ratio of one half; the last layer is spared, and heads are named\n"
    "  where layers say how many they have.",
    "torch-kirigami": "**torch-kirigami**: `Greedy(GroupMagnitude(p=2))`, half of each layer's channels; where that has no plan,\n"
    "  half or a quarter of all.",
    "modelopt": "**Model-Optimizer**: the smallest network in FastNAS's search space, let go down to half of each layer's\n"
    "  channels, one by one.",
}
COMMON = """All tools were asked {number} of them, and did so with these:

"""
BELOW = """A number is the share of parameters left where the result is exact. *Must stay* is the share of parameters among channels that
cannot be removed; seconds are of a processor, for tracing and shrinking with its comparison. A dash: not asked.

"""


def page(rows: Sequence[Row], libraries: Mapping[str, str], names: Sequence[str]) -> str:
    """Markdown.

    Args:
        rows: as the benchmark keeps them.
        libraries: of the models, with their versions.
        names: all architectures.
    """
    latest = {(row["tool"], row["model"]): row for row in rows}
    tools = list(dict.fromkeys(row["tool"] for row in latest.values()))
    ours = [row for row in latest.values() if row["tool"] == "ours"]
    head = HEAD.format(
        number=len(names),
        asked="all of them" if len(ours) == len(names) else len(ours),
        about="\n".join(f"- {ABOUT[tool]}" for tool in tools if tool in ABOUT),
        **libraries,
        processor=ours[-1]["processor"],
        torch=ours[-1]["torch"],
        days=" to ".join(dict.fromkeys(choose(row["day"] for row in rows) for choose in (min, max))),
        difference=f"{max(row['difference'] for row in ours if row['result'] == 'exact'):.0e}",
    )
    made = head + _tools(latest, tools) + "\n\n"
    common = {row["model"] for row in ours}.intersection(
        *({model for tool, model in latest if tool == one} for one in tools)
    )
    if len(tools) > 1 and 0 < len(common) < len(ours):
        shared = {key: row for key, row in latest.items() if key[1] in common}
        made += COMMON.format(number=len(common)) + _tools(shared, tools) + "\n\n"
    return made + _models(latest, tools, names)


def _tools(latest: Mapping[tuple[str, str], Row], tools: Sequence[str]) -> str:
    """A row for each tool, over the networks it was asked."""
    table = []
    for tool in tools:
        asked = [row for (one, _), row in latest.items() if one == tool]
        counted = Counter(row["result"] for row in asked)
        exact = [row for row in asked if row["result"] == "exact"]
        table.append(
            {
                "tool": f"{OWN if tool == 'ours' else tool} {asked[-1]['version']}",
                "asked": len(asked),
                **{result: counted[result] or "" for result in RESULTS},
                "median left, where exact": f"{statistics.median(row['left'] for row in exact):.2f}" if exact else "",
                "limit": f"{max(row['limit'] for row in asked)} s",
            }
        )
    return tabulate(table, headers="keys", tablefmt="github")


def _models(latest: Mapping[tuple[str, str], Row], tools: Sequence[str], models: Sequence[str]) -> str:
    """A row for each architecture: shares of parameters and multiply-adds left, share that must stay, seconds; and the others'."""
    table = []
    for model in models:
        mine = latest.get(("ours", model), {})
        table.append(
            {
                "architecture": model.replace(":", " "),
                OWN: _said(mine),
                "multiply-adds left": f"{mine['macs']:.2f}" if "macs" in mine else "",
                "must stay": f"{mine['pinned']:.2f}" if "pinned" in mine else "",
                "seconds": f"{mine['seconds']:.1f}" if "seconds" in mine else "",
                **{tool: _said(latest.get((tool, model), {})) for tool in tools if tool != "ours"},
            }
        )
    return BELOW + tabulate(table, headers="keys", tablefmt="github", disable_numparse=True) + "\n"


def _said(row: Row) -> str:
    if not row:
        return "-"
    return f"{row['left']:.2f}" if row["result"] == "exact" else str(row["result"])
