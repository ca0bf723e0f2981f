"""From labels, pairs and relations to classes of channels: which are one, and which must stay."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gracile.channels.records import Block, Choice, Follow, Ledger, Relation, Step
from gracile.channels.rectangles import settle
from gracile.channels.sizes import Attribute, Labels, Measured, Size, plain

# Channels of a dimension of which one is a small step.
FINE = 8


def resolve(ledger: Ledger, steps: Sequence[Step], *, can_write: bool) -> tuple[np.ndarray, dict[int, str]]:
    """Decide every relation, check that every size in the code follows.

    Args:
        ledger: of a recorded run.
        steps: the nodes that a generated forward would have.
        can_write: whether a forward can be generated, in which sizes are corrected.

    Returns:
        Label to class, and why the classes that must stay do.
    """
    found = Classes(ledger)
    if ledger.products or ledger.merges:
        found.update()
        ledger.blocks = settle(ledger, steps, found.classes, found.pinned(), found.marked(ledger.heads))
    pending, carried = list(ledger.relations), []
    while pending:
        found.update()
        pinned = found.pinned()
        carrying, heads = found.marked(carried), found.marked(ledger.heads)
        rated = [(relation, *_rate(relation, found.classes, pinned, carrying, heads)) for relation in pending]
        decided = [one for one in rated if one[2] == 2] or [one for one in rated if one[2] == 1]
        decided = decided or [rated[first] for first in _first_of_each_part(pending, found.classes)]
        for relation, axis, _ in decided:
            _decide(ledger, relation, axis, carried)
        chosen = {id(relation) for relation, _, _ in decided}
        pending = [one for one in pending if id(one) not in chosen]
    _settle_even(ledger, can_write)
    found.update()
    classes = found.classes
    inside = {id(step) for step in steps}
    while _pin_what_cannot_follow(ledger, found, inside, can_write) or (
        not can_write and _pin_what_is_compared(ledger, found)
    ):
        pass
    return classes, _reasons(ledger, classes)


def _reasons(ledger: Ledger, classes: np.ndarray) -> dict[int, str]:
    """Class to the reason that was given first."""
    if not ledger.pins:
        return {}
    held = classes[np.concatenate([labels for labels, _ in ledger.pins])]
    given = np.repeat(np.arange(len(ledger.pins)), [len(labels) for labels, _ in ledger.pins])
    found, first = np.unique(held, return_index=True)
    return {int(one): ledger.pins[reason][1] for one, reason in zip(found, given[first], strict=True)}


class Classes:
    """Which labels are one, brought up to date as pairs and pins are added to a ledger.

    Attributes:
        classes: label to class.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.classes = np.arange(ledger.size)
        self._held = np.zeros(ledger.size, bool)
        self._pairs = self._pins = 0  # how many of the ledger's are taken in

    def update(self) -> None:
        """Take in what was added; only classes, not labels, are joined anew."""
        size = self.ledger.size
        if len(self.classes) < size:  # labels that are new
            first = int(self.classes.max()) + 1 if len(self.classes) else 0
            self.classes = np.append(self.classes, np.arange(first, first + size - len(self.classes)))
            self._held = np.append(self._held, np.zeros(size - len(self._held), bool))
        pairs = self.ledger.pairs[self._pairs :]
        self._pairs = len(self.ledger.pairs)
        if pairs:
            first, second = (self.classes[np.concatenate([pair[side] for pair in pairs])] for side in (0, 1))
            number = int(self.classes.max()) + 1
            links = coo_array((np.ones(len(first), bool), (first, second)), shape=(number, number))
            self.classes = connected_components(links, directed=False)[1].astype(np.int64)[self.classes]

    def marked(self, labels: Sequence[Labels]) -> np.ndarray:
        """Per class, whether one of these labels is in it."""
        found = np.zeros(int(self.classes.max()) + 1 if len(self.classes) else 0, bool)
        if labels:
            found[self.classes[np.concatenate([one.ravel() for one in labels])]] = True
        return found

    def pinned(self) -> np.ndarray:
        """Per class, whether it must stay."""
        for labels, _ in self.ledger.pins[self._pins :]:
            self._held[labels] = True
        self._pins = len(self.ledger.pins)
        found = np.zeros(int(self.classes.max()) + 1 if len(self.classes) else 0, bool)
        found[self.classes[self._held]] = True
        return found


def _first_of_each_part(relations: Sequence[Relation], classes: np.ndarray) -> list[int]:
    """Relations that share no class, not even over others between them, do not bear on each other: the first of each such part."""
    held = [np.unique(classes[np.concatenate([one.whole.ravel(), *one.axes])]) for one in relations]
    rows = np.repeat(np.arange(len(held)), [len(one) for one in held])
    columns = np.concatenate(held) + len(held)
    number = int(columns.max()) + 1
    links = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(number, number))
    parts = connected_components(links, directed=False)[1][: len(held)]
    return np.unique(parts, return_index=True)[1].tolist()


