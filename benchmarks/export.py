"""What removing channels and int8 buy in onnxruntime: VGG-16 and ResNet-18 with half of their coupled groups zero.

    python benchmarks/export.py [--rounds 12] [--models vgg16 resnet18] [--zeros even|random]

Goals: shrunk + int8 at least 7 times faster than dense float32 at batch 1 and 16, in a file at least 15 times smaller.
The weights are drawn, not trained: time and size do not depend on them, accuracy does and is measured by
`gracile compress`.
``even`` zeroes every second group, so that each layer halves; ``random`` any half, which leaves odd widths that fill
the processor's registers less well.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import torch
from torch import nn

from gracile import export_onnx, shrink
from gracile.channels import trace
from gracile.core.provenance import processor
from gracile.export import LatencyTable, latency_table
from gracile.models import build

SPEED, SIZE = 7.0, 15.0
SCATTERED = 0.95


def settled(name: str) -> nn.Module:
    """A network whose batch-norms have seen inputs."""
    torch.manual_seed(0)
    model = build(name)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(64, 3, 32, 32))
    return model.eval()


def half_zero(model: nn.Module, example: torch.Tensor, which: str) -> nn.Module:
    """A copy with half of the coupled groups zero."""
    sparse = copy.deepcopy(model)
    graph = trace(sparse, example)
    count = graph.num_groups
    source = torch.Generator().manual_seed(0)
    order = torch.arange(count) if which == "even" else torch.randperm(count, generator=source)
    zero = torch.zeros(count + 1, dtype=torch.bool)  # the last answers for slices without a group
    zero[order[1::2]] = True
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


def measure(name: str, which: str, rounds: int) -> LatencyTable:
    """Export every variant and time them side by side."""
    model, example = settled(name), torch.rand(2, 3, 32, 32)
    sparse = half_zero(model, example, which)
    lean = shrink(sparse, example)
    with tempfile.TemporaryDirectory() as folder:
        at = lambda file: Path(folder) / f"{file}.onnx"
        export_onnx(model, example, at("dense"), verbose=False)
        export_onnx(scattered_zero(model), example, at("scattered"), verbose=False)
        export_onnx(sparse, example, at("sparse"), verbose=False)
        export_onnx(lean, example, at("int8"), torch.rand(128, 3, 32, 32), float_path=at("shrunk"))
        files = {
            "dense": at("dense"),
            f"{SCATTERED:.0%} scattered zeros": at("scattered"),
            "half the groups zero": at("sparse"),
            "shrunk": at("shrunk"),
            "shrunk + int8": at("int8"),
        }
        return latency_table(files, example, rounds=rounds, turn=0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--models", nargs="+", default=["vgg16", "resnet18"])
    parser.add_argument("--zeros", choices=("even", "random"), default="even")
    args = parser.parse_args()
    print(f"{processor()}, torch {torch.__version__}, {args.zeros} half of the groups zero")
    for name in args.models:
        print(f"\n## {name}\n")
        table = measure(name, args.zeros, args.rounds)
        print(f"\n{table}\n")
        for row in table.rows:
            if row.name == "shrunk + int8":
                load = f"batch {row.batch}, {row.threads} threads"
                verdict = "met   " if row.faster >= SPEED else "MISSED"
                print(f"{verdict}  {load}: {row.faster:.1f}x by medians, {row.quiet:.1f}x by p10 (goal {SPEED:g}x)")
        smaller = table.files[-1].smaller
        print(f"{'met   ' if smaller >= SIZE else 'MISSED'}  file {smaller:.1f}x smaller (goal {SIZE:g}x)")


if __name__ == "__main__":
    main()
