"""FedOpt: the mean of what workers have moved is a gradient for an optimiser of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gracile.core.errors import InputError, pick
from gracile.workers.methods.average import Average
from gracile.workers.methods.base import Rate, State
from gracile.workers.methods.local import empty, named
from gracile.workers.network import WorkerNetwork
from gracile.workers.optimizers import Adam, Momentum, Optimizer
from gracile.workers.problem import Problem

# Name to a function from beta, beta2 and eps to the server's optimiser, as @reddi2021 write them.
SERVERS: dict[str, Callable[[float, float, float], Optimizer]] = {
    "adam": lambda beta, beta2, eps: Adam(beta, beta2, eps, corrected=False),
    "momentum": lambda beta, beta2, eps: Momentum(beta),
    "nesterov": lambda beta, beta2, eps: Momentum(beta, nesterov=True),
    "yogi": lambda beta, beta2, eps: Adam(beta, beta2, eps, corrected=False, sign=True),
}


class FedOpt:
    """Local steps, the mean D of what workers have moved, and a step of the server by -D [@reddi2021, alg. 2].

    `server="momentum"` is FedAvgM [@hsu2019], "adam" FedAdam, "yogi" FedYogi. Every worker takes the
    server's step itself, since all know D: the bytes are those of `Average`, any worker may be lost, and all keep the same
    weights. A worker that misses a mean would fall out of step for ever, so messages may not be lost.

    Args:
        lr: learning rate of the local steps, or a function of the round; None takes the optimiser's own.
        local_steps: steps between two means.
        server: "momentum", "nesterov", "adam" or "yogi".
        server_lr: the server's learning rate. "momentum" of 0 and a rate of 1 are `Average`; "adam" wants 0.001 to 0.1.
        beta: the server's momentum.
        beta2: its mean of squares; "adam" and "yogi" only.
        eps: added to their root: how small a step counts as small; they begin from a mean square of eps^2.
        weighted, optimizer, participation, seed: see `Average`.

    Raises:
        InputError: a setting out of range, or no such optimiser.
    """

    tolerates_loss = False

    def __init__(
        self,
        lr: Rate | None = None,
        local_steps: int = 1,
        server: str = "adam",
        server_lr: float = 0.01,
        *,
        beta: float = 0.9,
        beta2: float = 0.99,
        eps: float = 1e-3,
        weighted: bool = True,
        optimizer: str = "sgd",
        participation: float = 1.0,
        seed: int = 0,
    ) -> None:
        if not server_lr > 0:
            raise InputError(f"server_lr is {server_lr}.", "Give a number above 0.")
        self.server, self.server_lr, self.eps = pick(SERVERS, server, "server")(beta, beta2, eps), server_lr, eps
        self.average = Average(
            lr, local_steps, weighted=weighted, optimizer=optimizer, participation=participation, seed=seed
        )

    def start(self, network: WorkerNetwork, problem: Problem) -> State:
        """See `Method`."""
        state = self.average.start(network, problem)
        memory = empty(self.server, state["x"], "server")
        if "server.square" in memory:
            memory["server.square"].fill_(self.eps**2)
        return {**state, **memory}

    def round(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """See `Method`."""
        before = state["x"].clone()
        self.average.local.run(network, problem, state, number)
        moved = before - self.agree(network, problem, state["x"], number)
        self.server.step(before, moved, named(state, "server"), self.server_lr)
        state["x"] = before

    def agree(self, network: WorkerNetwork, problem: Problem, values: Tensor, number: int) -> Tensor:
        """See `Method`: the mean over those that took part."""
        return self.average.agree(network, problem, values, number)

    def rejoin(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """All take the mean of the weights and of the server's memory, so that they are in step again."""
        shared = [name for name in state if name == "x" or name.startswith("server.")]
        widths = [state[name].shape[1] for name in shared]
        with network.unwatched():
            together = network.average(torch.cat([state[name] for name in shared], 1))
        state.update(zip(shared, (part.contiguous() for part in together.split(widths, 1)), strict=True))
