"""What is known of the tensors of a run: parameters by identity, results by a tag they carry, views by the memory they share."""

from __future__ import annotations

import weakref
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from gracile.channels.calls import with_tensors
from gracile.channels.records import Dims, Ledger, Record, Slots, Step, Var
from gracile.channels.sizes import Labels
from gracile.channels.writing import Writer
from gracile.core.outputs import tensors_of


class Tensors:
    """The `Var` of every tensor.

    Attributes:
        parameters: per parameter or buffer its labels, by dimension.
        inside: the step of a module that is called whole; None outside of any.
    """

    def __init__(self, model: nn.Module, ledger: Ledger, writer: Writer) -> None:
        self.ledger, self.writer = ledger, writer
        self.parameters: dict[str, dict[int, Labels]] = {}
        self.inside: Step | None = None
        self._names = {id(tensor): (name, tensor) for name, tensor in reversed(tensors_of(model))}
        self._params: dict[int, Var] = {}
        self._owner, self._tags = object(), []
        self._by_storage: dict[int, list[tuple[weakref.ref[Tensor], Var]]] = defaultdict(list)

    def var(self, tensor: Tensor) -> Var:
        """What is known of a tensor; a first sight of it is noted."""
        known = self.known(tensor)
        if known is not None:
            return known
        named = self._names.get(id(tensor))
        if named is not None:
            return self._parameter(*named)
        made = Var(None, tuple(tensor.shape), Dims([None] * tensor.dim()), floating=False)
        made.boolean = tensor.dtype is torch.bool
        made.record = Record([], [made], None)
        made.value = tensor
        self.tag(tensor, made)
        return made

    def vars(self, value: Any) -> Any:
        """Arguments with each tensor's `Var` in its place."""
        return with_tensors(value, self.var)

    def _parameter(self, name: str, tensor: Tensor) -> Var:
        var = self._params.get(id(tensor))
        if var is None:
            labels = self.parameters[name] = {axis: self.ledger.fresh(size) for axis, size in enumerate(tensor.shape)}
            for axis, size in enumerate(tensor.shape):
                if size == 1:
                    self.ledger.pin(labels[axis], "there is one only")
            dims = Dims(labels[axis] if size > 1 else None for axis, size in enumerate(tensor.shape))
            var = Var(None, tuple(tensor.shape), dims, False, (name, tuple(range(tensor.dim()))), floating=False)
            var.record = Record([], [var], None)
            self._params[id(tensor)] = var
        if self.inside is not None:
            self.inside.tensors[name] = self.parameters[name]
        elif var.node is None:
            var.node, step = self.writer.parameter(name, var)
            step.tensors[name] = self.parameters[name]
        return var

    def known(self, tensor: Tensor) -> Var | None:
        """What a tensor carries, if it was made or seen in this run."""
        tag = getattr(tensor, "_gracile_tag", None)
        return tag.var if tag is not None and tag.owner is self._owner else None

    def tag(self, tensor: Tensor, var: Var) -> None:
        """Let a tensor carry what is known of it; what it carried before is superseded."""
        old = self.known(tensor)
        if old is not None:
            old.superseded = True
        tensor._gracile_tag = _Tag(self._owner, var)  # type: ignore[attr-defined]
        self._tags.append(tensor._gracile_tag)  # type: ignore[attr-defined]
        self._by_storage[_storage(tensor)].append((weakref.ref(tensor), var))

    def overwritten(self, tensor: Tensor, new: Var) -> None:
        """What other views of the same memory hold is not known any more."""
        for alive, one in self._by_storage[_storage(tensor)]:
            # Of tensors that are gone, the memory may serve others by now.
            if one is not new and not one.superseded and alive() is not None:
                one.changed = True

    def forget(self) -> None:
        """Let go of the run's tensors."""
        for tag in self._tags:
            tag.owner = tag.var = None
        self._tags.clear()
        self._by_storage.clear()
        self._params.clear()


class _Tag:
    """What a tensor carries while it is recorded; copies of the tensor carry nothing."""

    __slots__ = ("owner", "var")

    def __init__(self, owner: object, var: Var | None) -> None:
        self.owner, self.var = owner, var

    def __deepcopy__(self, memo: Any) -> _Tag:
        return _Tag(None, None)

    def __reduce__(self) -> Any:
        return _Tag, (None, None)


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage()._cdata
    except RuntimeError:  # a tensor without storage, as sparse ones are
        return id(tensor)


def as_dims(made: Any, shapes: list[tuple[int, ...]]) -> list[Dims]:
    """What a rule gave, as the labels of each result."""
    several = made if isinstance(made, list) else [made]
    if len(several) == 1 != len(shapes):
        several = several * len(shapes)
    return [_one_dims(one, shape) for one, shape in zip(several, shapes, strict=True)]


def _one_dims(made: Any, shape: tuple[int, ...]) -> Dims:
    if isinstance(made, Slots):
        return Dims(made.labels if axis == made.axis else None for axis in range(len(shape)))
    return made if made is not None else Dims([None] * len(shape))


def sized(dims: Dims, tensor: Tensor, ledger: Ledger) -> Dims:
    """Labels where there are several slices; a single one stays."""
    found: list[Labels | None] = []
    for labels, size in zip(dims, tensor.shape, strict=True):
        if labels is not None and len(labels) != size:
            ledger.pin(labels, "a rule gave it another size")
            labels = None
        if labels is not None and size == 1:
            ledger.pin(labels, "there is one only")
        found.append(labels)
    return Dims(found)
