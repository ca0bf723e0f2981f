"""CHOCO-SGD: compressed gossip with error feedback."""

from __future__ import annotations

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.seeding import generator
from gracile.workers.compression import compressor
from gracile.workers.methods.base import Rate, State, rate, starts
from gracile.workers.methods.local import LocalTraining
from gracile.workers.network import WorkerNetwork
from gracile.workers.problem import Problem


class Choco:
    """Workers send compressed changes of what their neighbours believe of them [@koloskova2019, alg. 2].

    After local steps worker i sends q = Q(x_i - h_i), all who know it set h_i <- h_i + q, and
    x_i <- x_i + gamma sum_j w_ij (h_j - h_i). What Q loses stays in x_i - h_i and is sent later. The beliefs h start at
    the common start, which costs no bytes. A lost message would let beliefs differ for ever, so it is not for networks
    that lose them; the link to a worker lost for good is left out.

    Where workers' data differ, each is pulled to an optimum of its own, and the weaker the gossip the farther apart they
    settle. `correction` ends that without a byte more: what gossip has moved worker i back, it gathers in y_i, and
    y_i / local_steps is added to each of its gradients times lr, as in local exact diffusion [@alghunaim2024], here over
    CHOCO's gossip. The y_i sum to zero, so the mean of all workers moves as without.

    Args:
        lr: learning rate, or a function of the round; None takes 0.1.
        local_steps: steps of gradient descent between two exchanges.
        compress: a row of `gracile.workers.COMPRESSORS`.
        gamma: in (0, 1]: how far to go towards the neighbours; the stronger the compression, the smaller.
        correction: in [0, 1]: the share of what gossip moves that is gathered; 0 is CHOCO, 1 the whole, which strong
            compression may not stand.
        seed: of random rounding.

    Raises:
        InputError: no such compressor, or gamma or correction out of range.
    """

    tolerates_loss = False

    def __init__(
        self,
        lr: Rate | None = None,
        local_steps: int = 1,
        compress: str = "top-k:0.01",
        gamma: float = 0.3,
        *,
        correction: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not 0 < gamma <= 1 or not 0 <= correction <= 1:
            raise InputError(
                f"gamma={gamma} and correction={correction} make no method.",
                "Give gamma in (0, 1] and correction in [0, 1].",
            )
        self.local, self.gamma, self.correction, self.seed = LocalTraining(lr, local_steps), gamma, correction, seed
        self.compressor = compressor(compress)

    def start(self, network: WorkerNetwork, problem: Problem) -> State:
        """See `Method`; "h" has a row for every worker that a local one hears of, in increasing order."""
        x = starts(network, problem)
        state = {"x": x, "h": torch.stack([problem.start(worker) for worker in known(network)])}
        return state | ({"y": torch.zeros_like(x)} if self.correction else {})

    def round(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """See `Method`."""
        x, h = state["x"], state["h"]
        pull = None
        if self.correction:
            back = state["y"] / (self.local.local_steps * rate(self.local.lr, number))
            pull = lambda _: back
        self.local.run(network, problem, state, number, pull)
        place = {worker: row for row, worker in enumerate(known(network))}
        messages = {}
        for row, worker in enumerate(network.local):
            random = generator(self.seed, "compression", worker, number, device=x.device)
            messages[worker] = self.compressor.pack(x[row] - h[place[worker]], random)
        matrix = network.matrices[number % len(network.matrices)]
        # Beliefs are kept along every edge, also where a schedule's matrix is silent.
        links = [link for i, j in network.graph.edges for link in ((i, j), (j, i))]
        sent = {link: messages[link[0]] for link in links if link[0] in messages}
        found = network.exchange(sent, links, messages[network.local[0]])
        news = messages | {sender: message for (sender, _), message in found.items()}
        for worker in sorted(news):
            h[place[worker]] += self.compressor.unpack(news[worker], x.shape[1]).to(h)
        for row, i in enumerate(network.local):
            moved = torch.zeros_like(x[row])
            for j in network.graph.neighbours[i]:
                if (j, i) in found and matrix[i, j]:
                    weight = self.gamma * float(matrix[i, j])
                    moved.add_(h[place[j]], alpha=weight).sub_(h[place[i]], alpha=weight)
            x[row] += moved
            if self.correction:
                state["y"][row].sub_(moved, alpha=self.correction)

    def agree(self, network: WorkerNetwork, problem: Problem, values: Tensor, number: int) -> Tensor:
        """See `Method`: a round of gossip, not compressed."""
        return network.mix(values)

    def rejoin(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """Everyone sends its weights once in full, and beliefs and corrections begin anew from there."""
        x, place = state["x"], {worker: row for row, worker in enumerate(network.local)}
        links = [link for i, j in network.graph.edges for link in ((i, j), (j, i))]
        found = network.exchange({link: x[place[link[0]]] for link in links if link[0] in place}, links, x[0])
        full = {worker: x[row] for worker, row in place.items()} | {link[0]: row for link, row in found.items()}
        if self.correction:
            state["y"].zero_()
        state["h"] = torch.stack([full.get(worker, torch.zeros_like(x[0])) for worker in known(network)])


def known(network: WorkerNetwork) -> list[int]:
    """The local workers and their neighbours, in increasing order."""
    around = {j for i in network.local for j in network.graph.neighbours[i]}
    return sorted(around.union(network.local))
