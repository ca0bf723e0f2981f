"""Arms of one run set against each other, seed by seed, so that criteria can speak of differences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from gracile.core.errors import InputError, nearest
from gracile.recipes.paired import Paired, paired
from gracile.recipes.schema import Strict
from gracile.recipes.tables import mean, sampling_error, spread, with_error


class Comparison(Strict):
    """One number of an arm against that of another.

    Attributes:
        arm: the one.
        to: the other; of several, the one whose mean of the value is the highest: the best opponent.
        value: what of theirs, such as ``accuracy`` or ``macs_left``; None for every number that both have, each by the name
            ``comparison.value``, paired where it was found sample by sample.
        by: ``difference``, arm minus to, or ``ratio``, arm over to.
        paired: sample by sample: `value` is ``clean`` or an attack, and ``comparison.low`` and ``comparison.high`` are the ends
            of the difference's interval of 95 %, so that it may stay undecided; one seed alone has none.
    """

    arm: str
    to: str | list[str]
    value: str | None = None
    by: Literal["difference", "ratio"] = "difference"
    paired: bool = False

    @property
    def others(self) -> list[str]:
        """All arms that the one may be set against."""
        return [self.to] if isinstance(self.to, str) else self.to

    def without(self, left_out: Collection[str]) -> Comparison | None:
        """The comparison where these arms are not trained; None where nothing is left to compare."""
        others = [arm for arm in self.others if arm not in left_out]
        if self.arm in left_out or not others:
            return None
        return self if others == self.others else self.model_copy(update={"to": others})

    def against(self, value: str, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
        """The arm that the one is set against.

        Args:
            value: what is compared.
            results: arm to its results.

        Raises:
            InputError: an arm has no such value.
        """
        for arm in (self.arm, *self.others):
            if results[arm][0].get(value) is None:
                known = [key for key, value in results[arm][0].items() if value is not None]
                raise InputError(f"The arm '{arm}' has no value '{value}'.", nearest(value, known))
        return max(self.others, key=lambda arm: mean(results[arm], value))

    def over_seeds(self, value: str, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[float]:
        """One number a seed; none at all where a ratio would be over 0.

        Args:
            value: what is compared.
            results: arm to its results, one a seed, in the same order.

        Raises:
            InputError: the arms have no such value.
        """
        to = self.against(value, results)
        pairs = [(ours[value], theirs[value]) for ours, theirs in zip(results[self.arm], results[to], strict=True)]
        if self.by == "ratio":
            return [ours / theirs for ours, theirs in pairs] if all(theirs for _, theirs in pairs) else []
        return [ours - theirs for ours, theirs in pairs]


def check_comparisons(comparisons: Mapping[str, Comparison], arms: Sequence[str]) -> None:
    """Before anything is trained: every comparison speaks of arms there are.

    Raises:
        InputError: one does not.
    """
    for name, comparison in comparisons.items():
        ranked = comparison.value is not None and not comparison.paired
        if not comparison.others or (len(comparison.others) > 1 and not ranked):
            raise InputError(
                f"The comparison '{name}' does not say which arm is the best.",
                "Name arms in 'to', and a 'value' that is not paired.",
            )
        for arm in (comparison.arm, *comparison.others):
            if arm not in arms:
                raise InputError(f"The comparison '{name}' speaks of no arm '{arm}'.", nearest(arm, arms))


def compared(
    comparisons: Mapping[str, Comparison], results: Mapping[str, Sequence[Mapping[str, Any]]]
) -> tuple[dict[str, float], list[str]]:
    """Means by the comparisons' names, and a sentence with the spread over seeds for each that names a value.

    ``NAME.error`` is the mean's standard error, where there are seeds to tell it from: that of the seeds' differences and, of
    accuracies, that of the test samples, in quadrature. ``NAME.in_errors`` is the mean over it.
    """
    values, notes = {}, []
    for name, comparison in comparisons.items():
        if comparison.paired and comparison.value is not None:
            arms = (comparison.arm, *comparison.others)
            found = paired(*(_digits(results, arm, comparison.value) for arm in arms))
            values |= {name: found.mean, **_interval(name, found)}
            notes.append(f"{comparison.value} of {comparison.arm} minus that of {arms[1]}: {found}")
            continue
        if comparison.value is None:
            ours, theirs = (results[arm][0] for arm in (comparison.arm, *comparison.others))
            shared = [key for key in ours if all(isinstance(one.get(key), (int, float)) for one in (ours, theirs))]
            found = {f"{name}.{key}": comparison.over_seeds(key, results) for key in shared}
            for key, one in found.items():
                samples = _by_samples(comparison, key.removeprefix(f"{name}."), results)
                values |= with_error(key, one, samples) if one else {}
            if comparison.by == "difference":
                one, two = (results[arm] for arm in (comparison.arm, *comparison.others))
                attacks = one[0].get("stands", {}).keys() & two[0].get("stands", {}).keys()
                for attack in attacks & set(shared):
                    digits = (_digits(results, arm, attack) for arm in (comparison.arm, *comparison.others))
                    values |= _interval(f"{name}.{attack}", paired(*digits))
            continue
        found, to = comparison.over_seeds(comparison.value, results), comparison.against(comparison.value, results)
        if not found:
            notes.append(f"{comparison.value} of {to} is 0, so nothing can be set over it")
            continue
        values |= with_error(name, found, _by_samples(comparison, comparison.value, results))
        if error := values.get(f"{name}.error"):
            values[f"{name}.in_errors"] = values[name] / error
        sign = "minus" if comparison.by == "difference" else "over"
        best = f", the best of {len(comparison.others)}" if len(comparison.others) > 1 else ""
        notes.append(f"{comparison.value} of {comparison.arm} {sign} that of {to}{best}, seed by seed: {spread(found)}")
    return values, notes


def _by_samples(comparison: Comparison, value: str, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> float:
    """The standard error that the test samples give a difference of accuracies; 0 for other numbers."""
    if value != "accuracy" or comparison.by != "difference":
        return 0.0
    return sampling_error(results[comparison.arm], results[comparison.against(value, results)])


def _interval(name: str, found: Paired) -> dict[str, float]:
    """The ends of a paired difference's interval by the names that criteria use; none of a single seed, which decides nothing."""
    return {f"{name}.low": found.low, f"{name}.high": found.high} if found.seeds > 1 else {}


def _digits(results: Mapping[str, Sequence[Mapping[str, Any]]], arm: str, attack: str) -> list[str]:
    """A digit a sample by seed, as `gracile.recipes.robust.robustness` leaves them."""
    known = results[arm][0].get("stands", {})
    if attack not in known:
        raise InputError(f"The arm '{arm}' was not asked about '{attack}' sample by sample.", nearest(attack, known))
    return [one["stands"][attack] for one in results[arm]]
