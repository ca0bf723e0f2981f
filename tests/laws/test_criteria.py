"""Criteria of the shipped recipes speak of outcomes: of nothing that an arm was given, and of no difference without its error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from gracile.recipes import schema

# What a budget decides, by the name of the budget: an option of a method, or of the dial's target.
DECIDED = {
    "macs": {"macs_left"},
    "params": {"parameters_left", "nonzero", "sparsity"},
    "sparsity": {"sparsity", "channel_sparsity", "channels_left", "nonzero", "parameters_left", "macs_left"},
    "channels": {"channel_sparsity", "channels_left", "macs_left", "parameters_left", "sparsity"},
    "latency": {"latency"},
    "file_size": {"file_size"},
    "compress": {"fewer_bytes", "bytes"},
}
# Numbers that differ from one seed to the next; what is asked of them is asked with an error.
DRAWN = re.compile(
    r"(^|\.)(accuracy$|(channel_)?sparsity$|small_weights$|zero_channels_|lead_over\.|below_(central|none|mean)$)"
)
# Values that carry their own interval, or are told in standard errors.
CARRIED = (".low", ".high", ".in_errors")
# The first few steps of one seed.
QUICK = "smoke"
RECIPES = sorted(schema.shipped())


def criteria(name: str) -> Iterator[tuple[schema.Recipe, schema.Accept, str]]:
    """Each criterion of a recipe at each of its sizes, with the number that it speaks of."""
    recipe = schema.load(name)
    for criterion in recipe.accept:
        for size in criterion.sizes:
            sized = schema.resized(recipe, size)
            first, _, number = criterion.value.partition(".")
            compared = sized.settings.get("compare", {}).get(first)
            asked = criterion.value if compared is None else compared.get("value") or number
            yield sized, criterion, asked


def given(arm: Mapping[str, Any]) -> set[str]:
    """The numbers of an arm that its settings decide."""
    settings = {**arm.get("options", {}), **(arm.get("target") or {})}
    return {number for budget in set(settings) & set(DECIDED) for number in DECIDED[budget]}


@pytest.mark.parametrize("name", RECIPES)
def test_no_criterion_can_be_met_by_an_input(name: str):
    for recipe, criterion, asked in criteria(name):
        arms = recipe.settings.get("arms", {})
        first, _, number = criterion.value.partition(".")
        if first in arms:
            assert number not in given(arms[first]), f"{criterion.value} ({recipe.size}) is what the arm was given"
        if (one := recipe.settings.get("compare", {}).get(first)) is not None:
            for arm in (one["arm"], *(one["to"] if isinstance(one["to"], list) else [one["to"]])):
                assert asked not in given(arms[arm]), f"{criterion.value} ({recipe.size}): '{arm}' was given {asked}"


@pytest.mark.parametrize("name", RECIPES)
def test_what_differs_by_seed_is_asked_with_a_margin_in_standard_errors(name: str):
    for recipe, criterion, asked in criteria(name):
        if recipe.size != QUICK and not criterion.value.endswith(CARRIED) and DRAWN.search(asked):
            assert criterion.errors is not None, f"{criterion.value} ({recipe.size}) is asked without its error"


@pytest.mark.parametrize("name", RECIPES)
def test_no_criterion_asks_for_what_a_network_has_that_merely_learned(name: str):
    for recipe, criterion, _ in criteria(name):
        if criterion.value.endswith(".accuracy") and criterion.value.partition(".")[0] in recipe.settings.get(
            "arms", {}
        ):
            assert recipe.size == QUICK or criterion.at_least is None or criterion.at_least >= 90, criterion.value


def test_a_budget_that_is_asked_for_is_found_out():
    arm = {"options": {"beta": 0.1}, "target": {"macs": 0.3, "settle": 0.5}}
    assert given(arm) == {"macs_left"}
    assert "sparsity" in given({"options": {"sparsity": 0.6, "rho": 1e-2}})
    assert given({"options": {"lam": 1e-3}}) == set()
