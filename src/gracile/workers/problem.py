"""What workers minimise together: the mean of their local functions, each known to one worker only."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gracile.core.errors import DataError, InputError
from gracile.core.seeding import derive_seed, generator
from gracile.data import Dataset, batches


class Problem(Protocol):
    """Local functions f_m of the workers at hand."""

    @property
    def samples(self) -> Tensor:
        """(len(local),) float64: the weight of each local worker in a weighted mean."""
        ...

    def start(self, worker: int) -> Tensor:
        """(p,) where a worker begins; any process can tell it of any worker."""
        ...

    def gradients(self, x: Tensor, step: int) -> Tensor:
        """Stochastic gradients of the f_m.

        Args:
            x: (len(local), p).
            step: how many steps were taken before; with worker and seed it fixes the samples.

        Returns:
            (len(local), p).
        """
        ...

    def descend(self, x: Tensor, step: int, lr: float) -> None:
        """One step of gradient descent, x <- x - lr g, in place."""
        ...


@runtime_checkable
class Proximal(Protocol):
    """A problem whose x-step of ADMM has a closed form."""

    def proximal(self, v: Tensor, rho: float) -> Tensor:
        """argmin_x f_m(x) + rho / 2 |x - v_m|^2 for each local worker, (len(local), p)."""
        ...


class Quadratics:
    """f_m(x) = 1/2 x'A_m x - b_m'x, whose common optimum is known.

    Args:
        a: (workers, p, p), symmetric and positive definite.
        b: (workers, p).
        local: the workers at hand; all by default.
        noise: standard deviation of what is added to each gradient.
        start: (workers, p); zeros by default.
        seed: of the noise.
    """

    def __init__(
        self,
        a: Tensor,
        b: Tensor,
        *,
        local: Sequence[int] | None = None,
        noise: float = 0.0,
        start: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        self.local = list(range(len(a)) if local is None else local)
        self.optimum = torch.linalg.solve(a.sum(0), b.sum(0))
        self.a, self.b, self.noise, self.seed = a[self.local], b[self.local], noise, seed
        self.samples = torch.ones(len(self.local), dtype=torch.float64)
        self._start = torch.zeros_like(b) if start is None else start

    def start(self, worker: int) -> Tensor:
        """See `Problem`."""
        return self._start[worker].clone()

    def gradients(self, x: Tensor, step: int) -> Tensor:
        """See `Problem`."""
        g = (self.a @ x[:, :, None])[:, :, 0] - self.b
        if self.noise:
            for row, worker in enumerate(self.local):
                random = generator(self.seed, "noise", worker, step)
                g[row] += self.noise * torch.randn(x.shape[1], dtype=x.dtype, generator=random)
        return g

    def descend(self, x: Tensor, step: int, lr: float) -> None:
        """See `Problem`."""
        x.sub_(self.gradients(x, step), alpha=lr)

    def proximal(self, v: Tensor, rho: float) -> Tensor:
        """See `Proximal`: (A_m + rho I)^-1 (b_m + rho v_m)."""
        eye = torch.eye(v.shape[1], dtype=v.dtype)
        return torch.linalg.solve(self.a + rho * eye, self.b + rho * v)


class Classification:
    """Cross-entropy of one network on each worker's shard; all start from the same weights.

    Args:
        network: the template, whose weights are the start; it may not keep running statistics.
        data: the training split; only the rows of local shards are kept.
        shards: the rows of each local worker, by worker.
        batch_size: samples a worker takes a step; shards are gone through in random order, again and again.
        weight_decay: l2 coefficient, added to gradients.
        exact: compute worker by worker, so that the bits cannot depend on how many share a process; stacked is faster.
        seed: of order and dropout.

    Raises:
        InputError: a layer with running statistics, no shard, or a batch size below 1.
        DataError: labels out of the network's range.
    """

    def __init__(
        self,
        network: nn.Module,
        data: Dataset,
        shards: Mapping[int, Tensor],
        *,
        batch_size: int = 32,
        weight_decay: float = 0.0,
        exact: bool = False,
        seed: int = 0,
    ) -> None:
        for name, module in network.named_modules():
            if getattr(module, "running_mean", None) is not None:
                raise InputError(
                    f"The layer '{name}' keeps running statistics, which workers with different data cannot share.",
                    "Use nn.GroupNorm or nn.LayerNorm, or track_running_stats=False.",
                )
        if batch_size < 1 or not shards:
            raise InputError(f"batch_size={batch_size} on {len(shards)} shards trains nothing.", "Give both.")
        self.network, self.batch_size = network, batch_size
        self.weight_decay, self.exact, self.seed = weight_decay, exact, seed
        self.local = sorted(shards)
        self.shards = [data.subset(shards[worker]) for worker in self.local]
        self.samples = torch.tensor([len(shard) for shard in self.shards], dtype=torch.float64)
        named = dict(network.named_parameters())
        self.names, self.shapes = list(named), [parameter.shape for parameter in named.values()]
        self.sizes = [parameter.numel() for parameter in named.values()]
        self._start = torch.cat([parameter.detach().flatten() for parameter in named.values()])
        self._random = any(isinstance(module, nn.modules.dropout._DropoutNd) for module in network.modules())
        self._gradient = grad(self._loss)
        self._check(data)

    def _check(self, data: Dataset) -> None:
        x, _ = next(batches(self.shards[0], 2))
        try:
            with torch.no_grad():
                outputs = functional_call(self.network, self.parameters(self._start), (x,)).shape[1]
        except RuntimeError as error:
            raise InputError(
                f"The network does not take inputs of shape {tuple(x.shape[1:])}: {str(error).splitlines()[0]}.",
                "Build it with the data's in_channels and image_size.",
            ) from error
        if int(data.labels.max()) >= outputs:
            raise DataError(
                f"A label is {int(data.labels.max())}, and the network has {outputs} outputs.", "Build it with more."
            )

    def start(self, worker: int) -> Tensor:
        """See `Problem`."""
        return self._start.clone()

    def parameters(self, x: Tensor) -> dict[str, Tensor]:
        """Views of one flat row (p,), or of stacked rows (k, p), as the network's named parameters."""
        pieces = x.split(self.sizes, dim=-1)
        return {
            name: piece.view(*x.shape[:-1], *shape)
            for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)
        }

    def module(self, row: Tensor) -> nn.Module:
        """The template with the weights of one row (p,), in place."""
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.copy_(self.parameters(row)[name])
        return self.network

    def _loss(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(self.network, parameters, (x,)), y)

    def _by_parameter(self, x: Tensor, step: int) -> list[dict[str, Tensor]] | dict[str, Tensor]:
        """Gradients as named tensors: stacked, or a list of one dictionary a worker."""
        self.network.train()
        if not self.exact:
            inputs, labels = zip(*(self.batch(row, step) for row in range(len(self.local))), strict=True)
            with self._dropout(-1, step):
                stacked = vmap(self._gradient, randomness="different")
                return stacked(self.parameters(x), torch.stack(inputs), torch.stack(labels))
        found = []
        for row, worker in enumerate(self.local):
            with self._dropout(worker, step):
                leaves = {name: view.detach().requires_grad_() for name, view in self.parameters(x[row]).items()}
                loss = self._loss(leaves, *self.batch(row, step))
                found.append(dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)))
        return found

    def gradients(self, x: Tensor, step: int) -> Tensor:
        """See `Problem`."""
        found = self._by_parameter(x, step)
        if isinstance(found, dict):
            g = torch.cat([found[name].flatten(1) for name in self.names], 1)
        else:
            g = torch.stack([torch.cat([one[name].flatten() for name in self.names]) for one in found])
        return g.add_(x, alpha=self.weight_decay) if self.weight_decay else g

    def descend(self, x: Tensor, step: int, lr: float) -> None:
        """See `Problem`; the gradients are never gathered into one flat tensor."""
        found = self._by_parameter(x, step)
        if self.weight_decay:
            x.mul_(1 - lr * self.weight_decay)
        if isinstance(found, dict):
            for name, view in self.parameters(x).items():
                view.sub_(found[name], alpha=lr)
            return
        for row, one in zip(x, found, strict=True):
            for name, view in self.parameters(row).items():
                view.sub_(one[name], alpha=lr)

    def batch(self, row: int, step: int) -> tuple[Tensor, Tensor]:
        """What the local worker in this row sees at a step: a function of seed, worker and step alone."""
        shard, worker = self.shards[row], self.local[row]
        first = step * self.batch_size
        wanted = range(first, first + self.batch_size)
        turns = range(wanted[0] // len(shard), wanted[-1] // len(shard) + 1)
        order = torch.cat([_order(self.seed, worker, turn, len(shard)) for turn in turns])
        offset = first - turns[0] * len(shard)
        return next(batches(shard, self.batch_size, order=order[offset : offset + self.batch_size]))

    def _dropout(self, worker: int, step: int):
        """Inside, the global generator is the worker's own at this step; untouched where nothing draws from it."""
        forked = torch.random.fork_rng(devices=[], enabled=self._random)
        if self._random:
            forked = _seeded(forked, derive_seed(self.seed, "dropout", worker, step))
        return forked

    @torch.no_grad()
    def evaluate(self, x: Tensor, data: Dataset, batch_size: int = 500) -> tuple[Tensor, Tensor]:
        """Accuracy in [0, 1] and mean cross-entropy of each local worker's network on a data set, two (k,) tensors.

        Args:
            x: (k, p) rows; any number of them.
            data: at least one sample.
            batch_size: samples a forward pass.
        """
        self.network.eval()
        right = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        loss = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for inputs, labels in batches(data, batch_size):
            for row in range(len(x)):
                logits = functional_call(self.network, self.parameters(x[row]), (inputs,))
                right[row] += (logits.argmax(1) == labels).sum()
                loss[row] += nn.functional.cross_entropy(logits, labels, reduction="sum")
        return right / len(data), loss / len(data)


@functools.lru_cache(maxsize=2048)
def _order(seed: int, worker: int, turn: int, samples: int) -> Tensor:
    return torch.randperm(samples, generator=generator(seed, "order", worker, turn))


class _seeded:
    """A context that seeds the global generator once another context has put its state aside."""

    def __init__(self, inner, seed: int) -> None:
        self.inner, self.seed = inner, seed

    def __enter__(self) -> None:
        self.inner.__enter__()
        torch.manual_seed(self.seed)

    def __exit__(self, *problem: object) -> None:
        self.inner.__exit__(*problem)
