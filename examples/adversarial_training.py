"""Train a network to withstand an adversary, and attack it as the field does.

python examples/adversarial_training.py
"""

from __future__ import annotations

import torch

import gracile
from gracile import attacks
from gracile.data import batches, load
from gracile.training import adversary

EPS = 0.1
splits = load("digits")
x, y = next(batches(splits.test, 200))
for name, objective in {"natural": None, "adversarial": adversary("pgd", eps=EPS, steps=5)}.items():
    torch.manual_seed(0)
    network = gracile.models.mlp(image_size=8, widths=(64, 64))
    gracile.fit(network, splits, epochs=12, batch_size=64, lr=0.05, objective=objective, seed=0)
    network.eval()
    robust = attacks.autoattack(network, x, y, eps=EPS, steps=20, search_steps=200)
    with torch.no_grad():
        clean = float((network(x).argmax(1) == y).float().mean())
        held = float((network(robust).argmax(1) == y).float().mean())
    print(f"{name:12} clean {100 * clean:5.1f} %   under a short AutoAttack at eps = {EPS}: {100 * held:5.1f} %")
