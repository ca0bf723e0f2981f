"""The kind of recipe that weighs files: what it says is what lies there, and the files compute what was trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gracile.core.errors import InputError
from gracile.recipes import load, run

RECIPE = """
title = "weights of files"
kind = "file-size"
[settings]
seeds = [0, 1]
dense = "base"
sparse = "lean"
data = { name = "digits", train_limit = 600, test_limit = 200, image_size = 16 }
model = { name = "lenet" }
training = { epochs = 4, lr = 0.05, batch_size = 32 }
calibration = 100
max_drop = 100.0
[settings.arms.base]
[settings.arms.lean]
method = "l1_filters"
options = { channels = 0.5 }
"""


def test_the_files_are_weighed_and_compute_what_was_trained(tmp_path: Path):
    file = tmp_path / "weights.toml"
    file.write_text(RECIPE)
    finished = run(load(str(file)), tmp_path / "out")
    values, sizes = finished.outcome.values, json.loads((tmp_path / "out" / "sizes.json").read_text())
    ratios = [one["dense"]["bytes"] / one["shrunk"]["bytes"] for one in sizes.values()]
    assert min(ratios) > 2
    assert values["shrunk.times_smaller"] == pytest.approx(sum(ratios) / 2)
    assert values["shrunk.times_smaller.error"] == pytest.approx(abs(ratios[0] - ratios[1]) / 2, abs=1e-9)
    assert values["int8.times_smaller"] > 1.5 * values["shrunk.times_smaller"]
    # Of each seed the float files classify as the trained networks do.
    for seed, found in sizes.items():
        for name, arm in (("dense", "base"), ("shrunk", "lean")):
            trained = json.loads((tmp_path / "out" / f"{arm}-seed{seed}" / "arm.json").read_text())
            assert found[name]["accuracy"] == pytest.approx(trained["accuracy"], abs=0.51)
            # Four bytes a parameter, and a graph of a few kilobytes around them.
            parameters = 4 * trained["parameters_left"] / 100 * values["base.nonzero"]
            assert 0 < found[name]["bytes"] - parameters < 20_000
    costs = [one["shrunk"]["accuracy"] - one["int8"]["accuracy"] for one in sizes.values()]
    assert values["int8_costs"] == pytest.approx(sum(costs) / 2)
    assert "±" in finished.outcome.rows[-2]["x faster"]
    assert [row["arm"] for row in finished.outcome.rows] == [
        "base",
        "lean",
        "file, dense",
        "file, shrunk",
        "file, int8",
    ]


def test_an_arm_that_is_not_there_cannot_be_weighed(tmp_path: Path):
    file = tmp_path / "weights.toml"
    file.write_text(RECIPE.replace('sparse = "lean"', 'sparse = "laen"'))
    with pytest.raises(InputError, match=r"no arm named 'laen'.*Did you mean 'lean'"):
        run(load(str(file)), tmp_path / "out")


def test_arms_left_out_are_not_trained_and_must_be_there(tmp_path: Path):
    file = tmp_path / "weights.toml"
    text = RECIPE.replace("file-size", "train").replace('dense = "base"\nsparse = "lean"\n', 'leave_out = ["base"]\n')
    text = text.replace("calibration = 100\nmax_drop = 100.0\n", "").replace("epochs = 4", "epochs = 1")
    file.write_text(text)
    run(load(str(file)), tmp_path / "out")
    assert not (tmp_path / "out" / "base-seed0").exists()
    file.write_text(text.replace('["base"]', '["bse"]'))
    with pytest.raises(InputError, match=r"no arm named 'bse'.*Did you mean 'base'"):
        run(load(str(file)), tmp_path / "other")