def _rate(
    relation: Relation, classes: np.ndarray, pinned: np.ndarray, carrying: np.ndarray, heads: np.ndarray
) -> tuple[int, int]:
    """The axis along which to remove, and how sure that is: 2 where nothing else is possible, 1 where axes are heads, else 0.

    Without a reason the axis with more channels is taken, so that a step of removal is smaller; but a grouped convolution loses places
    within its groups where there are `FINE` of them, since a share p of them leaves p^2 of its weights, and p of its groups leaves p.
    """
    whole = classes[relation.whole]
    held = pinned[whole]
    best, sure = (-1, -1, -1, -1, -1), 0
    choice, free = 0, 0
    for axis, labels in enumerate(relation.axes):
        one = classes[labels]
        others = tuple(other for other in range(whole.ndim) if other != axis)
        count = int(np.count_nonzero(~(pinned[one] | held.any(others))))
        free += count > 0
        first = (
            whole.take([0], others[0])
            if len(others) == 1
            else whole[tuple(slice(None) if d == axis else slice(0, 1) for d in range(whole.ndim))]
        )
        natural = bool((whole == first).all())
        score = (
            int(count > 0 and (bool(carrying[one].any()) or natural)),
            int(count > 0 and bool(heads[one].any())),
            int(relation.grouped and axis == len(relation.axes) - 1 and count >= FINE),
            count,
            -axis,
        )
        if score > best:
            best, choice = score, axis
    if free <= 1 or best[0]:
        sure = 2
    elif best[1]:
        sure = 1
    return choice, sure


def _decide(ledger: Ledger, relation: Relation, axis: int, carried: list[Labels]) -> None:
    members = np.moveaxis(relation.whole, axis, 0).reshape(relation.whole.shape[axis], -1)
    ledger.unite(np.broadcast_to(relation.axes[axis][:, None], members.shape), members)
    carried.append(relation.axes[axis])
    for other, labels in enumerate(relation.axes):
        if other != axis:
            ledger.pin(labels, f"{relation.where} takes them apart: whole blocks go, not parts of each")


def _settle_even(ledger: Ledger, can_write: bool) -> None:
    """Parts that the code takes for equally many are made one by one the same channel, where the code cannot be corrected."""
    for follow in ledger.follows:
        if isinstance(follow.size, list) and not (can_write and follow.write is not None):
            first = follow.size[0]
            for part in follow.size[1:]:
                if len(part) == len(first):
                    ledger.unite(first, part)
                else:
                    ledger.pin(part, f"{follow.where} cuts them into equal parts")
                    ledger.pin(first, f"{follow.where} cuts them into equal parts")


def _pin_what_cannot_follow(ledger: Ledger, found: Classes, inside: set[int], can_write: bool) -> bool:
    classes, pinned = found.classes, found.pinned()
    bound = attributes(ledger)
    changed = False
    for follow in ledger.follows:
        if isinstance(follow.size, list):
            first = classes[follow.size[0]]
            follow.stands = all(
                len(part) == len(first) and bool((classes[part] == first).all()) for part in follow.size[1:]
            )
            continue
        concerned = [one for one in (follow.labels, *_leaf_labels(follow.size, bound)) if one is not None]
        if not concerned:
            follow.stands = True
            continue
        joined = classes[np.concatenate(concerned)]
        free = np.unique(joined[~pinned[joined]])
        trials = _trials(free) if not ledger.blocks else _block_trials(ledger.blocks, classes, free, pinned)
        follow.stands = not len(free) or all(_follows(follow, classes, bound, gone) for gone in trials)
        correctable = can_write and id(follow.step) in inside and (follow.place is not None or follow.write is not None)
        repeated = follow.labels is None or len(np.unique(classes[follow.labels])) < len(follow.labels)
        if (
            repeated
            and isinstance(follow.size, Size)
            and any(isinstance(leaf, Measured) and leaf.fixed for leaf in follow.size.leaves())
        ):
            correctable = False  # a number that depends on the batch or the image cannot be written down
        if not follow.stands and not (correctable and follow.labels is not None):
            for labels in concerned:
                ledger.pin(
                    labels,
                    f"their number is written at {follow.where}"
                    if follow.where
                    else "their number is written in the code",
                )
            changed = True
            pinned = found.pinned()
    return changed


def _pin_what_is_compared(ledger: Ledger, found: Classes) -> bool:
    """Branches that would be taken otherwise with fewer channels hold them, where no forward keeps the branch that was recorded."""
    classes, pinned, bound = found.classes, found.pinned(), attributes(ledger)
    changed = False
    for choice in ledger.choices:
        concerned = [one for one in _leaf_labels(choice.size, bound) if one is not None]
        joined = classes[np.concatenate(concerned)] if concerned else np.empty(0, int)
        free = np.unique(joined[~pinned[joined]])
        if len(free) and not _stays(choice, classes, bound, free):
            for labels in concerned:
                ledger.pin(labels, f"their number is compared at {choice.where}")
            changed, pinned = True, found.pinned()
    return changed


