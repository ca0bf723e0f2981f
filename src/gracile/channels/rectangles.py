"""Heads whose keys and queries, and whose values, can lose channels inside: blocks of equal width that a view takes apart.

A view gives every head the same width, so what goes inside heads is a matter of number: each head loses its own channels, and all are left
as wide as the widest. For that the entries of a dimension that was taken apart are followed, by their own labels, through all that keeps
them where they are, up to the product of keys and queries, and up to the view that puts heads beside each other again. Whatever else
touches the dimension lets it be treated as any other: heads go, and the width stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gracile.channels.elementwise import ACTIVATIONS, FUNCTIONS
from gracile.channels.records import Block, Cells, Ledger, Merge, Product, Step, Values, Var
from gracile.channels.sizes import Labels

if TYPE_CHECKING:
    from gracile.channels.op import Op

# What hands on each entry at its own place.
IN_PLACE = {
    "contiguous", "clone", "to", "float", "double", "half", "bfloat16", "detach", "dropout", "native_dropout", "Dropout", "Identity",
    *ACTIVATIONS, *FUNCTIONS,
}  # fmt: skip
RESHAPES = ("flatten", "view", "reshape", "unflatten", "reshape_as")


def carry(op: Op) -> None:
    """Follow the entries of an operation's operands to its results; where they cannot be, say so in the ledger."""
    holders = [one for one in op.operands if one.cells is not None]
    if op.key in RESHAPES:
        _reshaped(op)
        return
    if op.carried is not None:
        op.record.outputs[0].cells = op.carried
    for one in holders:
        assert one.cells is not None
        if one not in op.followed and not _moved(op, one, one.cells):
            _lose(op, one.cells)


def _lose(op: Op, cells: Cells, axes: Sequence[int] | None = None) -> None:
    for axis in range(len(cells.axes)) if axes is None else axes:
        op.ledger.loose.append((cells.along[axis], f"{op.said} works on them in its own way"))


def _moved(op: Op, x: Var, cells: Cells) -> bool:
    """Put the entries onto the results of what moves or keeps them."""
    made = op.record.outputs
    if op.record.order is not None:
        made[0].cells = cells.placed([op.record.order.index(axis) for axis in cells.axes])
        return True
    if op.key in IN_PLACE and len(made) and made[0].shape == x.shape:
        for other in op.operands:
            ahead = len(x.shape) - len(other.shape)
            wide = [at for at, axis in enumerate(cells.axes) if axis >= ahead and other.shape[axis - ahead] > 1]
            if other is not x:
                _lose(op, cells, wide)
        made[0].cells = cells
        return True
    if op.key in ("unbind", "iter", "select") or (op.key == "getitem" and type(op.args[1]) is int):
        dim = int(op.argument(1, "dim", 0)) % len(x.shape) if op.key != "getitem" else 0
        place = op.argument(2, "index") if op.key == "select" else op.args[1] if op.key == "getitem" else None
        for number, one in enumerate(made):
            one.cells = cells.taken(dim, number if place is None else int(place))
        return True
    if op.key == "getitem" and isinstance(op.args[1], tuple) and not any(isinstance(k, Var | list) for k in op.args[1]):
        return _indexed(op, x, cells)
    if op.key in ("expand", "unsqueeze", "broadcast_to"):
        ahead = len(op.shape) - len(x.shape)
        axes = [axis + ahead for axis in cells.axes]
        if op.key == "unsqueeze":
            at = int(op.argument(1, "dim")) % len(op.shape)
            axes = [axis + (axis >= at) for axis in cells.axes]
        if any(op.shape[axis] != size for axis, size in zip(axes, cells.labels.shape, strict=True)):
            return False
        made[0].cells = cells.placed(axes)
        return True
    if op.key == "repeat_interleave" and isinstance(times := op.argument(1, "repeats"), int):
        dim = int(op.argument(2, "dim")) % len(x.shape)
        if dim in cells.axes:
            made[0].cells = cells.chosen(dim, np.repeat(np.arange(x.shape[dim]), int(times)))
            return True
    return False


