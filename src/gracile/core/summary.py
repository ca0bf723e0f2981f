"""What a method left of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tabulate import tabulate
from torch import Tensor


@dataclass(frozen=True)
class LayerSummary:
    """One layer under its sparse weights u.

    Attributes:
        layer: module name.
        weights: entries.
        zeros: how many of them are exactly zero.
        groups: groups that reach into this layer; None for single weights.
        zero_groups: how many of them are all zero; None for single weights.
    """

    layer: str
    weights: int
    zeros: int
    groups: int | None = None
    zero_groups: int | None = None


@dataclass(frozen=True)
class Summary:
    """What a method left of a model.

    Attributes:
        layers: the layers it acts on.
        parameters: all parameters of the model, split or not.
        left_out: how many of them the method does not act on, by reason.
    """

    layers: tuple[LayerSummary, ...]
    parameters: int
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def zeros(self) -> int:
        """Exact zeros over the layers."""
        return sum(layer.zeros for layer in self.layers)

    @property
    def nonzero(self) -> int:
        """Parameters of the model that are not exactly zero in a layer acted on."""
        return self.parameters - self.zeros

    @property
    def sparsity(self) -> float:
        """Share in [0, 1] of exact zeros over all parameters of the model, as the papers count it."""
        return self.zeros / self.parameters

    @property
    def channel_sparsity(self) -> float | None:
        """Share in [0, 1] of (layer, group) slices that are zero; None for single weights."""
        groups = sum(layer.groups or 0 for layer in self.layers)
        return sum(layer.zero_groups or 0 for layer in self.layers) / groups if groups else None

    def __str__(self) -> str:
        rows = [
            {
                "layer": row.layer,
                "weights": row.weights,
                "zeros %": 100 * row.zeros / row.weights,
                **({} if row.groups is None else {"groups": row.groups, "zero groups": row.zero_groups}),
            }
            for row in self.layers
        ]
        line = f"{self.nonzero:,} of {self.parameters:,} parameters are not zero ({100 * self.sparsity:.2f} % sparsity)"
        if self.channel_sparsity is not None:
            line += f"; {100 * self.channel_sparsity:.2f} % of channels are zero"
        if self.left_out:
            line += f"; {not_acted_on(self.left_out, self.parameters)}"
        return tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f") + f"\n{line}."


def not_acted_on(reasons: Mapping[str, int], parameters: int) -> str:
    """What share of the parameters is left alone, and why."""
    share = 100 * sum(reasons.values()) / parameters
    return f"{share:.1f} % of the parameters are left alone: " + ", ".join(
        f"{100 * count / parameters:.1f} % {reason}" for reason, count in reasons.items()
    )


def zeros(tensor: Tensor) -> int:
    """How many entries are exactly zero."""
    return tensor.numel() - int(tensor.count_nonzero())
