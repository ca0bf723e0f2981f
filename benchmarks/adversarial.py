"""What adversarial training and EnResNet cost: steps on attacked samples beside plain ones, ensembles beside a single member."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from benchmarks.protocol import Case
from gracile.models import enresnet, resnet20
from gracile.training import CrossEntropy, Objective, adversary

OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "plain": CrossEntropy,
    "fgsm": lambda: adversary("fgsm"),
    "free, 4 replays": lambda: adversary("free", replays=4),
    "pgd-10": lambda: adversary("pgd", steps=10),
    "pgd-10 in training mode": lambda: adversary("pgd", steps=10, mode="found"),
    "trades-10": lambda: adversary("trades", steps=10),
}


def stepper(network: nn.Module, objective: Objective, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A function that trains on one batch."""
    network = network.to(x.device, memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        for _ in range(objective.replays):
            loss, _ = objective.loss(network, x, y, 0.0, 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            objective.follow()

    return step


def predictor(network: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """A function that predicts one batch."""
    network = network.to(x.device, memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]

    def predict() -> None:
        with torch.no_grad():
            network(x)

    return predict


def cases(small: bool) -> Iterator[Case]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch, shape = (4, {"width": 4, "image_size": 16}) if small else (64, {"width": 16, "image_size": 32})
    side = shape["image_size"]
    x, y = torch.rand(batch, 3, side, side, device=device), torch.randint(10, (batch,), device=device)
    torch.manual_seed(0)
    steps = {name: stepper(resnet20(preactivation=True, **shape), make(), x, y) for name, make in OBJECTIVES.items()}
    yield Case(f"ResNet-20, a batch of {batch} trained on", "plain", steps, goals={"pgd-10": 11.5}, rounds=3)
    members = {"without noise": 0, "one member": 1, "en2": 2, "en5": 5}

    def network(n: int, **settings: object) -> nn.Module:
        return enresnet(n, **shape, **settings) if n else resnet20(preactivation=True, **shape)  # type: ignore[arg-type]

    for title, work in (
        ("a training step", lambda one: stepper(one, CrossEntropy(), x, y)),
        ("a prediction", lambda one: predictor(one, x)),
    ):
        works = {name: work(network(n)) for name, n in members.items()}
        works |= {f"{name}, noise off": work(network(n, noise=0.0)) for name, n in members.items() if n > 1}
        works |= {f"{name}, at once": work(network(n, at_once=True)) for name, n in members.items() if n > 1}
        units = {name: max(1, members[name.partition(",")[0]]) for name in works}
        yield Case(
            f"EnResNet, {title}, for each member",
            "one member",
            works,
            goals={"en2": 1.15, "en5": 1.15},
            units=units,
            rounds=3,
        )
