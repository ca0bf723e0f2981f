"""What variable splitting costs: split against plain training steps of ResNet-18 and, four times shorter, of it in bf16."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from benchmarks.protocol import Case, Work
from gracile import RGSM, RVSM
from gracile.models import resnet18

METHODS: dict[str, Callable[[nn.Module, torch.Tensor], RVSM | RGSM | None]] = {
    "plain": lambda model, example: None,
    "rvsm l0": lambda model, example: RVSM(model, "l0", lam=1e-6, beta=8e-2),
    "rvsm l1": lambda model, example: RVSM(model, "l1", lam=1e-5, beta=1e-2),
    "rvsm transformed_l1": lambda model, example: RVSM(model, "transformed_l1", lam=1e-5, beta=1e-2),
    "rgsm input_channel": lambda model, example: RGSM(model, "group_lasso", lam=1e-3, beta=1.0, lam2=1e-5),
    "rgsm coupled": lambda model, example: RGSM(model, "group_lasso", lam=1e-3, beta=1.0, example=example),
}


# Largest ratios: of a float32 step, and of the shorter one.
GOAL, GOAL_BF16 = 1.02, 1.04


def stepper(name: str, x: torch.Tensor, y: torch.Tensor, *, bf16: bool, width: int) -> tuple[Callable[[], None], int]:
    """A function that takes one training step of a fresh network, and its number of weights."""
    torch.manual_seed(0)
    model = resnet18(width=width).to(x.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, foreach=True)
    split = METHODS[name](model, x[:1])
    if split is not None:
        split.attach(optimizer)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    return step, sum(one.numel() for one in model.parameters())


def cases(small: bool) -> Iterator[Case]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch, width = (4, 8) if small else (128, 64)
    x, y = torch.rand(batch, 3, 32, 32, device=device), torch.randint(10, (batch,), device=device)
    for bf16 in (False, True):
        made = {name: stepper(name, x, y, bf16=bf16, width=width) for name in METHODS}
        split = [name for name in METHODS if name != "plain"]
        # Each weight and gradient is read once, and the gradient written once.
        floor = Work(bytes=12 * made["plain"][1], beyond_base=True)
        yield Case(
            f"ResNet-18, batch {batch}, {'bf16' if bf16 else 'float32'}", "plain", {name: one for name, (one, _) in made.items()},
            goals=dict.fromkeys(split, GOAL_BF16 if bf16 else GOAL), floors=dict.fromkeys(split, floor),
        )  # fmt: skip
