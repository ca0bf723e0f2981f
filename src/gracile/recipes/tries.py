"""Tries: what validation images choose among before an arm's seeds are trained.

An opponent with its paper's settings against a method that was tuned says little. `tries` of an arm are tables that are laid over
it; each is trained from the recipe's `tuning_seeds`, which no arm is trained from, and is judged on validation samples alone. The arm
takes the one of the highest mean accuracy. What an arm with tries begins with is trained from the `tuning_seeds`, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gracile.core.errors import InputError, refuse_unknown
from gracile.recipes.tables import Results, mean, spread

# What of an arm a try may change: the network, and what the arm begins with, stay those of the seed.
TRIED = ("options", "target", "training")


def try_names(arm: str, tries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the tries of an arm are called among the parts of a run."""
    return [f"{arm}-try{number}" for number in range(1, len(tries) + 1)]


def beginning(arm: str) -> str:
    """What an arm is called among the parts of a run where tries of other arms begin with its weights, from their own seeds."""
    return f"{arm}-for-tries"


def check_tries(
    arm: str, tries: Sequence[Mapping[str, Any]], seeds: Iterable[int], tuning_seeds: Iterable[int], validation: float
) -> None:
    """Refuse tries that would not tell.

    Args:
        arm: whose they are.
        tries: what each changes.
        seeds: of the arms.
        tuning_seeds: of the tries.
        validation: how much of the data, or how many samples, are held out to judge them.

    Raises:
        InputError: fewer than two, a key that is not for trying, no seeds of their own, or nothing to judge them by.
    """
    if len(tries) < 2:
        raise InputError(f"The arm '{arm}' has a single try.", "Give two or more, or set it in the arm itself.")
    for one in tries:
        refuse_unknown(one, TRIED, f"A try of the arm '{arm}'")
    own = set(tuning_seeds)
    if not own or own & set(seeds):
        raise InputError(
            f"The tries of the arm '{arm}' need seeds that no arm is trained from.",
            "Set tuning_seeds in the recipe's settings, as in tuning_seeds = [100].",
        )
    if not validation:
        raise InputError(
            f"The tries of the arm '{arm}' are judged on validation samples, and none are held out.",
            "Set data.validation to a share or a number.",
        )


def best_try(names: Sequence[str], results: Results) -> int:
    """Index of the try of the highest accuracy, mean over tuning seeds; the first of equals.

    Args:
        names: as `try_names` gives them.
        results: of the tries, whose ``accuracy`` is that on validation samples.
    """
    return max(range(len(names)), key=lambda index: mean(results[names[index]], "accuracy"))


def what_was_tried(arm: str, tries: Sequence[Mapping[str, Any]], results: Results) -> str:
    """A sentence: what was tried for an arm, what came of it, and what was taken."""
    names = try_names(arm, tries)
    shown = [
        f"{_table(one)} {spread((seed['accuracy'] for seed in results[name]), 2)} %"
        for name, one in zip(names, tries, strict=True)
    ]
    taken = _table(tries[best_try(names, results)])
    return f"{arm} takes {taken} by its accuracy on validation samples, of: {'; '.join(shown)}"


def _table(changes: Mapping[str, Mapping[str, Any]]) -> str:
    pairs = [f"{table}.{key}={value}" for table, values in changes.items() for key, value in values.items()]
    return " ".join(pair.removeprefix("options.") for pair in pairs) or "the arm as it stands"
