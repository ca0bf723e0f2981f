"""Consensus ADMM."""

from __future__ import annotations

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.seeding import derive_seed
from gracile.workers.methods.base import Rate, State, check_steps, rate, starts
from gracile.workers.network import WorkerNetwork
from gracile.workers.problem import Problem, Proximal


class ADMM:
    """x <- argmin f(x) + y'(x - z) + rho/2 |x - z|^2, z <- mean(x + y / rho), y <- y + rho (x - z) [@boyd2011, 7.1].

    The x-step is closed form where the problem has one, else gradient steps on the augmented Lagrangian. Asynchronous,
    the mean is taken over what each worker last sent [@zhang2014]: late and lost messages delay only themselves.

    Args:
        rho: penalty, above 0.
        gossip: rounds of gossip for z; None for the exact mean.
        asynchronous: remember each subtree's last message; needs the exact mean.
        active: probability that a worker finishes its x-step in time for a round; below 1 it simulates slow workers.
        lr, local_steps: of inexact x-steps.
        seed: of who is active.

    Raises:
        InputError: a setting out of range, or asynchronous gossip.
    """

    tolerates_loss = True

    def __init__(
        self,
        rho: float = 1.0,
        gossip: int | None = None,
        *,
        asynchronous: bool = False,
        active: float = 1.0,
        lr: Rate = 0.1,
        local_steps: int = 1,
        seed: int = 0,
    ) -> None:
        check_steps(lr, local_steps)
        if not rho > 0 or not 0 < active <= 1 or (gossip is not None and gossip < 1):
            raise InputError(
                f"rho={rho}, active={active} and gossip={gossip} make no method.",
                "Give rho > 0, active in (0, 1], and gossip >= 1 or none.",
            )
        if asynchronous and gossip is not None:
            raise InputError("Asynchronous ADMM remembers messages of the exact mean.", "Leave out gossip.")
        self.rho, self.gossip, self.asynchronous, self.active = rho, gossip, asynchronous, active
        self.lr, self.local_steps, self.seed = lr, local_steps, seed

    def start(self, network: WorkerNetwork, problem: Problem) -> State:
        """See `Method`.

        Asynchronous, "heard" holds what the subtree below each worker last sent, and "mean" the last mean; each has its weight,
        or whether it is there, as one number more.
        """
        x = starts(network, problem)
        state = {"x": x, "y": torch.zeros_like(x), "z": x.clone()}
        if self.asynchronous:
            state |= {
                "heard": x.new_zeros(network.workers, x.shape[1] + 1),
                "mean": x.new_zeros(len(x), x.shape[1] + 1),
            }
        return state

    def round(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """See `Method`."""
        x, y, z = state["x"], state["y"], state["z"]
        moved = self._x_step(problem, x, z - y / self.rho, number)
        # Who is not in time keeps x and y; its last message counts on.
        late = [row for row, worker in enumerate(network.local) if not self._in_time(worker, number)]
        moved[late] = x[late]
        with network.unwatched():
            z = self._mean(network, state, moved + y / self.rho)
        dual = y + self.rho * (moved - z)
        dual[late] = y[late]
        state.update(x=moved, y=dual, z=z)

    def _mean(self, network: WorkerNetwork, state: State, values: Tensor) -> Tensor:
        if not self.asynchronous:
            return network.average(values, self.gossip)
        heard, mean = state["heard"], state["mean"]
        memory = {worker: heard[worker] for worker in range(network.workers) if heard[worker, -1] > 0}
        if mean[0, -1] > 0:
            memory[-1] = mean[:, :-1]
        found = network.average(values, memory=memory)
        for worker, row in memory.items():
            if worker >= 0:
                heard[worker] = row
        mean[:, :-1], mean[:, -1] = memory[-1], 1
        return found

    def _x_step(self, problem: Problem, x: Tensor, v: Tensor, number: int) -> Tensor:
        if isinstance(problem, Proximal):
            return problem.proximal(v, self.rho)
        x, lr = x.clone(), rate(self.lr, number)
        for step in range(number * self.local_steps, (number + 1) * self.local_steps):
            pull = x - v
            problem.descend(x, step, lr)
            x.sub_(pull, alpha=lr * self.rho)
        return x

    def _in_time(self, worker: int, number: int) -> bool:
        return self.active == 1 or derive_seed(self.seed, "active", worker, number) / 2**63 < self.active

    def agree(self, network: WorkerNetwork, problem: Problem, values: Tensor, number: int) -> Tensor:
        """See `Method`: the mean, exact or by gossip."""
        return network.average(values, self.gossip)

    def rejoin(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """What was remembered of those who left is forgotten."""
        if self.asynchronous:
            state["heard"].zero_()
            state["mean"].zero_()
