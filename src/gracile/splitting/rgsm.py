"""RGSM, the relaxed group-wise splitting method: channels and other groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from gracile.channels.grouping import GROUPINGS, Grouping, coupled, within_layers
from gracile.core.errors import InputError, check_state, nearest
from gracile.core.optimizers import add_term, held
from gracile.core.prunable import check_not_flattened, weights
from gracile.core.shards import check_whole, full, layout, local, local_part, reshard, sharded_like, sum_over_parts
from gracile.core.summary import LayerSummary, Summary, zeros
from gracile.penalties import GroupPenalty, grouped, soft_threshold
from gracile.penalties.base import Steered, critical_mu
from gracile.penalties.table import Named
from gracile.splitting.base import Coupling, VariableSplitting, parameter_count
from gracile.splitting.worth import Worth

# Inside the square root of the smooth group lasso on w [@dinh2020, section 4.1]: keeps its gradient finite at a zero group.
SMOOTH = 1e-8
# Halvings with which the mu is found at which a group dies, where it has no closed form: to float32's precision.
BISECTIONS = 26

Weighting = Literal["none", "size", "start"]


@dataclass(frozen=True)
class _Fates:
    """What becomes of the groups.

    Attributes:
        norms: l2 norms of the groups of w, ``(groups + 1,)``; the last is the dummy's.
        factors: what u multiplies each soft-thresholded group by, ``(groups + 1,)``.
        thresholds: what each group's entries are soft-thresholded at before, ``(groups + 1,)``; None for penalties on
            norms alone.
        collapsed: which layers would have lost all groups, ``(layers,)`` bool.
    """

    norms: Tensor
    factors: Tensor
    thresholds: Tensor | None
    collapsed: Tensor


class RGSM(VariableSplitting):
    """Relaxed group-wise splitting: whole groups of weights reach zero together [@yang2019; @dinh2020, section 4.1].

    Args:
        model: trained in place by your loop.
        penalty: a row of `gracile.penalties.GROUPED`, a row with settings, such as
            ``{"name": "sparse_group_lasso", "l1_ratio": 0.2}``, or an instance. ``group_l0`` pulls at the groups that are to go and
            leaves the others alone; ``group_lasso``, the papers' other one, shrinks those too.
        lam: weight of the penalty on u, at least 0 (the papers' lam1).
        beta: strength of the coupling, above 0. A group becomes 0 below the l2 norm ``lam/beta`` for group lasso,
            ``sqrt(2 lam/beta)`` for group l0.
        lam2: weight of a smooth group lasso on w itself, ``lam2 sum_g sqrt(|w_g|^2 + 1e-8)``. The papers leave it out or take 1e-5;
            under a budget 3e-3 was the best of 0 to 1e-2 beside a weight decay of 5e-4, and 0 to 1e-3 beside one that serves a short
            run better, see ``docs/comparison.md``.
        grouping: ``input_channel`` (the papers), ``output_filter``, ``kernel``, ``row``, ``block`` (4 consecutive inputs of an
            output at a kernel position; ``block:8``, ``block:4x4`` for outputs x inputs), or ``coupled``: a channel with every
            slice that must vanish for it to be physically removable, which needs `example`. By default ``coupled`` when an
            example is given, else ``input_channel``.
        example: one input batch, for ``coupled``.
        layers: ``all``, a kind (``conv``, ``linear``, ``embedding``, ``recurrent``), or names of modules or parameters. By
            default all for ``coupled``, else convolutions, or everything where there are none.
        weighting: how groups of different make are compared: ``none`` (the papers) by their l2 norms; ``size`` by norm over
            the square root of the group's size [@yuan2006]; ``start`` by norm over that of an average group of the
            same layers when the splitting is built, so that lam / beta is the share of its first size below which a group
            dies. With weights c_g the penalty is ``sum_g c_g^2 P(|u_g| / c_g)``. By default ``start`` for ``coupled``, else
            ``none``.
        keep_last: a layer about to lose all its groups keeps its strongest, unshrunk.
        coupling: as in RVSM.
        restart: `end_epoch` makes w become u.

    Raises:
        InputError: coefficients out of range, an unknown penalty or grouping, a penalty on single weights, no
            example for ``coupled``, a model that cannot be traced.

    >>> import torch
    >>> model = torch.nn.Conv2d(2, 1, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([2.0, 0.1]).view(1, 2, 1, 1))
    >>> split = RGSM(model, "group_lasso", lam=0.5, beta=1.0)
    >>> split.sparse_model().weight.flatten().tolist()
    [1.5, 0.0]
    """

    def __init__(
        self,
        model: nn.Module,
        penalty: Named | GroupPenalty = "group_l0",
        lam: float = 1e-3,
        beta: float = 1.0,
        *,
        lam2: float = 0.0,
        grouping: str | None = None,
        example: Tensor | None = None,
        layers: str | Sequence[str] | None = None,
        weighting: Weighting | None = None,
        keep_last: bool = True,
        coupling: Coupling = "gradient",
        restart: bool = False,
    ) -> None:
        if grouping is None:
            grouping = "input_channel" if example is None else "coupled"
        if grouping not in GROUPINGS and not grouping.startswith("block:"):
            raise InputError(f"There is no grouping '{grouping}'.", nearest(grouping, GROUPINGS))
        weighting = weighting or ("start" if grouping == "coupled" else "none")
        if weighting not in get_args(Weighting):
            raise InputError(f"There is no weighting '{weighting}'.", nearest(weighting, get_args(Weighting)))
        if not lam2 >= 0:
            raise InputError(f"lam2 must be at least 0, not {lam2}.", "The papers use 1e-5, or leave it out.")
        if layers is None:
            layers = "all" if grouping == "coupled" or not _has_convolution(model) else "conv"
        super().__init__(model, lam=lam, beta=beta, layers=layers, coupling=coupling, restart=restart)
        check_not_flattened(self.weights)
        self.penalty: GroupPenalty = grouped(penalty)
        self.lam2 = float(lam2)
        self.grouping = grouping
        self.keep_last = keep_last
        if grouping == "coupled":
            if example is None:
                raise InputError(
                    "grouping='coupled' follows an example through the network, and none was given.",
                    "Pass example=one input batch, or use grouping='input_channel'.",
                )
            check_whole(self.model)
            self._set_groups(coupled(self.model, example, self.weights))
        else:
            self._set_groups(within_layers(grouping, self.weights))
        self._scales = self._first_scales = self._group_scales(weighting)
        # Set by a dial that ranks groups by it.
        self.worth: Worth | None = None

    def _set_groups(self, groups: Grouping) -> None:
        """Lay out index tensors on the weights' device and which slices belong to which layer."""
        # One more, dummy, group takes the slices that belong to none: its factor is always 1.
        self.num_groups, self._carried = groups.groups, groups.carried
        self._dummy = groups.groups
        device = local(self.weights[0].tensor).device
        self._index = [index.masked_fill(index < 0, self._dummy).to(device) for index in groups.index]
        # The parts of them that go with the parts of the weights that lie here, and which weights that was found for.
        self._parts: list[tuple[Any, Tensor]] = [(None, index) for index in self._index]
        slices = [index.unique() for index in self._index]
        slices = [names[names != self._dummy] for names in slices]
        self._slice_group = torch.cat(slices)
        self._slice_layer = torch.cat([torch.full_like(names, layer) for layer, names in enumerate(slices)])
        if len(self._slice_group) == 0:
            raise InputError(
                f"grouping='{self.grouping}' finds no group in this model: no channel can be removed.",
                "A network needs at least one hidden layer; check layers=[...].",
            )

    def to(self, device: torch.device) -> None:
        """Move what the splitting holds; done by itself when the model is found to have moved."""
        self._index = [index.to(device) for index in self._index]
        self._parts = [(None, index) for index in self._index]
        self._slice_group, self._slice_layer = self._slice_group.to(device), self._slice_layer.to(device)
        self._scales, self._first_scales = self._scales.to(device), self._first_scales.to(device)

    def _layout(self, tensors: list[Tensor] | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """The parts of w and of the index tensors that lie here, on one device and of one shape.

        Raises:
            InputError: a weight has another shape than when the groups were laid out.
        """
        parameters = [weight.tensor for weight in self.weights]
        if parameters[0].device != self._slice_group.device:
            self.to(parameters[0].device)
        for place, (weight, parameter) in enumerate(zip(self.weights, parameters, strict=True)):
            if parameter.shape != weight.shape:
                raise InputError(
                    f"'{weight.name}' has the shape {tuple(parameter.shape)}, and was {tuple(weight.shape)} when groups were laid "
                    "out.",
                    "Build the splitting after changing layers; in place of FullyShardedDataParallel, which flattens weights, use "
                    "fully_shard.",
                )
            key = layout(parameter)
            if self._parts[place][0] != key:
                self._parts[place] = key, local_part(self._index[place], parameter)
        if tensors is None:
            tensors = [local(parameter.detach()) for parameter in parameters]
        return tensors, [part for _, part in self._parts]

    # Norms and factors.

    @torch.no_grad()
    def _group_scales(self, weighting: Weighting) -> Tensor:
        """c_g, ``(groups + 1,)``: what a group's norm is divided by before it is compared."""
        device = self._slice_group.device
        ones = torch.ones(self.num_groups + 1, dtype=torch.float64, device=device)
        kind = torch.float64 if self.weights[0].tensor.dtype == torch.float64 else torch.float32
        if weighting == "none":
            return ones.to(kind)
        squares = torch.zeros_like(ones)
        for weight, index in zip(self.weights, self._index, strict=True):
            numbers, counts = index.unique(return_counts=True)
            share = counts * (weight.tensor.numel() // index.numel())
            if weighting == "start":
                # An average slice of this layer: its mean square times how many weights the group has here.
                share = share * full(weight.tensor.detach()).double().square().mean()
            squares.index_add_(0, numbers, share.to(squares))
        scales = squares.sqrt()
        return torch.where(scales > 0, scales, ones).to(kind)

    def _group_norms(self, thresholds: Tensor | None = None, tensors: list[Tensor] | None = None) -> Tensor:
        """l2 norms of the groups of w, ``(groups + 1,)``, after soft-thresholding their entries where thresholds are given."""
        tensors, _parts = self._layout(tensors)
        kind = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
        totals: dict[Any, Tensor] = {}
        for (key, index), w in zip(self._parts, tensors, strict=True):
            if thresholds is not None:
                w = soft_threshold(w, thresholds[index].to(w))
            dims = [dim for dim in range(w.ndim) if index.shape[dim] == 1 and w.shape[dim] > 1]
            part = w.to(kind).square()
            part = part.sum(dim=dims, keepdim=True) if dims else part
            whose = None if key is None else key.reduced_over
            if whose not in totals:
                totals[whose] = torch.zeros(self.num_groups + 1, dtype=kind, device=w.device)
            if w.numel():
                totals[whose].index_add_(0, index.reshape(-1), part.reshape(-1))
        return sum_over_parts(totals).sqrt_()

    def _thresholds(self, mu: float | Tensor) -> Tensor | None:
        """What the groups' entries are soft-thresholded at, ``(groups + 1,)``; None if they are not."""
        if not self.penalty.entrywise:
            return None
        thresholds = mu * self.penalty.entrywise * self._scales
        thresholds[self._dummy] = 0
        return thresholds

    def _fates(self, mu: float | None = None, tensors: list[Tensor] | None = None) -> _Fates:
        """What becomes of the groups at this mu, the splitting's own by default."""
        mu = self.mu if mu is None else mu
        norms, thresholds = self._group_norms(tensors=tensors), self._thresholds(mu)
        scales = self._scales.to(norms)
        left = norms if thresholds is None else self._group_norms(thresholds, tensors)
        factors = self.penalty.scale(left / scales, mu)
        # A group of which soft-thresholding left nothing is gone at any scale.
        factors = factors.masked_fill(left == 0, 0.0) if thresholds is not None else factors
        factors[self._dummy] = 1
        layers = len(self.weights)
        slice_factors = factors[self._slice_group]
        slice_norms = (norms / scales)[self._slice_group]
        alive = torch.zeros(layers, dtype=factors.dtype, device=factors.device)
        alive = alive.scatter_reduce(0, self._slice_layer, slice_factors, "amax")
        strongest = torch.zeros_like(alive).scatter_reduce(0, self._slice_layer, slice_norms, "amax")
        # A layer without a group, or all zero from the start, did not collapse by lam.
        collapsed = (alive == 0) & (strongest > 0)
        if self.keep_last:
            keep = collapsed[self._slice_layer] & (slice_norms == strongest[self._slice_layer])
            factors = factors.scatter_reduce(0, self._slice_group, keep.to(factors.dtype), "amax")
            if thresholds is not None:
                thresholds[self._slice_group[keep]] = 0
        return _Fates(norms, factors, thresholds, collapsed)

    def _shadow(self, w: Tensor, index: Tensor, fates: _Fates) -> Tensor:
        """The shadow u of the part of one weight that lies here."""
        if fates.thresholds is not None:
            w = soft_threshold(w, fates.thresholds[index].to(w))
        return w * fates.factors[index].to(w)

    @torch.no_grad()
    def shadow(self) -> dict[str, Tensor]:
        fates, (tensors, parts) = self._fates(), self._layout()
        return {
            weight.name: sharded_like(self._shadow(w, index, fates), weight.tensor)
            for weight, w, index in zip(self.weights, tensors, parts, strict=True)
        }

    @torch.no_grad()
    def penalty_value(self) -> Tensor:
        fates = self._fates()
        norms, factors = fates.norms[: self._dummy].double(), fates.factors[: self._dummy].double()
        scales = self._scales[: self._dummy].double()
        smooth = self.lam2 * (norms.square() + SMOOTH).sqrt().sum()
        if fates.thresholds is None:
            left, gap = norms * factors, (norms * (1 - factors)).square().sum()
            entries = torch.zeros_like(smooth)
        else:
            left = self._group_norms(fates.thresholds)[: self._dummy].double() * factors
            gap, entries = self._entrywise_parts(fates)
        value = (scales.square() * self.penalty.norm_values(left / scales)).sum() + self.penalty.entrywise * entries
        return self.lam * value + self.beta / 2 * gap + smooth

    def _entrywise_parts(self, fates: _Fates) -> tuple[Tensor, Tensor]:
        """``|w - u|^2``, and the l1 norm of u weighed by the groups' c_g."""
        weighed = self._scales.double()
        weighed[self._dummy] = 0
        sums: dict[Any, Tensor] = {}
        tensors, parts = self._layout()
        for (key, _), w, index in zip(self._parts, tensors, parts, strict=True):
            u = self._shadow(w, index, fates)
            here = torch.stack([(w - u).double().square().sum(), (u.double().abs() * weighed[index]).sum()])
            whose = None if key is None else key.reduced_over
            sums[whose] = sums[whose] + here if whose in sums else here
        gap, total = sum_over_parts(sums)
        return gap, total

    @torch.no_grad()
    def critical_mus(self) -> Tensor:
        norms = self._group_norms()
        critical = critical_mu(self.penalty)(norms / self._scales)
        if self.penalty.entrywise:
            # Groups of many entries go before; the share of norm that soft-thresholding leaves falls with mu.
            low = torch.zeros_like(critical)
            for _ in range(BISECTIONS):
                middle = (low + critical) / 2
                left = self._group_norms(self._thresholds(middle)) / self._scales.to(norms)
                gone = self.penalty.scale(left, middle) * left == 0
                critical, low = torch.where(gone, middle, critical), torch.where(gone, low, middle)
        return critical[: self._dummy]

    @torch.no_grad()
    def dead_at(self, mu: float) -> Tensor:
        """Which groups would be zero in u for this mu, ``(groups,)`` bool; zero already counts."""
        fates = self._fates(mu)
        return (fates.factors * fates.norms == 0)[: self._dummy] & self.split_groups()

    def split_groups(self) -> Tensor:
        """The groups of which weights are split, ``(groups,)`` bool; the others never go."""
        return torch.bincount(self._slice_group, minlength=self._dummy) > 0

    def first_layers(self) -> Tensor:
        """The first layer in which each group has weights, ``(groups,)`` of long; the number of layers where none are split."""
        first = torch.full((self._dummy,), len(self.weights), device=self._slice_group.device)
        return first.scatter_reduce(0, self._slice_group, self._slice_layer, "amin")

    def is_last(self, group: int, dead: Tensor) -> bool:
        """Whether a layer that must keep a group would have none without this one.

        Args:
            group: its number.
            dead: the groups that are gone already, ``(groups,)`` bool.
        """
        if not self.keep_last:
            return False
        layers = self._slice_layer[self._slice_group == group]
        alive = ~dead[self._slice_group] & (self._slice_group != group)
        left = torch.zeros(len(self.weights), dtype=torch.long, device=dead.device)
        left.index_add_(0, self._slice_layer, alive.long())
        return bool((left[layers] == 0).any())

    @torch.no_grad()
    def zero_(self, dead: Tensor) -> None:
        """Zero these groups in w itself.

        Args:
            dead: ``(groups,)`` bool.
        """
        gone = torch.cat([dead, dead.new_zeros(1)])
        for w, index in zip(*self._layout(), strict=True):
            w.masked_fill_(gone[index], 0.0)

    @contextmanager
    def without(self, dead: Tensor) -> Iterator[None]:
        """Within this context these groups are zero in w; afterwards they are what they were."""
        tensors, _ = self._layout()
        before = [tensor.clone() for tensor in tensors]
        self.zero_(dead)
        try:
            yield
        finally:
            for tensor, w in zip(tensors, before, strict=True):
                tensor.copy_(w)

    @torch.no_grad()
    def reweigh(self, costs: Tensor) -> None:
        """Let the groups' weights c_g follow what they cost, and what they are worth; for the dial.

        Where `worth` is known, ``|w_g| / c_g`` becomes the square root of worth over cost, so that a rising lam takes groups in
        the order in which the budget is bought with the least harm, as in a knapsack. The r-th of the n of its layer is worth
        n / (r - 1) times what its derivative says: n / r because the groups of a layer are much alike, and a threshold would take
        whole layers one after the other, where now each keeps a share of its groups that rises with what all are worth over what
        all cost; r / (r - 1) because behind a normalisation the derivatives of a layer sum to zero, the more so the fewer it has.

        Where it is not, c_g becomes ``c_g sqrt(cost_g / average cost * r_g)``, with r_g in (0, 1] its rank in its layer by size, the
        strongest first, over the layer's groups: the fewer a layer has left, the more each is worth. Without it the threshold
        would take whole layers one after the other, because groups of one layer start alike.

        Args:
            costs: ``(groups,)``, positive.
        """
        norms = self._group_norms()
        relative = (costs.double() / costs.double().mean()).clamp(min=1e-6).to(norms.device)
        ones = torch.ones(self.num_groups + 1, dtype=torch.float64, device=norms.device)
        if self.worth is not None and self.worth.seen:
            worth = torch.cat([self.worth.mean.double(), ones[:1]]).to(norms.device)
            if self.keep_last:
                ranks, counts = self._ranks(worth)
                # The first of a layer never goes.
                scarce = torch.where(ranks > 1, counts / (ranks - 1), 1e12)
                worth *= ones.scatter_reduce(0, self._slice_group, scarce, "amax")
            size = (worth[: self._dummy] / relative).sqrt()
            # Only their order matters; near 1 they are far from the ends of float32.
            known = size[size > 0]
            size = (size / (known.median() if len(known) else 1.0)).clamp(1e-12, 1e12)
            self._scales = torch.cat([norms[: self._dummy].double() / size, ones[:1]]).to(self._scales)
            self._scales[self._scales == 0] = 1
            return
        # A channel that several layers read is worth what it is worth to the one that needs it most.
        ranks, counts = self._ranks(norms / self._first_scales)
        factor = ones.scatter_reduce(0, self._slice_group, ranks / counts, "amin")
        factor[: self._dummy] *= relative
        self._scales = self._first_scales * factor.sqrt().to(self._first_scales)

    def _ranks(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The rank of each slice's group among its layer's, the largest first from 1 on, and how many the layer has."""
        order = sizes[self._slice_group].argsort(descending=True, stable=True)
        order = order[self._slice_layer[order].argsort(stable=True)]
        counts = torch.bincount(self._slice_layer, minlength=len(self.weights))
        places = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[self._slice_layer[order]]
        ranks = torch.empty(len(order), dtype=torch.float64, device=order.device)
        ranks[order] = (places + 1).double()
        return ranks, counts[self._slice_layer]

    @torch.no_grad()
    def _before_step(self, optimizer: Any, scale: float | Tensor, overflow: Tensor | None, first: bool) -> None:
        if self.worth is not None and first:
            moved, (tensors, parts) = held([optimizer]), self._layout()
            for weight, w, index, (key, _) in zip(self.weights, tensors, parts, self._parts, strict=True):
                gradient = weight.tensor.grad
                if gradient is not None and id(weight.tensor) in moved and gradient.layout is torch.strided:
                    self.worth.add(index, w, local(gradient), scale, None if key is None else key.reduced_over)
        super()._before_step(optimizer, scale, overflow, first)

    def group_sizes(self) -> Tensor:
        """How many weights each group has, ``(groups,)``."""
        sizes = torch.zeros(self.num_groups + 1, dtype=torch.long, device=self._slice_group.device)
        for weight, index in zip(self.weights, self._index, strict=True):
            numbers, counts = index.unique(return_counts=True)
            sizes.index_add_(0, numbers, counts * (weight.tensor.numel() // index.numel()))
        return sizes[: self._dummy]

    def _couple(
        self, tensors: list[Tensor], chosen: list[int], targets: list[Tensor], factors: list[float | Tensor]
    ) -> None:
        fates, (_, parts) = self._fates(tensors=tensors), self._layout(tensors)
        # Both terms multiply w by a number per group: beta (1 - factor) from the coupling, lam2 / sqrt(|w_g|^2 + 1e-8) from
        # lam2. Where entries are thresholded the coupling is what it is, beta (w - u).
        slope = torch.zeros_like(fates.factors) if fates.thresholds is not None else self.beta * (1 - fates.factors)
        if self.lam2:
            slope += self.lam2 / (fates.norms.square() + SMOOTH).sqrt()
        slope[self._dummy] = 0
        for place, index in enumerate(chosen):
            w, factor = tensors[index], factors[place]
            if fates.thresholds is not None:
                term = (w - self._shadow(w, parts[index], fates)).mul_(self.beta)
                add_term(targets[place], term.addcmul_(w, slope[parts[index]].to(w)), factor)
            elif isinstance(factor, Tensor):
                add_term(targets[place], w * slope[parts[index]].to(w), factor)
            else:
                targets[place].addcmul_(w, slope[parts[index]].to(w), value=factor)

    @torch.no_grad()
    def summary(self) -> Summary:
        reshard(self.model)
        dead = self.dead_at(self.mu)[self._slice_group]
        shadow = self.shadow()
        rows = []
        for layer, weight in enumerate(self.weights):
            here = self._slice_layer == layer
            rows.append(
                LayerSummary(
                    weight.layer,
                    weight.tensor.numel(),
                    zeros(full(shadow[weight.name])),
                    groups=int(here.sum()),
                    zero_groups=int(dead[here].sum()),
                )
            )
        return Summary(tuple(rows), parameter_count(self.model), self._left_out())

    def _left_out(self) -> dict[str, int]:
        alone = sum(
            int((index == self._dummy).sum()) * (weight.shape.numel() // index.numel())
            for weight, index in zip(self.weights, self._index, strict=True)
        )
        alone -= self._carried
        return {**super()._left_out(), **({"in no group that can be removed": alone} if alone else {})}

    def state_dict(self) -> dict[str, Any]:
        """Coefficients, the groups' weights, which may come from weights that training has left behind, and their worth."""
        worth = {} if self.worth is None else {"worth": self.worth.state_dict()}
        return {**super().state_dict(), "scales": self._scales, "first_scales": self._first_scales, **worth}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` saved.

        Raises:
            InputError: it is out of range, of another network, or of no RGSM.
        """
        check_state(state, ("lam", "beta", "scales", "first_scales"), self)
        scales, first = state["scales"].to(self._scales), state["first_scales"].to(self._scales)
        for one in (scales, first):
            if one.shape != self._scales.shape or bool((one.isnan() | (one < 0)).any()):
                raise InputError(
                    f"The saved weights of groups do not fit: {self.num_groups} numbers of at least 0 are asked for.",
                    "Load the state of a splitting of the same network.",
                )
        super().load_state_dict(state)
        self._scales, self._first_scales = scales, first
        if self.worth is not None and "worth" in state:
            self.worth.load_state_dict(state["worth"])

    @torch.no_grad()
    def _collapsed(self) -> dict[str, str]:
        collapsed = self._fates().collapsed
        messages = {}
        steered = isinstance(self.penalty, Steered)
        critical = self.critical_mus() if steered and bool(collapsed.any()) else None
        for layer in collapsed.nonzero().flatten().tolist():
            less = "Lower lam"
            if critical is not None:
                limit = float(critical[self._slice_group[self._slice_layer == layer]].max()) * self.beta
                less += f" below {limit:.3g}"
            name = self.weights[layer].layer
            kept = "its strongest was kept" if self.keep_last else "nothing passes through it any more"
            remedy = (
                "or pass keep_last=False to let it go"
                if self.keep_last
                else "or pass keep_last=True to keep its strongest"
            )
            messages[name] = (
                f"RGSM removed every group of {name} (lam={self.lam:g}, beta={self.beta:g}); {kept}. "
                f"{self._milder(less)}, {remedy}."
            )
        return messages


def _has_convolution(model: nn.Module) -> bool:
    return any(weight.convolution for weight in weights(model))
