"""Attacks against torchattacks, as ratios and accuracies within one run.

PGD-20 at batch 256 on a small convolutional network and on ResNet-20 is a row of ``python -m benchmarks``. By themselves:

    GRACILE_DATA=folder python -m benchmarks.attacks [parts] [whole] [precision]

parts     each part of AutoAttack on a convolutional network trained on MNIST: accuracy and seconds, ours and theirs
whole     AutoAttack's standard ensemble on the same network, naturally and adversarially trained: accuracy, and ours over theirs in
seconds of all cores, which other programs on the machine do not blur
precision what stands under PGD whose passes run in bf16, beside float32: three networks of either kind, all test samples
All but precision need torchattacks, installed with --no-deps.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.protocol import Case
from gracile import attacks
from gracile.attacks.autoattack import PARTS
from gracile.data import load
from gracile.models import build
from gracile.training import Objective, adversary, fit

STEPS = 20


def peer() -> Any:
    """torchattacks; what it warns of when it is imported is its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchattacks

        return torchattacks


def small_network() -> nn.Sequential:
    """Three convolutions of 32 to 64 channels and two linear layers, on 32x32 colour images: 583,000 weights."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4096, 128), nn.ReLU(),
        nn.Linear(128, 10),
    ).eval()  # fmt: skip


def timed(call: Callable[[], Tensor]) -> tuple[float, float, Tensor]:
    """Seconds on the clock, seconds of all cores, and what came out."""
    clock, cores = time.perf_counter(), time.process_time()
    found = call()
    return time.perf_counter() - clock, time.process_time() - cores, found


def cases(small: bool) -> Iterator[Case]:
    torch.manual_seed(0)
    batch, steps = (4, 2) if small else (256, STEPS)
    x, y = torch.rand(batch, 3, 32, 32), torch.randint(10, (batch,))
    networks = {
        "small network": (small_network(), {"gracile": 0.45, "gracile, bf16": 0.25}),
        "ResNet-20": (
            build("resnet20", num_classes=10, in_channels=3, image_size=32).eval(),
            {"gracile": 0.7, "gracile, bf16": 0.4},
        ),
    }
    for name, (network, goals) in networks.items():
        theirs = peer().PGD(network, eps=8 / 255, alpha=2 / 255, steps=steps, random_start=False)
        ours = partial(attacks.pgd, network, x, y, alpha=2 / 255, steps=steps, random_start=False)
        for clock in ("wall", "cores"):
            yield Case(
                f"{name}, PGD-{steps}, batch {batch}", "torchattacks",
                {
                    "torchattacks": partial(theirs, x, y),
                    "gracile": ours,
                    "gracile, bf16": partial(ours, precision="bf16"),
                    "gracile, bit for bit": partial(ours, channels_last=False),
                },
                clock=clock, rounds=4, goals=goals,
            )  # fmt: skip


def trained(objective: Objective | None = None, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """A convolutional network on 20,000 images of MNIST, and the test samples."""
    splits = load("mnist", validation=0)
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    train = type(splits)(splits.train.subset(range(20_000)), splits.test.subset(range(500)), splits.test)
    plain = 3 if objective is None else 1
    fit(network, train, epochs=plain, lr=0.05, batch_size=128, seed=seed)
    if objective is not None:
        # Attacked from the first step on, it would give one class for all.
        fit(network, train, epochs=3, lr=0.05, batch_size=128, objective=objective, seed=seed)
    return network.eval(), splits.test.inputs.float() / 255, splits.test.labels


KINDS = (("natural", None), ("adversarial", adversary("pgd", eps=0.2, steps=5)))


def whole(samples: int = 64) -> None:
    for name, objective in KINDS:
        network, x, y = trained(objective)
        x, y, eps = x[:samples], y[:samples], 0.1 if objective is None else 0.2
        accuracy = lambda at, network=network, y=y: 100 * float((network(at).argmax(dim=1) == y).double().mean())
        # Its own ensemble takes 10 steps a part where 100 are published.
        more = {"eps": eps, "steps": 100}
        torchattacks = peer()
        theirs = torchattacks.MultiAttack([
            torchattacks.APGD(network, **more), torchattacks.APGDT(network, n_classes=10, **more),
            torchattacks.FAB(network, multi_targeted=True, n_classes=10, **more),
            torchattacks.Square(network, eps=eps, n_queries=5000, resc_schedule=False),
        ])  # fmt: skip
        other = timed(partial(theirs, x, y))
        broken: dict[str, Tensor] = {}
        ours = timed(partial(attacks.autoattack, network, x, y, eps=eps, broken_by=broken))
        by = ", ".join(f"{part} {int(found.sum())}" for part, found in broken.items())
        print(
            f"AutoAttack, {name} network, {samples} samples, l-inf {eps}: ours {accuracy(ours[2]):.2f} % ({by}), torchattacks "
            f"{accuracy(other[2]):.2f} %; {ours[1] / other[1]:.2f} of its core seconds ({ours[1]:.1f} against {other[1]:.1f})",
            flush=True,
        )


def parts() -> None:
    network, inputs, labels = trained()
    eps, steps, queries = 0.1, 50, 2000
    x, y = inputs[:1000], labels[:1000]
    accuracy = lambda at: 100 * float((network(at).argmax(dim=1) == y).double().mean())
    print(f"MNIST, 1,000 test samples, l-inf {eps}, {steps} steps, {queries} queries; clean {accuracy(x):.2f} %")
    torchattacks = peer()
    theirs = {
        "apgd-ce": torchattacks.APGD(network, eps=eps, steps=steps),
        "apgd-dlr": torchattacks.APGD(network, eps=eps, steps=steps, loss="dlr"),
        "apgd-t": torchattacks.APGDT(network, eps=eps, steps=steps),
        "fab-t": torchattacks.FAB(network, eps=eps, steps=steps, multi_targeted=True),
        "square": torchattacks.Square(network, eps=eps, n_queries=queries),
    }
    for name, (attack, options) in PARTS.items():
        budget = queries if name == "square" else steps
        ours = timed(partial(attack, network, x, y, eps=eps, steps=budget, **options))
        other = timed(partial(theirs[name], x, y))
        print(
            f"{name}: {accuracy(ours[2]):.2f} % in {ours[0]:.1f} s, torchattacks {accuracy(other[2]):.2f} % in {other[0]:.1f} s",
            flush=True,
        )


def precision() -> None:
    for name, objective in KINDS:
        eps = 0.1 if objective is None else 0.2
        for seed in range(3):
            network, x, y = trained(objective, seed)
            standing = []
            for kind in ("float32", "bf16"):
                found = attacks.pgd(network, x, y, eps=eps, steps=STEPS, precision=kind)
                standing.append(100 * float((network(found).argmax(dim=1) == y).double().mean()))
            print(
                f"PGD-{STEPS}, {name} network, seed {seed}, {len(x)} samples, l-inf {eps}: {standing[0]:.2f} % stand, "
                f"in bf16 {standing[1]:.2f} %",
                flush=True,
            )


if __name__ == "__main__":
    sections = {"parts": parts, "whole": whole, "precision": precision}
    for chosen in sys.argv[1:] or sections:
        sections[chosen]()
