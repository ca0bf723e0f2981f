"""SCAFFOLD: averaging whose local steps are corrected for where each worker's data would pull it."""

from __future__ import annotations

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.workers.methods.base import Rate, State, rate, starts
from gracile.workers.methods.local import LocalTraining
from gracile.workers.network import WorkerNetwork
from gracile.workers.problem import Problem


class Scaffold:
    """Local steps y_m <- y_m - lr (g_m(y_m) - c_m + c), then the means of y and c [@karimireddy2020, option II].

    c_m is worker m's mean gradient along its own local steps, c the mean over the workers, so that local steps head where
    the mean gradient points however much the data differ. For twice the bytes of `Average`.

    Args:
        lr: learning rate, or a function of the round; None takes 0.1.
        local_steps: steps K between two means; c_m <- c_m - c + (x - y_m) / (K lr).
        server_lr: x <- x + server_lr (mean y - x).
        weighted: both means by sample counts; of equal shares otherwise, as in the paper.
        participation: share of workers, drawn anew for each round, that train and send; all receive the means. Below 1,
            c <- c + participation times the mean of what c_m of those moved.
        seed: of who takes part.

    Raises:
        InputError: a setting out of range.
    """

    def __init__(
        self,
        lr: Rate | None = None,
        local_steps: int = 1,
        server_lr: float = 1.0,
        *,
        weighted: bool = False,
        participation: float = 1.0,
        seed: int = 0,
    ) -> None:
        if not server_lr > 0:
            raise InputError(f"server_lr is {server_lr}.", "Give a number above 0.")
        self.local = LocalTraining(lr, local_steps, "sgd", participation, seed)
        self.server_lr, self.weighted = server_lr, weighted
        # With all taking part c is a fresh mean each round; else what is missed once would be missed for ever.
        self.tolerates_loss = participation == 1

    def start(self, network: WorkerNetwork, problem: Problem) -> State:
        """See `Method`; "c" is the common correction, "own" the worker's."""
        x = starts(network, problem)
        return {"x": x, "c": torch.zeros_like(x), "own": torch.zeros_like(x)}

    def round(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """See `Method`."""
        before, common, own = state["x"].clone(), state["c"], state["own"]
        correction = common - own
        among = self.local.run(network, problem, state, number, lambda x: correction)
        moved = before - state["x"]
        drift = moved / (self.local.local_steps * rate(self.local.lr, number)) - common
        here = [row for row, worker in enumerate(network.local) if among is None or worker in among]
        new = own.clone()
        new[here] += drift[here]
        told = new if among is None else new - own
        mean = self.agree(network, problem, torch.cat([state["x"], told], 1), number)
        size = before.shape[1]
        share = 1.0 if among is None else len(among) / network.workers
        state["x"] = torch.lerp(before, mean[:, :size], self.server_lr)
        state["c"] = mean[:, size:].contiguous() if among is None else common + share * mean[:, size:]
        state["own"] = new

    def agree(self, network: WorkerNetwork, problem: Problem, values: Tensor, number: int) -> Tensor:
        """See `Method`: the mean over those that took part."""
        weights = problem.samples if self.weighted else None
        return network.average(values, weights=weights, among=self.local.taking_part(network, number))

    def rejoin(self, network: WorkerNetwork, problem: Problem, state: State, number: int) -> None:
        """All take the mean of the weights, and of the corrections of those present."""
        weights, size = problem.samples if self.weighted else None, state["x"].shape[1]
        with network.unwatched():
            mean = network.average(torch.cat([state["x"], state["own"]], 1), weights=weights)
        state["x"], state["c"] = mean[:, :size].contiguous(), mean[:, size:].contiguous()
