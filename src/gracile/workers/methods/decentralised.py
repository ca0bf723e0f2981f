"""Decentralised stochastic gradient descent."""

from __future__ import annotations

from gracile.workers.methods.base import Rate, State, check_steps, local_descent, starts
from gracile.workers.network import WorkerNetwork
from gracile.workers.problem import Problem


class DecentralisedSGD:
    """Local steps, then gossip with the neighbours: x <- W (x - lr g) (Lian et al. 2017; adapt, then combine).

    With a constant rate workers settle around the optimum, the farther from it the more their data differ.

    Args:
        lr: learning rate, or a function of the round.
        local_steps: steps of gradient descent between two exchanges.
        gossip: rounds of gossip an exchange.
    """

    tolerates_loss = True

    def __init__(self, lr: Rate, local_steps: int = 1, gossip: int = 1) -> None:
        check_steps(lr, local_steps)
        self.lr, self.local_steps, self.gossip = lr, local_steps, gossip

    def start(self, network: WorkerNetwork, problem: Problem) -> State:
        """See `Method`."""
        return {"x": starts(network, problem)}

    def round(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """See `Method`."""
        local_descent(problem, state["x"], number, self.local_steps, self.lr)
        state["x"] = network.mix(state["x"], self.gossip)

    def rejoin(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """Gossip draws a worker that came back towards the others."""
