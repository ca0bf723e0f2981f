"""The figures of the site's pages, one function each, drawn anew from real runs whenever the site is built: seconds, and seeded."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

import gracile
from gracile.core.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _panels(columns: int, width: float = 9.6, height: float = 3.2, **shared: Any) -> tuple[Figure, Any]:
    figure = new_figure(width, height)
    axes = figure.subplots(1, columns, squeeze=False, **shared)[0]
    for one in axes:
        one.grid(alpha=0.3)
    return figure, axes


def _digits(train: int = 1000, test: int = 350) -> Any:
    return gracile.data.load("digits", train_limit=train, test_limit=test)


def _loop(model: nn.Module, attach: Callable[[Any], Any], watch: Callable[[], float], steps: int = 400) -> list[float]:
    """Train on digits by SGD with what is attached; what was seen after each tenth step."""
    data = _digits()
    x, y = data.train.inputs.float() / 255, data.train.labels
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    attach(optimizer)
    draws, seen = torch.Generator().manual_seed(0), []
    for step in range(steps):
        batch = torch.randint(len(x), (64,), generator=draws)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
        if step % 10 == 9:
            seen.append(watch())
    return seen


def _net(*widths: int) -> nn.Module:
    torch.manual_seed(0)
    return gracile.models.mlp(image_size=8, widths=list(widths))


def proximal_maps() -> Figure:
    """Every penalty's proximal map."""
    from gracile import penalties

    mu, w = 0.3, torch.linspace(-2, 2, 801, dtype=torch.float64)
    names = ("l1", "l0", "transformed_l1", "mcp", "scad", "l_half", "elastic_net")
    figure = new_figure(9.6, 4.6)
    grid = figure.subplots(2, 4, sharex=True, sharey=True)
    for axes, name in zip(grid.flat, names, strict=False):
        u = penalties.elementwise(name).prox(w, mu)
        # A jump is no part of the map.
        jumps = (u.diff().abs() > 0.1).nonzero().flatten() + 1
        pieces = torch.tensor_split(torch.stack([w, u]), jumps.tolist(), dim=1)
        axes.plot(w, w, ":", color="0.5", linewidth=1)
        for piece in pieces:
            axes.plot(*piece, color="C0", linewidth=1.8)
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.3)
    axes = grid.flat[-1]
    norms = torch.linspace(0, 2, 401, dtype=torch.float64)
    axes.plot(norms, (norms - mu).clamp(min=0), color="C1", label="group_lasso")
    axes.plot(norms, torch.where(norms > math.sqrt(2 * mu), norms, torch.nan), color="C2", label="group_l0")
    axes.plot(norms[norms <= math.sqrt(2 * mu)], norms[norms <= math.sqrt(2 * mu)] * 0, color="C2")
    axes.set_title("norm of a group", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)
    figure.supxlabel("w", fontsize=10)
    figure.supylabel("prox(w)", fontsize=10)
    return figure


def dial_path() -> Figure:
    """A dial's way to a quarter of the multiply-adds: what is left, and the lam that it set."""
    model, x = _net(64, 32), torch.zeros(2, 1, 8, 8)
    split = gracile.RGSM(model, beta=0.1, example=x)
    dial = gracile.splitting.Dial(split, steps=400, macs=0.25, example=x)
    lams: list[float] = []

    def watch() -> float:
        lams.append(split.lam)
        graph = gracile.channels.trace(dial.sparse_model(), x)
        return 100 * graph.count().macs / graph.dense().macs

    left = _loop(model, dial.attach, watch)
    steps = np.arange(10, 401, 10)
    figure, (first, second) = _panels(2)
    planned = [100 * dial.plan(int(step))["macs"] for step in steps]
    first.plot(steps, planned, "--", color="0.4", label="budget")
    first.plot(steps, left, color="C0", label="left in u")
    first.set(xlabel="step", ylabel="multiply-adds, %", ylim=(0, 105))
    first.legend(frameon=False)
    second.plot(steps, lams, color="C1")
    second.set(xlabel="step", ylabel="lam")
    return figure


