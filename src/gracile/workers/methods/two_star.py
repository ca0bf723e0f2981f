"""Averaging on the two-star graph, as the study writes it."""

from __future__ import annotations

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.workers.graphs import Graph, Link
from gracile.workers.methods.base import Rate, State, starts
from gracile.workers.methods.local import LocalTraining
from gracile.workers.network import WorkerNetwork
from gracile.workers.problem import Problem


class TwoStar:
    """Each hub averages its star, the hubs agree on the mean of the two means, and hand it to their leaves.

    Ten messages in three hops on (1, 2)-3-4-(5, 6). As written the stars count alike, which is the mean over all workers
    only where both stars hold equal shares; `weighted` weights by sample counts, which always is.

    Args:
        lr: learning rate, or a function of the round; None takes the optimiser's own.
        local_steps: steps between two means.
        weighted: by sample counts.
        optimizer: of the local steps, a row of `gracile.workers.OPTIMIZERS`; its memory is never sent.

    Raises:
        InputError: a setting out of range, or no such optimiser.
    """

    tolerates_loss = True

    def __init__(
        self, lr: Rate | None = None, local_steps: int = 1, *, weighted: bool = False, optimizer: str = "sgd"
    ) -> None:
        self.local, self.weighted = LocalTraining(lr, local_steps, optimizer), weighted

    def start(self, network: WorkerNetwork, problem: Problem) -> State:
        """See `Method`."""
        hubs(network.graph)
        x = starts(network, problem)
        return {"x": x, **self.local.memory(x)}

    def round(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """See `Method`."""
        self.local.run(network, problem, state, number)
        state["x"] = self.agree(network, problem, state["x"], number)

    def agree(self, network: WorkerNetwork, problem: Problem, values: Tensor, number: int) -> Tensor:
        """See `Method`: the three hops."""
        weights = problem.samples if self.weighted else torch.ones(len(network.local))
        return average_two_stars(network, values, weights, means=not self.weighted)

    def rejoin(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """The next mean brings a worker that came back up to date."""


def hubs(graph: Graph) -> Link:
    """The two centres of a two-star graph.

    Raises:
        InputError: the graph is no two-star.
    """
    for a, b in graph.edges:
        rest = [worker for worker in range(graph.workers) if worker not in (a, b)]
        if all(len(graph.neighbours[worker]) == 1 for worker in rest):
            return a, b
    raise InputError(
        f"The graph '{graph.name}' is no two-star: no edge has all other workers as leaves at its ends.",
        "Use graph 'two-star', or the method 'average', which takes any graph.",
    )


def average_two_stars(network: WorkerNetwork, x: Tensor, weights: Tensor, *, means: bool) -> Tensor:
    """The three hops.

    Args:
        network: on a two-star graph.
        x: (len(local), p).
        weights: (len(local),).
        means: combine the two stars as equals; by their weights otherwise.

    Returns:
        (len(local), p); where a message is missing, the rest of what should have been combined.
    """
    centres = hubs(network.graph)
    hub = {leaf: c for c in centres for leaf in network.graph.neighbours[c] if leaf not in centres} | {
        c: c for c in centres
    }
    place = {worker: row for row, worker in enumerate(network.local)}
    scale = weights.to(x)[:, None]
    sums = torch.cat([x * scale, scale], 1)
    up = sorted((leaf, centre) for leaf, centre in hub.items() if leaf != centre)
    found = network.exchange({link: sums[place[link[0]]] for link in up if link[0] in place}, up, sums[0])
    for link, message in sorted(found.items()):
        sums[place[link[1]]].add_(message)
    if means:
        for centre in centres:
            if centre in place:
                sums[place[centre]] /= sums[place[centre], -1].clone()
    across = [centres, centres[::-1]]
    other = network.exchange({link: sums[place[link[0]]] for link in across if link[0] in place}, across, sums[0])
    result = x.clone()
    agreed = {}
    for centre in centres:
        if centre in place:
            # Summed in the same order at both ends, so that the hubs agree to the last bit.
            parts = {centre: sums[place[centre]], **{link[0]: m for link, m in other.items() if link[1] == centre}}
            total = sum((parts[c] for c in sorted(parts)), torch.zeros_like(sums[0]))
            agreed[centre] = result[place[centre]] = total[:-1] / total[-1]
    down = [(centre, leaf) for leaf, centre in up]
    for link, message in network.exchange(
        {way: agreed[way[0]] for way in down if way[0] in agreed}, down, x[0]
    ).items():
        result[place[link[1]]] = message
    return result
