"""Budgets that are measured: of latency and of the file's size."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from gracile import RGSM, RVSM, shrink
from gracile.channels import trace
from gracile.channels.layer_sizes import layer_sizes
from gracile.core.errors import InputError
from gracile.deploy import FileSize, Latency
from gracile.export import LatencyTable, latency_table
from gracile.shrinking import save_lean
from gracile.splitting import Dial
from tests.conftest import small_network

EXAMPLE = torch.zeros(2, 1, 8, 8)
network = partial(small_network, 40, 60)


class Stairs:
    """A runtime whose layers cost whole vectors of 2 channels, and something for each call: no sum of plain counts."""

    budget, unit = "latency", "ms"

    def __init__(self, drift: Callable[[int], float] = lambda _: 1.0) -> None:
        self.calls, self.drift = 0, drift

    def __call__(self, network: nn.Module) -> float:
        self.calls += 1
        total = 3000.0
        for layer in layer_sizes(network, EXAMPLE)["layers"]:
            made, left, read = layer["channels_left"], layer["parameters_left"], layer["inputs_left"]
            positions = {"0": 36, "3": 16}.get(layer["name"], 1)
            total += 2 * math.ceil(made / 2) / made * left * positions * (read + 2) / read
        return total * self.drift(self.calls)

    def __str__(self) -> str:
        return "stairs"


def steered(dial: Dial, steps: int = 6) -> nn.Module:
    """Train along random gradients: the dial looks at sizes alone."""
    model = dial.split.model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    dial.attach(optimizer)
    for step in range(steps):
        random = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random) * parameter.detach().abs().mean()
        optimizer.step()
    return dial.sparse_model()


def built(steps: int = 6, grouping: str = "coupled", settle: float = 0.5, **budgets: object) -> Dial:
    layers = "all" if grouping == "coupled" else ["3", "6", "8"]
    split = RGSM(network(), "group_l0", beta=0.1, grouping=grouping, example=EXAMPLE, layers=layers)
    return Dial(split, steps=steps, example=EXAMPLE, settle=settle, **budgets)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("share", "grouping", "settle"), [
    (0.7, "coupled", 0.5), (0.4, "coupled", 0.5), (0.4, "coupled", 0.0), (0.7, "input_channel", 0.0), (0.6, "input_channel", 0.5),
])  # fmt: skip
def test_a_measured_latency_lands_within_five_percent_below_its_budget(share: float, grouping: str, settle: float):
    kept = steered(built(grouping=grouping, settle=settle, latency=share, measure=Stairs()))
    again = Stairs()
    assert 0.95 * share <= again(kept) / again(network()) <= share


def test_the_file_has_the_size_asked_for(tmp_path: Path):
    dial = built(file_size=0.3, measure=FileSize(EXAMPLE))
    kept = steered(dial)
    bytes_of = {}
    for name, model in {"dense": network(), "lean": kept}.items():
        save_lean(shrink(model, EXAMPLE), tmp_path / name)
        bytes_of[name] = (tmp_path / name).stat().st_size
    assert 0.285 <= bytes_of["lean"] / bytes_of["dense"] <= 0.3
    assert dial.reached["file_size"] == bytes_of["lean"] / bytes_of["dense"]


def test_counted_and_measured_budgets_hold_together():
    budgets = {"macs": 0.5, "latency": 0.6, "file_size": 0.4}
    kept = steered(built(**budgets, measure=[Stairs(), FileSize(EXAMPLE)]))
    graph, stairs, size = trace(kept, EXAMPLE), Stairs(), FileSize(EXAMPLE)
    found = {
        "macs": graph.count().macs / graph.dense().macs,
        "latency": stairs(kept) / stairs(network()),
        "file_size": size(kept) / size(network()),
    }
    assert all(found[name] <= budget for name, budget in budgets.items())
    assert max(found[name] / budget for name, budget in budgets.items()) >= 0.95


def test_what_was_measured_is_said(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="gracile")
    steered(built(latency=0.5, measure=Stairs()))
    assert "latency: measured 8 networks (stairs), the dense one at 3.226e+05 ms; the estimate is off by" in caplog.text
    assert "of the dense network's 3.226e+05 ms (stairs)" in caplog.text


def test_a_network_disturbed_while_measured_does_not_bend_the_estimate():
    calm = built(latency=0.5, measure=Stairs())
    disturbed = built(latency=0.5, measure=Stairs(lambda call: 2.0 if call == 4 else 1.0))
    half = torch.arange(calm.split.num_groups) % 2 == 0
    assert disturbed._budgets.left(half)["latency"] == pytest.approx(calm._budgets.left(half)["latency"], rel=0.05)


def test_a_resumed_run_keeps_what_was_measured_before():
    """Timed on another day the estimate would be another, and the run would go another way."""
    first = built(latency=0.5, measure=Stairs())
    again = built(latency=0.5, measure=Stairs(lambda call: 1 + 0.3 * (call % 2)))
    half = torch.arange(first.split.num_groups) % 2 == 0
    assert again._budgets.left(half) != first._budgets.left(half)
    again.load_state_dict(first.state_dict())
    assert again._budgets.left(half) == first._budgets.left(half)


def test_measuring_changes_nothing_of_the_network_and_its_splitting():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    split = RGSM(model, "group_l0", beta=0.1, example=EXAMPLE)
    critical = split.critical_mus()
    Dial(split, steps=6, example=EXAMPLE, latency=0.5, measure=Stairs())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(split.critical_mus(), critical)


def test_a_budget_that_is_missed_is_said(caplog: pytest.LogCaptureFixture):
    # From the ninth measurement on, which is of the network chosen, everything takes half as long again, and more each time.
    dial = built(latency=0.5, measure=Stairs(lambda call: 1.0 if call <= 8 else 1.5 ** (call - 8)))
    steered(dial)
    assert "The budget latency=0.5 was missed" in caplog.text
    assert dial.reached["latency"] > 0.5


def test_a_measure_that_goes_in_steps_is_said_to_be_missed_below(caplog: pytest.LogCaptureFixture):
    class Steps(Stairs):
        def __call__(self, network: nn.Module) -> float:
            return 1.0 if super().__call__(network) > 150_000 else 0.5

    dial = built(latency=0.62, measure=Steps())
    steered(dial)
    assert dial.reached["latency"] == 0.5
    assert "The budget latency=0.62 was missed: it is 0.500 at the end" in caplog.text


def test_kernels_are_thinned_until_channels_go():
    dial = built(grouping="kernel", file_size=0.6, measure=FileSize(EXAMPLE))
    kept = steered(dial)
    assert 0.57 <= FileSize(EXAMPLE)(kept) / FileSize(EXAMPLE)(network()) <= 0.6


@pytest.mark.parametrize(("build", "message"), [
    (lambda: Dial(RGSM(network(), "sparse_group_lasso", example=EXAMPLE), steps=6, example=EXAMPLE, latency=0.5, measure=Stairs()),
     "measured of choices of whole groups, and this penalty zeroes entries.*group_l0"),
    (lambda: Dial(RVSM(network()), steps=6, latency=0.5), "removes no latency"),
    (lambda: built(latency=0.5), r"nothing to measure it with is given. Pass measure=gracile.deploy.Latency\(example\)"),
    (lambda: built(macs=0.5, measure=Stairs()), "measures latency, for which there is no budget. Give latency= too"),
    (lambda: built(latency=0.5, measure=Stairs(lambda _: math.nan)), "stairs found nan ms"),
    (lambda: built(latency=0.5, measure=Stairs(lambda call: 2.0**call)), "Removing channels changes nothing of the latency"),
    (lambda: Dial(RVSM(network()), steps=6, latency=0.5, measure=Stairs()), "removes no latency"),
    (lambda: Latency(EXAMPLE, runtime="onxruntime"), "Did you mean 'onnxruntime'"),
    (lambda: Latency(EXAMPLE, threads=0), "must be above 0"),
    (lambda: FileSize(EXAMPLE, form="leen"), "Did you mean 'lean'"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused(build: Callable[[], object], message: str):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_latencies_are_milliseconds_of_the_shrunk_network(runtime: str):
    """Of the time itself nothing is asked: other programs use the machine."""
    measure = Latency(EXAMPLE, runtime=runtime, rounds=1, turn=0.002)  # pyright: ignore[reportArgumentType]
    model = network().eval()
    threads = torch.get_num_threads()
    first = measure(model)
    with torch.no_grad():
        model[3].weight[:, :30] = 0
    assert first > 0
    assert measure(model) > 0
    assert torch.get_num_threads() == threads
    assert f"{runtime} on this CPU, 1 thread, batches of 1" == str(measure)


def test_a_latency_is_that_of_the_form_that_compress_would_take(monkeypatch: pytest.MonkeyPatch):
    """By fours where they are faster by a tenth at least, and relative to the first network, timed beside it."""
    times = [{"1": 8.0, "first": 8.0}, {"1": 6.0, "4": 4.0, "first": 8.0}, {"1": 6.0, "4": 5.8, "first": 12.0}]

    def table(files: dict[str, Path], *_: object, **settings: object) -> LatencyTable:
        found = latency_table(files, EXAMPLE, batch_sizes=(1,), threads=(1,), rounds=1, turn=0.001, progress=False)
        now = times.pop(0)
        return replace(found, rows=tuple(replace(row, p10=now[row.name]) for row in found.rows))

    monkeypatch.setattr(sys.modules["gracile.deploy.measures"], "latency_table", table)
    measure, model = Latency(EXAMPLE), network().eval()
    assert measure(model) == 8
    with torch.no_grad():
        model[3].weight[:, :3] = 0
    assert measure(model) == 4
    assert measure(model) == pytest.approx(8 * 6 / 12)
