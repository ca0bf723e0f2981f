"""Two arms on the same test samples: how sure their difference is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Resamplings, and of how many of them the interval's two ends leave out.
RESAMPLED = 10_000
OUTSIDE = 0.05
# Resamplings at once: 1,000 samples then take 8 MB.
AT_ONCE = 1_000


@dataclass(frozen=True)
class Paired:
    """A difference of accuracies in points.

    Attributes:
        mean: over seeds and samples.
        low: lower end of the interval of 95 %.
        high: its upper end.
        seeds: that were compared.
        samples: that all of them were asked about.
    """

    mean: float
    low: float
    high: float
    seeds: int
    samples: int

    @property
    def verdict(self) -> str:
        """``above``, ``below``, or ``undecided`` where the interval holds 0."""
        return "above" if self.low > 0 else "below" if self.high < 0 else "undecided"

    def __str__(self) -> str:
        return (
            f"{self.mean:+.2f} points, 95 % interval {self.low:+.2f} to {self.high:+.2f} over {self.seeds} seeds and "
            f"{self.samples} paired samples: {self.verdict}"
        )


def paired(ours: Sequence[str], theirs: Sequence[str]) -> Paired:
    """The difference of two arms' accuracies with the interval of the pigeonhole bootstrap [@owen2007].

    Seeds and samples are drawn anew with replacement, each by itself, since both are samples of what could have been: a
    difference that one seed makes, or a few images make, is not taken for one of the methods. With a single seed it
    speaks of the samples alone.

    Args:
        ours: a string a seed with a digit a sample, 1 where the answer is right.
        theirs: the same of the other arm, on the same samples in the same order.
    """
    one, two = (np.array([[digit == "1" for digit in seed] for seed in arm], dtype=float) for arm in (ours, theirs))
    differences = 100 * (one - two)
    seeds, samples = differences.shape
    random = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLED // AT_ONCE):
        rows = random.multinomial(seeds, [1 / seeds] * seeds, size=AT_ONCE) / seeds
        columns = random.multinomial(samples, [1 / samples] * samples, size=AT_ONCE) / samples
        means.append(np.einsum("bi,bi->b", rows @ differences, columns))
    low, high = np.quantile(np.concatenate(means), [OUTSIDE / 2, 1 - OUTSIDE / 2])
    return Paired(float(differences.mean()), float(low), float(high), seeds, samples)