def zeros_over_a_run() -> Figure:
    """Zeros and accuracy while RVSM, ADMM and gradual magnitude pruning come to 90 % zeros."""
    from gracile import pruning

    figure, (zeros, accuracy) = _panels(2)
    data, steps = _digits(), 400
    x, y = data.test.inputs.float() / 255, data.test.labels

    def rvsm(model: nn.Module) -> Any:
        split = gracile.RVSM(model, penalty="l0", beta=0.1)
        return gracile.splitting.Dial(split, steps=steps, sparsity=0.9)

    methods = {
        "RVSM, l0": rvsm,
        "gradual magnitude": lambda model: pruning.GradualMagnitude(model, steps=steps, sparsity=0.9),
        "ADMM": lambda model: pruning.ADMM(model, steps=steps, sparsity=0.9, every=20),
    }
    for number, (name, make) in enumerate(methods.items()):
        model = _net(64, 32)
        method, right = make(model), []

        def watch(method: Any = method, right: list[float] = right) -> float:
            kept = method.sparse_model().eval()
            with torch.no_grad():
                right.append(100 * (kept(x).argmax(1) == y).double().mean().item())
            return 100 * method.summary().sparsity

        at = np.arange(10, steps + 1, 10)
        zeros.plot(at, _loop(model, method.attach, watch, steps), color=f"C{number}", label=name)
        accuracy.plot(at, right, color=f"C{number}")
    zeros.set(xlabel="step", ylabel="exact zeros in what is kept, %", ylim=(0, 100))
    accuracy.set(xlabel="step", ylabel="test accuracy of what is kept, %")
    zeros.legend(frameon=False)
    return figure


def coupled_groups() -> Figure:
    """Multiply-adds that go with zero channels of ResNet-20: coupled groups, and layer by layer."""
    x = torch.zeros(1, 3, 32, 32)
    shares = np.linspace(0, 0.9, 10)
    torch.manual_seed(0)
    model = gracile.models.resnet20(shortcut="B")
    graph = gracile.channels.trace(model, x)
    dense, draws = graph.dense().macs, torch.Generator().manual_seed(0)
    order = torch.rand(graph.num_groups, generator=draws)
    coupled = [100 * graph.count(order < share).macs / dense for share in shares]
    alone = []
    for share in shares:
        own = copy.deepcopy(model)
        draws.manual_seed(1)
        with torch.no_grad():
            for module in own.modules():
                if isinstance(module, nn.Conv2d) and module.in_channels > 3:
                    module.weight[:, torch.rand(module.in_channels, generator=draws) < share] = 0
        alone.append(100 * gracile.channels.trace(own, x).count().macs / dense)
    figure, (axes,) = _panels(1, 5.6, 3.4)
    axes.plot(100 * shares, coupled, "o-", markersize=4, label="coupled groups")
    axes.plot(100 * shares, alone, "o-", markersize=4, label="each layer's inputs by themselves")
    axes.set(xlabel="zero channels, %", ylabel="multiply-adds left, %", ylim=(0, 103))
    axes.legend(frameon=False)
    return figure


def shrunk() -> Figure:
    """Parameters and multiply-adds of LeNet by the share of its channels that went, and by that of single weights."""
    torch.manual_seed(0)
    x = torch.randn(2, 1, 28, 28)
    shares, rows = np.linspace(0, 0.625, 6), []
    for share in shares:
        model, scattered = gracile.models.lenet().eval(), gracile.models.lenet().eval()
        graph = gracile.channels.trace(model, x)
        with torch.no_grad():
            for name, index in graph.group_index().items():
                weight = model.get_parameter(name)
                weight.mul_(((index < 0) | (index % 8 >= round(8 * share))).expand_as(weight))
                weight = scattered.get_parameter(name)
                weight.mul_(torch.rand_like(weight) >= share)
        kept = [gracile.channels.trace(gracile.shrink(one, x, dead="fold"), x).dense() for one in (model, scattered)]
        rows.append((kept[0].parameters, kept[0].macs, kept[1].macs))
    figure, (axes,) = _panels(1, 5.6, 3.4)
    names = ("parameters", "multiply-adds", "multiply-adds, single zeros")
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        axes.plot(100 * shares, [100 * value / values[0] for value in values], "o-", markersize=4, label=name)
    axes.set(xlabel="zeros, %", ylabel="left after shrink, %", ylim=(0, 105))
    axes.legend(frameon=False)
    return figure


