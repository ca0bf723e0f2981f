"""What int8, removing channels, and both buy in onnxruntime: VGG-16 and ResNet-18 with half of their coupled groups zero.

The weights are drawn, not trained: time and size do not depend on them, accuracy does and is measured by `gracile compress`. Every
second group is zero, so that each layer halves.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.protocol import Case, times
from gracile import export_onnx, shrink
from gracile.channels import trace
from gracile.export.samples import as_examples, feed
from gracile.export.sessions import run, session
from gracile.models import build

# At least eight times faster than dense float32.
GOAL = 1 / 8
SCATTERED = 0.95


def settled(name: str, small: bool) -> nn.Module:
    """A network whose batch-norms have seen inputs."""
    torch.manual_seed(0)
    narrow = {"width": 0.125 if name == "vgg16" else 8}
    model = build(name, **(narrow if small else {}))
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(4 if small else 64, 3, 32, 32))
    return model.eval()


def half_zero(model: nn.Module, example: torch.Tensor) -> nn.Module:
    """A copy with half of the coupled groups zero."""
    sparse = copy.deepcopy(model)
    graph = trace(sparse, example)
    count = graph.num_groups
    zero = torch.zeros(count + 1, dtype=torch.bool)  # the last answers for slices without a group
    zero[1:count:2] = True
    parameters = dict(sparse.named_parameters())
    with torch.no_grad():
        for weight, groups in graph.group_index().items():
            parameters[weight].masked_fill_(zero[groups], 0)
    return sparse


def scattered_zero(model: nn.Module) -> nn.Module:
    """A copy with most single weights of every layer zero, in no order."""
    sparse = copy.deepcopy(model)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in sparse.parameters():
            if parameter.dim() > 1:
                parameter.masked_fill_(torch.rand(parameter.shape, generator=source) < SCATTERED, 0)
    return sparse


def cases(small: bool) -> Iterator[Case]:
    for name in ("vgg16", "resnet18"):
        model, example = settled(name, small), torch.rand(2, 3, 32, 32)
        sparse = half_zero(model, example)
        lean = shrink(sparse, example)
        with tempfile.TemporaryDirectory() as folder:
            forms = (
                "dense",
                f"{SCATTERED:.0%} scattered zeros",
                "half the groups zero",
                "int8",
                "shrunk",
                "shrunk + int8",
            )
            files = dict(zip(forms, (Path(folder) / f"{number}.onnx" for number in range(len(forms))), strict=True))
            for form, one in zip(forms, (model, scattered_zero(model), sparse), strict=False):
                export_onnx(one, example, files[form], verbose=False)
            samples = torch.rand(8 if small else 128, 3, 32, 32)
            export_onnx(model, example, files["int8"], samples, verbose=False)
            export_onnx(lean, example, files["shrunk + int8"], samples, float_path=files["shrunk"], verbose=False)
            for batch in (1, 16):
                inputs = feed(as_examples(torch.rand(batch, 3, 32, 32)))
                for threads in (1, 2):
                    loaded = {form: session(file, threads=threads) for form, file in files.items()}
                    yield Case(
                        f"{name}, batch {batch}, {threads} threads", "dense",
                        {form: times(partial(run, one, inputs), 1 if small else 10) for form, one in loaded.items()},
                        units=dict.fromkeys(forms, 1 if small else 10), goals={"shrunk + int8": GOAL},
                    )  # fmt: skip
