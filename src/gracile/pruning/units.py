"""What is pruned: single weights, or channels with every slice of every weight that reads them."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gracile.channels import ChannelGraph, trace
from gracile.channels.grouping import whole_groups
from gracile.core.errors import InputError, pick
from gracile.core.prunable import Weight
from gracile.core.summary import LayerSummary, zeros
from gracile.pruning.shares import Amount, Budget, Scope, survivors

log = logging.getLogger("gracile")
Unit = Literal["weight", "channel"]
# The share of the multiply-adds that may stay unused below a budget, and how many channels are tried to fill it.
UNUSED, TRIED = 0.005, 64


class Units(Protocol):
    """The ways to cut a network."""

    def cut(self, values: list[Tensor], share: Amount, scope: Scope) -> tuple[list[Tensor], list[str]]:
        """Where the smallest units go.

        Args:
            values: shaped like the weights.
            share: of the units that go, or a budget that decides it.
            scope: from each layer or from all together.

        Returns:
            Per weight a mask that broadcasts to it, True where it stays; names of the layers that kept their largest
            unit only because they would have lost all.
        """
        ...

    def check(self, share: Amount) -> Amount:
        """The amount, if the network can be cut so far.

        Raises:
            InputError: it cannot.
        """
        ...

    def rows(self, values: list[Tensor]) -> tuple[LayerSummary, ...]:
        """The layers' summaries if `values` were the weights."""
        ...


class Weights:
    """Single weights, by magnitude."""

    def __init__(self, weights: list[Weight]) -> None:
        self.weights = weights

    def cut(self, values: list[Tensor], share: Amount, scope: Scope) -> tuple[list[Tensor], list[str]]:
        """See `Units`.

        Raises:
            InputError: a budget of multiply-adds.
        """
        if isinstance(share, Budget):
            raise InputError(
                "Zeroing single weights removes no multiply-adds.", "Use unit='channel', or give sparsity."
            )
        masks, guarded = survivors([value.abs().reshape(-1) for value in values], share, scope)
        shaped = [mask.view(value.shape) for mask, value in zip(masks, values, strict=True)]
        return shaped, [self.weights[number].layer for number in guarded]

    def check(self, share: Amount) -> Amount:
        """See `Units`: any share can go."""
        return share

    def rows(self, values: list[Tensor]) -> tuple[LayerSummary, ...]:
        """See `Units`."""
        return tuple(
            LayerSummary(weight.layer, value.numel(), zeros(value))
            for weight, value in zip(self.weights, values, strict=True)
        )


