"""How much memory and processor time it takes to shrink a large network.

Run it from the checkout on Linux, with timm installed: ``PYTHONPATH=src:. python benchmarks/shrink_memory.py vit_base_patch16_224``.
Weights are random, half of all groups zero; one thread. Memory is what the process holds at most while it shrinks, the network that
was given and the smaller one included, beyond what it held before.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from benchmarks.architectures.tools import zero_half
from gracile.channels import trace
from gracile.shrinking import shrink
from tests.peers import operators_of_torchvision


def held(kind: str) -> float:
    """MiB of this process, now (VmRSS) or at most since it was asked to forget (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1024


def main(name: str) -> None:
    operators_of_torchvision()
    import timm

    torch.set_num_threads(1)
    model, x = timm.create_model(name).eval(), torch.randn(1, 3, 224, 224)
    size = sum(one.numel() * one.element_size() for one in model.parameters()) / 2**20
    with torch.no_grad():
        model(x)
    start = time.process_time()
    graph = trace(model, x)
    traced = time.process_time() - start
    zero_half(model, graph)
    del graph
    Path("/proc/self/clear_refs").write_text("5")  # forget what was held at most until now
    before, start = held("VmRSS"), time.process_time()
    shrink(model, x, dead="fold")
    spent, more = time.process_time() - start, held("VmHWM") - before
    print(f"{name}: {size:.0f} MiB, torch {torch.__version__}")
    print(f"trace {traced:.2f} s, shrink {spent:.2f} s, at most {(size + more) / size:.2f} times its size in memory")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "vit_base_patch16_224")
