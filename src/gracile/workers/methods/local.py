"""What workers do on their own between two exchanges, and who of them takes part in a round."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.seeding import generator
from gracile.workers import optimizers
from gracile.workers.methods.base import Rate, State, check_steps, rate
from gracile.workers.network import WorkerNetwork
from gracile.workers.optimizers import SGD, Optimizer
from gracile.workers.problem import Buffered, Problem

Pull = Callable[[Tensor], Tensor]


class LocalTraining:
    """Local steps of those workers that take part in a round.

    Args:
        lr: learning rate, or a function of the round; None takes the optimiser's own.
        local_steps: steps between two exchanges.
        optimizer: a row of `gracile.workers.OPTIMIZERS`; its memory stays with the worker from round to round.
        participation: share of all workers, in (0, 1], that are drawn anew for each round.
        seed: of the draw.

    Raises:
        InputError: a setting out of range, or no such optimiser.
    """

    def __init__(
        self, lr: Rate | None, local_steps: int, optimizer: str = "sgd", participation: float = 1.0, seed: int = 0
    ) -> None:
        self.optimizer = optimizers.optimizer(optimizer)
        self.lr: Rate = self.optimizer.rate if lr is None else lr
        check_steps(self.lr, local_steps)
        if not 0 < participation <= 1:
            raise InputError(f"participation is {participation}.", "Give the share of workers, in (0, 1].")
        self.local_steps, self.participation, self.seed = local_steps, participation, seed

    def memory(self, x: Tensor) -> State:
        """What the state holds of the optimiser, before the first step."""
        return empty(self.optimizer, x, "local")

    def taking_part(self, network: WorkerNetwork, number: int) -> frozenset[int] | None:
        """Who takes part in a round, the same on every process, at least one worker; None for all."""
        if self.participation == 1:
            return None
        count = max(1, round(self.participation * network.workers))
        order = torch.randperm(network.workers, generator=generator(self.seed, "participation", number)).tolist()
        return frozenset(order[:count])

    def run(
        self,
        network: WorkerNetwork,
        problem: Problem,
        state: State,
        number: int,
        pull: Pull | None = None,
    ) -> frozenset[int] | None:
        """The local steps of one round, on ``state["x"]`` in place; who took part.

        Args:
            network: as in `Method.round`.
            problem: as in `Method.round`.
            state: of which "x" is changed.
            number: rounds before this one.
            pull: from the weights (k, p) to what is added to their gradients.
        """
        among = self.taking_part(network, number)
        idle = [row for row, worker in enumerate(network.local) if among is not None and worker not in among]
        if len(idle) == len(network.local):
            return among
        held = [state["x"], *named(state, "local").values()]
        if isinstance(problem, Buffered):
            held.append(problem.buffers)
        before = [rows[idle] for rows in held] if idle else []
        lr = rate(self.lr, number)
        for step in range(number * self.local_steps, (number + 1) * self.local_steps):
            self._step(problem, state, step, lr, pull)
        for rows, kept in zip(held, before, strict=False):
            rows[idle] = kept
        return among

    def _step(self, problem: Problem, state: State, step: int, lr: float, pull: Pull | None) -> None:
        x = state["x"]
        added = None if pull is None else pull(x)
        if isinstance(self.optimizer, SGD):
            problem.descend(x, step, lr)
            if added is not None:
                x.sub_(added, alpha=lr)
            return
        g = problem.gradients(x, step)
        self.optimizer.step(x, g if added is None else g.add_(added), named(state, "local"), lr)


def empty(chosen: Optimizer, x: Tensor, owner: str) -> State:
    """An optimiser's memory before the first step, as part of a method's state.

    Args:
        chosen: the optimiser.
        x: (k, p) the rows it moves.
        owner: tells it from the memory of another optimiser of the same method.
    """
    return {
        f"{owner}.{slot}": x.new_zeros(len(x), 1) if slot == "count" else torch.zeros_like(x) for slot in chosen.slots
    }


def named(state: State, owner: str) -> State:
    """An optimiser's memory, by slot."""
    return {name.removeprefix(f"{owner}."): rows for name, rows in state.items() if name.startswith(f"{owner}.")}
