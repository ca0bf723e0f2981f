"""Two arms compared image by image."""

from __future__ import annotations

import numpy as np
import pytest

from gracile.core.errors import InputError
from gracile.recipes.comparisons import Comparison, compared
from gracile.recipes.paired import paired
from gracile.recipes.schema import Accept


def digits(right) -> str:
    return "".join(map(str, np.asarray(right).astype(int)))


def test_arms_that_err_alike_are_undecided_at_exactly_zero():
    right = digits(np.arange(200) % 3 == 0)
    found = paired([right] * 3, [right] * 3)
    assert (found.mean, found.low, found.high, found.verdict) == (0.0, 0.0, 0.0, "undecided")


def test_the_interval_of_one_seed_is_the_binomials():
    # Of 1,000 images 40 differ, 30 to 10: the mean is 2 points, and its error that of a mean of -1, 0 and 1.
    ours, theirs = np.zeros(1000), np.zeros(1000)
    ours[:30], theirs[30:40] = 1, 1
    found = paired([digits(ours)], [digits(theirs)])
    error = 100 * np.sqrt((0.04 - 0.02**2) / 1000)
    assert found.mean == pytest.approx(2.0)
    assert found.low == pytest.approx(2 - 1.96 * error, abs=0.15)
    assert found.high == pytest.approx(2 + 1.96 * error, abs=0.15)
    assert found.verdict == "above"


def test_a_difference_that_one_seed_makes_is_undecided():
    good, bad = digits(np.ones(500)), digits(np.arange(500) < 400)
    assert paired([good] * 3, [bad] * 3).verdict == "above"
    assert paired([bad] * 3, [good] * 3).verdict == "below"
    assert paired([good, bad, bad], [bad] * 3).verdict == "undecided"


def test_methods_that_are_alike_are_seldom_told_apart():
    random = np.random.default_rng(0)
    told = 0
    for _ in range(60):
        level = 0.7 + 0.02 * random.standard_normal((2, 3, 1))
        found = paired(*([digits(row) for row in arm] for arm in random.random((2, 3, 300)) < level))
        told += found.verdict != "undecided"
    # 5 % of 60 are 3; four standard deviations more are 10.
    assert told <= 10


def test_a_recipe_gets_both_ends_and_the_sentence():
    arms = {"a": [{"stands": {"pgd": "1111"}}] * 2, "b": [{"stands": {"pgd": "0000"}}] * 2}
    values, notes = compared({"x": Comparison(arm="a", to="b", value="pgd", paired=True)}, arms)
    assert values == {"x": 100.0, "x.low": 100.0, "x.high": 100.0}
    assert notes == [
        "pgd of a minus that of b: +100.00 points, 95 % interval +100.00 to +100.00 over 2 seeds and 4 paired samples: above"
    ]
    with pytest.raises(InputError, match="not asked about 'fgsm'"):
        compared({"x": Comparison(arm="a", to="b", value="fgsm", paired=True)}, arms)


def test_a_comparison_of_every_number_is_paired_where_samples_are_known():
    random = np.random.default_rng(0)
    arms = {
        name: [{"stands": {"pgd": digits(row)}, "pgd": 100 * row.mean(), "sparsity": 10.0 * seed} for seed, row in enumerate(rows)]
        for name, rows in (("a", random.random((3, 200)) < 0.8), ("b", random.random((3, 200)) < 0.6))
    }  # fmt: skip
    values, _ = compared({"x": Comparison(arm="a", to="b")}, arms)
    expected = paired(*([one["stands"]["pgd"] for one in arms[arm]] for arm in "ab"))
    assert values["x.pgd"] == pytest.approx(expected.mean)
    assert (values["x.pgd.low"], values["x.pgd.high"]) == (expected.low, expected.high)
    assert values["x.sparsity.error"] == 0.0
    assert "x.sparsity.low" not in values


@pytest.mark.parametrize(("low", "high", "met"), [(0.1, 2.0, True), (-0.1, 2.0, None), (-3.0, -0.1, False)])
def test_an_interval_decides_a_criterion_or_does_not(low, high, met):
    criterion = Accept(claim="x", value="a", at_least=0.0, errors=2.0)
    mirrored = Accept(claim="x", value="a", at_most=0.0, errors=2.0)
    middle = (low + high) / 2
    # The error over seeds alone, which there may be too, says less.
    assert criterion.met({"a": middle, "a.low": low, "a.high": high, "a.error": 1e-9}) is met
    assert mirrored.met({"a": -middle, "a.low": -high, "a.high": -low}) is met


def test_one_seed_decides_nothing():
    arms = {"a": [{"stands": {"pgd": "1" * 500}, "pgd": 100.0}], "b": [{"stands": {"pgd": "0" * 500}, "pgd": 0.0}]}
    criterion = Accept(claim="x", value="x.pgd", at_least=0.0, errors=2.0)
    values, _ = compared({"x": Comparison(arm="a", to="b")}, arms)
    assert criterion.met(values) is None
    alone = Accept(claim="x", value="x", at_least=0.0, errors=2.0)
    values, _ = compared({"x": Comparison(arm="a", to="b", value="pgd", paired=True)}, arms)
    assert alone.met(values) is None
