"""A run that takes several sittings: its finished parts are kept and laid into another folder, where what is missing is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gracile.core.errors import InputError
from gracile.recipes import runner, schema
from gracile.recipes.arms import ENVIRONMENT, RESULT
from tools import parts


@pytest.fixture
def recipe() -> schema.Recipe:
    found = schema.resized(schema.load("digits"), "full")
    changed = schema.merged(
        found.settings, {"seeds": [0, 1], "training": {"epochs": 1, "warmup": 0.0}, "data": {"train_limit": 64}}
    )
    return found.model_copy(update={"settings": changed | {"arms": {"dense": {}}, "compare": {}}, "accept": []})


def test_a_run_goes_on_elsewhere_from_the_parts_kept_of_it(
    recipe: schema.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ROOT", tmp_path / "parts")
    first, second = tmp_path / "first", tmp_path / "second"
    runner.run(recipe, first, only=["dense:0"])
    environment = first / "dense-seed0" / ENVIRONMENT
    place = json.loads(environment.read_text())
    environment.write_text(json.dumps(place | {"commit": "0" * 40 + "+changes"}))
    with pytest.raises(InputError, match="no clean commit"):
        parts.keep(first)
    environment.write_text(json.dumps(place | {"commit": "0" * 40}))
    assert parts.keep(first) == ["dense-seed0"]
    assert parts.keep(first) == []

    file = tmp_path / "digits.toml"
    file.write_text((first / "recipe.toml").read_text())
    monkeypatch.setattr(schema, "shipped", lambda: {"digits": file})
    assert parts.lay("digits", "full", second) == ["dense-seed0"]
    kept = (second / "dense-seed0" / RESULT).read_bytes()
    assert not runner.run(recipe, second).missing
    assert (second / "dense-seed0" / RESULT).read_bytes() == kept
    with pytest.raises(InputError, match="is there already"):
        parts.lay("digits", "full", second)
    shutil.rmtree(second)
    file.write_text(file.read_text().replace("lr = 0.05", "lr = 0.5"))
    with pytest.raises(InputError, match="other settings"):
        parts.lay("digits", "full", second)
    with pytest.raises(InputError, match="No parts are kept"):
        parts.lay("digits", "cpu", second)


def test_parts_of_an_arm_that_has_changed_are_left_out(
    recipe: schema.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those of the arms that take something from it; the others are good, wherever they were taken over from."""
    monkeypatch.setattr(parts, "ROOT", tmp_path / "parts")
    arms = {
        "dense": {}, "l1": {"method": "l1_filters"}, "scratch": {"method": "scratch", "found": "l1"},
        "gradual": {"method": "gradual_magnitude"},
    }  # fmt: skip
    recipe = recipe.model_copy(update={"settings": recipe.settings | {"arms": arms, "seeds": [0]}})
    first = tmp_path / "first"
    runner.run(recipe, first)
    for file in first.glob(f"*/{ENVIRONMENT}"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"commit": "0" * 40}))
    assert parts.keep(first) == ["dense", "gradual", "l1", "scratch"]
    changed = schema.merged(
        recipe.settings, {"arms": {"l1": {"options": {"prune_at": 0.3}}}, "seeds": [0], "reuse": True}
    )
    monkeypatch.setattr(schema, "load", lambda name: recipe.model_copy(update={"settings": changed}))
    monkeypatch.setattr(schema, "resized", lambda found, size: found)
    monkeypatch.setattr(parts, "started_recipe", lambda _: recipe)
    assert parts.lay("digits", "full", tmp_path / "second") == ["dense", "gradual"]
