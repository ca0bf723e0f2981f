"""Who may talk to whom: connected graphs of workers, one table of families."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from gracile.core.errors import InputError, pick
from gracile.core.seeding import generator

Link = tuple[int, int]


@dataclass(frozen=True)
class Graph:
    """A connected undirected graph of workers 0 to workers - 1.

    Attributes:
        workers: how many, at least 1.
        edges: pairs (i, j) with i < j, sorted, each once.
        name: for tables and pictures.

    Raises:
        InputError: no worker, an edge that leads out of the range or to itself, or a graph in several pieces.
    """

    workers: int
    edges: tuple[Link, ...]
    name: str = "edges"

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"A graph of {self.workers} workers has nobody in it.", "Give at least one worker.")
        for i, j in self.edges:
            if not 0 <= i < j < self.workers:
                raise InputError(
                    f"The edge ({i}, {j}) does not join two of the workers 0 to {self.workers - 1}.",
                    "Give each edge once, as two different workers.",
                )
        pieces = self.pieces(range(self.workers))
        if len(pieces) > 1:
            shown = ", ".join(str(piece) for piece in pieces[:3]) + (", ..." if len(pieces) > 3 else "")
            raise InputError(
                f"The graph is disconnected: it falls into {len(pieces)} pieces, {shown}, which can never agree.",
                "Add edges between them.",
            )

    @cached_property
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """Per worker, its neighbours in increasing order."""
        found: list[list[int]] = [[] for _ in range(self.workers)]
        for i, j in self.edges:
            found[i].append(j)
            found[j].append(i)
        return tuple(tuple(sorted(row)) for row in found)

    def pieces(self, alive: Iterable[int]) -> list[list[int]]:
        """Connected pieces of what the workers `alive` span, each sorted."""
        left = set(alive)
        found = []
        while left:
            piece, front = set(), [min(left)]
            while front:
                piece.update(front)
                front = [j for i in front for j in self.neighbours[i] if j in left and j not in piece]
            found.append(sorted(piece))
            left -= piece
        return found

    @cached_property
    def tree(self) -> Tree:
        """A breadth-first spanning tree from a centre of the graph: exact averages go up and down it."""
        return self.forest(range(self.workers))

    def forest(self, alive: Iterable[int]) -> Tree:
        """One breadth-first spanning tree from a centre of each piece of what the workers `alive` span."""
        parent, depth = [-1] * self.workers, [-1] * self.workers
        for piece in self.pieces(alive):
            distances = {root: self._distances(root, set(piece)) for root in piece}
            root = min(piece, key=lambda worker: (max(distances[worker].values()), worker))
            for worker, steps in distances[root].items():
                depth[worker] = steps
                above = [j for j in self.neighbours[worker] if distances[root].get(j) == steps - 1]
                parent[worker] = min(above, default=-1)
        return Tree(tuple(parent), tuple(depth))

    def _distances(self, root: int, allowed: set[int]) -> dict[int, int]:
        distance, front = {root: 0}, [root]
        while front:
            ahead = []
            for i in front:
                for j in self.neighbours[i]:
                    if j in allowed and j not in distance:
                        distance[j] = distance[i] + 1
                        ahead.append(j)
            front = ahead
        return distance


@dataclass(frozen=True)
class Tree:
    """A rooted spanning tree, or one for each piece of what is left of a graph.

    Attributes:
        parent: per worker, the next one towards its root; -1 at a root and for who is not in it.
        depth: per worker, links to its root; -1 for who is not in it.
    """

    parent: tuple[int, ...]
    depth: tuple[int, ...]

    @cached_property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """Workers by depth, the level of the roots first."""
        return tuple(
            tuple(worker for worker, depth in enumerate(self.depth) if depth == level)
            for level in range(max(self.depth) + 1)
        )

    def above(self, workers: Iterable[int]) -> set[int]:
        """These workers and all on their ways to the root."""
        found: set[int] = set()
        for worker in workers:
            step = worker
            while step >= 0 and step not in found:
                found.add(step)
                step = self.parent[step]
        return found


def graph(given: str | Graph | Iterable[Any] | Any, workers: int | None = None, *, seed: int = 0) -> Graph:
    """A graph by name, from an edge list, or from networkx.

    Args:
        given: a row of `GRAPHS`, where ``random-regular:4`` names the degree; pairs of workers; or anything with
            `nodes` and `edges`, as networkx graphs have. Nodes that are not already 0 to n - 1 are numbered in sorted
            order, or in the graph's own where they cannot be sorted.
        workers: how many; needed for a name, else it must agree with what is given.
        seed: of random graphs.

    Returns:
        A connected graph.

    Raises:
        InputError: an unknown name, a number of workers the family does not have, a disconnected graph.
    """
    if isinstance(given, str):
        name, _, argument = given.partition(":")
        family = pick(GRAPHS, name, "graph")
        if workers is None:
            raise InputError(f"How many workers the graph '{name}' has is not said.", "Give workers=.")
        built = Graph(workers, _tidy(family(workers, argument, seed)), given) if workers != 1 else Graph(1, (), given)
    elif isinstance(given, Graph):
        built = given
    else:
        built = _listed(given, workers)
    if workers is not None and built.workers != workers:
        raise InputError(
            f"The graph has {built.workers} workers, and {workers} are asked for.", "Make the two numbers agree."
        )
    return built


def _listed(given: Any, workers: int | None) -> Graph:
    """From networkx, or from pairs."""
    nodes = list(given.nodes) if hasattr(given, "nodes") else None
    try:
        pairs = [(i, j) for i, j, *_ in (given.edges if nodes is not None else given)]
    except (TypeError, ValueError):
        raise InputError(
            f"{given!r} is no list of edges.", "Give pairs of workers, such as [(0, 1), (1, 2)]."
        ) from None
    if nodes is None:
        named = {node for pair in pairs for node in pair}
        count = workers or 0
        if named and all(isinstance(node, int) and node >= 0 for node in named):
            nodes = list(range(max(count, max(named) + 1)))
        else:
            nodes = list(named)
    with contextlib.suppress(TypeError):
        nodes = sorted(nodes)
    number = {node: place for place, node in enumerate(nodes)}
    return Graph(len(nodes), _tidy((number[i], number[j]) for i, j in pairs))


def _tidy(pairs: Iterable[Link]) -> tuple[Link, ...]:
    return tuple(sorted({(min(i, j), max(i, j)) for i, j in pairs if i != j}))


def _star(workers: int, argument: str, seed: int) -> Iterable[Link]:
    return ((0, i) for i in range(1, workers))


def _two_star(workers: int, argument: str, seed: int) -> Iterable[Link]:
    """For six workers (0, 1)-2-3-(4, 5): the study's (1, 2)-3-4-(5, 6)."""
    left, right = two_star_hubs(workers)
    return [*((i, left) for i in range(left)), (left, right), *((right, i) for i in range(right + 1, workers))]


