"""What workers minimise together: the mean of their local functions, each known to one worker only."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gracile.core.errors import DataError, InputError, pick
from gracile.core.seeding import derive_seed, generator
from gracile.data import Dataset, batches
from gracile.workers.perceptron import perceptron

STATISTICS = ("averaged", "local")


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


@runtime_checkable
class Buffered(Protocol):
    """A problem whose networks keep statistics of what they have seen, such as batch-norm's, which no gradient changes.

    Attributes:
        buffers: (len(local), s) the statistics of each local worker; `gradients` and `descend` renew them in place.
        statistics: "averaged": brought together after each round, as the method brings weights together; "local": kept.
    """

    buffers: Tensor
    statistics: str

    def reset(self) -> None:
        """Put `buffers` back to where they begin."""
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

    Only parameters that require a gradient are trained, and so sent; weights that several layers share count once. Running
    statistics (batch-norm's) are no parameters: each worker gathers its own, and `statistics` says whether they are averaged.

    Args:
        model: the template, whose weights are the start.
        data: the training split; only the rows of local shards are kept. Inputs are brought to the floating type of the weights.
        shards: the rows of each local worker, by worker.
        batch_size: samples a worker takes per step; shards are gone through in random order, again and again.
        weight_decay: l2 coefficient, added to gradients.
        exact: compute worker by worker, so that the bits cannot depend on how many share a process; stacked is faster.
            Networks with running statistics are always computed so.
        statistics: "averaged" brings running statistics together after each round; "local" leaves each worker its own
            [@andreux2020], for data whose inputs differ from worker to worker.
        seed: of order and dropout.

    Raises:
        InputError: nothing to train, no shard, a batch size below 1, or no such treatment of statistics.
        DataError: labels out of the network's range.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        shards: Mapping[int, Tensor],
        *,
        batch_size: int = 32,
        weight_decay: float = 0.0,
        exact: bool = False,
        statistics: str = "averaged",
        seed: int = 0,
    ) -> None:
        self.statistics = pick({name: name for name in STATISTICS}, statistics, "treatment of running statistics")
        if batch_size < 1 or not shards:
            raise InputError(f"batch_size={batch_size} on {len(shards)} shards trains nothing.", "Give both.")
        self.model, self.batch_size = model, batch_size
        self.weight_decay, self.seed = weight_decay, seed
        self.local = sorted(shards)
        sizes = [len(shards[worker]) for worker in self.local]
        # The local shards one after the other, so that one gather serves all workers.
        self.held = data.subset(torch.cat([shards[worker] for worker in self.local]))
        self.begins = [sum(sizes[:row]) for row in range(len(sizes))]
        self.samples = torch.tensor(sizes, dtype=torch.float64)
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not named:
            raise InputError("No parameter of the network requires a gradient.", "Leave some of its layers unfrozen.")
        self.names, self.shapes = list(named), [parameter.shape for parameter in named.values()]
        self.sizes = [parameter.numel() for parameter in named.values()]
        self._start = torch.cat([parameter.detach().flatten() for parameter in named.values()])
        self._kept = running_statistics(model)
        begins = [buffer.detach().flatten().to(self._start) for buffer in self._kept.values()]
        self._begins = torch.cat([self._start.new_empty(0), *begins])
        self.buffers = self._begins.repeat(len(self.local), 1)
        self.exact = exact or bool(self._kept)
        self._random = any(isinstance(module, nn.modules.dropout._DropoutNd) for module in model.modules())
        self._gradient = grad(self._loss)
        self._perceptron = None if self.exact else perceptron(model)
        self._check(data)

    def _check(self, data: Dataset) -> None:
        x, _ = next(self._batches(self.held, 2))
        self.model.eval()
        try:
            with torch.no_grad():
                outputs = functional_call(self.model, self.parameters(self._start), (x,)).shape[1]
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

    def reset(self) -> None:
        """See `Buffered`."""
        self.buffers = self._begins.repeat(len(self.local), 1)

    def _statistics(self, row: Tensor) -> dict[str, Tensor]:
        """Views of one worker's buffers (s,), by name."""
        pieces = row.split([buffer.numel() for buffer in self._kept.values()])
        return {name: piece.view(self._kept[name].shape) for name, piece in zip(self._kept, pieces, strict=True)}

    def module(self, row: Tensor, worker: int | None = None) -> nn.Module:
        """The template with the weights of one row (p,), in place.

        Args:
            row: as trained.
            worker: whose running statistics it takes; by default the mean of those of the local workers.
        """
        kept = self.buffers.mean(0) if worker is None else self.buffers[self.local.index(worker)]
        with torch.no_grad():
            own = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
            for name, value in (self.parameters(row) | self._statistics(kept)).items():
                own[name].copy_(value)
        return self.model

    def _loss(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(self.model, parameters, (x,)), y)

    def _by_parameter(self, x: Tensor, step: int) -> list[dict[str, Tensor]] | dict[str, Tensor]:
        """Gradients as named tensors: stacked, or a list of one dictionary per worker."""
        self.model.train()
        if not self.exact:
            with self._dropout(-1, step):
                return vmap(self._gradient, randomness="different")(self.parameters(x), *self.stacked_batch(step))
        found = []
        for row, worker in enumerate(self.local):
            with self._dropout(worker, step):
                leaves = {name: view.detach().requires_grad_() for name, view in self.parameters(x[row]).items()}
                # In training mode the layers renew the statistics in place; in a copy, since the graph holds on to them.
                kept = {name: view.clone() for name, view in self._statistics(self.buffers[row]).items()}
                loss = self._loss(leaves | kept, *self.batch(row, step))
                for name, view in self._statistics(self.buffers[row]).items():
                    view.copy_(kept[name])
                found.append(dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)))
        return found

    def gradients(self, x: Tensor, step: int) -> Tensor:
        """See `Problem`."""
        if self._perceptron is not None:
            g = torch.empty_like(x)
            self._perceptron.accumulate(self.parameters(x), *self.stacked_batch(step), self.parameters(g))
        elif isinstance(found := self._by_parameter(x, step), dict):
            g = torch.cat([found[name].flatten(1) for name in self.names], 1)
        else:
            g = torch.stack([torch.cat([one[name].flatten() for name in self.names]) for one in found])
        return g.add_(x, alpha=self.weight_decay) if self.weight_decay else g

    def descend(self, x: Tensor, step: int, lr: float) -> None:
        """See `Problem`; the gradients are never gathered into one flat tensor."""
        if self._perceptron is not None and not self.weight_decay:
            views = self.parameters(x)
            self._perceptron.accumulate(views, *self.stacked_batch(step), views, alpha=-lr, beta=1.0)
            return
        found = self._by_parameter(x, step)
        if self.weight_decay:
            x.mul_(1 - lr * self.weight_decay)
        rows = [(x, found)] if isinstance(found, dict) else zip(x, found, strict=True)
        for row, one in rows:
            for name, view in self.parameters(row).items():
                view.sub_(one[name], alpha=lr)

    def batch(self, row: int, step: int) -> tuple[Tensor, Tensor]:
        """What the local worker in this row sees at a step: a function of seed, worker and step alone."""
        return next(self._batches(self.held, self.batch_size, self._rows(row, step)))

    def stacked_batch(self, step: int) -> tuple[Tensor, Tensor]:
        """What all local workers see: (workers, batch, ...) inputs and (workers, batch) labels."""
        count = len(self.local)
        order = torch.cat([self._rows(row, step) for row in range(count)])
        x, y = next(self._batches(self.held, count * self.batch_size, order))
        return x.unflatten(0, (count, self.batch_size)), y.unflatten(0, (count, self.batch_size))

    def _batches(self, data: Dataset, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches in the network's own floating type."""
        for x, y in batches(data, batch_size, order=order):
            yield x.to(self._start.dtype) if x.is_floating_point() else x, y

    def _rows(self, row: int, step: int) -> Tensor:
        """Rows of `held`: the worker's shard is gone through in an order of its own, turn after turn."""
        size, worker = int(self.samples[row]), self.local[row]
        first = step * self.batch_size
        turns = range(first // size, (first + self.batch_size - 1) // size + 1)
        order = [_order(self.seed, worker, turn, size) for turn in turns]
        offset = first - turns[0] * size
        whole = order[0] if len(order) == 1 else torch.cat(order)
        return whole[offset : offset + self.batch_size] + self.begins[row]

    def _dropout(self, worker: int, step: int):
        """Inside, the global generator is the worker's own at this step; untouched where nothing draws from it."""
        forked = torch.random.fork_rng(devices=[], enabled=self._random)
        if self._random:
            forked = _seeded(forked, derive_seed(self.seed, "dropout", worker, step))
        return forked

    @torch.no_grad()
    def evaluate(self, x: Tensor, data: Dataset, batch_size: int = 500) -> tuple[Tensor, Tensor]:
        """Accuracy in [0, 1] and mean cross-entropy of networks on a data set, two (k,) tensors.

        Args:
            x: (k, p) rows. As many as there are local workers are taken to be theirs, each with its own running
                statistics; others have the mean of those.
            data: at least one sample.
            batch_size: samples per forward pass.
        """
        self.model.eval()
        right = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        loss = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        kept = self.buffers if len(x) == len(self.local) else self.buffers.mean(0).expand(len(x), -1)
        states = [self.parameters(row) | self._statistics(own) for row, own in zip(x, kept, strict=True)]
        for inputs, labels in self._batches(data, batch_size):
            for row, state in enumerate(states):
                logits = functional_call(self.model, state, (inputs,))
                right[row] += (logits.argmax(1) == labels).sum()
                loss[row] += nn.functional.cross_entropy(logits, labels, reduction="sum")
        return right / len(data), loss / len(data)


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """The buffers of every layer that keeps running statistics, by name."""
    return {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, module in model.named_modules()
        if getattr(module, "running_mean", None) is not None
        for name, buffer in module.named_buffers(recurse=False)
    }


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
