"""Watch what training conserves: for small steps, differences between neighbouring layers' Gram matrices stay put.

python examples/conserved_quantities.py
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

import gracile
from gracile.data import batches, load

torch.manual_seed(0)
x, y = next(batches(load("digits").train, 256))
for lr in (0.1, 0.01, 0.001):
    torch.manual_seed(0)
    model = gracile.models.mlp(image_size=8, widths=(32, 32), bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    monitor = gracile.dynamics.watch(model, x[:2], optimizer=optimizer, every=10)
    if lr == 0.1:
        print(monitor)  # which pairs of layers conserve what, and why not more
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    found = monitor.rows[-1]["junctions"]
    print(f"lr {lr:<6}" + "".join(f"   {name}: {row['drift_conserved']:.1e}" for name, row in found.items()))
