"""What every monitor must keep: it changes nothing, and it says how its numbers are drawn."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from gracile.core.monitor import Monitor, Series
from gracile.core.runs import RunFolder
from gracile.data import Splits
from gracile.dynamics import MONITORS, monitors
from gracile.training import fit


def busy() -> nn.Sequential:
    """A network with all that a measurement might disturb: running statistics, dropout, and a module in a mode of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 3)
    )
    model[4].eval()
    return model


@pytest.mark.parametrize("name", MONITORS)
def test_a_monitor_changes_nothing(name: str, blobs: Splits) -> None:
    model = busy()
    x, y = blobs.train.inputs[:16].float() / 255, blobs.train.labels[:16]
    nn.functional.cross_entropy(model(x), y).backward()
    state = copy.deepcopy(model.state_dict())
    gradients = [one.grad.clone() for one in model.parameters()]
    modes = [one.training for one in model.modules()]
    hooks = [(len(one._forward_hooks), len(one._forward_pre_hooks)) for one in model.modules()]
    random = torch.get_rng_state()
    [monitor] = monitors(model, x, y, lr=0.1, names=[name])
    for _ in range(2):
        monitor.before_step(x, y)
        monitor.observe(model)
        monitor.load_state_dict(monitor.state_dict())
    assert torch.equal(torch.get_rng_state(), random)
    assert [one.training for one in model.modules()] == modes
    assert [(len(one._forward_hooks), len(one._forward_pre_hooks)) for one in model.modules()] == hooks
    for key, tensor in state.items():
        assert torch.equal(model.state_dict()[key], tensor), key
    assert all(torch.equal(one.grad, was) for one, was in zip(model.parameters(), gradients, strict=True))


@pytest.mark.parametrize("name", MONITORS)
def test_nothing_is_left_on_the_network_after_training(name: str, blobs: Splits) -> None:
    model = busy()
    x, y = blobs.train.inputs[:16].float() / 255, blobs.train.labels[:16]
    observe = monitors(model, x, y, lr=0.05, names=[name])
    for _ in range(2):
        fit(model, blobs, steps=3, batch_size=32, lr=0.05, observe=observe)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


@pytest.mark.parametrize("name", MONITORS)
def test_training_gives_the_same_bits_watched_and_not(name: str, blobs: Splits) -> None:
    found = []
    for watched in (False, True):
        model = busy()
        x, y = blobs.train.inputs[:16].float() / 255, blobs.train.labels[:16]
        observe = monitors(model, x, y, lr=0.05, names=[name]) if watched else ()
        fit(model, blobs, steps=8, record_every=3, batch_size=32, lr=0.05, observe=observe)
        found.append(torch.cat([one.detach().flatten().double() for one in model.state_dict().values()]))
    assert torch.equal(*found)


@pytest.mark.parametrize("name", MONITORS)
def test_what_a_monitor_records_says_how_it_is_drawn(name: str, blobs: Splits, tmp_path) -> None:
    model = busy()
    x, y = blobs.train.inputs[:16].float() / 255, blobs.train.labels[:16]
    fit(
        model,
        blobs,
        steps=4,
        record_every=2,
        lr=0.05,
        folder=tmp_path,
        observe=monitors(model, x, y, lr=0.05, names=[name]),
    )
    first, second = RunFolder(tmp_path).metrics()
    assert "series" not in second
    recorded = set(first["series"]) & set(second)
    assert recorded
    for key in recorded:
        assert first["series"][key]["title"]
        assert first["series"][key]["axis"]
        assert math.isfinite(second[key])
    assert MONITORS[name].title


def test_a_class_that_measures_nothing_is_no_monitor() -> None:
    class Blind(Monitor):
        title = "nothing"
        series = {"nothing": Series("Nothing", "none")}  # noqa: RUF012

    with pytest.raises(TypeError, match="observe"):
        Blind()
