"""Gradient tracking."""

from __future__ import annotations

from torch import Tensor

from gracile.workers.methods.base import Rate, State, check_steps, rate, starts
from gracile.workers.network import WorkerNetwork
from gracile.workers.problem import Problem


class GradientTracking:
    """x <- W (x - lr y), y <- W (y + g(x_new) - g(x)): y follows the mean gradient [@xu2015; @nedic2017].

    With exact gradients it reaches the optimum at a constant rate however much the data differ, for two messages per link
    and round. sum_m y_m = sum_m g_m holds after every round in which no message is lost.

    Args:
        lr: learning rate, or a function of the round.
    """

    tolerates_loss = True

    def __init__(self, lr: Rate = 0.2) -> None:
        check_steps(lr, 1)
        self.lr = lr

    def start(self, network: WorkerNetwork, problem: Problem) -> State:
        """See `Method`."""
        x = starts(network, problem)
        g = problem.gradients(x, 0)
        return {"x": x, "y": g.clone(), "g": g}

    def round(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """See `Method`."""
        x = network.mix(state["x"].sub(state["y"], alpha=rate(self.lr, number)))
        # Both vectors of a round go by the same matrix of a schedule.
        network.mixings -= 1
        g = problem.gradients(x, number + 1)
        with network.unwatched():
            state["y"] = network.mix(state["y"] + g - state["g"])
        state["x"], state["g"] = x, g

    def agree(self, network: WorkerNetwork, problem: Problem, values: Tensor, number: int) -> Tensor:
        """See `Method`: by the matrix of the round."""
        network.mixings -= 1
        return network.mix(values)

    def rejoin(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """Trackers begin anew from the local gradients: only so do they sum to the gradients of those present."""
        state["g"] = problem.gradients(state["x"], number)
        state["y"] = state["g"].clone()
