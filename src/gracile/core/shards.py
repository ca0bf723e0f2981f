"""Weights that lie in parts on several processes (`torch.distributed.tensor.DTensor`, as `fully_shard` makes them).

What acts on single weights acts on the part at hand; sums over a weight are reduced over the processes that share it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor. Nothing is imported to find out: where there are any, the module is there."""
    if type(tensor) in (Tensor, nn.Parameter):
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """The part that lies here, sharing memory; the tensor itself if it is whole."""
    return cast(Any, tensor).to_local() if is_sharded(tensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from all processes; all of them must call this."""
    return cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor


def sharded_like(part: Tensor, tensor: Tensor) -> Tensor:
    """A tensor laid out over the processes as `tensor` is, of which `part` lies here."""
    if not is_sharded(tensor):
        return part
    from torch.distributed.tensor import DTensor

    whole = cast(Any, tensor)
    return DTensor.from_local(
        part, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def local_part(whole: Tensor, tensor: Tensor) -> Tensor:
    """The part of `whole`, known on every process, that goes with the part of `tensor` that lies here.

    Args:
        whole: broadcastable to `tensor`; dimensions of size 1 stay.
        tensor: perhaps sharded.

    Raises:
        InputError: it is sharded in another way than in stretches of a dimension.
    """
    if not is_sharded(tensor):
        return whole
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    sharded = cast(Any, tensor)
    placements = []
    for placement in sharded.placements:
        if type(placement) not in (Shard, Replicate):
            raise InputError(
                f"A weight is laid out over processes as {placement}, of which no part can be told.",
                "Shard it with fully_shard alone, or leave the layer out with layers=[...].",
            )
        along = isinstance(placement, Shard) and whole.shape[placement.dim] > 1
        placements.append(placement if along else Replicate())
    mesh = sharded.device_mesh
    part = distribute_tensor(whole.to(mesh.device_type), mesh, placements, src_data_rank=None).to_local()
    return part.to(local(tensor).device)


def sum_over_parts(totals: dict[Any, Tensor]) -> Tensor:
    """Add up totals, each first summed over the processes that its key names; see `Layout.reduced_over`."""
    found: Tensor | None = None
    for key, total in totals.items():
        if key is not None:
            mesh, dims = key
            reduced = total.to(mesh.device_type)
            for dim in dims:
                torch.distributed.all_reduce(reduced, group=mesh.get_group(dim))
            total = reduced.to(total.device)
        found = total if found is None else found + total
    assert found is not None
    return found


@dataclass(frozen=True)
class Layout:
    """How a sharded tensor lies over processes.

    Attributes:
        mesh: the processes.
        placements: per dimension of the mesh, what lies where.
    """

    mesh: Any
    placements: tuple[Any, ...]

    @property
    def reduced_over(self) -> Any:
        """The processes that hold the other parts, as a key for `sum_over_parts`."""
        return self.mesh, tuple(dim for dim, placement in enumerate(self.placements) if not placement.is_replicate())


def layout(tensor: Tensor) -> Layout | None:
    """How a tensor lies over processes; None if it is whole here."""
    if not is_sharded(tensor):
        return None
    return Layout(cast(Any, tensor).device_mesh, tuple(cast(Any, tensor).placements))


def laid_out_alike(one: Tensor, other: Tensor) -> bool:
    """Whether the same parts of both lie here."""
    return layout(one) == layout(other)


def check_whole(model: nn.Module) -> None:
    """Refuse to trace a model that lies in parts.

    Raises:
        InputError: it does.
    """
    if any(is_sharded(parameter) for parameter in model.parameters()):
        raise InputError(
            "The model lies in parts on several processes, and channels are found in a whole one.",
            "Build the splitting before fully_shard.",
        )


def reshard(model: nn.Module) -> None:
    """Put the parts back that `fully_shard` gathered for a forward pass, so that the model's parameters are those trained."""
    module = sys.modules.get("torch.distributed.fsdp")
    if module is not None:
        for part in model.modules():
            if isinstance(part, module.FSDPModule):
                cast(Any, part).reshard()