def two_star_hubs(workers: int) -> Link:
    """The two centres of the two-star graph."""
    return (workers + 1) // 2 - 1, (workers + 1) // 2


def _path(workers: int, argument: str, seed: int) -> Iterable[Link]:
    return ((i, i + 1) for i in range(workers - 1))


def _ring(workers: int, argument: str, seed: int) -> Iterable[Link]:
    return ((i, (i + 1) % workers) for i in range(workers))


def _torus(workers: int, argument: str, seed: int) -> Iterable[Link]:
    rows = max(divisor for divisor in range(1, int(workers**0.5) + 1) if workers % divisor == 0)
    if rows == 1:
        raise InputError(
            f"{workers} workers do not fill a torus: the number has no factors.", "Use a ring, or another number."
        )
    columns = workers // rows
    return [
        (row * columns + column, other)
        for row in range(rows)
        for column in range(columns)
        for other in ((row + 1) % rows * columns + column, row * columns + (column + 1) % columns)
    ]


def _exponential(workers: int, argument: str, seed: int) -> Iterable[Link]:
    return [(i, (i + 2**k) % workers) for i in range(workers) for k in range(max(1, (workers - 1).bit_length()))]


def _complete(workers: int, argument: str, seed: int) -> Iterable[Link]:
    return ((i, j) for i in range(workers) for j in range(i + 1, workers))


def _random_regular(workers: int, argument: str, seed: int) -> Iterable[Link]:
    """Pairing stubs, drawn again until the graph is simple and connected (uniform over those)."""
    degree = int(argument) if argument.isdigit() else (3 if not argument else 0)
    if not 1 <= degree < workers or workers * degree % 2 or (degree == 1 and workers > 2):
        raise InputError(
            f"There is no connected random regular graph of degree '{argument or degree}' on {workers} workers.",
            "Write random-regular:D with D from 2 to workers - 1 and workers times D even.",
        )
    if degree > (workers - 1) / 2:
        # The complement is sparse, where a pairing succeeds; regular graphs of such degrees are connected.
        sparse = set() if degree == workers - 1 else set(_pairing(workers, workers - 1 - degree, seed, joined=False))
        return [pair for pair in _complete(workers, "", seed) if pair not in sparse]
    return _pairing(workers, degree, seed, joined=True)


def _pairing(workers: int, degree: int, seed: int, *, joined: bool) -> list[Link]:
    """Pairs stubs one after the other, giving up where only loops and doubles are left [@steger1999]."""
    random = generator(seed, "random-regular", workers, degree)
    while True:
        stubs, pairs = [i for i in range(workers) for _ in range(degree)], set()
        while stubs:
            order = torch.randperm(len(stubs), generator=random).tolist()
            left = []
            for a, b in zip(order[::2], order[1::2], strict=True):
                pair = (min(stubs[a], stubs[b]), max(stubs[a], stubs[b]))
                if pair[0] == pair[1] or pair in pairs:
                    left += [stubs[a], stubs[b]]
                else:
                    pairs.add(pair)
            if len(left) == len(stubs):
                break
            stubs = left
        if not stubs and (not joined or _connected(workers, pairs)):
            return sorted(pairs)


def _connected(workers: int, pairs: set[Link]) -> bool:
    try:
        Graph(workers, tuple(sorted(pairs)))
    except InputError:
        return False
    return True


# Name to (workers, argument after the colon, seed) -> edges.
GRAPHS: dict[str, Callable[[int, str, int], Iterable[Link]]] = {
    "complete": _complete,
    "exponential": _exponential,
    "path": _path,
    "random-regular": _random_regular,
    "ring": _ring,
    "star": _star,
    "torus": _torus,
    "two-star": _two_star,
}