class Channels:
    """Channels as `gracile.channels` couples them: one, or several that only go together across a residual sum.

    Channels are of one *kind* where the same layers make and read them, so that their sizes can be compared. A layer's
    channels are one kind; so are those of a whole residual stage. A channel that a weight beyond those acted on reads, as of a frozen
    layer, is of no kind and stays.

    Attributes:
        graph: the network's channel graph.
        count: how many channels there are.
        kinds: per kind the numbers of its channels.
        makers: per kind the layers that make them.
    """

    def __init__(self, model: nn.Module, example: Tensor | None, weights: list[Weight]) -> None:
        if example is None:
            raise InputError("Channels are found by tracing the network.", "Pass example=one input batch.")
        self.weights = weights
        self.graph = trace(model, example)
        self.count = self.graph.num_groups
        device = weights[0].tensor.device
        by_name = self.graph.group_index()
        whole, index = whole_groups(self.graph, weights)
        self._index = [groups.to(device) for groups in index]
        stay = self.count - int(whole.sum())
        if stay == self.count:
            raise InputError(
                "This model has no channel that can be removed, or all are read by layers that are left out.",
                "A network needs a hidden layer; train and prune all layers.",
            )
        if stay:
            acted = {weight.name for weight in weights}
            readers = [name for name, groups in by_name.items() if name not in acted and (groups >= 0).any()]
            log.warning(
                "%d of %d channels stay whatever is pruned, since %s is left out or frozen and reads them.",
                stay, self.count, ", ".join(f"'{name}'" for name in readers),
            )  # fmt: skip
        self.makers, self.kinds = self._kinds(whole, device)

    @property
    def names(self) -> list[str]:
        """What a message calls the kinds."""
        return [" + ".join(makers) or "the input" for makers in self.makers]

    def restrict(self, layers: Collection[str]) -> None:
        """Leave alone, from now on, every channel that a layer beyond these makes.

        Raises:
            InputError: no channel is left that could go.
        """
        free = [bool(makers) and set(makers) <= set(layers) for makers in self.makers]
        if not any(free):
            raise InputError(
                f"No channel is made by {', '.join(sorted(layers))} alone.",
                f"Name all the layers that make one, such as {self.names[0]}.",
            )
        self.makers = [makers for makers, may_go in zip(self.makers, free, strict=True) if may_go]
        self.kinds = [kind for kind, may_go in zip(self.kinds, free, strict=True) if may_go]

    def _kinds(self, whole: Tensor, device: torch.device) -> tuple[list[list[str]], list[Tensor]]:
        touched: list[list[str]] = [[] for _ in range(self.count)]
        makers: list[list[str]] = [[] for _ in range(self.count)]
        for layer in self.graph.layers:
            for side, labels in (("out", layer.outputs[1]), ("in", None if layer.inputs is None else layer.inputs[1])):
                if labels is None:
                    continue
                for group in np.unique(self.graph.groups_of(labels)):
                    if group >= 0:
                        touched[group].append(f"{layer.name}:{side}")
                        if side == "out":
                            makers[group].append(layer.name)
        found: dict[tuple[str, ...], list[int]] = {}
        for group, layers in enumerate(touched):
            if whole[group]:
                found.setdefault(tuple(layers), []).append(group)
        of_each = [makers[groups[0]] for groups in found.values()]
        return of_each, [torch.tensor(groups, device=device) for groups in found.values()]

    def norms(self, values: list[Tensor]) -> Tensor:
        """l2 norms (channels,) over all slices that read a channel, if `values` were the weights."""
        squares = torch.zeros(self.count + 1, dtype=torch.float64, device=values[0].device)
        for value, index in zip(values, self._index, strict=True):
            squares.index_add_(0, index.reshape(-1) % (self.count + 1), _over(value.detach().double().square(), index))
        # The index -1, a slice that reads no removable channel, wraps round to the last place.
        return squares[: self.count].sqrt()

    def spread(self, numbers: Tensor, rest: float) -> list[Tensor]:
        """Per weight, in a shape that broadcasts to it, the number (channels,) of the channel that each slice reads.

        Args:
            numbers: one a channel.
            rest: for slices that read no removable channel.
        """
        padded = torch.cat([numbers, numbers.new_full((1,), rest)])
        return [padded[index] for index in self._index]

    def filters_l1(self) -> Tensor:
        """l1 norms (channels,) of the filters that make a channel, summed where several layers make it."""
        total = torch.zeros(self.count, dtype=torch.float64)
        for layer in self.graph.layers:
            dim, labels = layer.outputs
            weight = self.graph.parameter(layer.weight).detach().double().abs()
            _add(total, self.graph.groups_of(labels), weight.movedim(dim, 0).flatten(1).sum(1).cpu())
        return total.to(self.weights[0].tensor.device)

    def keep(self, sizes: Tensor, share: Amount, scope: Scope) -> tuple[Tensor, list[str]]:
        """Which channels stay when the smallest go, ``(channels,)`` of bool; and the kinds that were guarded."""
        if isinstance(share, Budget):
            return self._keep_within(sizes, share.macs, scope)
        masks, guarded = survivors([sizes[kind] for kind in self.kinds], share, scope)
        kept = torch.ones(self.count, dtype=torch.bool, device=sizes.device)
        for kind, mask in zip(self.kinds, masks, strict=True):
            kept[kind] = mask
        return kept, [self.names[number] for number in guarded]

    def check(self, share: Amount) -> Amount:
        """The amount, if the network can be cut so far.

        Raises:
            InputError: a budget is out of reach with one channel left of each kind.
        """
        if isinstance(share, Budget):
            kept = self.keep(torch.zeros(self.count), 1 - 1e-9, "layer")[0]
            least = self.graph.count(~kept).macs / self.graph.dense().macs
            if least > share.macs:
                raise InputError(
                    f"The budget macs={share.macs:g} is out of reach: with one channel left of each layer {least:.3g} stays.",
                    "Choose a milder budget.",
                )
        return share

    def _keep_within(self, sizes: Tensor, macs: float, scope: Scope) -> tuple[Tensor, list[str]]:
        """`keep` for the least share that leaves at most these multiply-adds.

        Layers give up whole channels at once, so a share lands below the budget; of the last that went the largest come back as
        far as it allows, and where one is too expensive, as an attention head may be, the largest of those that went before it, so
        that no method leaves a part of its budget unused. A channel that is zero already is counted as gone, so it stays gone.
        """
        kept, guarded = self._least(sizes, macs, scope)
        for kind in self.kinds:
            alive = kept[kind] & (sizes[kind] > 0)
            if bool(alive.any()):
                kept[kind] = alive
        return kept, guarded

    def _least(self, sizes: Tensor, macs: float, scope: Scope) -> tuple[Tensor, list[str]]:
        allowed = macs * self.graph.dense().macs
        left = lambda kept: self.graph.count(~kept.cpu()).macs
        low, high = 0.0, 1.0 - 1e-9
        if left(self.keep(sizes, low, scope)[0]) <= allowed:
            return self.keep(sizes, low, scope)
        while high - low > 1 / (4 * self.count):
            middle = (low + high) / 2
            low, high = (low, middle) if left(self.keep(sizes, middle, scope)[0]) <= allowed else (middle, high)
        kept, guarded = self.keep(sizes, high, scope)
        largest_first = lambda some: some[sizes[some].argsort(descending=True, stable=True)].tolist()
        for channel in largest_first((self.keep(sizes, low, scope)[0] & ~kept).nonzero().flatten()):
            kept[channel] = True
            kept[channel] = left(kept) <= allowed
        for channel in largest_first((~kept & (sizes > 0)).nonzero().flatten())[:TRIED]:
            if allowed - left(kept) <= UNUSED * self.graph.dense().macs:
                break
            kept[channel] = True
            kept[channel] = left(kept) <= allowed
        return kept, guarded

    def masks(self, kept: Tensor) -> list[Tensor]:
        """Per weight a mask that broadcasts to it, False where it reads a channel that is not `kept`."""
        return self.spread(kept, True)

    def cut(self, values: list[Tensor], share: Amount, scope: Scope) -> tuple[list[Tensor], list[str]]:
        """See `Units`; by `norms`, which makes it the Euclidean projection."""
        kept, guarded = self.keep(self.norms(values), share, scope)
        return self.masks(kept), guarded

    def rows(self, values: list[Tensor]) -> tuple[LayerSummary, ...]:
        """See `Units`."""
        found = []
        for weight, value, index in zip(self.weights, values, self._index, strict=True):
            nonzero = torch.zeros(self.count + 1, device=value.device)
            nonzero.index_add_(0, index.reshape(-1) % (self.count + 1), _over((value != 0).float(), index))
            groups = index.unique()
            groups = groups[groups >= 0]
            dead = int((nonzero[groups] == 0).sum())
            found.append(LayerSummary(weight.layer, value.numel(), zeros(value), len(groups), dead))
        return tuple(found)


