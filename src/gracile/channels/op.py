"""What a rule sees of an operation, and what it can say about it.

A rule gives its output's labels: the input's own where a channel passes through, fresh ones where channels are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from gracile.channels.calls import leaves
from gracile.channels.records import Cells, Constants, Count, Follow, Layer, Ledger, Place, Record, Relation, Step, Var
from gracile.channels.sizes import Attribute, Labels, Size, plain
from gracile.core.errors import InputError


class Op:
    """An operation as its rule sees it.

    Attributes:
        name: the module's path, or the operation's name.
        key: what it is called in the table.
        module: the module called, None for functions and methods.
        args: as given, tensors as `Var`, everything else as its value on the example.
        kwargs: likewise.
        given: all that the arguments hold, in order.
        operands: the tensors among it.
        results: shapes of the result's tensors, on an example of two samples.
        call: the function itself.
        where: the user's own source line, for reasons and errors.
    """

    def __init__(
        self,
        key: str,
        name: str,
        operands: tuple[tuple[Any, ...], Mapping[str, Any]],
        step: Step,
        ledger: Ledger,
        call: Callable[..., Any],
        *,
        module: nn.Module | None = None,
        opened: bool = False,
    ) -> None:
        self.key, self.name, self.module, self.args, self.kwargs = key, name, module, operands[0], dict(operands[1])
        self.step, self.where, self.own, self.call = (
            step,
            step.node.meta.get("where", ""),
            step.node.op != "call_module",
            call,
        )
        self.results: list[tuple[int, ...]] = []
        self.given = leaves((self.args, self.kwargs))
        self.operands: list[Var] = [one for one in self.given if isinstance(one, Var)]
        self.record = Record(self.operands)
        self.ledger = ledger
        self.used: set[int] = set()
        self.opened = opened  # whether a function that torch took apart itself: its sizes follow
        self.holding: tuple[Labels, str] | None = None  # what must stay if a result beside the first is used
        # Of a view: runs of dimensions that become others (start, stop, first, end), and those taken apart or put together.
        self.runs: list[tuple[int, int, int, int]] = []
        self.parted: list[tuple[list[int], Relation]] = []
        self.merged: list[tuple[list[int], Relation]] = []
        self.followed: list[Var] = []  # operands whose entries need not be followed any further
        self.carried: Cells | None = None  # entries that the rule itself has put onto the first result

    @property
    def x(self) -> Var:
        """The first tensor among the arguments."""
        return self.operands[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first result."""
        return self.results[0]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name; the tensor itself is position 0."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def listed(self, position: int, *names: str) -> tuple[list[Any], list[Place]]:
        """Whole numbers given one by one or as a list, and where each is written."""
        for name in names:
            if name in self.kwargs:
                given = self.kwargs[name]
                return list(given), [("kwargs", name, index) for index in range(len(given))]
        if len(self.args) == position + 1 and isinstance(self.args[position], list | tuple):
            given = self.args[position]
            return list(given), [("args", position, index) for index in range(len(given))]
        given = self.args[position:]
        return list(given), [("args", position + index) for index in range(len(given))]

    def fresh(self, number: int) -> Labels:
        """Labels of `number` new channels."""
        return self.ledger.fresh(number)

    def unite(self, first: Labels, second: Labels) -> None:
        """Declare that ``first[i]`` and ``second[i]`` are one channel, for every i."""
        self.ledger.unite(np.asarray(first), np.asarray(second))

    def join(self, first: Labels | None, second: Labels | None, reason: str | None = None) -> Labels | None:
        """Declare that two dimensions are the same one; where one of them has a fixed size, the other has too."""
        return self.ledger.join(first, second, reason or f"{self.said} joins it with a dimension of fixed size")

    def pin(self, labels: Labels | None, reason: str) -> None:
        """Declare that these channels can never be removed, and why (a clause for the plan's table)."""
        self.ledger.pin(labels, reason)

    def pin_all(self, reason: str) -> None:
        """Pin every channel of every operand."""
        for one in self.operands:
            for labels in one.dims:
                self.ledger.pin(labels, reason)

    @property
    def said(self) -> str:
        """The operation for a reason."""
        return (
            f"'{self.name}'"
            if self.step.node.op == "call_module" or not self.where
            else f"'{self.name}' at {self.where}"
        )

    def follows(self, size: Any, labels: Labels | None, place: Place | None, write: Any = None) -> None:
        """Declare that a size among the arguments must be the number of these channels (None: must not change)."""
        self.used.add(id(size))
        if (
            self.opened
            or not isinstance(size, int)
            or isinstance(size, bool)
            or (labels is None and not isinstance(size, Size))
        ):
            return
        follow = Follow(size, labels, self.step, place if self.own else None, self.where, write if self.own else None)
        self.step.follows.append(follow)
        self.ledger.follows.append(follow)

    def even(self, parts: Sequence[Labels], write: Callable[[fx.Node, Count], None]) -> None:
        """Declare that the code takes it that these parts have as many channels each; `write` corrects it where they have not."""
        follow = Follow(list(parts), None, self.step, None, self.where, write if self.own and not self.opened else None)
        self.step.follows.append(follow)
        self.ledger.follows.append(follow)

    def tensor(self, name: str, dims: Mapping[int, Labels]) -> None:
        """Declare that the module's parameter or buffer `name` has these labels along these dimensions; None is passed over."""
        assert self.module is not None
        if getattr(self.module, name) is None:
            return
        known = self.step.tensors.setdefault(f"{self.name}.{name}" if self.name else name, {})
        for dim, labels in dims.items():
            if dim in known:
                self.unite(known[dim], labels)
            else:
                known[dim] = labels

    def size(self, attribute: str, labels: Labels) -> None:
        """Declare that the module's integer `attribute` is the number of these channels."""
        assert self.module is not None
        value = int(getattr(self.module, attribute))
        made = Size(value, Attribute(self.name, attribute, value), lambda _size: None)
        self.follows(made, np.asarray(labels), None)

    def reads(
        self,
        weight: Var,
        source: Var,
        *,
        outputs: int,
        inputs: int,
        positions: int,
        folds: bool,
        along: Sequence[Labels | None] = (),
        bias: Var | None = None,
        groups: tuple[Labels, Labels] | None = None,
    ) -> bool:
        """Declare that a weight makes channels from those of `source`; see `Layer`, `along` for its positions.

        Returns:
            False where the weight is computed from parameters, so that its inputs cannot be told to be zero: then they are pinned.
        """
        labels = weight.dims[inputs]
        if weight.param is None:
            self.pin(labels, f"{self.said} reads it by a weight that is computed")
            return False
        name, order = weight.param
        owner, _, leaf = name.rpartition(".")
        module = leaf == "weight"
        whole = module and self.step.node.op == "call_module" and owner == self.step.node.target
        out = weight.dims[outputs]
        if out is None:
            out = self.fixed(weight.shape[outputs])
        made = Layer(
            owner if module else name,
            name,
            (order[outputs], out),
            (order[inputs], labels if labels is not None else self.fixed(weight.shape[inputs])),
            positions,
            folds and (whole if bias is None else bias.param is not None),
            bias.param[0] if bias is not None and bias.param is not None else None,
            source,
            None,
            self.step.node,
            groups,
            whole,
            tuple(one for one in along if one is not None),
        )
        self.record.layer = made
        self.step.layers.append(made)
        return True

    def fixed(self, number: int) -> Labels:
        """Labels of channels that stay."""
        labels = self.fresh(number)
        self.pin(labels, "it is an input of the network" if not self.operands else "its size is fixed")
        return labels

    def positions(self, x: Var, number: int) -> int:
        """So many places on two samples as a number for one."""
        return max(number // 2, 1) if x.varies else number

    def constants(self, function: Constants, *, makes: bool = False) -> None:
        """Give the function that tells which output channels are constant; without one, none are.

        Args:
            function: from the operands' `Values` to the result's.
            makes: whether there may be constants in the result without any in the operands, as with padded channels.
        """
        self.record.constants = function
        self.record.makes_constants = makes

    def execute(self, tensors: Sequence[Tensor], key: str | None = None) -> Any:
        """The operation itself on other tensors in the operands' places."""
        remaining = iter(tensors)
        args, kwargs = tree_map(
            lambda one: next(remaining) if isinstance(one, Var) else plain(one),
            (self.args, self.kwargs),
            is_leaf=lambda one: isinstance(one, Var),
        )
        with torch.no_grad():
            return self.call(*args, **kwargs)

    def refuse(self, cause: str, remedy: str) -> NoReturn:
        """Stop: this use of the operation has no exact treatment."""
        raise InputError(f"{self.said}: {cause}", remedy)
