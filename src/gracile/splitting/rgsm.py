"""RGSM, the relaxed group-wise splitting method: channels and other groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from gracile.channels.grouping import GROUPINGS, Grouping, coupled, within_layers
from gracile.core.errors import InputError, nearest
from gracile.core.prunable import weights
from gracile.core.summary import LayerSummary, Summary, zeros
from gracile.penalties import GroupPenalty, grouped, soft_threshold
from gracile.penalties.table import Named
from gracile.splitting.base import Coupling, VariableSplitting, parameter_count

# Inside the square root of the smooth group lasso on w (Dinh 2020, section 4.1): keeps its gradient finite at a zero
# group.
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
    """Relaxed group-wise splitting: whole groups of weights reach zero together (Yang, Dinh and Xin 2019; Dinh 2020,
    section 4.1).

    Args:
        model: trained in place by your loop.
        penalty: a row of `gracile.penalties.GROUPED`, a row with settings, such as
            ``{"name": "sparse_group_lasso", "l1_ratio": 0.2}``, or an instance.
        lam: weight of the penalty on u, at least 0 (the papers' lam1).
        beta: strength of the coupling, above 0. A group becomes 0 below the l2 norm ``lam/beta`` for group lasso,
            ``sqrt(2 lam/beta)`` for group l0.
        lam2: weight of a smooth group lasso on w itself, ``lam2 sum_g sqrt(|w_g|^2 + 1e-8)``.
        grouping: ``input_channel`` (the papers), ``output_filter``, ``kernel``, ``row``, ``block`` (4 consecutive
            inputs of an output at a kernel position; ``block:8``, ``block:4x4`` for outputs x inputs), or ``coupled``: a channel
            with every slice that must vanish for it
            to be physically removable, which needs `example`. By default ``coupled`` when an example is given, else
            ``input_channel``.
        example: one input batch, for ``coupled``.
        layers: ``all``, ``conv``, ``linear`` or module names. By default all for ``coupled``, else convolutions, or
            linear layers where there are none.
        weighting: how groups of different make are compared: ``none`` (the papers) by their l2 norms; ``size`` by
            norm over the
            square root of the group's size (Yuan and Lin 2006); ``start`` by norm over that of an average group of
            the same layers when the
            splitting is built, so that lam / beta is the share of its first size below which a group dies. With
            weights c_g the penalty is
            ``sum_g c_g^2 P(|u_g| / c_g)``. By default ``start`` for ``coupled``, else ``none``.
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
    >>> split = RGSM(model, lam=0.5, beta=1.0)
    >>> split.sparse_model().weight.flatten().tolist()
    [1.5, 0.0]
    """

    def __init__(
        self,
        model: nn.Module,
        penalty: Named | GroupPenalty = "group_lasso",
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
            self._set_groups(coupled(self.model, example, self.weights))
        else:
            self._set_groups(within_layers(grouping, self.weights))
        self._scales = self._first_scales = self._group_scales(weighting)

    def _set_groups(self, groups: Grouping) -> None:
        """Lay out index tensors on the weights' devices and which slices belong to which layer."""
        # One more, dummy, group takes the slices that belong to none: its factor is always 1.
        self.num_groups = groups.groups
        self._dummy = groups.groups
        device = self.weights[0].tensor.device
        self._index = [index.masked_fill(index < 0, self._dummy).to(device) for index in groups.index]
        slices = [index.unique() for index in self._index]
        slices = [names[names != self._dummy] for names in slices]
        self._slice_group = torch.cat(slices)
        self._slice_layer = torch.cat([torch.full_like(names, layer) for layer, names in enumerate(slices)])
        if len(self._slice_group) == 0:
            raise InputError(
                f"grouping='{self.grouping}' finds no group in this model: no channel can be removed.",
                "A network needs at least one hidden layer; check layers=[...].",
            )

    # Norms and factors.

    @torch.no_grad()
    def _group_scales(self, weighting: Weighting) -> Tensor:
        """c_g, ``(groups + 1,)``: what a group's norm is divided by before it is compared."""
        ones = torch.ones(self.num_groups + 1, dtype=torch.float64, device=self._slice_group.device)
        if weighting == "none":
            return ones.to(self._group_norms())
        squares = torch.zeros_like(ones)
        for weight, index in zip(self.weights, self._index, strict=True):
            numbers, counts = index.unique(return_counts=True)
            share = counts * (weight.tensor.numel() // index.numel())
            if weighting == "start":
                # An average slice of this layer: its mean square times how many weights the group has here.
                share = share * weight.tensor.detach().double().square().mean()
            squares.index_add_(0, numbers, share.to(squares))
        scales = squares.sqrt()
        return torch.where(scales > 0, scales, ones).to(self._group_norms())

    def _group_norms(self, thresholds: Tensor | None = None) -> Tensor:
        """l2 norms of the groups of w, ``(groups + 1,)``, after soft-thresholding their entries where thresholds are given."""
        device = self.weights[0].tensor.device
        squares = torch.zeros(self.num_groups + 1, dtype=torch.float32, device=device)
        if self.weights[0].tensor.dtype == torch.float64:
            squares = squares.double()
        for weight, index in zip(self.weights, self._index, strict=True):
            w = weight.tensor.detach()
            if thresholds is not None:
                w = soft_threshold(w, thresholds[index].to(w))
            dims = [dim for dim in range(w.ndim) if index.shape[dim] == 1 and w.shape[dim] > 1]
            part = w.square().sum(dim=dims, keepdim=True) if dims else w.square()
            squares.index_add_(0, index.reshape(-1), part.reshape(-1).to(squares))
        return squares.sqrt_()

    def _thresholds(self, mu: float | Tensor) -> Tensor | None:
        """What the groups' entries are soft-thresholded at, ``(groups + 1,)``; None if they are not."""
        if not self.penalty.entrywise:
            return None
        thresholds = mu * self.penalty.entrywise * self._scales
        thresholds[self._dummy] = 0
        return thresholds

    def _fates(self, mu: float | None = None) -> _Fates:
        """What becomes of the groups at this mu, the splitting's own by default."""
        mu = self.mu if mu is None else mu
        norms, thresholds = self._group_norms(), self._thresholds(mu)
        scales = self._scales.to(norms)
        left = norms if thresholds is None else self._group_norms(thresholds)
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

    def _shadow(self, place: int, fates: _Fates) -> Tensor:
        """u for one weight."""
        w, index = self.weights[place].tensor.detach(), self._index[place]
        if fates.thresholds is not None:
            w = soft_threshold(w, fates.thresholds[index].to(w))
        return w * fates.factors[index].to(w)

    @torch.no_grad()
    def shadow(self) -> dict[str, Tensor]:
        fates = self._fates()
        return {weight.name: self._shadow(place, fates) for place, weight in enumerate(self.weights)}

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
        gap = total = torch.zeros((), dtype=torch.float64, device=weighed.device)
        for place, (weight, index) in enumerate(zip(self.weights, self._index, strict=True)):
            u = self._shadow(place, fates)
            gap = gap + (weight.tensor.detach() - u).double().square().sum()
            total = total + (u.double().abs() * weighed[index]).sum()
        return gap, total

    @torch.no_grad()
    def critical_mus(self) -> Tensor:
        norms = self._group_norms()
        critical = self.penalty.critical_mu(norms / self._scales)
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
        return (fates.factors * fates.norms == 0)[: self._dummy]

    @torch.no_grad()
    def reweigh(self, costs: Tensor) -> None:
        """Let the groups' weights follow what they cost and what their layers have left; for the dial.

        A group's weight becomes ``c_g sqrt(cost_g / average cost * r_g)``, with r_g in (0, 1] its rank in its layer by
        size, the strongest first, over the layer's groups: the fewer a layer has left, the more each is worth. Without it
        the threshold would take whole layers one after the other, because groups of one layer start alike.

        Args:
            costs: ``(groups,)``, positive.
        """
        norms = self._group_norms() / self._first_scales
        share = torch.ones(self.num_groups + 1, dtype=torch.float64, device=norms.device)
        for layer in range(len(self.weights)):
            here = self._slice_group[self._slice_layer == layer]
            ranks = torch.empty(len(here), dtype=torch.float64, device=norms.device)
            order = norms[here].argsort(descending=True, stable=True)
            ranks[order] = torch.arange(1, len(here) + 1, dtype=torch.float64, device=norms.device) / len(here)
            # A channel that several layers read is worth what it is worth to the one that needs it most.
            share[here] = torch.minimum(share[here], ranks)
        relative = (costs.double() / costs.double().mean()).clamp(min=1e-6).to(norms.device)
        factor = share
        factor[: self._dummy] *= relative
        self._scales = self._first_scales * factor.sqrt().to(self._first_scales)

    def group_sizes(self) -> Tensor:
        """How many weights each group has, ``(groups,)``."""
        sizes = torch.zeros(self.num_groups + 1, dtype=torch.long, device=self._slice_group.device)
        for weight, index in zip(self.weights, self._index, strict=True):
            numbers, counts = index.unique(return_counts=True)
            sizes.index_add_(0, numbers, counts * (weight.tensor.numel() // index.numel()))
        return sizes[: self._dummy]

    def _couple(self, chosen: list[int], targets: list[Tensor], factors: list[float | Tensor]) -> None:
        fates = self._fates()
        # Both terms multiply w by a number a group: beta (1 - factor) from the coupling, lam2 / sqrt(|w_g|^2 + 1e-8)
        # from lam2. Where entries are thresholded the coupling is what it is, beta (w - u).
        slope = torch.zeros_like(fates.factors) if fates.thresholds is not None else self.beta * (1 - fates.factors)
        if self.lam2:
            slope += self.lam2 / (fates.norms.square() + SMOOTH).sqrt()
        slope[self._dummy] = 0
        for place, index in enumerate(chosen):
            w, factor = self.weights[index].tensor.detach(), factors[place]
            if fates.thresholds is not None:
                term = (w - self._shadow(index, fates)).mul_(self.beta).addcmul_(w, slope[self._index[index]].to(w))
                targets[place].add_(term * factor.to(term) if isinstance(factor, Tensor) else term * factor)
            elif isinstance(factor, Tensor):
                targets[place].addcmul_(w, (slope[self._index[index]] * factor.to(slope)).to(w))
            else:
                targets[place].addcmul_(w, slope[self._index[index]].to(w), value=factor)

    @torch.no_grad()
    def summary(self) -> Summary:
        dead = self.dead_at(self.mu)[self._slice_group]
        shadow = self.shadow()
        rows = []
        for layer, weight in enumerate(self.weights):
            here = self._slice_layer == layer
            rows.append(
                LayerSummary(
                    weight.layer,
                    weight.tensor.numel(),
                    zeros(shadow[weight.name]),
                    groups=int(here.sum()),
                    zero_groups=int(dead[here].sum()),
                )
            )
        return Summary(tuple(rows), parameter_count(self.model))

    def state_dict(self) -> dict[str, Any]:
        """Coefficients and the groups' weights, which may come from weights that training has left behind."""
        return {**super().state_dict(), "scales": self._scales, "first_scales": self._first_scales}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` saved."""
        super().load_state_dict(state)
        self._scales = state["scales"].to(self._scales)
        self._first_scales = state["first_scales"].to(self._scales)

    @torch.no_grad()
    def _collapsed(self) -> dict[str, str]:
        collapsed = self._fates().collapsed
        messages = {}
        critical = self.critical_mus() if bool(collapsed.any()) else None
        for layer in collapsed.nonzero().flatten().tolist():
            assert critical is not None
            limit = float(critical[self._slice_group[self._slice_layer == layer]].max()) * self.beta
            name = self.weights[layer].layer
            kept = "its strongest was kept" if self.keep_last else "nothing passes through it any more"
            remedy = (
                "or pass keep_last=False to let it go"
                if self.keep_last
                else "or pass keep_last=True to keep its strongest"
            )
            messages[name] = (
                f"RGSM removed every group of {name} (lam={self.lam:g}, beta={self.beta:g}); {kept}. "
                f"Lower lam below {limit:.3g}, {remedy}."
            )
        return messages


def _has_convolution(model: nn.Module) -> bool:
    return any(weight.convolution for weight in weights(model))
