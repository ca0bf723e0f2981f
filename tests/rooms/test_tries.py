"""What validation images choose among before an arm's seeds are trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gracile.core.errors import InputError
from gracile.data import load as load_data
from gracile.recipes import Recipe, rehearse, run
from gracile.recipes.kinds.train import Settings
from gracile.recipes.schema import merged
from gracile.recipes.tries import best_try

# One try learns, one cannot: at a rate of 0 nothing moves.
RECIPE = {
    "name": "tries",
    "title": "tries",
    "kind": "train",
    "settings": {
        "seeds": [0, 1],
        "tuning_seeds": [7, 8],
        "data": {"name": "digits", "train_limit": 200, "test_limit": 60, "validation": 50},
        "model": {"name": "mlp", "options": {"widths": [16]}},
        "training": {"epochs": 2, "lr": 0.05, "batch_size": 16},
        "arms": {
            "dense": {},
            "gradual": {
                "method": "gradual_magnitude",
                "options": {"sparsity": 0.5},
                "tries": [{"training": {"lr": 1e-9}}, {"training": {"lr": 0.1}, "options": {"sparsity": 0.6}}],
            },
        },
    },
}


TWICE = [{"training": {"lr": 0.0}}, {"training": {"lr": 0.01}}]


def recipe(**settings) -> Recipe:
    return Recipe(**merged(RECIPE, {"settings": settings}))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tries") / "run"
    run(recipe(), folder)
    return folder


def part(folder: Path, name: str) -> dict:
    return json.loads((folder / name / "arm.json").read_text())


def test_the_arm_is_trained_with_the_try_that_validates_best(finished: Path):
    judged = {
        name: [part(finished, f"gradual-{name}-seed{seed}")["accuracy"] for seed in (7, 8)] for name in ("try1", "try2")
    }
    assert max(judged["try1"]) < min(judged["try2"])
    for seed in (0, 1):
        assert part(finished, f"gradual-seed{seed}")["sparsity"] == pytest.approx(60, abs=1.5)


def test_a_try_is_judged_on_validation_samples(finished: Path):
    answers = json.loads((finished / "gradual-try2-seed7" / "answers.json").read_text())
    splits = load_data("digits", train_limit=200, test_limit=60, validation=50)
    assert answers["samples"] == len(splits.validation) == 50
    by_class = {name: int((splits.validation.labels == index).sum()) for index, name in enumerate(splits.test.classes)}
    assert {name: sum(row.values()) for name, row in answers["confusion"].items()} == by_class


def test_the_table_has_the_arms_and_a_note_tells_the_tries(finished: Path):
    result = json.loads((finished / "result.json").read_text())
    assert [row["arm"] for row in result["rows"]] == ["dense", "gradual"]
    assert not any("try" in name for name in result["values"])
    [note] = [note for note in result["notes"] if "validation samples" in note]
    assert note.startswith("gradual takes training.lr=0.1 sparsity=0.6 by its accuracy on validation samples, of: ")
    assert note.count(" ± ") == 2


def test_the_same_arm_set_by_hand_is_the_same_network(finished: Path, tmp_path: Path):
    by_hand = {"method": "gradual_magnitude", "options": {"sparsity": 0.6}, "training": {"lr": 0.1}}
    only = Recipe(**{**RECIPE, "settings": {**RECIPE["settings"], "arms": {"gradual": by_hand}, "tuning_seeds": []}})
    run(only, tmp_path / "run")
    for seed in (0, 1):
        one, two = (folder / f"gradual-seed{seed}" / "model.safetensors" for folder in (finished, tmp_path / "run"))
        assert one.read_bytes() == two.read_bytes()


def test_one_part_alone_brings_its_tries(tmp_path: Path):
    found = run(recipe(), tmp_path / "run", only=["gradual:1"])
    assert sorted(found.missing) == ["dense-seed0", "dense-seed1", "gradual-seed0"]


def test_a_rehearsal_counts_them(tmp_path: Path):
    rows = {row["arm"]: row for row in rehearse(recipe()).rows}
    assert rows["gradual"]["tries"] == 4
    assert "tries" not in rows["dense"]


def test_of_equals_the_first_is_taken():
    assert (
        best_try(["a", "b", "c"], {name: [{"accuracy": value}] for name, value in zip("abc", (1, 2, 2), strict=True)})
        == 1
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tuning_seeds": []}, "seeds that no arm is trained from"),
        ({"tuning_seeds": [1, 2]}, "seeds that no arm is trained from"),
        ({"data": {"validation": 0}}, "none are held out"),
        ({"arms": {"gradual": {"tries": [{"training": {"lr": 0.1}}]}}}, "single try"),
        ({"arms": {"gradual": {"tries": [{}, {"seed": 1}]}}}, "has no option 'seed'"),
        ({"arms": {"gradual": {"tries": [{}, {"training": {"learning": 1}}]}}}, "learning"),
        ({"arms": {"gradual": {"tries": [{}, {"options": {"sparsety": 1}}]}}}, "has no option 'sparsety'"),
        ({"arms": {"gradual": {"tries": [{}, {"target": {"sparsity": 0.5, "settle": 0.9}}]}}}, "do not fit"),
        ({"arms": {"gradual-try1": {}}}, "Rename that arm"),
        ({"arms": {"again": {"start": "gradual", "tries": TWICE}}}, "'again' starts from an arm that is chosen"),
        ({"arms": {"again": {"start": "dense", "tries": TWICE}, "dense-for-tries": {}}}, "Rename that arm"),
        ({"arms": {"again": {"start": "dens", "tries": TWICE}}}, "Did you mean 'dense'"),
    ],
)
def test_tries_that_would_not_tell_are_refused_before_anything_is_trained(changes: dict, says: str, tmp_path: Path):
    with pytest.raises(InputError, match=says):
        run(recipe(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_settings_go_to_another_process_and_back():
    settings = Settings(**RECIPE["settings"])
    assert Settings(**settings.model_dump(exclude_none=True)) == settings
    assert settings.names() == ["dense", "gradual-try1", "gradual-try2", "gradual"]


def test_tries_of_an_arm_that_begins_with_another_begin_with_it_from_their_own_seeds(tmp_path: Path):
    still = {"start": "dense", "training": {"weight_decay": 0.0}, "tries": TWICE}
    asked = recipe(seeds=[0, 1], tuning_seeds=[7], arms={"gradual": {"tries": []}, "on": still})
    settings = Settings(**asked.settings)
    assert settings.names() == ["dense-for-tries", "dense", "gradual", "on-try1", "on-try2", "on"]
    assert settings.needs("on-try1", 7) == [("dense-for-tries", 7)]
    assert settings.needs("on", 0) == [("on-try1", 7), ("on-try2", 7), ("dense", 0)]
    rows = {row["arm"]: row for row in rehearse(asked).rows}
    assert (rows["on"]["tries"], "tries" in rows["dense"]) == (2, False)
    found = run(asked, tmp_path / "run", only=["on-try1"])
    weights = {
        name: load_file(tmp_path / "run" / name / "model.safetensors") for name in ("dense-for-tries", "on-try1")
    }
    # A rate of 0 leaves what it began with; that was judged on validation samples, too.
    assert all(torch.equal(tensor, weights["on-try1"][name]) for name, tensor in weights["dense-for-tries"].items())
    assert part(tmp_path / "run", "on-try1")["accuracy"] == part(tmp_path / "run", "dense-for-tries")["accuracy"] > 50
    assert {"on-seed0", "on-seed1"} <= set(found.missing)
    run(asked, tmp_path / "run", resume=True)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [row["arm"] for row in result["rows"]] == ["dense", "gradual", "on"]
    # The arm itself begins with its own seed's network.
    assert part(tmp_path / "run", "on-seed1")["accuracy"] > 50
    by_hand = recipe(seeds=[7], tuning_seeds=[], arms={"gradual": {"tries": []}})
    run(by_hand, tmp_path / "hand", only=["dense"])
    assert load_file(tmp_path / "hand/dense/model.safetensors").keys() == weights["dense-for-tries"].keys()
    assert all(
        torch.equal(tensor, weights["dense-for-tries"][name])
        for name, tensor in load_file(tmp_path / "hand/dense/model.safetensors").items()
    )


def test_a_name_like_that_of_a_beginning_is_free_where_no_try_has_one():
    arms = {"dense-for-tries": {}, "gradual": RECIPE["settings"]["arms"]["gradual"]}
    settings = Settings(**recipe(arms=arms).settings)
    assert settings.seeds_of("dense-for-tries") == [0, 1]


def test_a_try_that_diverges_is_one_not_taken(tmp_path: Path):
    tries = [{"training": {"lr": 1e30}}, {"training": {"lr": 0.1}}]
    found = run(recipe(seeds=[0], tuning_seeds=[7], arms={"gradual": {"tries": tries}}), tmp_path / "run")
    assert part(tmp_path / "run", "gradual-try1")["collapsed"] == "diverged"
    assert any("gradual takes training.lr=0.1" in note for note in found.outcome.notes)
    assert part(tmp_path / "run", "gradual")["accuracy"] > 50


def test_tuning_seeds_that_nothing_is_tried_from_are_told(tmp_path: Path):
    with pytest.raises(InputError, match="no arm has tries"):
        run(recipe(arms={"gradual": {"tries": []}}), tmp_path / "run")