def batch_norm_scales(graph: ChannelGraph) -> list[tuple[nn.Parameter, np.ndarray]]:
    """The scales of batch-norms that act on removable channels, each with the channel of every entry, -1 for none."""
    # By name: a batch-norm may be called more than once.
    found = {}
    for step in graph.steps:
        for name, dims in step.tensors.items():
            layer, _, attribute = name.rpartition(".")
            if attribute == "weight" and isinstance(graph.model.get_submodule(layer), nn.modules.batchnorm._BatchNorm):
                channels = graph.groups_of(dims[0])
                if (channels >= 0).any():
                    found[name] = graph.model.get_parameter(name), channels
    return list(found.values())


def mean_scales(scales: list[tuple[nn.Parameter, np.ndarray]], count: int) -> Tensor:
    """Mean magnitude (channels,) of the batch-norm scales of each channel; infinite where a channel has none.

    Args:
        scales: from `batch_norm_scales`.
        count: how many channels there are.
    """
    total, number = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for scale, channels in scales:
        _add(total, channels, scale.detach().double().abs().cpu())
        _add(number, channels, torch.ones(len(channels), dtype=torch.float64))
    means = torch.where(number > 0, total / number.clamp(min=1), torch.inf)
    return means.to(scales[0][0].device)


def units(name: str, model: nn.Module, example: Tensor | None, weights: list[Weight]) -> Units:
    """The units of a name.

    Raises:
        InputError: no such unit, or channels without an example.
    """
    return pick(
        {"weight": lambda: Weights(weights), "channel": lambda: Channels(model, example, weights)}, name, "unit"
    )()


def _over(value: Tensor, index: Tensor) -> Tensor:
    """Sums over the dimensions along which `index` has one entry, flat in the order of the index."""
    dims = [dim for dim in range(value.ndim) if index.shape[dim] == 1 and value.shape[dim] > 1]
    return (value.sum(dim=dims, keepdim=True) if dims else value).reshape(-1)


def _add(total: Tensor, channels: np.ndarray, values: Tensor) -> None:
    there = torch.as_tensor(channels >= 0)
    total.index_add_(0, torch.as_tensor(channels)[there], values[there])
