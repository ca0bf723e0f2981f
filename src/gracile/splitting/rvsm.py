"""RVSM, the relaxed variable splitting method: single weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from gracile.channels.grouping import from_vectors, to_vectors
from gracile.core.errors import InputError
from gracile.core.optimizers import add_term
from gracile.core.prunable import Weight, check_not_flattened, like, memory_order, memory_orders
from gracile.core.shards import full, local, local_part, reshard, sharded_like
from gracile.core.summary import LayerSummary, Summary, zeros
from gracile.penalties import Constraint, Penalty, elementwise
from gracile.penalties.base import Steered, critical_mu, unchecked
from gracile.penalties.table import Named
from gracile.splitting.base import Coupling, VariableSplitting, parameter_count

# Small weights are handled together, so that a network of many small layers pays one pass and not many. On a CPU a bucket
# fits the second-level cache; on a GPU a launch costs more than the copy, so all weights go together.
CPU_BUCKET = 2**18
GPU_BUCKET = 2**27


class RVSM(VariableSplitting):
    """Relaxed variable splitting with a penalty on single weights [@dinh2018; @dinh2020, section 3.1].

    For few non-zero weights, as for a smaller file once it is packed. Zeros of single weights remove no multiply-adds from a dense
    kernel: for a faster network take `RGSM`.

    Args:
        model: trained in place by your loop; every weight matrix and kernel is split, see `gracile.core.prunable.weights`.
        penalty: a row of `gracile.penalties.ELEMENTWISE` or `CONSTRAINTS`, a row with settings, such as
            ``{"name": "n_m", "n": 2, "m": 4}``, or an instance, such as ``TransformedL1(a=0.5)``.
        lam: weight of the penalty, at least 0. Of a constraint it matters only that it is not 0.
        beta: strength of the coupling, above 0. A weight becomes 0 below ``sqrt(2 lam/beta)`` for l0 and below
            ``lam/beta`` for l1.
        layers: ``all``, a kind (``conv``, ``linear``, ``embedding``, ``recurrent``), or names of modules or parameters.
        coupling: ``gradient`` lets the term pass through momentum and adaptive scaling like any gradient; ``decoupled``
            applies ``-lr beta (w - u)`` to the weights themselves, which is what the authors' code does and what adaptive
            optimisers want.
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
        """The shadow u of the part of a weight that lies here."""
        parameter = weight.tensor.detach()
        prox = unchecked(self.penalty)
        if not isinstance(self.penalty, Constraint):
            return prox(local(parameter), mu)
        # What a constraint keeps of one part depends on the others.
        check_not_flattened([weight])
        w = full(parameter)
        rows = prox(to_vectors(w, weight.input_dim, self.penalty.block), mu)
        return local_part(from_vectors(rows, w, weight.input_dim, self.penalty.block), parameter)

    @torch.no_grad()
    def shadow(self) -> dict[str, Tensor]:
        return {weight.name: sharded_like(self._shadow(weight, self.mu), weight.tensor) for weight in self.weights}

    @torch.no_grad()
    def penalty_value(self) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=self.weights[0].tensor.device)
        for weight in self.weights:
            w = full(weight.tensor.detach())
            u = full(sharded_like(self._shadow(weight, self.mu), weight.tensor))
            # A constraint's value at its own projection is 0.
            if not isinstance(self.penalty, Constraint):
                total += self.lam * self.penalty.value(u)
            total += self.beta / 2 * (w - u).square().sum()
        return total

    @torch.no_grad()
    def summary(self) -> Summary:
        reshard(self.model)
        shadow = self.shadow()
        rows = tuple(
            LayerSummary(weight.layer, weight.tensor.numel(), zeros(full(shadow[weight.name])))
            for weight in self.weights
        )
        return Summary(rows, parameter_count(self.model), self._left_out())

    @torch.no_grad()
    def critical_mus(self) -> Tensor:
        if isinstance(self.penalty, Constraint):
            raise InputError(
                f"lam does not steer {type(self.penalty).__name__}: the constraint itself fixes what weights may be.",
                "Leave the dial out, or steer a penalty, such as l0.",
            )
        critical = critical_mu(self.penalty)
        return torch.cat([critical(full(weight.tensor.detach()).abs()).reshape(-1) for weight in self.weights])

    @torch.no_grad()
    def zeros_at(self, mu: float) -> int:
        """How many weights u would have exactly zero for this mu."""
        return sum(zeros(full(sharded_like(self._shadow(weight, mu), weight.tensor))) for weight in self.weights)

    def _couple(
        self, tensors: list[Tensor], chosen: list[int], targets: list[Tensor], factors: list[float | Tensor]
    ) -> None:
        if isinstance(self.penalty, Constraint):
            for place, index in enumerate(chosen):
                term = tensors[index] - self._shadow(self.weights[index], self.mu)
                add_term(targets[place], term, factors[place], self.beta)
            return
        prox = unchecked(self.penalty)
        coupled = [tensors[index] for index in chosen]
        for bucket in _buckets(coupled):
            gathered = [coupled[place] for place in bucket]
            if len(bucket) == 1 and (flat := memory_orders(gathered[0], targets[bucket[0]])):
                # Piece by piece: what lies between reading a weight and writing its gradient does not leave the cache.
                size = GPU_BUCKET if gathered[0].is_cuda else CPU_BUCKET
                for w, target in zip(*(one.split(size) for one in flat), strict=True):
                    add_term(target, w - prox(w, self.mu), factors[bucket[0]], self.beta)
                continue
            flat = torch.cat([memory_order(one) for one in gathered])
            parts = (flat - prox(flat, self.mu)).split([one.numel() for one in gathered])
            for place, tensor, part in zip(bucket, gathered, parts, strict=True):
                add_term(targets[place], like(part, tensor), factors[place], self.beta)

    @torch.no_grad()
    def _collapsed(self) -> dict[str, str]:
        if isinstance(self.penalty, Constraint):
            # One weight a vector stays always.
            return {}
        messages = {}
        for weight in self.weights:
            w = full(weight.tensor.detach())
            largest = w.abs().max()
            # A weight that was zero all along did not collapse by lam.
            if float(largest) > 0 and not bool(unchecked(self.penalty)(largest.reshape(1), self.mu).any()):
                less = "Lower lam"
                if isinstance(self.penalty, Steered):
                    less += f" below {float(self.penalty.critical_mu(largest)) * self.beta:.3g}"
                messages[weight.layer] = (
                    f"RVSM zeroed every weight of {weight.layer} (lam={self.lam:g}, beta={self.beta:g}). "
                    f"{self._milder(less)}, or leave the layer out with layers=[...]."
                )
        return messages


def _buckets(tensors: list[Tensor]) -> Iterator[list[int]]:
    """Places among the tensors, gathered until a bucket is full; one device and one dtype a bucket."""
    bucket: list[int] = []
    filled, kind = 0, None
    for place, tensor in enumerate(tensors):
        limit = GPU_BUCKET if tensor.is_cuda else CPU_BUCKET
        if bucket and (filled + tensor.numel() > limit or (tensor.device, tensor.dtype) != kind):
            yield bucket
            bucket, filled = [], 0
        bucket.append(place)
        filled, kind = filled + tensor.numel(), (tensor.device, tensor.dtype)
    if bucket:
        yield bucket
