"""The recipes of the layer-wise papers: they run at small sizes, resume, and say what they promise."""

from __future__ import annotations

import sys

import pytest
import torch

from gracile import data as datasets
from gracile.core.errors import DataError, InputError
from gracile.recipes import load, run, schema
from gracile.recipes.base_networks import LOSSES, build, cnn

NAMES = ("figure-6.3", "figure-6.4", "figure-6.5", "table-6.2")

REDENSE = {
    "data": "digits", "network": "mlp", "hidden": 16, "m": [16, 20], "methods": ["monotone", "adam"], "epochs": 3,
    "seeds": [0, 1], "losses": ["ce", "poisson"], "inside": ["1"], "inside_epochs": 1, "train_limit": 200,
    "base": {"epochs": 1},
}  # fmt: skip
RHO = {
    "sweeps": {
        "digits": {"data": "digits", "rhos": [1.0, 2.0, 4.0], "trials": 2, "train_limit": 300},
        "lost": {"data": "fashion-mnist", "rhos": [1.0], "optional": True},
    },
    "mixture": {"samples": 500, "trials": 1, "rhos": [1.0, 2.0]},
    "inverted": 5,
}


def recipe(kind: str, settings: dict) -> schema.Recipe:
    return schema.Recipe(name="try", title="try", kind=kind, settings=settings)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_recipes_hold_valid_settings_at_every_size(name):
    from gracile.recipes.kinds import kind

    shipped = load(name)
    for size in ("full", *shipped.sizes):
        sized = schema.resized(shipped, size)
        schema.parse(kind(sized.kind).Settings, sized.settings, name)
    assert {"cpu", "smoke"} <= set(shipped.sizes)
    assert any("smoke" in criterion.sizes for criterion in shipped.accept)


def test_redense_runs_and_resumes_what_is_done(tmp_path, monkeypatch):
    first = run(recipe("layerwise-redense", REDENSE), tmp_path / "run")
    rows = first.outcome.rows
    assert len(rows) == 2 * (2 * 2 + 1)
    assert first.outcome.values["largest_start_difference"] < 1e-6
    assert first.outcome.values["largest_loss_increase"] <= 0
    assert first.outcome.values["largest_rise_within_monotone"] <= 0
    assert all((tmp_path / "run" / plot).stat().st_size > 10000 for plot in first.outcome.plots.values())
    for name in ("adam-orthonormal-m20.json", "arm.json"):
        (tmp_path / "run" / "ce-seed1" / name).unlink()
    stored = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").glob("*/*.safetensors")}
    again = run(recipe("layerwise-redense", REDENSE), tmp_path / "run", resume=True)
    # Only the missing arm is made anew, from the stored network.
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run").glob("*/*.safetensors")} == stored
    timeless = lambda found: [{key: value for key, value in row.items() if key != "seconds"} for row in found]
    assert timeless(again.outcome.rows) == timeless(rows)


def test_a_network_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "mine_for_redense.py").write_text(
        "import torch\ndef trained():\n    torch.manual_seed(0)\n"
        "    linear = torch.nn.Linear\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), linear(64, 12), torch.nn.ReLU(), linear(12, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    settings = {
        "data": "digits",
        "network": "mine_for_redense:trained",
        "epochs": 3,
        "seeds": [0],
        "base": {"epochs": 0},
    }
    found = run(recipe("layerwise-redense", settings), tmp_path / "run").outcome
    assert found.rows[0]["m"] == 12
    assert found.values["largest_start_difference"] < 1e-6


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere_at_all:net", "cannot be imported"), ("lenet9", "no network named 'lenet9'")]
)
def test_an_unknown_network_is_told(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        run(recipe("layerwise-redense", {**REDENSE, "network": name}), tmp_path / "run")


def test_rho_sweep_runs_and_leaves_out_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("GRACILE_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def absent(name, **options):
        if name == "fashion-mnist":
            raise DataError("fashion-mnist is not there.", "Put it there.")
        return original(name, **options)

    original = datasets.load
    monkeypatch.setattr(datasets, "load", absent)
    found = run(recipe("layerwise-rho", RHO), tmp_path / "run").outcome
    assert [row["rho"] for row in found.rows] == [1.0, 2.0, 4.0, 1.0, 2.0]
    assert any("lost is left out" in note for note in found.notes)
    assert found.values["digits_inversion_from_2"] < 1e-9
    assert found.values["digits_inversion_below_2"] > 0.01
    assert found.values["mixture_information_lost_from_2"] < 1e-9
    assert found.values["mixture_information_lost_rho1"] > 0.01
    assert found.values["digits_slfn_rho4"] > 80
    assert (tmp_path / "run" / found.plots["rho"]).stat().st_size > 10000


def test_a_data_set_that_is_not_optional_must_be_there(tmp_path, monkeypatch):
    def absent(name, **options):
        raise DataError("nothing there.", "Put it there.")

    monkeypatch.setattr(datasets, "load", absent)
    with pytest.raises(DataError, match="nothing there"):
        run(recipe("layerwise-rho", RHO), tmp_path / "run")


def test_the_cnn_is_the_published_one():
    net = cnn((3, 32, 32), 10, 512)
    kinds = [type(module).__name__ for module in net]
    assert kinds == [
        "Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d", "Dropout",
        "Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d", "Dropout",
        "Flatten", "Linear", "ReLU", "Dropout", "Linear",
    ]  # fmt: skip
    assert [module.out_channels for module in net if isinstance(module, torch.nn.Conv2d)] == [32, 32, 64, 32]
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", LOSSES)
def test_base_losses_are_least_at_the_right_label(name):
    y = torch.tensor([0, 1, 2])
    right, wrong = 9.0 * torch.eye(3), 9.0 * torch.eye(3).roll(1, 0)
    assert LOSSES[name](right, y) < LOSSES[name](torch.zeros(3, 3), y) < LOSSES[name](wrong, y)


def test_poisson_loss_is_the_mean_of_p_minus_t_log_p():
    logits, y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1])
    p, t = logits.softmax(1), torch.eye(3)[y]
    torch.testing.assert_close(LOSSES["poisson"](logits, y), (p - t * p.log()).mean(), rtol=1e-5, atol=1e-6)


def test_weights_of_a_network_depend_on_the_seed_alone():
    from gracile.data import load as load_data

    data = load_data("digits").train
    torch.manual_seed(1)
    one = build("mlp", data, 8, 3)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    two = build("mlp", data, 8, 3)
    assert torch.equal(one[1].weight, two[1].weight)
    assert not torch.equal(one[1].weight, build("mlp", data, 8, 4)[1].weight)
