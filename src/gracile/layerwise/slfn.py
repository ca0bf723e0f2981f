"""Single-layer network that keeps its input: `y = relu(V A [x; 1])`, from which x is recovered exactly when n >= 2 P.

Source: [@javid2021, section 6.3, propositions 4 and 9].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from gracile.core.errors import DataError, InputError
from gracile.core.estimators import is_number
from gracile.core.seeding import generator
from gracile.layerwise.blas import product
from gracile.layerwise.flow import fold, lossless_weights, width_for
from gracile.layerwise.source import Source
from gracile.layerwise.sums import Nodes, SumClassifier, SumLearner, SumRegressor


def invert(weight: Tensor, bias: Tensor, y: Tensor) -> Tensor:
    """`pinv(A) (U y - a)`: the input of `y = relu(V (A x + a))`, of least norm when A has fewer rows than columns.

    Args:
        weight: V A (2m, P).
        bias: V a (2m,).
        y: (samples, 2m).

    Returns:
        x (samples, P), float64.
    """
    m = len(weight) // 2
    z = fold(y.double()) - bias[:m].double()
    return z @ torch.linalg.pinv(weight[:m].double()).T


@dataclass(frozen=True)
class Pairs(Nodes):
    """A layer of pairs relu(z), relu(-z) with z = A [x; 1], read in a basis in which little is to be solved.

    `(relu(z) + relu(-z)) / sqrt(2) = |z| / sqrt(2)` and `(relu(z) - relu(-z)) / sqrt(2) = z / sqrt(2)` are a rotation of
    the nodes, which leaves a ridge as it is. The m values z are linear in x, so with `A = U S W'` the ridge solution on them
    is U times that on `S W' [x; 1] / sqrt(2)`: m + P + 1 features in place of 2 m.

    Attributes:
        weight: V A (2m, P).
        bias: V a (2m,).
        reading: weight of what is read, [A; S W'] / sqrt(2) without its last column (m + r, P), r the rank of A.
        shift: that column (m + r,).
        basis: U (m, r), float64.
    """

    reading: Tensor
    shift: Tensor
    basis: Tensor

    @classmethod
    def of(cls, a: Tensor, dtype: torch.dtype) -> Pairs:
        """The pairs of A, last column the bias (m, P + 1), float64, in the type the learner works in."""
        # Of what the network computes, rounding included.
        a = a.to(dtype).double()
        basis, values, right = torch.linalg.svd(a, full_matrices=False)
        keep = values > values[0] * torch.finfo(torch.float64).eps * len(a)
        reading = torch.cat((a, values[keep, None] * right[keep])) * 0.5**0.5
        layers = lossless_weights(a).to(dtype), reading.to(dtype)
        (weight, bias), (of_reading, shift) = ((both[:, :-1].contiguous(), both[:, -1].contiguous()) for both in layers)
        return cls(weight, bias, of_reading, shift, basis[:, keep])

    @property
    def width(self) -> int:
        """See `Nodes`."""
        return len(self.shift)

    def __call__(self, x: Tensor) -> Tensor:
        """See `Nodes`."""
        y = product(x, self.reading).add_(self.shift)
        y[:, : len(self.basis)].abs_()
        return y

    def spread(self, output: Tensor) -> Tensor:
        """See `Nodes`."""
        even, odd = output[: len(self.basis)], self.basis.to(output.dtype) @ output[len(self.basis) :]
        return torch.cat((even + odd, even - odd)) * 0.5**0.5


class _SLFN(SumLearner):
    rho: float | str
    lam_: float
    n_: int

    def __init__(
        self,
        rho: float | str = "auto",
        lam: float | str = "auto",
        scale: str | None = "auto",
        seed: int = 0,
        batch_size: int = 4096,
        device: str = "cpu",
        dtype: str = "auto",
    ) -> None:
        self.rho = rho
        self.lam = lam
        self.scale = scale
        self.seed = seed
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype

    def _first_layer(self, source: Source) -> Nodes:
        if self.rho == "auto":
            m = max(source.features, width_for(source.rows))
        elif is_number(self.rho) and float(self.rho) > 0:
            m = max(1, round(float(self.rho) * source.features / 2))
        else:
            raise InputError(
                f"rho = {self.rho!r} is no ratio of nodes to inputs.",
                'Give a number above 0, or "auto"; 2 keeps all information.',
            )
        self.n_ = 2 * m
        a = (
            torch.rand(m, source.features + 1, generator=generator(self.seed, "layerwise", "slfn"), dtype=torch.float64)
            * 2
            - 1
        )
        return Pairs.of(a.to(source.device), source.dtype)

    def _known_before(self) -> bool:
        return self.rho != "auto"

    def hidden(self, X: Any) -> np.ndarray:
        """The hidden layer's outputs y (samples, n), not below zero."""
        check_is_fitted(self, "net_")
        return self._run(nn.Sequential(*list(self._chain())[:2]), X)

    def invert(self, y: Any) -> np.ndarray:
        """The inputs x (samples, P) that `hidden` turned into y; exact up to rounding.

        Args:
            y: (samples, n).

        Raises:
            InputError: rho is below 2, where information is lost.
            DataError: y has another width.
        """
        check_is_fitted(self, "net_")
        first = self._chain()[0]
        assert isinstance(first, nn.Linear)
        y = torch.as_tensor(y)
        if y.ndim != 2 or y.shape[1] != self.n_:
            raise DataError(f"y has the shape {tuple(y.shape)}.", f"Give (samples, {self.n_}), as `hidden` returns it.")
        if self.n_ < 2 * self.n_features_in_:
            raise InputError(
                f"With {self.n_} nodes for {self.n_features_in_} inputs (rho below 2) the layer loses information.",
                "Fit with rho = 2 or more.",
            )
        return invert(first.weight.data, first.bias.data, y.to(first.weight.device)).cpu().numpy()

    def _chain(self) -> nn.Sequential:
        assert isinstance(self.net_, nn.Sequential)
        return self.net_


class SLFNClassifier(_SLFN, SumClassifier):
    """Single-layer network with kept information, for classes.

    Args:
        rho: nodes per input, n / P; from 2 up the hidden layer is invertible. n is even: 2 round(rho P / 2). "auto":
            half as many nodes as samples, from 2000 to 8000, and at least 2 P. They cost what n / 2 + P + 1 do.
        lam, scale, seed, batch_size, device, dtype: see `Learner`. As published: ``scale=None``.
        class_weight: see `Classifier`.

    Attributes:
        n_: nodes.
        net_: ``Linear, ReLU, Linear``.
        lam_: the strength used.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = SLFNClassifier(rho=2).fit(X, y)
    >>> bool(abs(model.invert(model.hidden(X)) - X).max() < 1e-9)
    True
    """

    def __init__(
        self,
        rho: float | str = "auto",
        lam: float | str = "auto",
        scale: str | None = "auto",
        seed: int = 0,
        batch_size: int = 4096,
        device: str = "cpu",
        dtype: str = "auto",
        class_weight: Mapping[Any, float] | str | None = None,
    ) -> None:
        super().__init__(rho, lam, scale, seed, batch_size, device, dtype)
        self.class_weight = class_weight


class SLFNRegressor(_SLFN, SumRegressor):
    """Single-layer network with kept information, for numbers; parameters as `SLFNClassifier`."""
