"""What channels in multiples of four buy in onnxruntime: networks that lost channels by chance, all that can go beside fours.

The weights are drawn, not trained, and which channels go is drawn, too: time does not depend on them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.protocol import Case, times
from gracile import export_onnx, shrink
from gracile.export.samples import as_examples, feed
from gracile.export.sessions import run, session
from gracile.models import build
from gracile.pruning import RandomChannels
from gracile.shrinking.multiples import BLOCK

NETWORKS: dict[str, dict[str, Any]] = {
    "mobilenet": {"width": 0.5},
    "vgg16": {"width": 0.25},
    "resnet18": {"width": 16},
    "resnet20": {},
    "lenet": {"in_channels": 3, "image_size": 32},
}
BUDGETS = (0.5, 0.15)


def thinned(model: nn.Module, example: torch.Tensor, macs: float) -> nn.Module:
    """The network without channels drawn by chance, down to this share of its multiply-adds; they are zero."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = RandomChannels(model, macs=macs, prune_at=0.0, steps=1, example=example)
    method.attach(optimizer)
    model(example).sum().backward()
    optimizer.step()
    sparse = method.sparse_model().eval()
    method.detach()
    return sparse


def cases(small: bool) -> Iterator[Case]:
    for name, options in NETWORKS.items():
        for macs in BUDGETS[: 1 if small else None]:
            torch.manual_seed(0)
            model, example = build(name, **options), torch.rand(2, 3, 32, 32)
            sparse = thinned(model, example, macs)
            networks = {
                "dense": model.eval(),
                "all that can go": shrink(sparse, example, dead="fold"),
                f"multiples of {BLOCK}": shrink(sparse, example, dead="fold", multiple_of={"conv": BLOCK}),
            }
            with tempfile.TemporaryDirectory() as folder:
                loaded = {}
                for number, (form, network) in enumerate(networks.items()):
                    file = Path(folder) / f"{number}.onnx"
                    export_onnx(network, example, file, verbose=False)
                    loaded[form] = session(file, threads=1)
                inputs = feed(as_examples(torch.rand(1, 3, 32, 32)))
                calls = 1 if small else 50
                yield Case(
                    f"{name}, {macs:.0%} of its multiply-adds", "dense",
                    {form: times(partial(run, one, inputs), calls) for form, one in loaded.items()},
                    units=dict.fromkeys(loaded, calls),
                )  # fmt: skip
