"""Networks to the hub and back, by the hub's own client against a hub on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import gracile
from gracile.cli import main
from gracile.core.errors import InputError, StorageError
from gracile.deploy import Architecture, save_pretrained
from gracile.recipes import load
from tests.hub import Hub, client

RECIPE = """
title = "a small one"
kind = "train"
[settings]
seeds = [0]
data = { name = "digits", train_limit = 120, test_limit = 60 }
model = { name = "mlp", options = { widths = [24] } }
training = { epochs = 3, lr = 0.05, batch_size = 16 }
[settings.arms.dense]
[settings.arms.slim]
method = "rgsm"
options = { penalty = "group_lasso", lam = 0.12, beta = 1.0, grouping = "coupled" }
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a recipe."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "small.toml").write_text(RECIPE)
    return gracile.run(load(str(folder / "small.toml")), folder=folder / "small-1").folder.path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    found = Hub()
    with client(found, monkeypatch, tmp_path / "cache"):
        yield found


def same(one: nn.Module, other: nn.Module, x: torch.Tensor) -> bool:
    with torch.no_grad():
        return torch.equal(one.eval()(x), other.eval()(x))


def a_lean_one() -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """A dense network, the same without two dead units, and inputs."""
    torch.manual_seed(0)
    dense, x = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)), torch.rand(4, 5)
    with torch.no_grad():
        dense[2].weight[:, :2] = 0
    return dense, gracile.shrink(dense, x), x


def test_a_run_goes_to_the_hub_and_its_network_comes_back(hub: Hub, run: Path, capsys) -> None:
    assert main(["push", str(run), "ada/lean-digits", "--private", "--license", "apache-2.0"]) == 0
    assert 'gracile.from_pretrained("ada/lean-digits")' in capsys.readouterr().out
    assert set(hub.files["ada/lean-digits"]) >= {"README.md", "config.json", "lean.safetensors"}
    assert hub.private["ada/lean-digits"]
    back = gracile.from_pretrained("ada/lean-digits")
    found = gracile.trained(run)
    assert found.data is not None
    x = found.data.test.inputs / 255
    lean = gracile.shrink(found.model, found.example, dead="fold")
    assert same(back, lean, x)
    assert sum(one.numel() for one in back.parameters()) < sum(one.numel() for one in found.model.parameters())
    # Into a repository that is there already.
    assert main(["push", str(run), "ada/lean-digits"]) == 0
    assert same(gracile.from_pretrained("ada/lean-digits"), lean, x)


# How the hub's client calls the library that carries its requests.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("part", [None, 5000], ids=["whole", "parts"])
def test_weights_go_through_large_file_storage(hub: Hub, run: Path, part: int | None, monkeypatch) -> None:
    """As they do on the hub: announced, sent beside the commit, whole or in parts, and named in it by their digest."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.large, hub.part = (".safetensors",), part
    gracile.push_to_hub(run, "ada/lean-digits")
    assert not hub.sent
    assert "POST /ada/lean-digits.git/info/lfs/objects/batch" in hub.asked
    assert sum(one.startswith("PUT /stored/") for one in hub.asked) > (part is not None)
    found = gracile.trained(run)
    lean = gracile.shrink(found.model, found.example, dead="fold")
    assert same(gracile.from_pretrained("ada/lean-digits"), lean, torch.rand(3, 1, 8, 8))


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_storage_that_takes_no_weights_is_one_sentence(hub: Hub, run: Path, monkeypatch) -> None:
    """The client raises a bare RuntimeError there."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.large, hub.broken = (".safetensors",), True
    with pytest.raises(InputError, match="The hub did not take the files of 'ada/lean-digits'") as caught:
        gracile.push_to_hub(run, "ada/lean-digits")
    assert "\n" not in str(caught.value)
    assert not hub.files["ada/lean-digits"]


