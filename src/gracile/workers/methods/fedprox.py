"""FedProx: averaging with local steps held back."""

from __future__ import annotations

from torch import Tensor

from gracile.core.errors import InputError
from gracile.workers.methods.average import Average
from gracile.workers.methods.base import Rate, State
from gracile.workers.network import WorkerNetwork
from gracile.workers.problem import Problem


class FedProx:
    """Local steps on f_m(x) + mu/2 |x - x_0|^2, with x_0 the last mean, then the mean [@li2020, alg. 2].

    It holds workers together where their data differ or some do far more local work than others; a large `mu` slows all
    of them. The bytes are those of `Average`.

    Args:
        lr: learning rate, or a function of the round; None takes the optimiser's own.
        local_steps: steps between two means.
        mu: from 0 on, where it is `Average`; 1, 0.1, 0.01 and 0.001 are usual.
        weighted, optimizer, participation, seed: see `Average`.

    Raises:
        InputError: a setting out of range, or no such optimiser.
    """

    tolerates_loss = True

    def __init__(
        self,
        lr: Rate | None = None,
        local_steps: int = 1,
        mu: float = 0.01,
        *,
        weighted: bool = True,
        optimizer: str = "sgd",
        participation: float = 1.0,
        seed: int = 0,
    ) -> None:
        if not mu >= 0:
            raise InputError(f"mu is {mu}.", "Give a number from 0 on.")
        self.mu = mu
        self.average = Average(
            lr, local_steps, weighted=weighted, optimizer=optimizer, participation=participation, seed=seed
        )

    def start(self, network: WorkerNetwork, problem: Problem) -> State:
        """See `Method`."""
        return self.average.start(network, problem)

    def round(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """See `Method`."""
        before = state["x"].clone()
        self.average.local.run(network, problem, state, number, lambda x: self.mu * (x - before))
        state["x"] = self.agree(network, problem, state["x"], number)

    def agree(self, network: WorkerNetwork, problem: Problem, values: Tensor, number: int) -> Tensor:
        """See `Method`: the mean over those that took part."""
        return self.average.agree(network, problem, values, number)

    def rejoin(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """The next mean brings a worker that came back up to date."""
