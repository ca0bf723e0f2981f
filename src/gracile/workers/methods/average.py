"""Master-worker averaging of locally trained weights."""

from __future__ import annotations

from gracile.workers.methods.base import Rate, State, check_steps, local_descent, starts
from gracile.workers.network import WorkerNetwork
from gracile.workers.problem import Problem


class Average:
    """Each round workers train on their own and then all take the mean of their weights.

    This is the seed's master-worker scheme and federated averaging (McMahan et al. 2017). The master is the centre of
    the graph; on a star the mean costs one message up and one down for each of the others. A worker that does not reach
    it is left out of that round's mean.

    Args:
        lr: learning rate, or a function of the round.
        local_steps: steps of gradient descent between two means.
        weighted: by sample counts; the mean of equal shares otherwise.
    """

    tolerates_loss = True

    def __init__(self, lr: Rate, local_steps: int = 1, *, weighted: bool = True) -> None:
        check_steps(lr, local_steps)
        self.lr, self.local_steps, self.weighted = lr, local_steps, weighted

    def start(self, network: WorkerNetwork, problem: Problem) -> State:
        """See `Method`."""
        return {"x": starts(network, problem)}

    def round(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """See `Method`."""
        local_descent(problem, state["x"], number, self.local_steps, self.lr)
        state["x"] = network.average(state["x"], weights=problem.samples if self.weighted else None)

    def rejoin(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """The next mean brings a worker that came back up to date."""
