"""What forward-forward costs beside backpropagation, as ratios within one run.

A training step of 4 x 500, batch 128, by kind of negatives, over one of backpropagation with the same layers and optimiser; the laws of
sparsity on a batch of 128 (+ 128), n = 2000, beside the training step that they describe; what is held for activations, against depth.
Whole trainings, with their times, are recipes: gracile reproduce ff-mnist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.protocol import Case, Entry, Growth
from gracile.forward_forward import FFNetwork, theorem1, theorem2, write_labels
from gracile.forward_forward.network import NEGATIVES
from gracile.forward_forward.normalization import NORMALIZATIONS
from gracile.models import build


def batch(samples: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.rand(samples, 1, 28, 28, generator=random), torch.randint(10, (samples,), generator=random)


def backpropagation(widths: list[int], x: Tensor, y: Tensor) -> tuple[nn.Module, Callable[[], object]]:
    network = build("mlp", num_classes=10, widths=widths)

    def step() -> None:
        nn.functional.cross_entropy(network(x), y).backward()

    return network, step


def stepping(network: nn.Module, gradients: Callable[[], object]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, foreach=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        gradients()
        optimizer.step()

    return step


def cases(small: bool) -> Iterator[Entry]:
    x, y = batch(8 if small else 128)
    widths = [20 if small else 500] * 4
    contenders = {"backpropagation": stepping(*backpropagation(widths, x, y))}
    for negatives in NEGATIVES:
        network = FFNetwork(784, 10, widths, negatives=negatives)
        contenders[f"forward-forward, negatives {negatives}"] = stepping(
            network, lambda net=network: net.gradients(x, y)
        )
    # With all wrong labels a sample is ten, which asks for more.
    goals = {f"forward-forward, negatives {one}": 1.2 for one, number in NEGATIVES.items() if number is not None}
    yield Case(f"4 x {widths[0]}, batch {len(x)}, a step", "backpropagation", contenders, goals=goals)
    yield law(x, y, 20 if small else 2000)
    x, y = batch(16 if small else 1024)
    for name, held, theory in (("forward-forward", forward_forward, 0.0), ("backpropagation", by_backpropagation, 1.0)):
        yield Growth(
            f"{name}, activations of a step on {len(x)} samples", "depth", (2, 4, 8, 16), partial(held, x, y, 20 if small else 500),
            theory, measure="memory",
        )  # fmt: skip


def forward_forward(x: Tensor, y: Tensor, width: int, depth: int) -> Callable[[], object]:
    return _with_gradients(network := FFNetwork(784, 10, [width] * depth), lambda: network.gradients(x, y))


def by_backpropagation(x: Tensor, y: Tensor, width: int, depth: int) -> Callable[[], object]:
    return _with_gradients(*backpropagation([width] * depth, x, y))


def _with_gradients(network: nn.Module, step: Callable[[], object]) -> Callable[[], object]:
    """The step once the gradients' own memory is held."""
    step()
    for parameter in network.parameters():
        assert parameter.grad is not None
    return step


def law(x: Tensor, y: Tensor, width: int) -> Case:
    unit = NORMALIZATIONS["length"]
    weights = torch.randn(width, 784) * (2 / width) ** 0.5
    positive, negative = (unit(write_labels(x.flatten(1), labels, 10)) for labels in (y, (y + 1) % 10))
    pairs = [(one, torch.relu(one @ weights.T)) for one in (positive, negative)]

    def training() -> None:
        h = [torch.relu(one @ weights.T) for one in (positive, negative)]
        weights.sub_(h[1].T @ negative - h[0].T @ positive, alpha=1e-12)

    return Case(f"laws of sparsity, n = {width}, batch {len(x)}", "training step", {
        "training step": training,
        "theorem 1": lambda: theorem1(*pairs[0], pairs[0]),
        "theorem 2, of the positives": lambda: theorem2(*pairs[0], *pairs),
        "theorem 2, of all": lambda: [theorem2(*pair, *pairs) for pair in pairs],
    })  # fmt: skip
