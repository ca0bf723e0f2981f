"""High-dimensional neural feature: lossless layers of doubling width, of which only the last output matrix is learned.

`y_l = relu(V R_l y_{l-1})` with y_0 = [x; 1] and R_l of full column rank; O_l by least squares in the ball
`|O|_F <= alpha |O_{l-1} R_l^+ U|_F`. The matrix `O_{l-1} R_l^+ U` lies in it and repeats the earlier outputs, so the
training cost never rises with depth.

Source: A. M. Javid, A. Venkitaraman, M. Skoglund, S. Chatterjee, "High-dimensional Neural Feature Design for Layer-
wise Reduction of Training Cost" (2020).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.core.seeding import generator
from gracile.layerwise.consensus import in_ball
from gracile.layerwise.estimator import Classifier, Learner, Regressor
from gracile.layerwise.flow import chain, cosine, lossless_weights, orthonormal
from gracile.layerwise.ridge import ridge
from gracile.layerwise.source import Source

MATRICES = {"orthonormal": orthonormal, "dct": cosine}


class _HNF(Learner):
    lam_: float
    costs_: list[float]
    widths_: list[int]

    def __init__(
        self,
        layers: int = 2,
        m: int | None = None,
        matrix: str = "orthonormal",
        alpha: float = 1.0,
        lam: float | str = "auto",
        seed: int = 0,
        batch_size: int = 4096,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        self.layers = layers
        self.m = m
        self.matrix = matrix
        self.alpha = alpha
        self.lam = lam
        self.seed = seed
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype

    def _learn(self, source: Source) -> nn.Module:
        self._check_own(source)
        first = ridge(source.through(_with_one), self.lam)
        self.lam_, output = first.lam, first.weights
        stack: list[tuple[Tensor, Tensor | None]] = []
        self.costs_, self.widths_ = [], []
        for depth in range(1, self.layers + 1):
            width = len(output)
            m = self.m if depth == 1 and self.m is not None else width
            random = generator(self.seed, "layerwise", "hnf", depth)
            r = MATRICES[self.matrix](m, width, random).to(source.device)
            weight = lossless_weights(r).to(source.dtype)
            stack.append((weight[:, :-1].contiguous(), weight[:, -1].contiguous()) if depth == 1 else (weight, None))
            features = nn.Sequential(*chain(stack), nn.ReLU())
            problem = source.through(features).problem()
            # The columns of R are orthonormal, so R^+ = R'; row-major, O_{l-1} R^+ U reads [R O; -R O].
            start = lossless_weights(r @ output)
            if not self.costs_:
                self.costs_.append(problem.cost(start))
            eps = self.alpha * float(torch.linalg.vector_norm(start))
            solved = in_ball(problem, eps, start) if eps > 0 else None
            # Rounding of the sums, not the method, may make the start the better of two equal solutions.
            before = problem.cost(start)
            output, cost = (
                (solved.weights, solved.cost) if solved is not None and solved.cost <= before else (start, before)
            )
            self.costs_.append(cost)
            self.widths_.append(2 * m)
        return chain([*stack, (output.T.to(source.dtype).contiguous(), None)])

    def _check_own(self, source: Source) -> None:
        if not isinstance(self.layers, int) or self.layers < 1:
            raise InputError(f"layers = {self.layers!r} is not a whole number from 1 up.", "Correct it.")
        if self.matrix not in MATRICES:
            raise InputError(f"There is no matrix named {self.matrix!r}.", f"Choose one of: {', '.join(MATRICES)}.")
        if not self.alpha > 0:
            raise InputError(
                f"alpha = {self.alpha!r} gives no ball.",
                "Set it above 0; from 1 up every layer's ball holds the earlier solution.",
            )
        if self.m is not None and self.m < source.features + 1:
            raise InputError(
                f"m = {self.m} is below the {source.features} inputs and the constant one.",
                f"Set m to {source.features + 1} or more.",
            )


def _with_one(x: Tensor) -> Tensor:
    return torch.cat((x, x.new_ones(len(x), 1)), 1)


class HNFClassifier(_HNF, Classifier):
    """High-dimensional neural feature for classes.

    Args:
        layers: hidden layers; each doubles the width, from 2 (P + 1).
        m: rows of the first R, at least P + 1; None takes just that. The first width is 2 m.
        matrix: "orthonormal" (random) or "dct" (with random signs).
        alpha: the ball's radius over the earlier solution's norm. Below 1 the ball need not hold any solution as good
            as the earlier one, which then stays.
        lam: ridge strength of the linear solution that the first ball comes from.
        seed, batch_size, device, dtype: see `Learner`.

    Attributes:
        costs_: |T - outputs|^2 over the training samples, of the linear solution and after each layer; never rises.
        widths_: nodes of each layer.
        net_: ``Linear, ReLU, ..., Linear``.
        lam_: the strength used.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = HNFClassifier(layers=2).fit(X, y)
    >>> model.costs_ == sorted(model.costs_, reverse=True)
    True
    """


class HNFRegressor(_HNF, Regressor):
    """High-dimensional neural feature for numbers; parameters as `HNFClassifier`."""
