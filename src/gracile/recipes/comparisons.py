"""Arms of one run set against each other, seed by seed, so that criteria can speak of differences."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from gracile.core.errors import InputError, nearest
from gracile.recipes.paired import paired
from gracile.recipes.schema import Strict
from gracile.recipes.tables import spread


class Comparison(Strict):
    """One number of an arm against that of another.

    Attributes:
        arm: the one.
        to: the other.
        value: what of theirs, such as ``accuracy`` or ``macs_left``; None for every number that both have, each by the name
            ``comparison.value``.
        by: ``difference``, arm minus to, or ``ratio``, arm over to.
        paired: sample by sample: `value` is ``clean`` or an attack, and ``comparison.low`` and ``comparison.high`` are the ends
            of the difference's interval of 95 %, so that it may stay undecided.
    """

    arm: str
    to: str
    value: str | None = None
    by: Literal["difference", "ratio"] = "difference"
    paired: bool = False

    def over_seeds(self, value: str, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[float]:
        """One number a seed; none at all where a ratio would be over 0.

        Args:
            value: what is compared.
            results: arm to its results, one a seed, in the same order.

        Raises:
            InputError: the arms have no such value.
        """
        for arm in (self.arm, self.to):
            if results[arm][0].get(value) is None:
                known = [key for key, value in results[arm][0].items() if value is not None]
                raise InputError(f"The arm '{arm}' has no value '{value}'.", nearest(value, known))
        pairs = [(ours[value], theirs[value]) for ours, theirs in zip(results[self.arm], results[self.to], strict=True)]
        if self.by == "ratio":
            return [ours / theirs for ours, theirs in pairs] if all(theirs for _, theirs in pairs) else []
        return [ours - theirs for ours, theirs in pairs]


def check_comparisons(comparisons: Mapping[str, Comparison], arms: Sequence[str]) -> None:
    """Before anything is trained: every comparison speaks of arms there are.

    Raises:
        InputError: one does not.
    """
    for name, comparison in comparisons.items():
        for arm in (comparison.arm, comparison.to):
            if arm not in arms:
                raise InputError(f"The comparison '{name}' speaks of no arm '{arm}'.", nearest(arm, arms))


def compared(
    comparisons: Mapping[str, Comparison], results: Mapping[str, Sequence[Mapping[str, Any]]]
) -> tuple[dict[str, float], list[str]]:
    """Means by the comparisons' names, and a sentence with the spread over seeds for each that names a value."""
    values, notes = {}, []
    for name, comparison in comparisons.items():
        if comparison.paired and comparison.value is not None:
            found = paired(*(_digits(results, arm, comparison.value) for arm in (comparison.arm, comparison.to)))
            values |= {name: found.mean, f"{name}.low": found.low, f"{name}.high": found.high}
            notes.append(f"{comparison.value} of {comparison.arm} minus that of {comparison.to}: {found}")
            continue
        if comparison.value is None:
            ours, theirs = (results[arm][0] for arm in (comparison.arm, comparison.to))
            shared = [key for key in ours if all(isinstance(one.get(key), (int, float)) for one in (ours, theirs))]
            found = {f"{name}.{key}": comparison.over_seeds(key, results) for key in shared}
            values |= {key: statistics.fmean(one) for key, one in found.items() if one}
            continue
        found = comparison.over_seeds(comparison.value, results)
        if not found:
            notes.append(f"{comparison.value} of {comparison.to} is 0, so nothing can be set over it")
            continue
        values[name] = statistics.fmean(found)
        sign = "minus" if comparison.by == "difference" else "over"
        notes.append(
            f"{comparison.value} of {comparison.arm} {sign} that of {comparison.to}, seed by seed: {spread(found)}"
        )
    return values, notes


def _digits(results: Mapping[str, Sequence[Mapping[str, Any]]], arm: str, attack: str) -> list[str]:
    """A digit a sample by seed, as `gracile.recipes.robust.robustness` leaves them."""
    known = results[arm][0].get("stands", {})
    if attack not in known:
        raise InputError(f"The arm '{arm}' was not asked about '{attack}' sample by sample.", nearest(attack, known))
    return [one["stands"][attack] for one in results[arm]]
