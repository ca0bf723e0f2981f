"""Whole numbers that remember where they came from: the size of a tensor's dimension, or an attribute of a module.

When channels are removed such numbers change. A forward that takes its sizes from tensors follows by itself, one that takes them
from a module's attributes follows when these are set, and a number written into the code does not follow.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

Labels = np.ndarray


@dataclass(frozen=True, eq=False)
class Measured:
    """The size of a dimension.

    Attributes:
        labels: of the dimension; None where its size is fixed.
        node: of the tensor measured, None inside a module that is called whole.
        dim: the dimension.
    """

    labels: Labels | None
    node: fx.Node | None
    dim: int


@dataclass(frozen=True)
class Attribute:
    """A whole number kept by a module.

    Attributes:
        module: its path.
        name: of the attribute.
        value: as the model was traced.
    """

    module: str
    name: str
    value: int


class Size(int):
    """An int with its origin: a leaf, or an operation on others."""

    origin: Measured | Attribute | tuple[Callable[..., int], tuple[Any, ...]]
    escaped: Callable[[Size], None]

    def __new__(cls, value: int, origin: Any, escaped: Callable[[Size], None]) -> Size:
        made = super().__new__(cls, value)
        made.origin, made.escaped = origin, escaped
        return made

    def leaves(self) -> Iterator[Measured | Attribute]:
        """The dimensions and attributes it was computed from."""
        if isinstance(self.origin, tuple):
            for one in self.origin[1]:
                if isinstance(one, Size):
                    yield from one.leaves()
        else:
            yield self.origin

    def value(self, of: Callable[[Measured | Attribute, int], int]) -> int:
        """Its value when the leaves are what `of` says (given a leaf and what it was)."""
        if isinstance(self.origin, tuple):
            function, args = self.origin
            return function(*(one.value(of) if isinstance(one, Size) else one for one in args))
        return of(self.origin, int(self))

    def __float__(self) -> float:
        self.escaped(self)
        return float(int(self))

    def __truediv__(self, other: Any) -> Any:
        return self._escape() / _plain(other)

    def __rtruediv__(self, other: Any) -> Any:
        return _plain(other) / self._escape()

    def __pow__(self, other: Any, mod: Any = None) -> Any:
        return self._escape() ** _plain(other)

    def __rpow__(self, other: Any, mod: Any = None) -> Any:
        return _plain(other) ** self._escape()

    def _escape(self) -> int:
        self.escaped(self)
        return int(self)

    def __reduce__(self) -> Any:
        return int, (int(self),)

    def __deepcopy__(self, memo: Any) -> int:
        return int(self)

    def __copy__(self) -> int:
        return int(self)


class Mode(int):
    """A module's `training` as it is in evaluation, which knows its module: in a generated forward it is read there again."""

    module: str

    def __new__(cls, module: str) -> Mode:
        made = super().__new__(cls, 0)
        made.module = module
        return made

    def __reduce__(self) -> Any:
        return bool, (False,)

    def __deepcopy__(self, memo: Any) -> bool:
        return False

    def __copy__(self) -> bool:
        return False


def _plain(value: Any) -> Any:
    return value._escape() if isinstance(value, Size) else value


def plain(value: Any) -> Any:
    """An int in place of a `Size`, False in place of a `Mode`, anything else as it is."""
    return int(value) if isinstance(value, Size) else False if type(value) is Mode else value


def _operation(function: Callable[..., Any], reflected: bool) -> Callable[[Size, Any], Any]:
    def compute(self: Size, other: Any) -> Any:
        if isinstance(other, bool) or not isinstance(other, int):
            if isinstance(other, float):
                self.escaped(self)
                return function(other, int(self)) if reflected else function(int(self), other)
            return NotImplemented
        pair = (other, self) if reflected else (self, other)
        return Size(function(*map(plain, pair)), (function, pair), self.escaped)

    return compute


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(Size, f"__{_name}__", _operation(getattr(operator, _name), False))
    setattr(Size, f"__r{_name}__", _operation(getattr(operator, _name), True))


def _negative(self: Size) -> Size:
    return Size(-int(self), (operator.neg, (self,)), self.escaped)


Size.__neg__ = _negative  # type: ignore[method-assign]
