"""How much of each neighbour's value a worker takes: doubly stochastic mixing matrices, and how fast they agree."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gracile.core.errors import InputError, MissingDependencyError, pick
from gracile.workers import graphs
from gracile.workers.graphs import Graph

TOLERANCE = 1e-9


def mixing_matrix(graph: Graph | Any, mixing: str = "metropolis") -> Tensor:
    """The mixing matrix of a graph.

    Args:
        graph: n workers; a `Graph`, a networkx graph or a list of edges.
        mixing: a row of `MIXINGS`: ``metropolis`` [@xiao2005], ``max-degree``, or ``optimal``, which makes the
            spectral gap largest by a convex program [@boyd2004] and needs cvxpy.

    Returns:
        (n, n) float64, symmetric, not negative, rows and columns summing to 1, zero where there is no edge.

    Raises:
        InputError: no such mixing, or a disconnected graph.
        MissingDependencyError: ``optimal`` without cvxpy.
    """
    return pick(MIXINGS, mixing, "mixing")(graphs.graph(graph))


def spectral_gap(matrix: Tensor) -> float:
    """1 - |W - 11'/n|_2: each round shrinks the distance from the mean at least by the factor 1 - gap.

    Args:
        matrix: (n, n), doubly stochastic.

    Returns:
        In [0, 1]; 1 where one round is the exact mean.
    """
    away = matrix.double() - 1 / len(matrix)
    return max(0.0, 1.0 - float(torch.linalg.matrix_norm(away, 2)))


def check_mixing(matrix: Tensor, graph: Graph) -> Tensor:
    """Refuse what would not preserve the mean, or what would speak where there is no link.

    Args:
        matrix: (n, n).
        graph: of n workers.

    Returns:
        The matrix in float64.

    Raises:
        InputError: another shape, a negative entry, a row or column that does not sum to 1, or weight without an edge.
    """
    n = graph.workers
    matrix = torch.as_tensor(matrix, dtype=torch.float64)
    if matrix.shape != (n, n):
        raise InputError(
            f"The mixing matrix has shape {tuple(matrix.shape)} for {n} workers.", f"Give one of shape ({n}, {n})."
        )
    worst = float(torch.maximum((matrix.sum(0) - 1).abs().max(), (matrix.sum(1) - 1).abs().max()))
    if not worst <= TOLERANCE or float(matrix.min()) < 0:
        raise InputError(
            "The mixing matrix is not doubly stochastic: "
            f"its smallest entry is {float(matrix.min()):.3g}, and a row or column misses 1 by {worst:.3g}.",
            "Use mixing_matrix(graph), or give entries from 0 on whose rows and columns sum to 1.",
        )
    linked = torch.eye(n, dtype=torch.bool)
    for i, j in graph.edges:
        linked[i, j] = linked[j, i] = True
    if bool((matrix[~linked] > 0).any()):
        i, j = torch.nonzero((matrix > 0) & ~linked)[0].tolist()
        raise InputError(
            f"The mixing matrix gives worker {i} a share of worker {j}, and no edge joins them.", "Add the edge."
        )
    return matrix


def one_peer_exponential(workers: int) -> list[Tensor]:
    """The schedule in which worker i averages with i - 2^k in round k [@assran2019; @ying2021].

    After as many rounds as there are matrices, 2^k workers hold the exact mean, at one message per round each.

    Args:
        workers: how many.
    """
    eye = torch.eye(workers, dtype=torch.float64)
    return [(eye + eye.roll(2**k, 0)) / 2 for k in range(max(1, (workers - 1).bit_length()))]


def _from_edges(graph: Graph, weight: Callable[[int, int], float]) -> Tensor:
    matrix = torch.zeros(graph.workers, graph.workers, dtype=torch.float64)
    for i, j in graph.edges:
        matrix[i, j] = matrix[j, i] = weight(i, j)
    return matrix + torch.diag(1 - matrix.sum(1))


def _metropolis(graph: Graph) -> Tensor:
    degree = [len(row) for row in graph.neighbours]
    return _from_edges(graph, lambda i, j: 1 / (1 + max(degree[i], degree[j])))


def _max_degree(graph: Graph) -> Tensor:
    most = max(len(row) for row in graph.neighbours)
    return _from_edges(graph, lambda i, j: 1 / (1 + most))


def _optimal(graph: Graph) -> Tensor:
    """The W of least |W - 11'/n|_2 among symmetric, not negative ones with rows summing to 1."""
    try:
        cvxpy: Any = importlib.import_module("cvxpy")
    except ImportError as error:
        raise MissingDependencyError(
            "The mixing 'optimal' needs cvxpy, which is not installed.", "Install it: pip install cvxpy."
        ) from error
    n, edges = graph.workers, graph.edges
    if n == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    # W = I - B diag(w) B', B the incidence matrix.
    incidence = np.zeros((n, len(edges)))
    for column, (i, j) in enumerate(edges):
        incidence[i, column], incidence[j, column] = 1, -1
    w = cvxpy.Variable(len(edges), nonneg=True)
    matrix = np.eye(n) - incidence @ cvxpy.diag(w) @ incidence.T
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.norm(matrix - 1 / n, 2)), [np.abs(incidence) @ w <= 1])
    problem.solve(solver=cvxpy.CLARABEL)
    # A solver meets constraints to its own tolerance; ours is stricter.
    weights = np.clip(np.asarray(w.value), 0, None)
    weights /= max(1.0, (np.abs(incidence) @ weights).max())
    found = dict(zip(edges, weights.tolist(), strict=True))
    return _from_edges(graph, lambda i, j: found[i, j]).clamp_(min=0)


MIXINGS: dict[str, Callable[[Graph], Tensor]] = {
    "max-degree": _max_degree,
    "metropolis": _metropolis,
    "optimal": _optimal,
}