def _indexed(op: Op, x: Var, cells: Cells) -> bool:
    """Whole slices, whole numbers and new dimensions."""
    keys = list(op.args[1])
    if any(one is Ellipsis for one in keys):
        at = next(index for index, one in enumerate(keys) if one is Ellipsis)
        used = sum(one is not None and one is not Ellipsis for one in keys)
        keys[at : at + 1] = [slice(None)] * (len(x.shape) - used)
    keys += [slice(None)] * (len(x.shape) - sum(one is not None for one in keys))
    axis = place = 0
    found = cells
    for one in keys:
        if one is None:
            found = found.placed([old + (old >= place) for old in found.axes])
            place += 1
        elif isinstance(one, slice):
            if one != slice(None) and axis in cells.axes:
                return False
            axis, place = axis + 1, place + 1
        elif isinstance(one, int) and not isinstance(one, bool):
            found = found.taken(place, int(one))
            axis += 1
        else:
            return False
    op.record.outputs[0].cells = found
    return True


def _reshaped(op: Op) -> None:
    """A view takes entries apart, puts them beside each other, or repeats a dimension of them."""
    x, made = op.x, op.record.outputs[0]
    cells = x.cells
    if cells is None:
        if len(op.parted) == 1:
            axes, relation = op.parted[0]
            made.cells = Cells(tuple(axes), relation.whole, list(relation.axes))
        return
    if made.shape == x.shape:
        made.cells = cells
        return
    if len(op.merged) == 1 and set(op.merged[0][0]) == set(cells.axes):
        axes, relation = op.merged[0]
        op.ledger.merges.append(Merge(cells.ordered(axes), relation))
        return
    axes = list(cells.axes)
    found: Cells | None = cells
    for start, stop, first, end in op.runs:
        inside = [axis for axis in cells.axes if start <= axis < stop]
        if not inside:
            continue
        shown = [axis for axis in range(first, end) if made.dims[axis] is not None and made.shape[axis] > 1]
        if len(inside) > 1 or len(shown) != 1:
            found = None
            break
        at = cells.axes.index(inside[0])
        places = np.arange(x.shape[inside[0]]).reshape(
            [x.shape[axis] if axis == inside[0] else 1 for axis in range(start, stop)]
        )
        cube = np.broadcast_to(places, x.shape[start:stop]).reshape(made.shape[first:end])
        index = cube[tuple(slice(None) if axis == shown[0] else 0 for axis in range(first, end))]
        assert found is not None
        found = found.chosen(found.axes[at], index)
        axes[at] = shown[0]
    if found is None:
        _lose(op, cells)
    else:
        made.cells = found.placed(axes)


