"""Whole numbers that remember where they came from: the size of a tensor's dimension, or an attribute of a module.

When channels are removed such numbers change. A forward that takes its sizes from tensors follows by itself, one that takes them
from a module's attributes follows when these are set, and a number written into the code does not follow.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

Labels = np.ndarray
# Where code is not a model's own.
NO_MODEL = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


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

    @property
    def fixed(self) -> bool:
        """Whether it depends on the batch or the image, and not on channels."""
        return self.labels is None and (self.node is None or self.node.op != "get_attr")


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
        return of(self.origin, plain(self))

    def __int__(self) -> int:
        return self._escape()

    def __float__(self) -> float:
        return float(self._escape())

    def __bool__(self) -> bool:
        return bool(self != 0)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __round__(self, ndigits: Any = None) -> int:
        return self if ndigits is None else round(self._escape(), ndigits)

    def __trunc__(self) -> int:
        return self

    __ceil__ = __floor__ = __trunc__
    __hash__ = int.__hash__

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
        return plain(self)

    def __reduce__(self) -> Any:
        return int, (plain(self),)

    def __deepcopy__(self, memo: Any) -> int:
        return plain(self)

    def __copy__(self) -> int:
        return plain(self)


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
    return int.__int__(value) if isinstance(value, Size) else False if type(value) is Mode else value


def _operation(function: Callable[..., Any], reflected: bool) -> Callable[[Size, Any], Any]:
    def compute(self: Size, other: Any) -> Any:
        if isinstance(other, bool) or not isinstance(other, int):
            if isinstance(other, float):
                self.escaped(self)
                return function(other, plain(self)) if reflected else function(plain(self), other)
            return NotImplemented
        pair = (other, self) if reflected else (self, other)
        return Size(function(*map(plain, pair)), (function, pair), self.escaped)

    return compute


def _unary(function: Callable[..., Any]) -> Callable[[Size], Size]:
    return lambda self: Size(function(plain(self)), (function, (self,)), self.escaped)


def _asked_by() -> str:
    """The file of the code that compares."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_filename


def _comparison(function: Callable[..., Any]) -> Callable[[Size, Any], Any]:
    def compare(self: Size, other: Any) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        outcome = function(plain(self), plain(other))
        if _asked_by().startswith(NO_MODEL):
            return outcome  # a rule's own, or a module of torch that chooses among its ways to the same outputs
        self.escaped(Size(outcome, (function, (self, other)), self.escaped))
        return outcome

    return compare


# What tells two sizes apart: a branch may hang on it.
COMPARISONS = {operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge}

for _name in ("add", "sub", "mul", "floordiv", "mod", "lshift", "rshift", "and_", "or_", "xor"):
    _plain_name = _name.rstrip("_")
    setattr(Size, f"__{_plain_name}__", _operation(getattr(operator, _name), False))
    setattr(Size, f"__r{_plain_name}__", _operation(getattr(operator, _name), True))
for _function in (operator.neg, operator.pos, operator.abs, operator.invert):
    setattr(Size, f"__{_function.__name__}__", _unary(_function))
for _function in COMPARISONS:
    setattr(Size, f"__{_function.__name__}__", _comparison(_function))
