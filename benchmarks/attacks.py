"""Attacks against torchattacks, as ratios and accuracies within one run.

    GRACILE_DATA=folder python benchmarks/attacks.py [speed] [parts] [whole]

speed     PGD-20 at batch 256 on a small convolutional network and on ResNet-20: the median over rounds of the ratio within a round,
both of seconds on the clock and of seconds of all cores
parts     each part of AutoAttack on a convolutional network trained on MNIST: accuracy and seconds, ours and theirs
whole     AutoAttack's standard ensemble on the same network, naturally and adversarially trained: accuracy, and ours over theirs in
seconds of all cores, which other programs on the machine do not blur
Without an argument: speed. Needs torchattacks, installed with --no-deps.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from gracile import attacks
from gracile.attacks.autoattack import PARTS
from gracile.data import load
from gracile.models import build
from gracile.training import Objective, adversary, fit

with warnings.catch_warnings():
    # What the package warns of when it is imported is its own affair.
    warnings.simplefilter("ignore")
    import torchattacks

ROUNDS = 2
STEPS = 20


def small() -> nn.Sequential:
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


def speed() -> None:
    torch.manual_seed(0)
    x, y = torch.rand(256, 3, 32, 32), torch.randint(10, (256,))
    networks = {
        "small network": small(),
        "ResNet-20": build("resnet20", num_classes=10, in_channels=3, image_size=32).eval(),
    }
    for name, network in networks.items():
        theirs = torchattacks.PGD(network, eps=8 / 255, alpha=2 / 255, steps=STEPS, random_start=False)
        ours = lambda network=network, **more: attacks.pgd(
            network, x, y, alpha=2 / 255, steps=STEPS, random_start=False, **more
        )
        calls = {"torchattacks": lambda theirs=theirs: theirs(x, y), "ours": ours}
        calls["ours, bf16"] = lambda ours=ours: ours(precision="bf16")
        if name == "small network":
            calls["ours, bit for bit"] = lambda ours=ours: ours(channels_last=False)
        clocks: dict[str, list[float]] = {key: [] for key in calls}
        cores: dict[str, list[float]] = {key: [] for key in calls}
        found: dict[str, Tensor] = {}
        for number in range(ROUNDS):
            for key in [*calls, *calls][number : number + len(calls)]:
                clock, core, found[key] = timed(calls[key])
                clocks[key].append(clock)
                cores[key].append(core)
        for key in list(calls)[1:]:
            share = [statistics.median(a / b for a, b in zip(times[key], times["torchattacks"], strict=True))
                     for times in (clocks, cores)]  # fmt: skip
            moved = float((found[key] != found["torchattacks"]).double().mean())
            print(
                f"{name}, PGD-{STEPS}, batch 256, {torch.get_num_threads()} threads, {key}: {share[0]:.2f} of torchattacks' time, "
                f"{share[1]:.2f} of its core seconds ({statistics.median(clocks[key]):.1f} s against "
                f"{statistics.median(clocks['torchattacks']):.1f} s); {100 * moved:.3f} % of pixels differ",
                flush=True,
            )


def trained(objective: Objective | None = None) -> tuple[nn.Module, Tensor, Tensor]:
    """A convolutional network on 20,000 images of MNIST, and the test samples."""
    splits = load("mnist", validation=0)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    train = type(splits)(splits.train.subset(range(20_000)), splits.test.subset(range(500)), splits.test)
    fit(network, train, epochs=3, lr=0.05, batch_size=128, objective=objective)
    return network.eval(), splits.test.inputs.float() / 255, splits.test.labels


def whole(samples: int = 64) -> None:
    for name, objective in (("natural", None), ("adversarial", adversary("pgd", eps=0.2, steps=5))):
        network, x, y = trained(objective)
        x, y, eps = x[:samples], y[:samples], 0.1 if objective is None else 0.2
        accuracy = lambda at, network=network, y=y: 100 * float((network(at).argmax(dim=1) == y).double().mean())
        # Its own ensemble takes 10 steps a part where 100 are published.
        more = {"eps": eps, "steps": 100}
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


if __name__ == "__main__":
    sections = {"speed": speed, "parts": parts, "whole": whole}
    for chosen in sys.argv[1:] or ["speed"]:
        sections[chosen]()
