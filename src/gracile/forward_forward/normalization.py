"""What is done to the length of a layer's inputs: one row each.

Only its direction may pass on: with its length the next layer would read off the goodness of the one before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

# Squared lengths below count as this: a sample in which nothing is active goes on as zeros.
SMALLEST = 1e-12


@dataclass(frozen=True)
class Normalization:
    """A normalisation of rows.

    Attributes:
        factor: squared lengths (b, 1) and the width n to what rows are multiplied by (b, 1).
        variance: inputs and outputs of a layer to the variance of its first weights, with which activations come out as
            long as this normalisation makes the inputs.
        power: of the squared lengths that the factor is proportional to.
    """

    factor: Callable[[Tensor, int], Tensor]
    variance: Callable[[int, int], float]
    power: float

    def __call__(self, h: Tensor) -> Tensor:
        """Rows of h (b, n) normalised."""
        return h * self.factor(h.square().sum(1, keepdim=True), h.shape[1])

    def moved(self, h: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of h (b, n) normalised, and the derivative of that as h moves along `by` (b, n)."""
        squares = h.square().sum(1, keepdim=True)
        factor = self.factor(squares, h.shape[1])
        turn = 2 * self.power * (h * by).sum(1, keepdim=True) / squares.clamp_min(SMALLEST)
        return h * factor, factor * (by + turn * h)


# Functions by name and not lambdas, so that networks can be pickled.
def _to_length_1(squares: Tensor, width: int) -> Tensor:
    return squares.clamp_min(SMALLEST).rsqrt()


def _to_mean_square_1(squares: Tensor, width: int) -> Tensor:
    return math.sqrt(width) * squares.clamp_min(SMALLEST).rsqrt()


def _to_itself(squares: Tensor, width: int) -> Tensor:
    return squares.new_ones(squares.shape)


def _two_by_outputs(inputs: int, outputs: int) -> float:
    return 2 / outputs


def _two_by_inputs(inputs: int, outputs: int) -> float:
    return 2 / inputs


NORMALIZATIONS = {
    # With N(0, 2 / outputs) as in @yang2023; goes with the squared sum, which then starts near 1.
    "length": Normalization(_to_length_1, _two_by_outputs, -0.5),
    # The same up to scale, which the steps of adaptive optimisers do not undo; goes with the mean square, which then starts near 1.
    "rms": Normalization(_to_mean_square_1, _two_by_inputs, -0.5),
    "none": Normalization(_to_itself, _two_by_inputs, 0.0),
}
