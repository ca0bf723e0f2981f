"""How time grows with sizes, beside what the algorithm says; and the memory of handling a large model, in multiples of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from benchmarks.protocol import Entry, Growth, Memory
from gracile import RGSM, RVSM
from gracile.channels import trace
from gracile.data import Dataset
from gracile.layerwise import ELMClassifier
from gracile.models import mlp, resnet18
from gracile.shrinking import shrink
from gracile.workers import Classification, method, network, shards, train


def split_step(width: int) -> Callable[[], object]:
    """What RVSM adds to a step of a square layer."""
    model = nn.Linear(width, width, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    RVSM(model, "l0", lam=1e-6, beta=1e-2).attach(optimizer)
    model.weight.grad = torch.rand_like(model.weight)
    return optimizer.step


def traced(depth: int) -> Callable[[], object]:
    model, x = mlp(widths=(16,) * depth), torch.zeros(2, 1, 28, 28)
    return lambda: trace(model, x)


def shrunk(groups: int) -> Callable[[], object]:
    """A hidden layer of so many units, half of them dead."""
    model, x = nn.Sequential(nn.Linear(64, groups), nn.ReLU(), nn.Linear(groups, 10)).eval(), torch.rand(2, 64)
    with torch.no_grad():
        model[2].weight[:, ::2] = 0
    return lambda: shrink(model, x)


def elm(samples: int) -> Callable[[], object]:
    random = np.random.default_rng(0)
    x, y = random.random((samples, 50), dtype=np.float32), np.arange(samples) % 5
    return lambda: ELMClassifier(n=200).fit(x, y)


def elm_nodes(nodes: int) -> Callable[[], object]:
    random = np.random.default_rng(0)
    x, y = random.random((4000, 50), dtype=np.float32), np.arange(4000) % 5
    return lambda: ELMClassifier(n=nodes).fit(x, y)


def elm_classes(classes: int) -> Callable[[], object]:
    random = np.random.default_rng(0)
    x, y = random.random((4000, 50), dtype=np.float32), np.arange(4000) % classes
    return lambda: ELMClassifier(n=200).fit(x, y)


def ring(workers: int) -> Callable[[], object]:
    """Two rounds of gossip on a ring: so many neighbours each, whatever their number."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (workers * 16, 1, 8, 8), generator=random, dtype=torch.uint8)
    labels = torch.arange(len(images)) % 10
    data = Dataset(images, labels, tuple("0123456789"), "noise")
    parts = dict(enumerate(shards(labels, workers)))
    given = Classification(mlp(widths=(32,), image_size=8), data, parts, batch_size=16, exact=False)
    return lambda: train(network("ring", workers), method("dsgd", lr=0.01), given, 2, every=2)


def cases(small: bool) -> Iterator[Entry]:
    torch.set_num_threads(1)
    sizes = lambda *values: values[:3] if small else values
    yield Growth("RVSM's part of a step", "width", sizes(128, 256, 512, 1024, 2048), split_step, 2)
    yield Growth("tracing a perceptron", "depth", sizes(4, 8, 16, 32, 64), traced, 1)
    yield Growth("shrinking a layer", "groups", sizes(256, 512, 1024, 4096, 16384), shrunk, 1)
    yield Growth("ELM, fit", "samples", sizes(500, 1000, 2000, 8000, 32000), elm, 1)
    # The normal equations: samples times nodes squared.
    yield Growth("ELM, fit", "nodes", sizes(50, 100, 200, 800, 1600), elm_nodes, 2)
    yield Growth("ELM, fit", "classes", sizes(2, 4, 8, 32, 128), elm_classes, 0)
    yield Growth("gossip on a ring", "workers", sizes(4, 8, 16, 64, 256), ring, 1)
    model, x = resnet18(width=8 if small else 190), torch.zeros(2, 3, 32, 32)
    own = 4 * sum(one.numel() for one in model.parameters())
    title = f"ResNet-18 of {own / 4e6:.1f} M parameters"
    yield Memory(f"{title}, traced", lambda: trace(model, x), own, 3)
    yield Memory(f"{title}, split", lambda: RGSM(model, "group_lasso", lam=1e-3, beta=1.0, example=x), own, 3)
    yield Memory(f"{title}, shrunk", lambda: shrink(model.eval(), x), own, 3)
