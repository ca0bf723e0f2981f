"""Any network of timm with half of its multiply-adds: train it under a dial, shrink, export to ONNX and int8, and measure each form.

python examples/timm_half_as_large.py
python examples/timm_half_as_large.py efficientnet_b0 --size 32 --epochs 12
python examples/timm_half_as_large.py vit_tiny_patch16_224 --data cifar10 --size 32 --patch 8 --epochs 4 --samples 3000
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import timm
import torch
from torch.nn import functional as F

import gracile
from gracile.data import Dataset, batches, load

parser = argparse.ArgumentParser()
parser.add_argument("name", nargs="?", default="vit_tiny_patch16_224", help="as timm calls it")
parser.add_argument("--data", default="digits", help="as gracile.data.load calls it")
parser.add_argument("--size", type=int, default=8, help="of the images, to which they are enlarged")
parser.add_argument("--patch", type=int, default=4, help="of a vision transformer, in pixels")
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--samples", type=int, default=1000, help="that are trained on at most, and tested on")
options = parser.parse_args()


def resized(split: Dataset) -> Dataset:
    """So many samples at most, as larger images, for networks that halve them five times."""
    some = split.subset(range(min(len(split), options.samples)))
    return replace(some, inputs=F.interpolate(some.inputs, size=options.size))


splits = load(options.data, train_limit=options.samples)
splits = replace(splits, **{name: resized(getattr(splits, name)) for name in ("train", "validation", "test")})
train_set = splits.train
example = next(batches(train_set, 2))[0]


def train(sparse: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    small = {"img_size": options.size, "patch_size": options.patch} if "vit" in options.name else {}
    network = timm.create_model(options.name, num_classes=10, in_chans=example.shape[1], **small)
    steps = options.epochs * len(train_set) // 32
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps + options.epochs)
    if sparse:  # the three lines that make it lean
        split = gracile.RGSM(network, beta=0.1, grouping="coupled", example=example)
        dial = gracile.splitting.Dial(split, steps=steps, macs=0.5, example=example)
        dial.attach(optimizer)
    for _ in range(options.epochs):
        for x, y in batches(train_set, 32, order=torch.randperm(len(train_set)), drop_last=True):
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
            schedule.step()
    return (dial.sparse_model() if sparse else network).eval()


made = gracile.compress(
    train(sparse=True),
    example,
    splits,
    dense=train(sparse=False),
    int8=True,
    batch_sizes=(1,),
    threads=(1,),
    folder="lean",
)
print(made)  # layer by layer what went, then accuracy, multiply-adds, parameters, bytes and latency of each form
heads = [module.num_heads for module in made.model.modules() if hasattr(module, "num_heads")]
if heads:
    print("heads left of each layer:", heads)
