"""Get a little more out of a network that is trained already, without touching what it has learned: ReDense.

python examples/redense_on_a_trained_network.py
"""

from __future__ import annotations

import torch

import gracile
from gracile.data import batches, load
from gracile.layerwise import ReDense, retrain_last

torch.manual_seed(0)
splits = load("digits")
network = gracile.models.mlp(image_size=8, widths=(32,))
gracile.fit(network, splits, epochs=2, batch_size=64, lr=0.02, seed=0)  # stopped early: there is something to gain
network.eval()
train = next(batches(splits.train, len(splits.train)))
x, y = next(batches(splits.test, len(splits.test)))


def accuracy(model: torch.nn.Module) -> float:
    with torch.no_grad():
        return 100 * float((model(x).argmax(1) == y).float().mean())


wider = ReDense(network)
print(f"before: {accuracy(network):.1f} %")
losses = wider.fit(train, epochs=100).losses  # the training loss never rises
print(f"ReDense: {accuracy(wider.plain()):.1f} %, training loss {losses[0]:.3f} -> {losses[-1]:.3f}")
# The control that belongs beside it: the same budget spent on the network's own last layer.
retrained, _ = retrain_last(network, train, epochs=100)
print(f"its last layer retrained: {accuracy(retrained):.1f} %")
