"""Make a network lean in your own training loop: name a budget, train, shrink, export.

python examples/own_loop.py
"""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

import torch
from torch.nn import functional as F

import gracile
from gracile.data import batches, load

torch.manual_seed(0)
splits = load("digits")
model = gracile.models.resnet20(in_channels=1)
example = next(batches(splits.train, 2))[0]
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
epochs, batch_size = 6, 64
steps = epochs * (len(splits.train) // batch_size)  # as many as the loop takes: it drops the last, smaller batch

# The two lines that are not in every loop: what is made sparse, and to which budget.
split = gracile.RGSM(model, beta=0.1, example=example)
dial = gracile.splitting.Dial(split, steps=steps, macs=0.4, example=example)
dial.attach(optimizer)

schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
for _ in range(epochs):
    order = torch.randperm(len(splits.train))
    for x, y in batches(splits.train, batch_size, order=order, drop_last=True):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()

print(dial.summary())
lean = gracile.shrink(dial.sparse_model().eval(), example)  # the same outputs from fewer channels
x, y = next(batches(splits.test, len(splits.test)))
with torch.no_grad():
    accuracy = float((lean(x).argmax(1) == y).float().mean())
print(gracile.shrinking.plan(dial.sparse_model().eval(), example).describe())
print(f"test accuracy of the lean network: {100 * accuracy:.1f} %")

file = Path(mkdtemp()) / "lean.onnx"
gracile.export_onnx(lean, example, file)
print(f"{file.stat().st_size / 1024:.0f} KiB of ONNX in {file}")
