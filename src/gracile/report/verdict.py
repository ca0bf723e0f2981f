"""What came of a run, in a sentence, and the next command to type."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gracile.report.reading import Arm, Run

# Points of accuracy within which the smallest network is the one to speak of.
WORTH = 1.0
# Percent of the multiply-adds below which nothing is said to be gone.
NOTHING = 0.5


@dataclass(frozen=True)
class Verdict:
    """What came of a run.

    Attributes:
        words: sentences; empty while there is nothing to say.
        collapsed: arms that failed as a whole, to how.
        command: what to type next; empty where nothing suggests itself.
        why: what that command does.
    """

    words: list[str]
    collapsed: dict[str, str]
    command: str = ""
    why: str = ""


def verdict(run: Run) -> Verdict:
    """Judge a run by what its folder holds, finished or not."""
    collapsed = _collapsed(run)
    if run.result is None:
        command = f"gracile run --resume --out {shlex.quote(str(run.path))}"
        return Verdict([_unfinished(run)], collapsed, command, "goes on where it stopped")
    words = []
    base, best = run.baseline, lead(run)
    if best is not None and base is not None:
        words.append(_trade(best, base))
    elif base is not None and base.mean("accuracy") is not None:
        words.append(f"{base.name}: {base.mean('accuracy'):.1f} % of the test samples are right.")
    accept = run.result.get("accept", [])
    if accept:
        met = sum(bool(one.get("met")) for one in accept)
        every = f"All {len(accept)}" if met == len(accept) else f"{met} of {len(accept)}"
        told = f"{every} criteria fixed before the run are met."
        words.append(told if len(accept) > 1 else f"The criterion fixed before the run is {became(accept[0])}.")
    command, why = _next(run, best)
    return Verdict(words, collapsed, command, why)


def became(criterion: Mapping[str, Any]) -> str:
    """In a word, what became of a criterion."""
    return {True: "met", None: "undecided"}.get(criterion.get("met", False), "missed")


def _collapsed(run: Run) -> dict[str, str]:
    """Arms, or rows of the table where a recipe has none, that failed as a whole, to how."""
    found = {arm.name: arm.collapsed for arm in run.arms if arm.collapsed}
    for row in (run.result or {}).get("rows", []):
        if isinstance(row, dict) and row.get("collapsed"):
            leading = ", ".join(f"{key} {value}" for key, value in list(row.items())[:3])
            found.setdefault(str(row.get("arm") or leading), str(row["collapsed"]))
    return found


def lead(run: Run) -> Arm | None:
    """The arm to speak of: the leanest within a point of the baseline, else the most accurate; none that collapsed."""
    base = run.baseline
    at = None if base is None else base.mean("accuracy")
    sparse = [
        (arm, accuracy, macs)
        for arm in run.arms
        if arm.sparse and not arm.collapsed
        and (accuracy := arm.mean("accuracy")) is not None and (macs := arm.mean("macs_left")) is not None
    ]  # fmt: skip
    near = [one for one in sparse if at is not None and one[1] >= at - WORTH]
    if near:
        return min(near, key=lambda one: (one[2], -one[1]))[0]
    return max(sparse, key=lambda one: one[1])[0] if sparse else None


def _trade(arm: Arm, base: Arm) -> str:
    """What an arm saves, and what that costs."""
    macs, share, zeros = arm.mean("macs_left"), arm.mean("parameters_left"), arm.mean("sparsity")
    accuracy, at = arm.mean("accuracy"), base.mean("accuracy")
    assert macs is not None
    assert accuracy is not None
    if macs <= 100 - NOTHING:
        gone = f"{100 - macs:.0f} % of the multiply-adds" + (
            "" if share is None else f" and {100 - share:.0f} % of the parameters"
        )
    elif zeros:
        gone = f"No multiply-adds, while {zeros:.0f} % of the parameters are zero,"
    else:
        gone = "Nothing"
    if at is None or arm is base:
        return f"{arm.name}: {gone} gone at {accuracy:.1f} % accuracy."
    gap = at - accuracy
    cost = (
        f"for {gap:.1f} points" if gap >= 0.05 else f"with {-gap:.1f} points gained" if gap <= -0.05 else "at no cost"
    )
    return f"{arm.name}: {gone} gone {cost} ({accuracy:.1f} % against {at:.1f} %)."


def _unfinished(run: Run) -> str:
    return {
        "interrupted": "This run was interrupted.",
        "failed": f"This run failed: {run.status.get('reason', 'see its log.txt')}",
        "running": "This run is not finished: it is still at work, or was killed.",
    }.get(str(run.status.get("status")), "This run is not finished.") + " The page shows what is there so far."


def _next(run: Run, best: Arm | None) -> tuple[str, str]:
    """The step that is not done yet: measure what was saved, then attack it; what collapsed is trained anew."""
    where = shlex.quote(str(run.path))
    if run.kind != "train":
        # `gracile compress` and `gracile attack` build the arms of training recipes only.
        smaller = run.recipe.get("source") and run.recipe.get("size", "full") != "full"
        return (f"gracile reproduce {run.recipe.get('name')}", "runs it at the published size") if smaller else ("", "")
    if best is None:
        if any(arm.sparse for arm in run.arms) or not run.arms:
            return "", ""
        return f"gracile attack {where}", "measures its accuracy under attack"
    arm = f" --arm {shlex.quote(best.name)}" if len(run.arms) > 1 else ""
    if best.measured is None:
        return (
            f"gracile compress {where}{arm} --int8",
            "removes the channels, exports to ONNX and int8, and times what comes out",
        )
    if not best.attacked and run.described is not None and run.described.get("kind") == "images":
        return f"gracile attack {where}{arm}", "measures its accuracy under attack"
    return "", ""