def test_the_card_tells_what_the_run_found(hub: Hub, run: Path) -> None:
    gracile.push_to_hub(run, "ada/lean-digits", license="mit")
    card = hub.files["ada/lean-digits"]["README.md"].decode()
    _, header, text = card.split("---\n", 2)
    told = yaml.safe_load(header)
    assert (told["license"], told["library_name"]) == ("mit", "gracile")
    result = json.loads((run / "slim" / "arm.json").read_text())
    [shown] = told["model-index"][0]["results"]
    assert shown["metrics"][0]["value"] == pytest.approx(result["accuracy"], abs=0.01)
    assert f"{result['accuracy']:.2f}".rstrip("0").rstrip(".") in text
    assert 'gracile.from_pretrained("ada/lean-digits")' in text
    assert "float32 (n, 1, 8, 8)" in text
    assert (run / "recipe.toml").read_text().strip() in text
    assert str(run) not in text


def test_the_files_can_be_written_without_sending_anything(hub: Hub, run: Path, tmp_path: Path, capsys) -> None:
    assert main(["push", str(run), "ada/lean-digits", "--out", "lean", "--arm", "dense"]) == 0
    assert "Nothing was sent" in capsys.readouterr().out
    assert not hub.asked
    x = torch.rand(3, 1, 8, 8)
    assert same(gracile.from_pretrained("lean"), gracile.trained(run, "dense").model, x)
    # What lies on the disk is never asked of the hub.
    assert not hub.asked


def test_a_network_of_ones_own_goes_and_comes_back_into_its_dense_one(hub: Hub) -> None:
    dense, lean, x = a_lean_one()
    gracile.push_to_hub(lean, "ada/own")
    fresh = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    assert same(gracile.from_pretrained("ada/own", model=fresh), lean, x)
    with pytest.raises(InputError, match=r"does not say how its dense network is built.*model="):
        gracile.from_pretrained("ada/own")
    assert "model=dense" in hub.files["ada/own"]["README.md"].decode()
    with pytest.raises(InputError, match="was not made by shrink"):
        gracile.push_to_hub(dense, "ada/dense")


def test_an_existing_path_is_never_sent_to_the_hub_as_a_name(hub: Hub, run: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat").write_text("a file")
    with pytest.raises(InputError, match="lies on this disk"):
        gracile.push_to_hub(run, "photos/cat")
    with pytest.raises(StorageError, match=r"There is no config\.json"):
        gracile.from_pretrained("photos")
    assert not hub.asked


def test_what_the_hub_refuses_is_one_sentence(hub: Hub, run: Path, monkeypatch) -> None:
    with pytest.raises(InputError, match="no public network of that name"):
        gracile.from_pretrained("ada/nothing")
    with pytest.raises(InputError, match="cannot be the name of a repository"):
        gracile.push_to_hub(run, "ada/two words")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "w" * 34)
    with pytest.raises(InputError, match=r"does not take 'ada/lean'.*hf auth login"):
        gracile.push_to_hub(run, "ada/lean")


def test_a_hub_out_of_reach_is_one_sentence(run: Path, tmp_path: Path, monkeypatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_" + "t" * 34)
    with pytest.raises(InputError, match="cannot be fetched from the Hugging Face hub"):
        gracile.from_pretrained("ada/lean")
    with pytest.raises(InputError, match="The hub cannot be reached"):
        gracile.push_to_hub(run, "ada/lean")


def test_an_architecture_that_is_not_the_networks_is_refused(tmp_path: Path) -> None:
    shape = {"image_size": 8, "num_classes": 3, "in_channels": 1}
    lean = gracile.shrink(gracile.models.mlp(**shape, widths=(6,)), torch.rand(2, 1, 8, 8))
    with pytest.raises(InputError, match="is not the network that was shrunk"):
        save_pretrained(lean, tmp_path, architecture=Architecture("mlp", {**shape, "widths": [7]}))
    assert os.listdir(tmp_path) == []


def test_a_configuration_that_asks_for_a_huge_network_takes_no_memory(tmp_path: Path) -> None:
    shape = {"image_size": 8, "num_classes": 3, "in_channels": 1, "widths": [6]}
    lean = gracile.shrink(gracile.models.mlp(**shape), torch.rand(2, 1, 8, 8))
    save_pretrained(lean, tmp_path, architecture=Architecture("mlp", shape))
    told = json.loads((tmp_path / "config.json").read_text())
    told["architecture"]["settings"]["widths"] = [2**40]
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(StorageError, match="speak of different networks"):
        gracile.from_pretrained(tmp_path)
