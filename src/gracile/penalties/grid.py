"""The integers' grid: weights that int8 holds as they are."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.penalties.base import project


class Grid:
    """0 where each vector is whole multiples of its largest absolute entry over `levels`, infinity elsewhere.

    A vector is what one output channel reads. Its map is the nearest point of the grid that the vector's own largest entry spans, of
    equals the one nearer to 0: the entries are rounded, the largest stays. This is the projection for that spacing; other spacings
    might lie nearer, but this is the grid that `gracile.export_onnx` takes, so that trained weights go into an int8 file without
    being rounded once more, whatever batch-norms are folded into them.

    Args:
        levels: whole multiples run from -levels to levels. 64 is what ``weight_bits=7`` of the export takes, 127 its 8.

    Raises:
        InputError: no level.
    """

    name: ClassVar[str] = "grid"

    def __init__(self, levels: int = 64) -> None:
        if levels < 1:
            raise InputError(
                f"A grid of levels={levels} has no points.", "int8 takes levels=64 or 127, ternary weights 1."
            )
        self.levels = levels

    @property
    def block(self) -> int:
        # A vector an output.
        return 0

    def value(self, w: Tensor) -> Tensor:
        return torch.where((self.unchecked_prox(w, 1.0) != w).any(), torch.inf, 0.0).to(w)

    def prox(self, w: Tensor, mu: float) -> Tensor:
        return project(self, w, mu)

    def unchecked_prox(self, w: Tensor, mu: float) -> Tensor:
        return nearest_on_grid(w, self.levels) if mu > 0 else w.clone()


def nearest_on_grid(w: Tensor, levels: int) -> Tensor:
    """Each row's nearest point among whole multiples of its largest absolute entry over `levels`; NaN makes a row NaN.

    Args:
        w: ``(vectors, members)``.
        levels: at least 1.

    >>> nearest_on_grid(torch.tensor([[2.0, 0.6, -1.4, 0.5]]), 2).tolist()
    [[2.0, 1.0, -1.0, 0.0]]
    """
    if not w.numel():
        return w.clone()
    most = w.abs().amax(dim=1, keepdim=True)
    # An infinite entry spans no grid: it stays, and the others with it.
    step = torch.where((most > 0) & most.isfinite(), most, torch.ones_like(most)) / levels
    ratio = (w / step).abs()
    # Half-way goes down to the point nearer to 0.
    multiples = (ratio - 0.5).ceil().clamp(min=0)
    # The largest as it stands, so that a point of the grid stays where it is, to the last bit.
    rounded = torch.where(multiples >= levels, most, multiples * step)
    return torch.where(most.isinf(), w, rounded.copysign(w) * (rounded != 0))
