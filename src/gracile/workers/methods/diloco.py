"""DiLoCo: long stretches of AdamW, and one outer step of Nesterov's momentum."""

from __future__ import annotations

from torch import Tensor

from gracile.workers.methods.base import Rate, State
from gracile.workers.methods.fedopt import FedOpt
from gracile.workers.network import WorkerNetwork
from gracile.workers.problem import Problem


class DiLoCo:
    """Inner AdamW, outer SGD with Nesterov's momentum on the mean of what workers have moved [@douillard2023].

    Made for few exchanges: hundreds of local steps between two of them. Workers keep their own AdamW memory.

    Args:
        lr: AdamW's learning rate, or a function of the round.
        local_steps: steps between two exchanges; 500 in the paper.
        outer_lr: of the outer step; 0.7 in the paper.
        beta: momentum of the outer step.
        decay: AdamW's decoupled weight decay.
        weighted: by sample counts.
        participation: share of workers, drawn anew for each round, that train and send; all receive the mean.
        seed: of who takes part.

    Raises:
        InputError: a setting out of range.
    """

    tolerates_loss = False

    def __init__(
        self,
        lr: Rate = 1e-3,
        local_steps: int = 100,
        outer_lr: float = 0.7,
        *,
        beta: float = 0.9,
        decay: float = 0.01,
        weighted: bool = True,
        participation: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.outer = FedOpt(
            lr,
            local_steps,
            "nesterov",
            outer_lr,
            beta=beta,
            weighted=weighted,
            optimizer=f"adamw:{decay}",
            participation=participation,
            seed=seed,
        )

    def start(self, network: WorkerNetwork, problem: Problem) -> State:
        """See `Method`."""
        return self.outer.start(network, problem)

    def round(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """See `Method`."""
        self.outer.round(network, problem, state, number)

    def agree(self, network: WorkerNetwork, problem: Problem, values: Tensor, number: int) -> Tensor:
        """See `Method`: the mean over those that took part."""
        return self.outer.agree(network, problem, values, number)

    def rejoin(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """As `FedOpt`'s; who comes back keeps its AdamW memory."""
        self.outer.rejoin(network, problem, state, number)
