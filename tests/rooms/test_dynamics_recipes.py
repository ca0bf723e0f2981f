"""The room's recipes at their smoke sizes, and their committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gracile.recipes import schema
from gracile.recipes.runner import run

NAMES = ("conserved", "low-rank", "tree")


@pytest.mark.parametrize("name", NAMES)
def test_smoke_meets_its_criteria_and_draws(name: str, tmp_path: Path) -> None:
    finished = run(schema.resized(schema.load(name), "smoke"), tmp_path / name)
    assert finished.verdicts
    for criterion, met in finished.verdicts:
        assert met, criterion.claim
    assert finished.outcome.plots
    for plot in finished.outcome.plots.values():
        assert (tmp_path / name / plot).read_bytes().startswith(b"<svg ")


def test_a_train_recipe_can_be_watched(tmp_path: Path) -> None:
    recipe = schema.load("digits")
    settings = {**recipe.settings, "watch": True, "arms": {"dense": {}}}
    settings["training"] = {**settings["training"], "epochs": 2}
    finished = run(recipe.model_copy(update={"settings": settings, "accept": []}), tmp_path / "watched")
    rows = finished.folder.part("dense").metrics()
    assert rows[-1]["drift_conserved"] > 0
    assert 0 <= rows[-1]["alignment"] <= 1
    assert rows[-1]["beta_smoothness"] > 0
    assert rows[-1]["loss_low"] <= rows[-1]["loss_high"]
    page = (finished.folder.path / "report.html").read_text()
    dynamics = page[page.index("<h2>Dynamics") :]
    for title in ("Drift of what is conserved", "Alignment", "Sign changes", "Effective smoothness"):
        assert title in dynamics


def test_the_page_of_a_run_that_was_not_watched_has_no_dynamics(tmp_path: Path) -> None:
    recipe = schema.load("digits")
    settings = schema.merged({**recipe.settings, "arms": {"dense": {}}}, {"training": {"epochs": 2}})
    run(recipe.model_copy(update={"settings": settings, "accept": []}), tmp_path / "plain")
    assert "Dynamics" not in (tmp_path / "plain" / "report.html").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_result_is_of_this_recipe(name: str) -> None:
    file = schema.shipped()[name]
    found = json.loads(file.with_name(f"{name}.full.json").read_text())
    recipe = schema.load(name)
    wanted = [one.model_dump(exclude_none=True) for one in recipe.accept if "full" in one.sizes]
    assert [{key: value for key, value in one.items() if key != "met"} for one in found["accept"]] == wanted
    assert all(one["met"] for one in found["accept"])
