"""The benchmark of architectures judges other tools fairly: it finds out what was removed, and what the result should compute."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from benchmarks.architectures.models import NAMES, TIMM
from benchmarks.architectures.page import page
from benchmarks.architectures.references import larger, origins
from gracile.shrinking.parity import largest_difference
from tests.models.well_known import randomised
from tests.peers import peer


def dense() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(4 * 16, 3),
    )
    return randomised(nn.Sequential(*layers), 0).double()


def without_channels(model: nn.Sequential, kept: list[int]) -> nn.Sequential:
    """What a tool makes that keeps these channels of the first convolution, of which the grouped one has as many in each group."""
    lean = copy.deepcopy(model)
    for name in ("weight", "bias"):
        for layer in (lean[0], lean[1]):
            setattr(layer, name, nn.Parameter(getattr(layer, name).detach()[kept]))
    lean[1].running_mean, lean[1].running_var = lean[1].running_mean[kept], lean[1].running_var[kept]
    second = lean[3].weight.detach()
    inside = [[one % 3 for one in kept if one // 3 == group] for group in (0, 1)]
    lean[3].weight = nn.Parameter(torch.cat([second[:2, inside[0]], second[2:, inside[1]]]))
    lean[3].in_channels = len(kept)
    return lean


def test_the_place_of_every_slice_is_found_in_any_order() -> None:
    whole = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    rows, columns, depth = origins(whole, whole[[3, 0]][:, [2, 1, 3]])
    assert (rows.tolist(), columns.tolist(), depth.tolist()) == ([3, 0], [2, 1, 3], [0, 1, 2])


def test_channels_removed_alike_leave_the_function_with_zeros_in_their_place() -> None:
    lean = without_channels(dense(), [0, 2, 3, 5])
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert largest_difference(larger(dense(), lean), lean, x) < 1e-14


def test_a_channel_taken_from_the_wrong_place_is_noticed() -> None:
    model = dense()
    lean = without_channels(model, [0, 2, 3, 5])
    lean[1].bias = nn.Parameter(
        model[1].bias.detach()[[0, 1, 3, 5]]
    )  # the norm keeps another channel than its convolution
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert largest_difference(larger(model, lean), lean, x) > 1e-3


def test_numbers_that_are_not_the_larger_networks_are_refused() -> None:
    lean = without_channels(dense(), [0, 2, 3, 5])
    with torch.no_grad():
        lean[0].bias += 1
    with pytest.raises(ValueError, match="not the larger network's"):
        larger(dense(), lean)


def test_the_page_counts_each_tools_results() -> None:
    about = {"version": "1", "limit": 60, "day": "2026-01-01", "processor": "P", "torch": "2"}
    rows = [
        {
            "tool": "ours",
            "model": "hf:a",
            "result": "exact",
            "left": 0.5,
            "difference": 1e-15,
            "macs": 0.4,
            "pinned": 0.1,
            "seconds": 1.0,
        },
        {
            "tool": "ours",
            "model": "hf:b",
            "result": "whole",
            "left": 1,
            "difference": 0.0,
            "macs": 1.0,
            "pinned": 1.0,
            "seconds": 1.0,
        },
        {"tool": "other", "model": "hf:a", "result": "other function", "left": 0.25},
    ]
    made = page(
        [{**row, **about} for row in rows],
        {"timm": "1", "torchvision": "1", "transformers": "1"},
        ["hf:a", "hf:b", "hf:c"],
    )
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in made.splitlines()
        if "|" in line
    }
    assert "| gracile 1 |       2 |       1 |       1 |" in made
    assert lines["gracile 1"] == [
        "1",
        "1",
        "",
        "",
        "",
        "",
        "",
        "0.5",
        "60 s",
    ]  # of the network that the other was asked
    assert lines["other 1"][:4] == ["1", "", "", "1"]
    assert lines["hf a"] == ["0.50", "0.40", "0.10", "1.0", "other function"]
    assert lines["hf b"][-1] == "-"
    assert set(lines["hf c"]) <= {"-", ""}


def test_every_family_of_timm_is_among_the_architectures() -> None:
    timm = peer("timm")
    left_out = [family for family in timm.list_modules() if not TIMM.keys() & set(timm.list_models(module=family))]
    assert len(timm.list_modules()) > 50
    assert not left_out
    assert len(set(NAMES)) == len(NAMES) >= 150