def quantised() -> Figure:
    """Error of a trained layer's output by the bits of its weights: one scale a layer, one a channel."""
    model = _net(64, 32)
    _loop(model, lambda optimizer: None, lambda: 0.0, 200)
    weight = next(one for one in model.parameters() if one.shape == (32, 64)).detach()
    inputs = torch.rand(500, 64, generator=torch.Generator().manual_seed(0))
    bits, exact = range(2, 9), inputs @ weight.T
    figure, (axes,) = _panels(1, 5.6, 3.4)
    for name, largest in (
        ("one scale a layer", weight.abs().max()),
        ("one scale a channel", weight.abs().amax(1, keepdim=True)),
    ):
        errors = []
        for count in bits:
            scale = largest / (2 ** (count - 1) - 1)
            errors.append(((inputs @ (scale * (weight / scale).round()).T - exact).norm() / exact.norm()).item())
        axes.semilogy(bits, [100 * error for error in errors], "o-", markersize=4, label=name)
    axes.set(xlabel="bits of a weight", ylabel="error of the output, %")
    axes.legend(frameon=False)
    return figure


def robust_curves() -> Figure:
    """Accuracy under FGSM and PGD by the size of the ball, trained naturally and on PGD's samples."""
    from gracile import attacks

    data = _digits(test=200)
    x, y = data.test.inputs.float() / 255, data.test.labels
    balls = np.array([0, 0.02, 0.04, 0.08, 0.12, 0.16, 0.2])
    figure, (axes,) = _panels(1, 5.6, 3.6)
    adversary = gracile.training.adversary("pgd", eps=0.1, alpha=0.03, steps=4)
    for number, (name, objective) in enumerate({"natural": None, "PGD, eps 0.1": adversary}.items()):
        model = _net(64)
        gracile.fit(
            model,
            data,
            epochs=12,
            batch_size=64,
            lr=0.1,
            seed=0,
            **({} if objective is None else {"objective": objective}),
        )
        for style, attack in (("--", attacks.fgsm), ("-", lambda *given, eps: attacks.pgd(*given, eps=eps, steps=20))):
            left = [
                (model(x if eps == 0 else attack(model, x, y, eps=eps)).argmax(1) == y).double().mean().item()
                for eps in balls
            ]
            label = f"trained on {name}: {'FGSM' if style == '--' else 'PGD-20'}"
            axes.plot(balls, [100 * share for share in left], style, color=f"C{number}", label=label)
    axes.set(xlabel="eps of the l-inf ball", ylabel="accuracy left, %", ylim=(0, 102))
    axes.legend(frameon=False, fontsize=8)
    return figure


def random_layers() -> Figure:
    """Accuracy of one random layer by its nodes an input, and the error of inverting it."""
    from gracile.layerwise import ELMClassifier, SLFNClassifier

    data = _digits()
    flat = lambda part: (part.inputs.flatten(1).double().numpy() / 255, part.labels.numpy())
    (x, y), (xt, yt) = flat(data.train), flat(data.test)
    rhos = (0.5, 1, 2, 4, 8, 16)
    figure, (axes,) = _panels(1, 5.6, 3.4)
    learners = {
        "SLFN": lambda rho, seed: SLFNClassifier(rho, lam=0.1, scale=None, seed=seed),
        "ELM": lambda rho, seed: ELMClassifier(round(rho * x.shape[1]), lam=0.1, scale=None, seed=seed),
    }
    for name, make in learners.items():
        scores = [[100 * make(rho, seed).fit(x, y).score(xt, yt) for rho in rhos] for seed in range(3)]
        axes.errorbar(
            rhos, np.mean(scores, 0), np.std(scores, 0, ddof=1), marker="o", markersize=4, capsize=2, label=name
        )
    axes.axvline(2, color="0.5", linestyle=":", label="from here on SLFN keeps all information")
    axes.set_xscale("log", base=2)
    axes.set_xticks(rhos, [f"{rho:g}" for rho in rhos])
    axes.set(xlabel="nodes per input", ylabel="test accuracy, %")
    axes.legend(frameon=False)
    return figure


