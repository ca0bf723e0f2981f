"""What N:M zeros buy without kernels made for them: bytes on disk, packed and compressed, and time on a CPU.

Run it from the checkout: ``PYTHONPATH=src python benchmarks/n_m.py``. Ratios to the dense weight, medians of `ROUNDS` runs
in turns, processor time on one thread.
"""

from __future__ import annotations

import gzip
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save
from tabulate import tabulate
from torch import Tensor

from gracile.penalties import NM, TopK

ROUNDS = 7
SIZE, BATCH = 1024, 16


def packed(w: Tensor, n: int, m: int) -> dict[str, Tensor]:
    """The n kept values of each block, and their places in bits."""
    blocks = w.view(-1, m)
    places = blocks.abs().topk(n, dim=1).indices.sort(1).values
    bits = max(1, (m - 1).bit_length())
    shifts = torch.arange(0, 8, bits)[: 8 // bits]
    flat = places.flatten()
    rows = torch.nn.functional.pad(flat, (0, -len(flat) % len(shifts))).view(-1, len(shifts))
    return {"values": blocks.gather(1, places), "places": (rows << shifts).sum(1).to(torch.uint8)}


def seconds(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):
        for name, call in calls.items():
            begin = time.process_time()
            for _ in range(3):
                call()
            taken[name].append(time.process_time() - begin)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def main() -> None:
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    dense, x = torch.randn(SIZE, SIZE, generator=random), torch.randn(SIZE, BATCH, generator=random)
    weights = {
        "dense": dense,
        "2:4": NM(2, 4).prox(dense.view(-1, 4), 1.0).view_as(dense),
        "1:4": NM(1, 4).prox(dense.view(-1, 4), 1.0).view_as(dense),
        "half, anywhere": TopK(keep=0.5).prox(dense.view(1, -1), 1.0).view_as(dense),
        "95 %, anywhere": TopK(keep=0.05).prox(dense.view(1, -1), 1.0).view_as(dense),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that its CSR is in beta
        sparse = {name: w.to_sparse_csr() for name, w in weights.items()}
    plain = len(save({"w": dense}))
    times = seconds(
        {f"dense kernel, {name}": (lambda w=w: w @ x) for name, w in weights.items()}
        | {f"CSR, {name}": (lambda w=w: w @ x) for name, w in sparse.items()}
    )
    rows: list[dict[str, Any]] = []
    for name, w in weights.items():
        n_m = {"2:4": (2, 4), "1:4": (1, 4)}.get(name)
        rows.append({
            "weight": name,
            "zeros %": f"{100 * float((w == 0).float().mean()):.1f}",
            "file": f"{len(save({'w': w})) / plain:.3f}",
            "file, gzip": f"{len(gzip.compress(save({'w': w}), 6)) / plain:.3f}",
            "packed": "" if n_m is None else f"{len(save(packed(w, *n_m))) / plain:.3f}",
            "time, dense kernel": f"{times[f'dense kernel, {name}'] / times['dense kernel, dense']:.2f}",
            "time, CSR": f"{times[f'CSR, {name}'] / times['dense kernel, dense']:.2f}",
        })  # fmt: skip
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
