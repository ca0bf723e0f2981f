"""Master-worker averaging of locally trained weights."""

from __future__ import annotations

from torch import Tensor

from gracile.workers.methods.base import Rate, State, starts
from gracile.workers.methods.local import LocalTraining
from gracile.workers.network import WorkerNetwork
from gracile.workers.problem import Problem


class Average:
    """Each round workers train on their own and then all take the mean of their weights.

    This is the study's master-worker scheme and federated averaging [@mcmahan2017]. The master is the centre of
    the graph; on a star the mean costs one message up and one down for each of the others. A worker that does not reach
    it is left out of that round's mean. Where workers' data differ, many local steps pull the mean away from the common
    optimum: `Scaffold` corrects for it, at twice the bytes.

    Args:
        lr: learning rate, or a function of the round; None takes the optimiser's own.
        local_steps: steps between two means.
        weighted: by sample counts; the mean of equal shares otherwise.
        optimizer: of the local steps, a row of `gracile.workers.OPTIMIZERS`; its memory is never sent.
        participation: share of workers, drawn anew for each round, that train and send; all receive the mean.
        seed: of who takes part.

    Raises:
        InputError: a setting out of range, or no such optimiser.
    """

    tolerates_loss = True

    def __init__(
        self,
        lr: Rate | None = None,
        local_steps: int = 1,
        *,
        weighted: bool = True,
        optimizer: str = "sgd",
        participation: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.local, self.weighted = LocalTraining(lr, local_steps, optimizer, participation, seed), weighted

    def start(self, network: WorkerNetwork, problem: Problem) -> State:
        """See `Method`."""
        x = starts(network, problem)
        return {"x": x, **self.local.memory(x)}

    def round(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """See `Method`."""
        self.local.run(network, problem, state, number)
        state["x"] = self.agree(network, problem, state["x"], number)

    def agree(self, network: WorkerNetwork, problem: Problem, values: Tensor, number: int) -> Tensor:
        """See `Method`: the mean over those that took part."""
        weights = problem.samples if self.weighted else None
        return network.average(values, weights=weights, among=self.local.taking_part(network, number))

    def rejoin(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """The next mean brings a worker that came back up to date."""
