"""How many paths lead through a network, counted exactly without building any."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from gracile.channels import Example
from gracile.core.errors import InputError
from gracile.dynamics.junctions import traced
from gracile.dynamics.operations import MASKS, PRODUCTS, SUMS, Between, between, key, title

HOMOGENEOUS = {torch.abs, "abs", nn.PReLU}
AVERAGES = {nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d}
IGNORED = {nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d}
# Residues below 2^30: sums over up to 2^23 of them are exact in float64.
LARGEST_PRIME = 2**30


def count_paths(model: nn.Module, example: Example, *, output: int | None = None) -> int:
    """The number of maximal paths of a network's graph, biases counted as inputs of value 1.

    Args:
        model: linear maps and positively homogeneous activations, as `tree_decomposition` takes them; any size.
        example: one batch of one input.
        output: count the paths to this output only; by default to all.

    Returns:
        The count, exact: found modulo primes by one pass of the network with ones for weights.

    Raises:
        InputError: the model cannot be traced or holds a unit that is not linear or positively homogeneous.
    """
    graph = traced(model, example)
    shape = graph.example[0][0]
    ones = _with_ones(model)
    gm = fx.GraphModule(ones, next(iter(graph.by_node)).graph)
    rough = _Counter(gm, None).run(torch.ones(1, *shape, dtype=torch.float64))
    total = _chosen(rough, output).sum().item()
    if not math.isfinite(total):
        raise InputError("The network has more paths than 1e308.", "Count a part of it.")
    primes = _primes(math.ceil((math.log2(max(total, 1)) + 2) / 29) + 1)
    modulus = torch.tensor(primes, dtype=torch.float64)
    exact = _Counter(gm, modulus).run(torch.ones(len(primes), *shape, dtype=torch.float64))
    residues = [
        int(sum(int(one) for one in row)) % prime for row, prime in zip(_chosen(exact, output), primes, strict=True)
    ]
    return _chinese(residues, primes)


def _chosen(counts: Tensor, output: int | None) -> Tensor:
    counts = counts.flatten(1)
    return counts if output is None else counts[:, output : output + 1]


def _with_ones(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for one in copied.parameters():
            one.fill_(1.0)
    return copied


def check_unit(node: fx.Node, module: nn.Module | None) -> None:
    """Refuse what lemma 1 does not speak of.

    Raises:
        InputError: neither linear nor positively homogeneous in one input.
    """
    known = key(node, module)
    if node.op in ("placeholder", "output", "get_attr") or known in SUMS | PRODUCTS | MASKS | HOMOGENEOUS | IGNORED:
        return
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return
    kind, reason = between(node, module)
    if kind is Between.LINEAR:
        return
    raise InputError(
        f"The tree decomposition does not hold here: {reason or f'{title(node)} takes a maximum over several units'}.",
        "Use linear maps with ReLU, leaky ReLU or absolute values between; fold batch-norm into the layer before it.",
    )


class _Counter(fx.Interpreter):
    """The network with ones for weights: every unit's value is the number of paths that reach it."""

    def __init__(self, module: fx.GraphModule, modulus: Tensor | None) -> None:
        super().__init__(module)
        self.modulus = modulus
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        module = self.submodules.get(str(n.target)) if n.op == "call_module" else None
        check_unit(n, module)
        known = key(n, module)
        with torch.no_grad():
            switch = known in MASKS | HOMOGENEOUS | IGNORED
            result = self.env[n.all_input_nodes[0]] if switch else super().run_node(n)
            if known in AVERAGES or known in (torch.mean, "mean"):
                before = self.env[n.all_input_nodes[0]]
                result = (result * _window(module, before, result)).round()
        if self.modulus is None or not isinstance(result, Tensor) or n.op in ("get_attr", "placeholder"):
            return result
        return result % self.modulus.reshape(-1, *[1] * (result.dim() - 1))


def _window(module: nn.Module | None, before: Tensor, after: Tensor) -> int:
    """How many pixels an average is taken over."""
    size = getattr(module, "kernel_size", None)
    if size is not None:
        dims = before.dim() - 2
        return math.prod([size] * dims if isinstance(size, int) else size)
    shares = [a / b for a, b in zip(before.shape[-2:], after.shape[-2:], strict=False)] if module is not None else []
    if any(share != int(share) for share in shares):
        raise InputError(
            "An adaptive average over windows of different sizes is not counted.", "Choose a size that divides."
        )
    return before[0].numel() // after[0].numel()


def _primes(number: int) -> list[int]:
    found: list[int] = []
    candidate = LARGEST_PRIME - 1
    while len(found) < number:
        if all(candidate % divisor for divisor in range(3, math.isqrt(candidate) + 1, 2)):
            found.append(candidate)
        candidate -= 2
    return found


def _chinese(residues: list[int], primes: list[int]) -> int:
    total, product = 0, 1
    for residue, prime in zip(residues, primes, strict=True):
        total += product * ((residue - total) * pow(product, -1, prime) % prime)
        product *= prime
    return total
