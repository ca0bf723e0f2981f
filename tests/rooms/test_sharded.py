"""Weights in parts on several processes: two and four train what one does, built before or after they are sharded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gracile import RGSM, RVSM
from gracile.core.errors import InputError
from gracile.pruning import ADMM
from gracile.splitting import Dial
from tests.processes import as_torchrun

STEPS, SAMPLES = 6, 8
EXAMPLE = torch.zeros(2, 1, 6, 6)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    # Sizes that two and four processes cannot share out evenly.
    return nn.Sequential(
        nn.Conv2d(1, 5, 3),
        nn.Tanh(),
        nn.Conv2d(5, 6, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(24, 7),
        nn.Tanh(),
        nn.Linear(7, 3),
    )


METHODS: dict[str, Callable[[nn.Module], Any]] = {
    "rvsm l1": lambda net: RVSM(net, "l1", lam=0.01, beta=0.3),
    "rvsm top_k": lambda net: RVSM(net, {"name": "top_k", "keep": 0.5}, lam=1.0, beta=0.3),
    "rvsm n_m": lambda net: RVSM(net, "n_m", lam=1.0, beta=0.3),
    "rvsm decoupled": lambda net: RVSM(net, "l0", lam=0.001, beta=0.3, coupling="decoupled"),
    "rvsm dial": lambda net: Dial(RVSM(net, "l0", beta=0.3), steps=STEPS, sparsity=0.5),
    "rgsm input_channel": lambda net: RGSM(net, lam=0.05, beta=0.3, lam2=0.01, layers="all"),
    "rgsm output_filter": lambda net: RGSM(net, "group_l0", lam=0.01, beta=0.3, grouping="output_filter", layers="all"),
    "rgsm coupled": lambda net: RGSM(net, lam=0.2, beta=0.3, example=EXAMPLE),
    "rgsm sparse group": lambda net: RGSM(net, "sparse_group_lasso", lam=0.05, beta=0.3, layers="all"),
    "rgsm dial": lambda net: Dial(
        RGSM(net, "group_l0", beta=0.3, grouping="kernel", layers="all"), steps=STEPS, sparsity=0.4
    ),
}


def train(model: nn.Module, method: Any, optimizer: torch.optim.Optimizer, part: slice) -> None:
    random = torch.Generator().manual_seed(1)
    method.attach(optimizer)
    for _ in range(STEPS):
        x, y = torch.randn(SAMPLES, 1, 6, 6, generator=random), torch.randint(3, (SAMPLES,), generator=random)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
    method.detach()


def one_process(name: str) -> tuple[Any, nn.Module]:
    model = network()
    method = METHODS[name](model)
    train(model, method, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), slice(None))
    return method, model


def sharded(kind: str, names: list[str]) -> None:
    """On each process: train, and hold weights and u against one process."""
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo")
    try:
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        own = slice(rank * SAMPLES // size, (rank + 1) * SAMPLES // size)
        for name in names:
            plain, _single = one_process(name)
            model = network()
            method = None if kind == "after" else METHODS[name](model)
            for layer in (model[0], model[2], model[5], model[7]):
                fully_shard(layer)
            fully_shard(model)
            # What traces the network needs it whole.
            method = METHODS[name](model) if method is None else method
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            train(model, method, optimizer, own)
            # A forward pass without a backward one leaves weights gathered.
            with torch.no_grad():
                model(torch.zeros(1, 1, 6, 6))
            assert str(method.summary()) == str(plain.summary()), name
            state, expected = method.sparse_state_dict(), plain.sparse_model().state_dict()
            assert list(state) == list(expected)
            for key, tensor in expected.items():
                torch.testing.assert_close(
                    state[key], tensor, rtol=0, atol=1e-6, msg=lambda text, at=(name, key): f"{at}: {text}"
                )
            split = getattr(method, "split", method)
            other = getattr(plain, "split", plain)
            torch.testing.assert_close(split.penalty_value().cpu(), other.penalty_value(), rtol=1e-5, atol=1e-7)
            with pytest.raises(InputError, match="sparse_state_dict"):
                method.sparse_model()
            method.sparsify_()
            for key, parameter in model.named_parameters():
                torch.testing.assert_close(parameter.full_tensor(), expected[key], rtol=0, atol=1e-6)
        with pytest.raises(InputError, match="before fully_shard"):
            RGSM(model, example=EXAMPLE)
        with pytest.raises(InputError, match="lies in parts"):
            ADMM(model, steps=3).attach(optimizer)
        torch.distributed.barrier()  # rank 0 keeps the meeting place
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("kind", ["before", "after"])
def test_fully_sharded_weights_train_as_on_one_process(kind: str, processes: int, tmp_path: Path):
    # All of them once; where only the order or the number of processes differs, one of each kind.
    names = list(METHODS) if (kind, processes) == ("before", 2) else ["rvsm n_m", "rgsm input_channel", "rgsm dial"]
    as_torchrun(sharded, tmp_path, kind, names, processes=processes)


def flat(names: list[str]) -> None:
    """FSDP of the first kind flattens weights: single weights go, groups are refused."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    torch.distributed.init_process_group("gloo")
    try:
        rank = torch.distributed.get_rank()
        own = slice(rank * SAMPLES // 2, (rank + 1) * SAMPLES // 2)
        for name in names:
            _, single = one_process(name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = FullyShardedDataParallel(network(), use_orig_params=True, device_id=torch.device("cpu"))
            method = METHODS[name](model)
            train(model, method, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), own)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with FullyShardedDataParallel.summon_full_params(model):
                    for ours, theirs in zip(model.parameters(), single.parameters(), strict=True):
                        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        with pytest.raises(InputError, match="use fully_shard"):
            RGSM(model, layers="all")
        with pytest.raises(InputError, match="use fully_shard"):
            RVSM(model, "top_k").shadow()
        torch.distributed.barrier()  # rank 0 keeps the meeting place
    finally:
        torch.distributed.destroy_process_group()


def in_step(kind: str) -> None:
    """DDP and ZeRO: every process has all weights."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    torch.distributed.init_process_group("gloo")
    try:
        rank = torch.distributed.get_rank()
        own = slice(rank * SAMPLES // 2, (rank + 1) * SAMPLES // 2)
        for name in ("rvsm l1", "rgsm coupled", "rvsm dial"):
            _plain, single = one_process(name)
            model = network()
            forward = nn.parallel.DistributedDataParallel(model)
            if kind == "zero":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    optimizer: Any = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
            else:
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            method = METHODS[name](forward if name == "rvsm l1" else model)
            train(forward, method, optimizer, own)
            for ours, theirs in zip(model.parameters(), single.parameters(), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        torch.distributed.barrier()  # rank 0 keeps the meeting place
    finally:
        torch.distributed.destroy_process_group()


def test_flattened_weights_train_as_on_one_process(tmp_path: Path):
    as_torchrun(flat, tmp_path, ["rvsm l1", "rvsm decoupled"])


@pytest.mark.parametrize("kind", ["ddp", "zero"])
def test_replicated_weights_train_as_on_one_process(kind: str, tmp_path: Path):
    as_torchrun(in_step, tmp_path, kind)
