"""Decentralised stochastic gradient descent."""

from __future__ import annotations

from torch import Tensor

from gracile.core.errors import InputError
from gracile.workers.methods.base import Rate, State, starts
from gracile.workers.methods.local import LocalTraining
from gracile.workers.network import WorkerNetwork
from gracile.workers.problem import Problem


class DecentralisedSGD:
    """Local steps, then gossip with the neighbours: x <- W (x - lr g) [@lian2017; adapt, then combine].

    With a constant rate workers settle around the optimum, the farther from it the more their data differ.

    Args:
        lr: learning rate, or a function of the round; None takes the optimiser's own.
        local_steps: steps between two exchanges.
        gossip: rounds of gossip per exchange.
        optimizer: of the local steps, a row of `gracile.workers.OPTIMIZERS`; its memory is never sent.
        participation: share of workers, drawn anew for each round, that train and talk to one another; the others rest.
        seed: of who takes part.

    Raises:
        InputError: a setting out of range, or no such optimiser.
    """

    tolerates_loss = True

    def __init__(
        self,
        lr: Rate | None = None,
        local_steps: int = 1,
        gossip: int = 1,
        *,
        optimizer: str = "sgd",
        participation: float = 1.0,
        seed: int = 0,
    ) -> None:
        if gossip < 1:
            raise InputError(f"gossip is {gossip}.", "Give at least one round per exchange.")
        self.local, self.gossip = LocalTraining(lr, local_steps, optimizer, participation, seed), gossip

    def start(self, network: WorkerNetwork, problem: Problem) -> State:
        """See `Method`."""
        x = starts(network, problem)
        return {"x": x, **self.local.memory(x)}

    def round(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """See `Method`."""
        self.local.run(network, problem, state, number)
        state["x"] = self.agree(network, problem, state["x"], number)

    def agree(self, network: WorkerNetwork, problem: Problem, values: Tensor, number: int) -> Tensor:
        """See `Method`: gossip among those that took part."""
        return network.mix(values, self.gossip, among=self.local.taking_part(network, number))

    def rejoin(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """Gossip draws a worker that came back towards the others."""
