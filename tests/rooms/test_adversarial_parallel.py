"""Adversarial training of several processes together: each attacks its part of a batch, and all take one step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gracile import fit
from gracile.attacks import victim
from gracile.core.seeding import derive_seed, generator
from gracile.data import batches
from gracile.training import ADVERSARIES, adversary
from gracile.training.parallel import Ranks
from tests.conftest import make_blobs
from tests.models.attacked import OBJECTIVES

ROOT = Path(__file__).parents[2]
# Parts of 34 and 33 samples, attacked in pieces of 33: the first rank passes twice through the network where the other does once.
BATCH, PIECE = 67, 33


def plain() -> nn.Module:
    """Without batch-norm, whose statistics are those of each rank's part."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def normed() -> nn.Module:
    """With statistics, which the wrapped network hands from rank to rank in every pass."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def sgd(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def train(rank: int, meeting: str, out: str) -> None:
    """What one rank does: an epoch of every objective, on both networks."""
    victim.PIXELS = PIECE * 64
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    found = {}
    for method, options in OBJECTIVES.items():
        for name, make in (("plain", plain), ("normed", normed)):
            network, objective = make(), adversary(method, eps=0.1, **options)
            fit(network, make_blobs(), epochs=1, batch_size=BATCH, optimizer=sgd, objective=objective)
            found |= {f"{method} {name} {key}": value.detach() for key, value in network.named_parameters()}
    torch.save(found, f"{out}.{rank}")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    call = "from tests.rooms.test_adversarial_parallel import train; train({}, {!r}, {!r})"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", call.format(rank, str(folder / "meeting"), str(folder / "weights"))],
            cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], said
    return [torch.load(folder / f"weights.{rank}", weights_only=True) for rank in range(2)]


def twin(method: str) -> dict[str, torch.Tensor]:
    """The same epoch in this process: losses of the two parts, weighed by their size, one step."""
    network, objectives = plain().train(), [adversary(method, eps=0.1, **OBJECTIVES[method]) for _ in range(2)]
    optimizer, data = sgd(network.parameters()), make_blobs().train
    order = torch.randperm(len(data), generator=generator(0, "order", 0))
    for step, (x, y) in enumerate(batches(data, BATCH, order=order)):
        for _ in range(objectives[0].replays):
            optimizer.zero_grad()
            for rank, objective in enumerate(objectives):
                part, labels, _ = Ranks(rank, 2).share(x, y)
                seed = derive_seed(0, "adversary", 0, step, *([rank] if rank else []))
                loss, _ = objective.loss(network, part, labels, 0.0, seed)
                (len(labels) / len(y) * loss).backward()
            optimizer.step()
            for objective in objectives:
                objective.follow()
    return {key: value.detach() for key, value in network.named_parameters()}


@pytest.mark.parametrize("method", sorted(ADVERSARIES))
def test_two_ranks_step_along_the_gradient_of_the_joint_loss(method: str, trained):
    for key, value in twin(method).items():
        torch.testing.assert_close(trained[0][f"{method} plain {key}"], value, rtol=1e-3, atol=1e-4)


def test_all_ranks_end_with_the_same_weights(trained):
    assert trained[0].keys() == trained[1].keys()
    for key, value in trained[0].items():
        assert torch.equal(value, trained[1][key]), key
        assert torch.isfinite(value).all(), key
