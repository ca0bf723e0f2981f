"""What every method offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.workers.network import WorkerNetwork
from gracile.workers.problem import Problem

# Named tensors of one row per local worker; "x" holds the weights.
State = dict[str, Tensor]
Rate = float | Callable[[int], float]


class Method(Protocol):
    """One method of training over a network.

    Attributes:
        tolerates_loss: whether it can go on where a message is lost or late; all go on where a worker is lost for good.
    """

    tolerates_loss: bool

    def start(self, network: WorkerNetwork, problem: Problem) -> State:
        """The state before the first round."""
        ...

    def round(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """One round, in place.

        Args:
            network: joins the workers.
            problem: what they minimise.
            state: as `start` made it.
            number: rounds before this one.
        """
        ...

    def agree(self, network: WorkerNetwork, problem: Problem, values: Tensor, number: int) -> Tensor:
        """Bring something else of the workers together the way this method brings weights together.

        Args:
            network: as in `round`.
            problem: as in `round`.
            values: (len(local), ...), such as running statistics.
            number: of the round just done.
        """
        ...

    def rejoin(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """Make what workers know of one another fit again, after some left or came back with an older state."""
        ...


def starts(network: WorkerNetwork, problem: Problem) -> Tensor:
    """(len(local), p): where the local workers begin."""
    return torch.stack([problem.start(worker) for worker in network.local])


def rate(lr: Rate, number: int) -> float:
    """The learning rate of a round."""
    return lr(number) if callable(lr) else lr


def check_steps(lr: Rate, local_steps: int) -> None:
    """Refuse learning rates and step counts that train nothing.

    Raises:
        InputError: lr not above 0, or less than one local step.
    """
    if local_steps < 1 or not rate(lr, 0) > 0:
        raise InputError(
            f"lr={rate(lr, 0)} and local_steps={local_steps} train nothing.", "Give lr > 0, local_steps >= 1."
        )
