"""RVSM, the relaxed variable splitting method: single weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from gracile.channels.grouping import from_vectors, to_vectors
from gracile.core.errors import InputError
from gracile.core.prunable import Weight, like, memory_order
from gracile.core.summary import LayerSummary, Summary, zeros
from gracile.penalties import Constraint, Penalty, elementwise
from gracile.penalties.table import Named
from gracile.splitting.base import Coupling, VariableSplitting, parameter_count

# Small weights are handled together, so that a network of many small layers pays one pass and not many. On a CPU a
# bucket fits the
# second-level cache; on a GPU a launch costs more than the copy, so all weights go together.
CPU_BUCKET = 2**18
GPU_BUCKET = 2**27


class RVSM(VariableSplitting):
    """Relaxed variable splitting with a penalty on single weights (Dinh and Xin 2018; Dinh 2020, section 3.1).

    Args:
        model: trained in place by your loop; weights of convolutions and linear layers are split.
        penalty: a row of `gracile.penalties.ELEMENTWISE` or `CONSTRAINTS`, a row with settings, such as
            ``{"name": "n_m", "n": 2, "m": 4}``, or an instance, such as ``TransformedL1(a=0.5)``.
        lam: weight of the penalty, at least 0. Of a constraint it matters only that it is not 0.
        beta: strength of the coupling, above 0. A weight becomes 0 below ``sqrt(2 lam/beta)`` for l0 and below
            ``lam/beta`` for l1.
        layers: ``all``, ``conv``, ``linear`` or module names.
        coupling: ``gradient`` lets the term pass through momentum and adaptive scaling like any gradient;
            ``decoupled`` applies ``-lr beta (w - u)`` to the
            weights themselves, which is what the authors' code does and what adaptive optimisers want.
        restart: `end_epoch` makes w become u.

    Raises:
        InputError: coefficients out of range, an unknown penalty, a penalty on groups, no layer to split.

    >>> import torch
    >>> model = torch.nn.Linear(3, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[0.5, 0.05, -2.0]]))
    >>> split = RVSM(model, penalty="l0", lam=0.005, beta=1.0)
    >>> split.sparse_model().weight.tolist()
    [[0.5, 0.0, -2.0]]
    """

    def __init__(
        self,
        model: nn.Module,
        penalty: Named | Penalty | Constraint = "l0",
        lam: float = 1e-6,
        beta: float = 1e-2,
        *,
        layers: str | Sequence[str] = "all",
        coupling: Coupling = "gradient",
        restart: bool = False,
    ) -> None:
        super().__init__(model, lam=lam, beta=beta, layers=layers, coupling=coupling, restart=restart)
        self.penalty: Penalty | Constraint = elementwise(penalty)

    def _shadow(self, weight: Weight, mu: float) -> Tensor:
        """u for one weight."""
        w = weight.tensor.detach()
        if isinstance(self.penalty, Constraint):
            rows = self.penalty.shadow(to_vectors(w, weight.input_dim, self.penalty.block), mu)
            return from_vectors(rows, w, weight.input_dim, self.penalty.block)
        return self.penalty.shadow(w, mu)

    @torch.no_grad()
    def shadow(self) -> dict[str, Tensor]:
        return {weight.name: self._shadow(weight, self.mu) for weight in self.weights}

    @torch.no_grad()
    def penalty_value(self) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=self.weights[0].tensor.device)
        for weight in self.weights:
            w = weight.tensor.detach()
            u = self._shadow(weight, self.mu)
            # A constraint's value at its own projection is 0.
            if not isinstance(self.penalty, Constraint):
                total += self.lam * self.penalty.value(u)
            total += self.beta / 2 * (w - u).square().sum()
        return total

    @torch.no_grad()
    def summary(self) -> Summary:
        shadow = self.shadow()
        rows = tuple(
            LayerSummary(weight.layer, weight.tensor.numel(), zeros(shadow[weight.name])) for weight in self.weights
        )
        return Summary(rows, parameter_count(self.model))

    @torch.no_grad()
    def critical_mus(self) -> Tensor:
        if isinstance(self.penalty, Constraint):
            raise InputError(
                f"lam does not steer '{self.penalty.name}': the constraint itself fixes how many weights stay.",
                "Set its own count, or steer another penalty, such as l0.",
            )
        critical = self.penalty.critical_mu
        return torch.cat([critical(weight.tensor.detach().abs()).reshape(-1) for weight in self.weights])

    @torch.no_grad()
    def zeros_at(self, mu: float) -> int:
        """How many weights u would have exactly zero for this mu."""
        return sum(zeros(self._shadow(weight, mu)) for weight in self.weights)

    def _couple(self, chosen: list[int], targets: list[Tensor], factors: list[float | Tensor]) -> None:
        for place, term in self._differences(chosen):
            factor = factors[place]
            if isinstance(factor, Tensor):
                targets[place].addcmul_(term, factor.to(term), value=self.beta)
            else:
                targets[place].add_(term, alpha=factor * self.beta)

    def _differences(self, chosen: list[int]) -> Iterator[tuple[int, Tensor]]:
        """``w - u`` for each of the weights chosen, with its place among them."""
        if isinstance(self.penalty, Constraint):
            for place, index in enumerate(chosen):
                weight = self.weights[index]
                yield place, weight.tensor.detach() - self._shadow(weight, self.mu)
            return
        for bucket in self._buckets(chosen):
            tensors = [self.weights[chosen[place]].tensor.detach() for place in bucket]
            flat = memory_order(tensors[0]) if len(tensors) == 1 else torch.cat([memory_order(t) for t in tensors])
            difference = flat - self.penalty.shadow(flat, self.mu)
            parts = difference.split([t.numel() for t in tensors])
            for place, tensor, part in zip(bucket, tensors, parts, strict=True):
                yield place, like(part, tensor)

    def _buckets(self, chosen: list[int]) -> Iterator[list[int]]:
        """Places in `chosen`, gathered until a bucket is full; one device and one dtype a bucket."""
        bucket: list[int] = []
        filled, kind = 0, None
        for place, index in enumerate(chosen):
            tensor = self.weights[index].tensor
            limit = GPU_BUCKET if tensor.is_cuda else CPU_BUCKET
            if bucket and (filled + tensor.numel() > limit or (tensor.device, tensor.dtype) != kind):
                yield bucket
                bucket, filled = [], 0
            bucket.append(place)
            filled, kind = filled + tensor.numel(), (tensor.device, tensor.dtype)
        if bucket:
            yield bucket

    @torch.no_grad()
    def _collapsed(self) -> dict[str, str]:
        if isinstance(self.penalty, Constraint):
            # One weight a vector stays always.
            return {}
        messages = {}
        for weight in self.weights:
            largest = weight.tensor.detach().abs().max()
            limit = float(self.penalty.critical_mu(largest)) * self.beta
            # At the critical mu itself the weight is zeroed; a weight that was zero all along did not collapse by lam.
            if float(largest) > 0 and self.lam >= limit:
                messages[weight.layer] = (
                    f"RVSM zeroed every weight of {weight.layer} (lam={self.lam:g}, beta={self.beta:g}). "
                    f"Lower lam below {limit:.3g}, or leave the layer out with layers=[...]."
                )
        return messages
