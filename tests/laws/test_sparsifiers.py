"""What holds for every method a recipe can name: it holds its zeros, says what it holds, and resumes bit for bit."""

from __future__ import annotations

import copy
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gracile import fit
from gracile.core.errors import CollapseWarning, InputError
from gracile.core.sparsifier import Sparsifier
from gracile.data import Splits
from gracile.recipes import methods
from gracile.training import Cosine, steps_per_epoch

EPOCHS, BATCH = 4, 32
STEPS = EPOCHS * steps_per_epoch(192, BATCH)
EXAMPLE = torch.zeros(2, 1, 8, 8)
# Every row, and the options that take it elsewhere through its code.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "rvsm": [{"lam": 2e-4, "beta": 0.1}],
    "rgsm": [{"lam": 0.16, "beta": 0.2, "grouping": "coupled"}, {"lam": 0.05, "beta": 0.2, "restart": True}],
    "admm": [
        {"retrain": 0.5},
        {"every": 5, "rho": 0.1, "retrain": 0.0},
        {"unit": "channel", "sparsity": 0.5, "retrain": 0.3},
    ],
    "gradual_magnitude": [
        {"begin": 0.2},
        {"unit": "channel", "sparsity": 0.5, "scope": "network"},
        {"unit": "channel", "macs": 0.4},
    ],
    "l1_filters": [{}, {"scope": "network", "prune_at": 1.0}],
    "random_channels": [{}, {"macs": 0.5}],
    "network_slimming": [{"channels": 0.4, "lam": 0.01}],
    "group_lasso_subgradient": [{"lam": 0.01}],
    "scratch": [{}],
}
CASES = [(name, options) for name, found in OPTIONS.items() for options in found]
every_method = pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
# Those whose zeros are held for the second half; a splitting's, and ADMM's before its end, may return.
HOLDING = [
    (name, options)
    for name, options in CASES
    if name not in ("rvsm", "rgsm") and options.get("prune_at") != 1.0 and not options.get("every")
]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 3),
    )


def found_network() -> nn.Sequential:
    model = network(9)
    with torch.no_grad():
        model[3].weight[:, :2] = 0
    return model


def build(name: str, model: nn.Module, options: dict[str, Any]) -> Sparsifier:
    found = found_network() if name == "scratch" else None
    return methods.build(name, model, EXAMPLE, options, steps=STEPS, found=found)


def train(model: nn.Module, method: Sparsifier, data: Splits, **settings: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        fit(
            model, data, epochs=EPOCHS, batch_size=BATCH, lr=0.05, schedule=Cosine(EPOCHS), sparsifier=method,
            seed=3, **settings,
        )  # fmt: skip


def zeros(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() == 0 for name, tensor in model.named_parameters() if tensor.ndim > 1}


def test_every_row_has_a_case():
    assert set(OPTIONS) == set(methods.METHODS)


@every_method
def test_a_run_that_was_killed_ends_with_the_same_bits(name, options, blobs: Splits, tmp_path: Path):
    whole = network()
    method = build(name, whole, options)
    train(whole, method, blobs)
    # Stopped while each half is under way, and right around the moment when most methods choose.
    for moment in (3, STEPS // 2, STEPS // 2 + 1):
        taken = 0

        def stop(*_: Any, at: int = moment) -> None:
            nonlocal taken
            taken += 1
            if taken == at:
                os.kill(os.getpid(), signal.SIGINT)

        folder = tmp_path / str(moment)
        model = network()
        handle = register_optimizer_step_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            train(model, build(name, model, options), blobs, folder=folder)
        handle.remove()
        resumed = network()
        again = build(name, resumed, options)
        train(resumed, again, blobs, folder=folder, resume=True)
        for key, tensor in whole.state_dict().items():
            assert torch.equal(tensor, resumed.state_dict()[key]), (moment, key)
        for ours, theirs in zip(method.sparse_model().parameters(), again.sparse_model().parameters(), strict=True):
            assert torch.equal(ours, theirs)


@every_method
def test_the_summary_says_what_the_sparse_model_holds(name, options, blobs: Splits):
    model = network()
    method = build(name, model, options)
    train(model, method, blobs)
    before = copy.deepcopy(model.state_dict())
    kept, summary = method.sparse_model(), method.summary()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    count = sum(int(mask.sum()) for mask in zeros(kept).values())
    total = sum(tensor.numel() for tensor in model.parameters())
    assert count > 0
    assert summary.sparsity == count / total
    assert summary.nonzero == total - count
    if summary.channel_sparsity is not None:
        dead = int((kept[3].weight.abs().sum(dim=(0, 2, 3)) == 0).sum())
        per_channel = kept[7].weight.view(3, 4, 36).abs().sum(dim=(0, 2))
        if options.get("grouping", "coupled") == "coupled" and not options.get("restart"):
            assert summary.channel_sparsity == (dead + int((per_channel == 0).sum())) / 10


@pytest.mark.parametrize(("name", "options"), HOLDING, ids=[f"{n}-{i}" for i, (n, _) in enumerate(HOLDING)])
def test_what_the_second_half_prunes_stays_zero(name, options, blobs: Splits):
    model = network()
    method = build(name, model, options)
    seen: list[dict[str, torch.Tensor]] = []
    train(model, method, blobs, observe=lambda kept: seen.append(zeros(model)) or {})
    last = seen[-1]
    assert any(bool(mask.any()) for mask in last.values())
    # The last epoch began with every zero it ended with: held, not found.
    for key, mask in seen[-2].items():
        assert bool((last[key] | ~mask).all())
    assert all(torch.equal(a, b) for a, b in zip(zeros(method.sparse_model()).values(), last.values(), strict=True))


@every_method
def test_a_method_is_attached_once_to_an_optimiser_that_trains_its_weights(name, options):
    model = network()
    method = build(name, model, options)
    with pytest.raises(InputError, match="does not train"):
        method.attach(torch.optim.SGD(network().parameters(), lr=0.1))
    method.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(InputError, match="attached already"):
        method.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    method.detach()
    method.attach(torch.optim.SGD(model.parameters(), lr=0.1))


@every_method
def test_weights_that_are_not_numbers_are_an_error_or_stay_what_they_are(name, options):
    model = network()
    method = build(name, model, options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method.attach(optimizer)
    with torch.no_grad():
        model[3].weight[0, 5, 0, 0] = torch.nan
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)
            for _ in range(STEPS):
                optimizer.step()
            kept = method.sparse_model()
    except ArithmeticError:
        return
    assert bool(kept[3].weight.isnan().any())
