"""Whether a classifier has failed as a whole: the one rule for every room that measures accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Standard errors above chance up to which a balanced accuracy is not told from it.
ERRORS = 3.0
# Samples of each class, on average, from which on it means something that a class is never named.
SAMPLES_PER_CLASS = 10
# Every answer of `collapse`; the first says that there is none.
COLLAPSES = ("", "constant output", "one class only", "at chance", "half of the classes never")


def collapse(confusion: Tensor, *, constant: bool = False) -> str:
    """How a classifier has failed as a whole, empty where it has not.

    ``constant output``, ``one class only``, ``at chance`` or ``half of the classes never`` named. Chance is judged by the accuracy
    averaged over the classes that occur, of which answers that do not look have one over their number however uneven the classes
    are, with three standard errors; what so few samples cannot tell is not claimed.

    Args:
        confusion: (classes, classes) counts: what a sample is down, what it is taken for across.
        constant: whether the output is the same for every sample.
    """
    counts = confusion.sum(1).double()
    present = counts > 0
    classes, samples = int(present.sum()), int(counts.sum())
    if samples < 2 or classes < 2:
        return ""
    if constant:
        return "constant output"
    answered = confusion.sum(0) > 0
    if int(answered.sum()) == 1:
        return "one class only"
    balanced, chance = float((confusion.diag()[present] / counts[present]).mean()), 1 / classes
    bound = chance + ERRORS * math.sqrt(chance * (1 - chance) * float((1 / counts[present]).sum())) / classes
    if balanced <= bound <= (1 + chance) / 2:
        return "at chance"
    unused = 2 * int((answered & present).sum()) <= classes and classes > 2
    return "half of the classes never" if unused and samples >= SAMPLES_PER_CLASS * classes else ""


def collapse_of(labels: Tensor, answers: Tensor) -> str:
    """`collapse` of answers.

    Args:
        labels: (n,) int64, what each sample is.
        answers: (n,) int64, what it is taken for.
    """
    size = int(torch.cat([labels, answers]).max()) + 1 if len(labels) else 0
    return collapse(torch.bincount(labels * size + answers, minlength=size * size).view(size, size))


def of_several(found: Sequence[str], what: str) -> str:
    """How an arm of several networks has collapsed: as all of them have, or how many of them.

    Args:
        found: of each, how it has collapsed or nothing.
        what: their plural, such as "workers".
    """
    failed = list(dict.fromkeys(one for one in found if one))
    if not failed:
        return ""
    count = sum(map(bool, found))
    return ", ".join(failed) if count == len(found) else f"{count} of {len(found)} {what}: {', '.join(failed)}"