def _stays(choice: Choice, classes: np.ndarray, bound: dict[Attribute, Labels], free: np.ndarray) -> bool:
    """Whether a comparison comes out alike whichever of the `free` classes go."""
    assert isinstance(choice.size.origin, tuple)
    function, pair = choice.size.origin
    sides = [
        np.sort(
            np.concatenate([np.empty(0, int), *(classes[one] for one in _leaf_labels(side, bound) if one is not None)])
        )
        for side in pair
    ]
    if all(isinstance(one, Size) and not isinstance(one.origin, tuple) for one in pair) and np.array_equal(
        sides[0], sides[1]
    ):
        return True  # both are the number of the same channels
    trials = [*_trials(free), free, *(free[np.isin(free, one)] for one in sides)]
    if not all(choice.stays(_left(classes, bound, gone)) for gone in trials):
        return False
    if (function is operator.eq) == bool(plain(choice.size)):
        return function in (operator.eq, operator.ne)  # equal, whichever of them go
    # Unequal, but the larger may come down to the smaller.
    values = [
        [one.value(_left(classes, bound, gone)) if isinstance(one, Size) else one for gone in (free[:0], free)]
        for one in pair
    ]
    (low, high), (other, top) = (sorted(one) for one in values)
    return function not in (operator.eq, operator.ne) or high < other or top < low


def _left(
    classes: np.ndarray, bound: dict[Attribute, Labels], gone: np.ndarray
) -> Callable[[Measured | Attribute, int], int]:
    """What a size measures once these classes are gone."""

    def of(leaf: Measured | Attribute, value: int) -> int:
        labels = leaf.labels if isinstance(leaf, Measured) else bound.get(leaf)
        return value if labels is None else int(np.count_nonzero(~np.isin(classes[labels], gone)))

    return of


def _trials(free: np.ndarray) -> Iterator[np.ndarray]:
    yield free[:1]
    yield free[-1:]
    if len(free) > 2:
        yield free[::2]
        yield free[: len(free) // 2]


def _block_trials(
    blocks: Sequence[Block], classes: np.ndarray, free: np.ndarray, pinned: np.ndarray
) -> Iterator[np.ndarray]:
    """As `_trials`, where what is inside of heads goes by whole heads, or as much out of each."""
    with_it: dict[int, list[np.ndarray]] = {}
    inside = []
    for one in blocks:
        members = classes[one.members]
        inside.append(members.ravel())
        for head, row in zip(classes[one.heads], members, strict=True):
            with_it.setdefault(int(head), []).append(row)
        for place, column in zip(classes[one.width] if one.width is not None else (), members.T, strict=False):
            with_it.setdefault(int(place), []).append(column)
    touched = np.isin(free, np.concatenate(inside))
    if not touched.any() and not any(int(one) in with_it for one in free):
        yield from _trials(free)
        return
    closed = {one: np.unique([one, *np.concatenate(found)]) for one, found in with_it.items() if not pinned[one]}
    closed = {one: found for one, found in closed.items() if np.isin(found, free).any() and not pinned[found].any()}
    for gone in (*_trials(free[~touched]),) if not touched.all() else ():
        yield np.unique(np.concatenate([gone, *(closed[one] for one in gone.tolist() if one in closed)]))
    yield from closed.values()
    if closed:
        together = list(closed.values())
        yield np.unique(np.concatenate([together[0], together[-1]]))


def attributes(ledger: Ledger) -> dict[Attribute, Labels]:
    """Whole numbers kept by modules, with the channels that they count."""
    bound: dict[Attribute, Labels] = {}
    for follow in ledger.follows:
        origin = follow.size.origin if isinstance(follow.size, Size) else None
        if isinstance(origin, Attribute) and follow.labels is not None and origin not in ledger.frozen:
            bound.setdefault(origin, follow.labels)
    for follow in ledger.follows:  # such as batch * heads, where no size is the heads alone
        if isinstance(follow.size, Size) and follow.labels is not None and isinstance(follow.size.origin, tuple):
            leaves = [leaf for leaf in follow.size.leaves() if isinstance(leaf, Attribute) and leaf not in bound]
            if len(leaves) == 1 and leaves[0] not in ledger.frozen:
                found = _factor(follow.labels, leaves[0].value)
                if found is not None:
                    bound[leaves[0]] = found
    return bound


def _factor(labels: Labels, number: int) -> Labels | None:
    """The labels of one factor of a dimension that was merged out of several."""
    if not number or len(labels) % number:
        return None
    outer, inner = labels.reshape(-1, number), labels.reshape(number, -1)
    if (outer == outer[:1]).all():
        return outer[0]
    return inner[:, 0] if (inner == inner[:, :1]).all() else None


def _leaf_labels(size: object, bound: dict[Attribute, Labels]) -> Iterator[Labels | None]:
    if isinstance(size, Size):
        for leaf in size.leaves():
            yield leaf.labels if isinstance(leaf, Measured) else bound.get(leaf)


def _follows(follow: Follow, classes: np.ndarray, bound: dict[Attribute, Labels], gone: np.ndarray) -> bool:
    """Whether the size is right once these classes are gone."""
    of = _left(classes, bound, gone)
    wanted = of(Measured(follow.labels, None, 0), plain(follow.size))
    try:
        return (follow.size.value(of) if isinstance(follow.size, Size) else int(follow.size)) == wanted
    except ZeroDivisionError:
        return False