def multiplied(op: Op, first: Var, second: Var, axes: tuple[int, int], *, shared: bool, reason: str) -> bool:
    """Note that a product sums over what may be the width of heads.

    Args:
        op: the product.
        first: a factor, such as queries (..., heads, t, d).
        second: the other.
        axes: the dimension of each that is summed over.
        shared: whether a softmax over the second's positions follows, which takes no notice of what is added alike to all.
        reason: why the dimension stays if it is no such width.

    Returns:
        Whether it may be; else nothing is noted.
    """
    one, other = first.cells, second.cells
    if one is None or other is None or len(one.axes) != 2 or len(other.axes) != 2:
        return False
    if axes[0] not in one.axes or axes[1] not in other.axes:
        return False
    queries, keys = one.last(axes[0]), other.last(axes[1])
    if queries.labels.shape[1] != keys.labels.shape[1] or queries.labels.shape[0] % keys.labels.shape[0]:
        return False
    keys = keys.chosen(keys.axes[0], np.repeat(np.arange(len(keys.labels)), len(queries.labels) // len(keys.labels)))
    op.ledger.products.append(Product(queries, keys, first, second, shared, reason))
    op.followed += [first, second]
    return True


@dataclass(eq=False)
class _Try:
    """What may become a block: heads, the entries of each, and which entries of others are the same ones."""

    heads: Labels
    width: list[Labels]
    members: list[Labels]
    product: Product | None
    relations: list[int] = field(default_factory=list)


def settle(
    ledger: Ledger, steps: Sequence[Step], classes: np.ndarray, held: np.ndarray, heads: np.ndarray
) -> list[Block]:
    """Decide which widths can go, unite what is one, and take out the relations that are settled with it.

    Args:
        ledger: of a recorded run; changed.
        steps: its operations.
        classes: label to class.
        held: per class, whether it must stay.
        heads: per class, whether products of computed factors have it for a batch.

    Returns:
        The blocks; `liveness` keeps them rectangular.
    """
    tries = [_of_product(one) for one in ledger.products]
    tries += [_of_merge(one) for one in ledger.merges if one.cells.labels.ndim == 2]
    barred = np.zeros(len(held), bool)
    for step in steps:
        for dims in step.tensors.values():
            for labels in dims.values():
                barred[classes[labels]] = True
    for labels, _ in ledger.loose:
        barred[classes[labels]] = True
    barred |= held
    owner = np.full(ledger.size, -1, np.int64)
    for number, relation in enumerate(ledger.relations):
        owner[relation.whole.ravel()] = number
    for one in tries:
        one.relations = np.unique(owner[np.concatenate([labels.ravel() for labels in one.members])]).tolist()
    tries = [one for one in tries if -1 not in one.relations and _even(one, classes, barred, heads)]
    while True:
        covered = np.zeros(ledger.size, bool)
        for one in tries:
            for labels in one.members:
                covered[labels] = True
        settled = {number for one in tries for number in one.relations}
        bad = {number for number in settled if not covered[ledger.relations[number].whole].all()}
        # A width, or what is inside of heads, that another view takes apart or puts together is no matter of number alone.
        alien = np.zeros(len(held), bool)
        for number, relation in enumerate(ledger.relations):
            if number not in settled:
                for labels in (relation.whole, *relation.axes):
                    alien[classes[labels]] = True
        for number in bad:
            for one in tries:
                if number in one.relations:
                    alien[classes[one.width[0]]] = True
        remaining = [
            one for one in tries if not any(alien[classes[labels]].any() for labels in (one.width[0], *one.members))
        ]
        if len(remaining) == len(tries):
            break
        tries = remaining
    chosen = {id(one.product) for one in tries if one.product is not None}
    for product in ledger.products:
        if id(product) not in chosen:
            for cells in (product.queries, product.keys):
                ledger.pin(cells.along[1], product.reason)
    settled = {number for one in tries for number in one.relations}
    ledger.relations = [one for number, one in enumerate(ledger.relations) if number not in settled]
    return [_block(ledger, one, classes) for one in tries]


def _of_product(product: Product) -> _Try:
    queries, keys = product.queries, product.keys
    return _Try(queries.along[0], [queries.along[1], keys.along[1]], [queries.labels, keys.labels], product)


def _of_merge(merge: Merge) -> _Try:
    cells, relation = merge.cells, merge.relation
    return _Try(cells.along[0], [cells.along[1], relation.axes[1]], [cells.labels, relation.whole], None)


def _even(one: _Try, classes: np.ndarray, barred: np.ndarray, heads: np.ndarray) -> bool:
    """Whether the width is the same dimension in all that is concerned, nothing else knows it, and heads are heads."""
    first = classes[one.width[0]]
    return (
        len(np.unique(first)) == len(first)
        and not barred[first].any()
        and bool(heads[classes[one.heads]].all())
        and all(np.array_equal(first, classes[other]) for other in one.width[1:])
    )


def _block(ledger: Ledger, one: _Try, classes: np.ndarray) -> Block:
    first, *others = one.members
    for other in others:
        ledger.unite(first, other)
    rows = np.sort(np.unique(classes[one.heads], return_index=True)[1])
    product = one.product
    same = classes[one.heads]
    for row in rows:  # heads that share keys, or values, share their entries
        ledger.unite(np.broadcast_to(first[row], first[same == same[row]].shape), first[same == same[row]])
    return Block(one.heads[rows], first[rows], one.width[0], None if product is None else _paired(product, first[rows]))


def _paired(product: Product, members: Labels) -> Callable[..., np.ndarray]:
    """Which products of a key's and a query's channel bear on the result: those of which neither is zero for all inputs."""

    def paired(labels: np.ndarray, _nonzero: object, values: Mapping[Var, Values]) -> np.ndarray:
        queries = _bears(product.queries, product.first, values, False)
        keys = _bears(product.keys, product.second, values, product.shared)
        marked = np.zeros(int(labels.max()) + 1, bool)
        marked[labels[product.queries.labels[queries & keys]]] = True
        return marked[labels[members]]

    return paired


def _bears(cells: Cells, var: Var, values: Mapping[Var, Values], shared: bool) -> np.ndarray:
    found = None if var.changed else values.get(var)
    shape = cells.labels.shape
    if found is None:
        return np.ones(shape, bool)
    idle = found.known if shared else found.known & (found.value == 0)
    order = [*cells.axes, *(axis for axis in range(idle.dim()) if axis not in cells.axes)]
    idle = idle.permute(order)
    table = idle.reshape(*idle.shape[:2], -1).all(-1).cpu().numpy()
    if table.shape[0] not in (1, shape[0]):  # keys that several heads of queries share
        table = np.repeat(table, shape[0] // table.shape[0], 0)
    return ~np.broadcast_to(table, shape)
