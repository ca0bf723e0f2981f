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
        variance: inputs and outputs of a layer to the variance of its first weights, with which activations come out as long as this
            normalisation makes the inputs.
    """

    factor: Callable[[Tensor, int], Tensor]
    variance: Callable[[int, int], float]

    def __call__(self, h: Tensor) -> Tensor:
        """Rows of h (b, n) normalised."""
        return h * self.factor(h.square().sum(1, keepdim=True), h.shape[1])


NORMALIZATIONS = {
    # Length 1, with N(0, 2 / outputs) as in Yang (2023).
    "length": Normalization(lambda squares, n: squares.clamp_min(SMALLEST).rsqrt(), lambda m, n: 2 / n),
    # A mean square of 1, with N(0, 2 / inputs): the same up to scale, which the steps of adaptive optimisers do not undo.
    "rms": Normalization(lambda squares, n: math.sqrt(n) * squares.clamp_min(SMALLEST).rsqrt(), lambda m, n: 2 / m),
    "none": Normalization(lambda squares, n: squares.new_ones(squares.shape), lambda m, n: 2 / m),
}
