"""The share of zero channels in sets of layers, as criteria speak of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from gracile.channels.layer_sizes import write_layers
from gracile.core.errors import InputError
from gracile.recipes import load, run
from gracile.recipes.schema import resized
from gracile.recipes.zero_channels import zero_channels


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """Three convolutions that read 3, 4 and 6 channels, of which 0, 1 and 3 are zero."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3)),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    with torch.no_grad():
        model.get_parameter("1.0.weight")[:, 2] = 0
        model.get_parameter("1.2.weight")[:, :3] = 0
    write_layers(model, torch.zeros(1, 3, 8, 8), tmp_path / "layers.json")
    return tmp_path / "layers.json"


def test_channels_of_a_module_and_of_several_layers_are_counted_together(layers: Path):
    found = zero_channels(layers, {"first": ["0"], "inside": ["1"], "both": ["0", "1.2"]})
    assert found == {
        "zero_channels_first": 0,
        "zero_channels_inside": pytest.approx(100 * 4 / 10),
        "zero_channels_both": pytest.approx(100 * 3 / 9),
    }


def test_a_name_of_no_layer_is_told(layers: Path):
    with pytest.raises(InputError, match="no layer 'conv1'"):
        zero_channels(layers, {"first": ["conv1"]})


def test_a_run_tells_it_of_every_arm(tmp_path: Path):
    values = run(resized(load("layers-claim"), "smoke"), tmp_path / "run").outcome.values
    assert values["dense.zero_channels_first"] == 0
    assert 0 <= values["rgsm.zero_channels_last"] <= 100