def sparsity_law() -> Figure:
    """The change of Hoyer's sparsity that theorem 1 predicts against that of a real step, for three sizes of the step."""
    from gracile.forward_forward import hoyer_sparsity, theorem1

    torch.manual_seed(0)
    data = _digits()
    x = nn.functional.normalize(data.train.inputs[:256].flatten(1).double(), dim=1)
    weights = torch.randn(500, 64, dtype=torch.float64) * (2 / 500) ** 0.5
    h = torch.relu(x @ weights.T)
    law, before = theorem1(x, h, (x, h), undefined="nan").derivative, hoyer_sparsity(h, undefined="nan")
    figure, panels = _panels(3, sharey=True)
    for axes, step in zip(panels, (1e-4, 1e-3, 1e-2), strict=True):
        after = hoyer_sparsity(torch.relu(x @ (weights - 2 * step * h.T @ x).T), undefined="nan")
        axes.plot(law, law, color="0.5", linewidth=1)
        axes.plot(law, (after - before) / step, ".", markersize=4, color="C0")
        axes.set(title=f"step {step:g}", xlabel="by the law")
    panels[0].set_ylabel("change of S over the step")
    return figure


def mixing() -> Figure:
    """Eigenvalues of the mixing matrices of seven graphs, and how their gossip comes to the mean."""
    from gracile import workers

    figure, (spectrum, gossip) = _panels(2, height=3.6)
    start = torch.randn(16, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start -= start.mean(0)
    names = ("star", "two-star", "path", "ring", "torus", "exponential", "complete")
    for number, name in enumerate(names):
        matrix = workers.mixing_matrix(workers.graph(name, 16))
        values = torch.linalg.eigvalsh(matrix).flip(0)
        spectrum.plot(range(1, 17), values, "o-", markersize=3, linewidth=1, color=f"C{number}")
        x, away = start.clone(), []
        for _ in range(60):
            away.append((x.norm() / start.norm()).item())
            x = matrix @ x
        gossip.semilogy(
            [one for one in away if one > 1e-9],
            color=f"C{number}",
            label=f"{name}, gap {workers.spectral_gap(matrix):.3f}",
        )
    spectrum.set(xticks=(1, 4, 8, 12, 16), xlabel="number of the eigenvalue", ylabel="eigenvalue")
    gossip.set(xlabel="round of gossip", ylabel="distance from the mean", ylim=(1e-8, 1.5))
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def norms_and_smoothness() -> Figure:
    """Effective beta-smoothness and loss while perceptrons with no, l2 and l1 batch-norm are trained."""
    from gracile.dynamics import SmoothnessMonitor

    data = _digits()
    x, y = data.train.inputs[:256].float() / 255, data.train.labels[:256]
    figure, (beta, loss) = _panels(2)
    for number, norm in enumerate(("none", "l2", "l1")):
        torch.manual_seed(0)
        net = gracile.models.mlp(image_size=8, widths=[64, 64], **({} if norm == "none" else {"norm": norm}))
        monitor = SmoothnessMonitor(net, x, y, lr=0.1)
        rows = gracile.fit(
            net, data, steps=150, record_every=10, batch_size=64, lr=0.1, momentum=0.0, seed=0, observe=monitor
        ).rows
        steps = [row["step"] for row in rows]
        beta.semilogy(steps, [row["beta_smoothness"] for row in rows], color=f"C{number}", label=f"batch-norm: {norm}")
        loss.semilogy(steps, [row["train_loss"] for row in rows], color=f"C{number}")
    beta.set(xlabel="step", ylabel="effective beta-smoothness")
    loss.set(xlabel="step", ylabel="training loss")
    beta.legend(frameon=False)
    return figure


def conserved() -> Figure:
    """Drift of D of a linear network: over steps of three optimisers, and by the step size after the same time."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 8, dtype=torch.float64), torch.randn(64, 4, dtype=torch.float64)
    first, second = (torch.randn(*shape, dtype=torch.float64) / 3 for shape in ((6, 8), (4, 6)))

    def drift(
        make: Callable[[list[torch.Tensor], float], torch.optim.Optimizer], lr: float, time: float = 4.0
    ) -> list[float]:
        a, b = (one.clone().requires_grad_() for one in (first, second))
        optimizer, seen = make([a, b], lr), []
        before = (a @ a.T - b.T @ b).detach()
        for _ in range(round(time / lr)):
            optimizer.zero_grad()
            (x @ a.T @ b.T - y).square().mean().backward()
            optimizer.step()
            seen.append((a @ a.T - b.T @ b - before).abs().max().item())
        return seen

    figure, (over, by) = _panels(2)
    makes = {
        "gradient descent": lambda ws, lr: torch.optim.SGD(ws, lr=lr),
        "momentum 0.9": lambda ws, lr: torch.optim.SGD(ws, lr=lr, momentum=0.9),
        "Adam": lambda ws, lr: torch.optim.Adam(ws, lr=lr),
    }
    lrs = (0.16, 0.08, 0.04, 0.02, 0.01)
    for number, (name, make) in enumerate(makes.items()):
        seen = {lr: drift(make, lr) for lr in lrs}
        over.semilogy(0.02 * np.arange(1, len(seen[0.02]) + 1), seen[0.02], color=f"C{number}")
        by.loglog(lrs, [seen[lr][-1] for lr in lrs], "o-", markersize=4, color=f"C{number}", label=name)
    over.set(xlabel="time (steps times step size 0.02)", ylabel="largest change of an entry of D")
    by.set(xlabel="step size", ylabel="after time 4")
    by.legend(frameon=False)
    return figure


def one_layer() -> Figure:
    """The angle and the distance to the teacher over RVSM's steps, from 200 starts."""
    from gracile.one_layer import check_conditions, random_starts, rvsm, sparse_teacher

    w_star, w = sparse_teacher(50, nonzero=5), random_starts(200, 50)
    setting = {"lam": 5e-4, "beta": 0.007, "lr": 0.19}
    seen = rvsm(w, w_star, 10, **setting, steps=500)
    delta = check_conditions("3.1", k=10, d=50, **setting, theta=2.0).delta
    figure, panels = _panels(3)
    for axes, values, label in zip(
        panels,
        (seen.theta, seen.distance, seen.support),
        ("angle to w*, radians", "|w − w*|", "support recovered"),
        strict=True,
    ):
        low, middle, high = np.quantile(values.numpy(), (0, 0.5, 1), axis=1)
        axes.fill_between(seen.steps, low, high, color="C0", alpha=0.2, linewidth=0)
        axes.plot(seen.steps, middle, color="C0")
        axes.set(xlabel="step", ylabel=label, xscale="symlog")
        if label != "support recovered":
            axes.set_yscale("log")
    panels[0].axhline(delta, color="0.3", linestyle="--", linewidth=1, label="delta of the theorem")
    panels[0].legend(frameon=False)
    return figure


def enhanced() -> Figure:
    """The diffusivity of perturbed walks, exact, and what the theorems predict."""
    from gracile.walks import SenileWalk

    deltas = np.logspace(-12, -1, 12)
    figure, (line, plane) = _panels(2)
    constant = (1 - math.log(2)) / (2 * math.log(2) - 1)
    exact = [SenileWalk(1, delta=delta).diffusivity().nu for delta in deltas]
    line.loglog(deltas, exact, "o", markersize=4, label="exact, d = 1")
    line.loglog(deltas, constant / np.abs(np.log(deltas)), color="C0", label="K / |log δ|")
    line.loglog(deltas, deltas**2, "--", color="0.5", label="of the perturbation alone, δ²")
    line.set(xlabel="δ", ylabel="ν", ylim=(1e-3, 2))
    deltas = deltas[5:]
    for number, (dim, slope) in enumerate(((2, 2.62713), (3, 2.09085)), start=1):
        still = SenileWalk(dim, delta=0).diffusivity().nu
        gain = [SenileWalk(dim, delta=delta).diffusivity().nu - still for delta in deltas]
        plane.loglog(deltas, gain, "o", markersize=4, color=f"C{number}", label=f"exact, d = {dim}")
        plane.loglog(deltas, slope * deltas, color=f"C{number}", label=f"{slope:.4g} δ")
    plane.set(xlabel="δ", ylabel="ν(δ) − ν(0)")
    for axes in (line, plane):
        axes.legend(frameon=False, fontsize=8)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    one.__name__: one
    for one in (
        proximal_maps, dial_path, zeros_over_a_run, coupled_groups, shrunk, quantised, robust_curves, random_layers, sparsity_law,
        mixing, norms_and_smoothness, conserved, one_layer, enhanced,
    )
}  # fmt: skip


def drawn(name: str) -> tuple[Figure, str]:
    """A figure by its function's name, and what it shows; without the words that a run as short as these calls for."""
    log = logging.getLogger("gracile")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return FIGURES[name](), str(FIGURES[name].__doc__)
    finally:
        log.setLevel(level)
