"""Workers joined by a graph: gossip, exact averages, and every byte counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.seeding import derive_seed
from gracile.workers import graphs
from gracile.workers.graphs import Graph, Link
from gracile.workers.mixing import check_mixing, mixing_matrix, spectral_gap
from gracile.workers.transport import InProcess, Transport


def network(
    graph: str | Graph | Any,
    workers: int | None = None,
    *,
    mixing: str | Tensor | Sequence[Tensor] = "metropolis",
    drop: float = 0.0,
    seed: int = 0,
    transport: Transport | None = None,
) -> WorkerNetwork:
    """Join workers by a graph.

    Args:
        graph: a row of `gracile.workers.GRAPHS`, a list of edges, a networkx graph or a `Graph`.
        workers: how many; needed with a name.
        mixing: a row of `gracile.workers.MIXINGS`, a doubly stochastic matrix, or a schedule of them used in turn.
        drop: probability in [0, 1) that a message is lost on its link.
        seed: of lost messages and of random graphs.
        transport: how messages travel; by default all workers live in this process.

    Raises:
        InputError: a disconnected graph, a matrix that is not doubly stochastic, or a transport for another number of
            workers.
    """
    built = graphs.graph(graph, workers, seed=seed)
    if isinstance(mixing, str):
        matrices = [mixing_matrix(built, mixing)]
    else:
        given = [mixing] if isinstance(mixing, Tensor) else mixing
        matrices = [check_mixing(matrix, built) for matrix in given]
    return WorkerNetwork(built, matrices, transport or InProcess(built.workers), drop=drop, seed=seed)


class WorkerNetwork:
    """Workers joined by a graph; it is a `gracile.core.network.Network`.

    Every sum is taken in one fixed order, so one process or many compute the same bits. A message that does not come,
    because it was lost, late or its sender killed, leaves its weight with the receiver: where both ends of a link are
    silent, the matrix of that round stays symmetric and doubly stochastic over the rest.

    Args:
        graph: who may talk to whom.
        matrices: doubly stochastic, on the graph's edges, used in turn.
        transport: how messages travel.
        drop: probability that a message is lost.
        seed: of losses.
    """

    def __init__(
        self, graph: Graph, matrices: Sequence[Tensor], transport: Transport, *, drop: float = 0.0, seed: int = 0
    ) -> None:
        if not 0 <= drop < 1:
            raise InputError(f"drop is {drop}.", "Give a probability from 0 on and below 1.")
        if not matrices:
            raise InputError("The schedule of mixing matrices is empty.", "Give at least one.")
        if transport.local and max(transport.local) >= graph.workers:
            raise InputError(
                f"The transport hosts worker {max(transport.local)}, and the graph has {graph.workers} workers.",
                "Make the two numbers agree.",
            )
        self.graph, self.matrices, self.transport, self.drop, self.seed = graph, list(matrices), transport, drop, seed
        self.workers, self.tree = graph.workers, graph.tree
        self._given = list(matrices)
        self._plans = [_plan(matrix) for matrix in self.matrices]
        self.exchanges = self.mixings = self.lost = 0
        self.link_bytes: Counter[Link] = Counter()
        self.watching = False
        self.distances: tuple[float, float, float] | None = None
        self._counted = True
        if transport.gone:
            self.leave_out(transport.gone)

    @property
    def local(self) -> Sequence[int]:
        """The workers this process hosts, in increasing order."""
        return self.transport.local

    @property
    def alone(self) -> bool:
        """Whether this process hosts all workers."""
        return len(self.local) == self.workers

    @property
    def bytes_sent(self) -> int:
        """Bytes of payload sent so far by the workers hosted here; per link in `link_bytes`."""
        return sum(self.link_bytes.values())

    @property
    def may_lose(self) -> bool:
        """Whether a message between two workers that live may fail to come."""
        return self.drop > 0 or getattr(self.transport, "patience", None) is not None

    @property
    def contraction(self) -> float:
        """By what factor, at most, one mixing round shrinks the distance from the mean.

        Of a schedule, the geometric mean over its product.
        """
        product = torch.eye(self.workers, dtype=torch.float64)
        for matrix in self.matrices:
            product = matrix @ product
        return (1 - spectral_gap(product)) ** (1 / len(self.matrices))

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Inside, messages serve a measurement: they are neither counted nor lost."""
        before, self._counted = self._counted, False
        try:
            yield
        finally:
            self._counted = before

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Inside, what is mixed or averaged is something other than the weights whose distance is watched."""
        before, self.watching = self.watching, False
        try:
            yield
        finally:
            self.watching = before

    def exchange(self, messages: Mapping[Link, Tensor], links: Iterable[Link], like: Tensor) -> dict[Link, Tensor]:
        """One round of messages over `links`, all of one shape.

        Args:
            messages: (sender, receiver) to message, for every link of `links` whose sender is local.
            links: (sender, receiver), the same on every process.
            like: of the shape, type and device of a message.

        Returns:
            What came for local workers; receivers must not write to it.
        """
        local, measured = set(self.local), not self._counted
        expected = [link for link in links if link[1] in local]
        for link, message in messages.items():
            # Two workers in one process are still two workers; nobody sends to one that is known to be lost.
            if not measured and link[1] not in self.transport.gone:
                self.link_bytes[link] += message.numel() * message.element_size()
        found = self.transport.exchange(messages, expected, like)
        if self.drop and not measured:
            number = self.exchanges
            chance = {link: derive_seed(self.seed, "drop", number, *link) / 2**63 for link in found}
            kept = {link: message for link, message in found.items() if chance[link] >= self.drop}
            self.lost += len(found) - len(kept)
            found = kept
        self.exchanges += not measured
        return found

    def mix(self, values: Tensor, rounds: int = 1, *, among: Collection[int] | None = None) -> Tensor:
        """Rounds of gossip: each worker's value becomes the weighted mean of its own and its neighbours'.

        While `watching`, `distances` notes how far workers are from their mean before and after, and how far at most by the
        spectral gap where no message is lost; that is not counted.

        Args:
            values: (len(local), ...), one row per local worker.
            rounds: how many.
            among: who takes part; the links of others stay silent, and their weight with the receiver. All by default.

        Returns:
            The same shape.
        """
        rows = values.reshape(len(self.local), -1).contiguous()
        before = self.distance(rows) if self.watching else 0.0
        for _ in range(rounds):
            rows = self._mix_once(rows, among)
        if self.watching:
            # Where some links are silent, the distance may not shrink at all.
            bound = 1.0 if among is not None else self.contraction**rounds
            self.distances = (before, self.distance(rows), bound * before)
        return rows.reshape(values.shape)

    def _mix_once(self, rows: Tensor, among: Collection[int] | None) -> Tensor:
        links, weights = self._plans[self.mixings % len(self.matrices)]
        self.mixings += 1
        if among is not None:
            links = [link for link in links if link[0] in among and link[1] in among]
        place = {worker: row for row, worker in enumerate(self.local)}
        messages = {link: rows[place[link[0]]] for link in links if link[0] in place}
        found = self.exchange(messages, links, rows[0])
        mixed = torch.empty_like(rows)
        for row, i in enumerate(self.local):
            own, others = weights[i]
            own += math.fsum(weight for j, weight in others if (j, i) not in found)
            torch.mul(rows[row], own, out=mixed[row])
            for j, weight in others:
                if (j, i) in found:
                    mixed[row].add_(found[j, i], alpha=weight)
        return mixed

    def average(
        self,
        values: Tensor,
        rounds: int | None = None,
        *,
        weights: Tensor | None = None,
        among: Collection[int] | None = None,
        memory: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """The mean over all workers, as each of the local ones comes to know it.

        The exact mean goes up and down a spanning tree of the graph: 2 (workers - 1) messages, of which those on the way
        up carry the sum of weights as one more number. A subtree whose message does not come is left out; a worker that
        the mean does not reach keeps its own value.

        Args:
            values: (len(local), ...), one row per local worker.
            rounds: rounds of gossip, after which workers agree only approximately; None for the exact mean.
            weights: (len(local),) positive weights of the mean, such as sample counts; equal by default.
            among: whose values count, all by default; of an exact mean. Who has nothing to add, for itself or for others
                behind it in the tree, sends nothing up, and all receive the mean.
            memory: what each subtree last sent, by its top worker, and the last mean under -1; a message that does not
                come is replaced from there. Start with an empty dictionary and pass the same one each time.

        Returns:
            The same shape.
        """
        rows = values.reshape(len(self.local), -1)
        scale = torch.ones(len(rows), 1, dtype=rows.dtype, device=rows.device)
        if weights is not None:
            scale = weights.to(rows).reshape(-1, 1)
        if rounds is not None:
            if weights is None:
                return self.mix(values, rounds)
            mixed = self.mix(torch.cat([rows * scale, scale], 1), rounds)
            return (mixed[:, :-1] / mixed[:, -1:]).reshape(values.shape)
        before = self.distance(rows) if self.watching and self._counted else None
        sums = torch.cat([rows if weights is None else rows * scale, scale], 1)
        if among is not None:
            sums[[row for row, worker in enumerate(self.local) if worker not in among]] = 0
        mean = self._down(rows, self._up(sums, memory, among), memory)
        if before is not None:
            self.distances = (before, self.distance(mean), self.contraction * before)
        return mean.reshape(values.shape)

    def _up(self, sums: Tensor, memory: dict[int, Tensor] | None, among: Collection[int] | None) -> dict[int, Tensor]:
        """Sum towards the root, one level after the other; the mean at the root, if it lives here and anybody counts."""
        tree = self.tree
        silent = set() if among is None else set(range(self.workers)) - tree.above(among)
        place = {worker: row for row, worker in enumerate(self.local)}
        for level in reversed(tree.levels[1:]):
            links = [(worker, tree.parent[worker]) for worker in level if worker not in silent]
            messages = {link: sums[place[link[0]]] for link in links if link[0] in place}
            found = self.exchange(messages, links, sums[0])
            for child, parent in links:
                if parent not in place:
                    continue
                part = found.get((child, parent))
                if memory is not None:
                    if part is not None:
                        memory[child] = part.clone()
                    part = memory.get(child)
                if part is not None:
                    sums[place[parent]].add_(part)
        totals = {root: sums[place[root]] for root in tree.levels[0] if root in place}
        return {root: total[:-1] / total[-1] for root, total in totals.items() if total[-1] > 0}

    def _down(self, rows: Tensor, known: dict[int, Tensor], memory: dict[int, Tensor] | None) -> Tensor:
        """Hand the mean down; who is not reached keeps its last mean, or its own value."""
        tree, local = self.tree, set(self.local)
        result = rows.clone()
        stale = None if memory is None else memory.get(-1)
        if stale is not None:
            result.copy_(stale)
        for level in tree.levels[1:]:
            links = [(tree.parent[worker], worker) for worker in level]
            # A parent that the mean did not reach hands on what it holds.
            place = {worker: row for row, worker in enumerate(self.local)}
            messages = {
                link: known[link[0]] if link[0] in known else result[place[link[0]]]
                for link in links
                if link[0] in local
            }
            for (_, child), message in self.exchange(messages, links, rows[0]).items():
                known[child] = message
        for row, worker in enumerate(self.local):
            if worker in known:
                result[row] = known[worker]
        if memory is not None:
            memory[-1] = result.clone()
        return result

    def distance(self, rows: Tensor) -> float:
        """Consensus distance sqrt(sum_i |x_i - mean|^2) over all workers; its messages are not counted.

        Args:
            rows: (len(local), ...).
        """
        flat = rows.reshape(len(self.local), -1)
        with self.uncounted():
            mean = self.average(flat)
            # Row by row: with many workers a copy of all in float64 would be the most memory that a run takes.
            square = torch.stack([(row - m).double().square_().sum()[None] for row, m in zip(flat, mean, strict=True)])
            return math.sqrt(self.workers * float(self.average(square)[0, 0]))

    def gather(self, values: Tensor) -> Tensor:
        """One number of every worker, known to all, for tables; not counted.

        Args:
            values: (len(local),).

        Returns:
            (workers,) float64; NaN for who did not answer.
        """
        rows = torch.zeros(len(self.local), 2, self.workers, dtype=torch.float64)
        for row, worker in enumerate(self.local):
            rows[row, 0, worker], rows[row, 1, worker] = values[row].double(), 1
        with self.uncounted():
            sums = self.average(rows)[0]
        return sums[0] / sums[1]

    def total_bytes(self) -> int:
        """Bytes of payload sent so far over all links by all workers that answer."""
        share = torch.zeros(len(self.local), dtype=torch.float64)
        share[0] = self.bytes_sent
        return round(float(self.gather(share).nansum()))

    def synchronise(self, number: int, *, newcomer: bool = False, last: bool = False) -> tuple[int, bool]:
        """Between rounds: tell the others how far this process is, and follow where the group has changed.

        Args:
            number: rounds done here.
            newcomer: this process comes back from a checkpoint, and wants to know where the others are.
            last: these were all rounds; the others are waited for.

        Returns:
            the round to go on from, and whether the group has changed, for which `leave_out` was called.
        """
        follow = getattr(self.transport, "synchronise", None)
        if follow is None:
            return number, False
        ahead, gone = follow(number, newcomer, last)
        if gone is not None:
            self.leave_out(gone)
        if ahead != number or gone is not None:
            self.mixings = ahead
        return ahead, gone is not None

    def counts(self, worker: int) -> dict[str, Any]:
        """What a checkpoint of a local worker keeps of the network: how many exchanges there were, and what it has sent."""
        return {
            "exchanges": self.exchanges,
            "mixings": self.mixings,
            "lost": self.lost,
            "bytes": [[*link, count] for link, count in sorted(self.link_bytes.items()) if link[0] == worker],
        }

    def go_on_from(self, counts: Mapping[str, Any]) -> None:
        """Take the counts of a checkpoint up again; of those of several local workers the highest."""
        for name in ("exchanges", "mixings", "lost"):
            setattr(self, name, max(getattr(self, name), counts[name]))
        for sender, receiver, count in counts["bytes"]:
            self.link_bytes[sender, receiver] = count

    def leave_out(self, gone: Iterable[int]) -> None:
        """Carry on without some workers: their weight stays with their neighbours, and exact averages go around them.

        Every process must be told the same. What is left may fall into pieces, each of which agrees for itself.

        Args:
            gone: all who are out; an empty set takes everyone back.
        """
        gone = set(gone)
        alive = [worker for worker in range(self.workers) if worker not in gone]
        if not alive:
            raise InputError("All workers are lost.", "Start again from the checkpoints.")
        self.tree = self.graph.forest(alive)
        mask = torch.ones(self.workers, dtype=torch.float64)
        mask[list(gone)] = 0
        self.matrices = []
        for matrix in self._given:
            left = matrix * mask * mask[:, None]
            # A directed schedule's rows and columns lose differently; the mean is then kept only approximately.
            self.matrices.append(left + torch.diag(1 - left.sum(1)) if gone else matrix)
        self._plans = [_plan(matrix) for matrix in self.matrices]


def _plan(matrix: Tensor) -> tuple[list[Link], list[tuple[float, list[tuple[int, float]]]]]:
    """A matrix as (sender, receiver) links, and per worker its own weight and its neighbours', in increasing order."""
    weights: list[tuple[float, list[tuple[int, float]]]] = [(float(own), []) for own in matrix.diagonal()]
    for i, j in torch.nonzero(matrix).tolist():
        if i != j:
            weights[i][1].append((j, float(matrix[i, j])))
    return [(j, i) for i, (_, others) in enumerate(weights) for j, _ in others], weights
