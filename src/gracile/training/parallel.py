"""Data-parallel training: every rank takes its part of each batch, and all take the same step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gracile.core.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """The processes that train together.

    Attributes:
        rank: this one; 0 writes for all.
        size: how many.
    """

    rank: int = 0
    size: int = 1

    @staticmethod
    def current() -> Ranks:
        """Those of the process group that stands; this process alone where there is none."""
        return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Ranks()

    def parallel(self, model: nn.Module) -> nn.Module:
        """The network whose backward pass averages gradients over all ranks, after rank 0's weights went to all."""
        return DistributedDataParallel(model) if self.size > 1 else model

    def share(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
        """This rank's part of a batch, and the factor on its mean loss that makes the mean over ranks the joint batch's.

        Every rank draws the whole batch, so that order and augmentation are those of one process.
        """
        if self.size == 1:
            return x, y, 1.0
        part = torch.arange(len(y)).tensor_split(self.size)[self.rank]
        weight = len(part) * self.size / len(y)
        # Without samples of its own a rank still takes part in the exchange of gradients.
        rows = slice(int(part[0]), int(part[-1]) + 1) if len(part) else slice(0, 1)
        return x[rows], y[rows], weight

    def any(self, *flags: bool, device: torch.device) -> list[bool]:
        """Per flag, whether it is raised on any rank."""
        if self.size == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.int32, device=device)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return raised.bool().tolist()

    def sums(self, loss: Tensor, correct: Tensor, seen: int) -> tuple[Tensor, Tensor, int]:
        """The three sums over all ranks, on every rank."""
        if self.size == 1:
            return loss, correct, seen
        together = torch.stack([loss, correct.double(), torch.tensor(float(seen), device=loss.device).double()])
        dist.all_reduce(together)
        return together[0], together[1].long(), round(float(together[2]))

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


def alone(model: nn.Module) -> nn.Module:
    """The network without the exchange between ranks.

    What a rank asks of it beyond the loss, such as an attack on its part of a batch, must go this way: passes of the
    wrapped network meet those of the other ranks, which need not take as many.
    """
    return model.module if isinstance(model, DistributedDataParallel) else model


@contextmanager
def joined() -> Iterator[Ranks]:
    """Inside, the processes that ``torchrun`` started are one group, by nccl on GPUs and gloo on CPUs.

    Raises:
        InputError: they cannot meet.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield Ranks.current()
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo")
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"The processes cannot meet: {str(error).splitlines()[0]}.", "Start them with torchrun, on a free port."
        ) from error
    try:
        yield Ranks.current()
        # Rank 0 keeps the meeting place: what is left to do there must be done before it goes.
        dist.barrier()
    finally:
        dist.destroy_process_group()
