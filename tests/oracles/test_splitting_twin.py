"""The hook equals a plain transcription of the split step, over random steps and optimisers; L_beta descends."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gracile import RGSM, RVSM

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "sgd momentum, weight decay": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "sgd nesterov, fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw, fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    # No bias before the batch-norm: its gradient is rounding noise, which adaptive optimisers blow up.
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(12, 2)
    ).double()


def data(steps: int) -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(1)
    return [
        (torch.randn(5, 2, 6, 6, dtype=torch.float64, generator=random), torch.randint(2, (5,), generator=random))
        for _ in range(steps)
    ]


def twin_hard(w: Tensor, lam: float, beta: float) -> Tensor:
    return torch.where(w.abs() > math.sqrt(2 * lam / beta), w, torch.zeros_like(w))


def twin_input_channels(w: Tensor, lam: float, beta: float) -> Tensor:
    u = torch.zeros_like(w)
    for channel in range(w.shape[1]):
        norm = w[:, channel].norm()
        if norm > lam / beta:
            u[:, channel] = w[:, channel] * (1 - lam / beta / norm)
    return u


def train(model: nn.Module, optimizer: torch.optim.Optimizer, before_step: Callable[[], None], steps: int = 6) -> None:
    for x, y in data(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        before_step()
        optimizer.step()


@every_optimizer
def test_rvsm_equals_its_plain_twin(optimizer):
    lam, beta = 0.002, 0.3
    model = network()
    twin = copy.deepcopy(model)
    trained = optimizer(model.parameters())
    RVSM(model, "l0", lam=lam, beta=beta).attach(trained)
    train(model, trained, lambda: None)

    def couple() -> None:
        with torch.no_grad():
            for w in (twin[0].weight, twin[3].weight, twin[5].weight):
                w.grad += beta * (w - twin_hard(w, lam, beta))

    train(twin, optimizer(twin.parameters()), couple)
    for ours, plain in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-14)


@every_optimizer
@pytest.mark.parametrize("lam2", [0.0, 0.05])
def test_rgsm_equals_its_plain_twin(optimizer, lam2: float):
    lam, beta = 0.15, 0.5
    model = network()
    twin = copy.deepcopy(model)
    trained = optimizer(model.parameters())
    RGSM(model, "group_lasso", lam=lam, beta=beta, lam2=lam2, keep_last=False).attach(trained)
    train(model, trained, lambda: None)

    def couple() -> None:
        with torch.no_grad():
            for w in (twin[0].weight, twin[3].weight):
                w.grad += beta * (w - twin_input_channels(w, lam, beta))
                for channel in range(w.shape[1]):
                    w.grad[:, channel] += lam2 * w[:, channel] / torch.sqrt(w[:, channel].square().sum() + 1e-8)

    train(twin, optimizer(twin.parameters()), couple)
    for ours, plain in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-14)


@every_optimizer
def test_decoupled_coupling_moves_the_weights_past_the_optimiser(optimizer):
    lam, beta = 0.002, 0.3
    model = network()
    twin = copy.deepcopy(model)
    trained = optimizer(model.parameters())
    RVSM(model, "l0", lam=lam, beta=beta, coupling="decoupled").attach(trained)
    train(model, trained, lambda: None)
    plain_optimizer = optimizer(twin.parameters())
    rate = plain_optimizer.param_groups[0]["lr"]

    def couple() -> None:
        with torch.no_grad():
            for w in (twin[0].weight, twin[3].weight, twin[5].weight):
                w -= rate * beta * (w - twin_hard(w, lam, beta))

    train(twin, plain_optimizer, couple)
    for ours, plain in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-14)


@pytest.mark.parametrize("build", [
    lambda model: RVSM(model, "l1", lam=0.02, beta=0.4),
    lambda model: RVSM(model, "l0", lam=0.02, beta=0.4),
    lambda model: RVSM(model, "transformed_l1", lam=0.02, beta=0.4),
    lambda model: RGSM(model, "group_lasso", lam=0.1, beta=0.4, keep_last=False),
    lambda model: RVSM(model, {"name": "mcp", "gamma": 0.1}, lam=0.02, beta=0.4),
    lambda model: RVSM(model, {"name": "scad", "knot": 0.05}, lam=0.02, beta=0.4),
    lambda model: RVSM(model, "l_half", lam=0.02, beta=0.4),
    lambda model: RVSM(model, "elastic_net", lam=0.02, beta=0.4),
    lambda model: RVSM(model, {"name": "top_k", "k": 5}, lam=0.02, beta=0.4),
    lambda model: RVSM(model, "n_m", lam=0.02, beta=0.4),
    lambda model: RGSM(model, "group_l0", lam=0.1, beta=0.4, keep_last=False),
    lambda model: RGSM(model, "sparse_group_lasso", lam=0.1, beta=0.4, keep_last=False),
], ids=[
    "l1", "l0", "transformed_l1", "group_lasso", "mcp", "scad", "l_half", "elastic_net", "top_k", "n_m", "group_l0",
    "sparse_group_lasso",
])  # fmt: skip
def test_the_lagrangian_descends_on_a_smooth_problem(build):
    # f = 1/2 |A w - b|^2 has the Lipschitz constant L = |A|^2; the descent proof wants eta <= 1/(beta + L).
    torch.manual_seed(3)
    inputs, target = torch.randn(20, 6, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    model = nn.Linear(6, 3, bias=False).double()
    split = build(model)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1 / (split.beta + torch.linalg.matrix_norm(inputs, 2).item() ** 2)
    )
    split.attach(optimizer)
    values = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (model(inputs) - target).square().sum() / 2
        values.append(loss.item() + split.penalty_value().item())
        loss.backward()
        optimizer.step()
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(values))
    assert values[-1] < values[0] - 0.1


@pytest.mark.parametrize("build", [
    *(
        lambda model, penalty=penalty: RVSM(model, penalty, lam=0.05, beta=0.7)
        for penalty in ("l1", "l0", "transformed_l1", "mcp", "scad", "l_half", "elastic_net", "top_k", "n_m")
    ),
    lambda model: RGSM(model, "sparse_group_lasso", lam=0.05, beta=0.7, lam2=0.01, weighting="size"),
    lambda model: RGSM(model, "group_lasso", lam=0.05, beta=0.7, lam2=0.01, grouping="block:2x3", weighting="start"),
])  # fmt: skip
def test_the_term_added_is_the_gradient_of_the_penalty_value(build):
    torch.manual_seed(0)
    model = nn.Linear(5, 4, bias=False).double()
    split = build(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    split.attach(optimizer)
    start = model.weight.detach().clone()
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer.step()
    step = start - model.weight.detach()
    for place in range(20):
        values = []
        for shift in (1e-6, -1e-6):
            with torch.no_grad():
                model.weight.copy_(start)
                model.weight.view(-1)[place] += shift
            values.append(split.penalty_value().item())
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(step.view(-1)[place].item(), abs=1e-6)
