"""High-dimensional neural feature: lossless layers of doubling width, of which only the last output matrix is learned.

`y_l = relu(V R_l y_{l-1})` with y_0 = [x; 1] and R_l of full column rank; O_l by least squares in the ball
`|O|_F <= alpha |O_{l-1} R_l^+ U|_F`. The matrix `O_{l-1} R_l^+ U` lies in it and repeats the earlier outputs, so the
training cost never rises with depth.

Source: [@javid2020].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.core.estimators import is_number, whole
from gracile.core.seeding import generator
from gracile.layerwise.classifier import Classifier
from gracile.layerwise.estimator import Learned, Learner, solved
from gracile.layerwise.flow import chain, cosine, lossless_weights, orthonormal, paired_width_for
from gracile.layerwise.regressor import Regressor
from gracile.layerwise.ridge import ridge
from gracile.layerwise.shared import Shared, in_ball
from gracile.layerwise.source import Features, Source
from gracile.layerwise.statistics import Dual, Statistics

MATRICES = {"orthonormal": orthonormal, "dct": cosine}


class _HNF(Learner):
    lam_: float
    costs_: list[float]
    widths_: list[int]

    def __init__(
        self,
        layers: int = 2,
        m: int | str = "auto",
        matrix: str = "orthonormal",
        alpha: float | str = "auto",
        lam: float | str = "auto",
        scale: str | None = "auto",
        seed: int = 0,
        batch_size: int = 4096,
        device: str = "cpu",
        dtype: str = "auto",
    ) -> None:
        self.layers = layers
        self.m = m
        self.matrix = matrix
        self.alpha = alpha
        self.lam = lam
        self.scale = scale
        self.seed = seed
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype

    def _learn(self, source: Source) -> Learned:
        layers, first_rows = self._sizes(source)
        linear = ridge(source.through(with_one), self.lam)
        self.lam_, output = linear.lam, linear.weights
        stack: list[tuple[Tensor, Tensor | None]] = []
        self.costs_, self.widths_ = [], []
        last: tuple[nn.Module, Statistics | Dual | Shared, float] | None = None
        for depth in range(1, layers + 1):
            m = first_rows if depth == 1 else len(output)
            random = generator(self.seed, "layerwise", "hnf", depth)
            r = MATRICES[self.matrix](m, len(output), random).to(source.device)
            weight = lossless_weights(r).to(source.dtype)
            stack.append((weight[:, :-1].contiguous(), weight[:, -1].contiguous()) if depth == 1 else (weight, None))
            features = nn.Sequential(*chain(stack), nn.ReLU())
            # The columns of R are orthonormal, so R^+ = R'; row-major, O_{l-1} R^+ U reads [R O; -R O].
            start = lossless_weights(r @ output)
            problem, output, lam = self._layer(source.through(features), start)
            if not self.costs_:
                self.costs_.append(problem.cost(start))
            cost = problem.cost(output)
            if not cost <= problem.cost(start):
                # The start's own multiplier is unknown; the linear solution's strength is what it was found with.
                output, cost, lam = start, problem.cost(start), self.lam_
            last = features, problem, lam
            self.costs_.append(cost)
            self.widths_.append(2 * m)
        assert last is not None
        layers_of_net = list(stack)
        if source.scaling is not None and layers_of_net[0][1] is not None:
            layers_of_net[0] = source.scaling.folded(layers_of_net[0][0], layers_of_net[0][1])
        net = chain([*layers_of_net, (output.T.to(source.dtype).contiguous(), None)])
        return solved(net, last[0], last[1], output, last[2])

    def _layer(self, features: Features, start: Tensor) -> tuple[Statistics | Dual | Shared, Tensor, float]:
        """The problem of a layer's features, its solution, and the ridge or the multiplier of the ball it lies in."""
        if isinstance(self.alpha, str):
            found = ridge(features, self.lam)
            return found.problem, found.weights, found.lam
        problem = features.problem()
        eps = float(self.alpha) * float(torch.linalg.vector_norm(start))
        if not eps > 0:
            return problem, start, self.lam_
        ball = in_ball(problem, eps, start)
        return problem, ball.weights, ball.lam

    def _sizes(self, source: Source) -> tuple[int, int]:
        """Layers, and rows of the first R."""
        layers = whole("layers", self.layers)
        if self.matrix not in MATRICES:
            raise InputError(f"There is no matrix named {self.matrix!r}.", f"Choose one of: {', '.join(MATRICES)}.")
        if self.alpha != "auto" and not (is_number(self.alpha) and float(self.alpha) > 0):
            raise InputError(
                f"alpha = {self.alpha!r} gives no ball.",
                'Set it above 0, or to "auto"; from 1 up every layer\'s ball holds the earlier solution.',
            )
        least = source.features + 1
        if isinstance(self.m, str):
            if self.m != "auto":
                raise InputError(f"m = {self.m!r} is no number of rows.", f'Set m to "auto", or to {least} or more.')
            return layers, max(least, paired_width_for(source.rows) // 2**layers)
        m = whole("m", self.m)
        if m < least:
            raise InputError(
                f"m = {m} is below the {source.features} inputs and the constant one.",
                f"Set m to {least} or more.",
            )
        return layers, m


def with_one(x: Tensor) -> Tensor:
    """Rows [x; 1] (b, P + 1)."""
    return torch.cat((x, x.new_ones(len(x), 1)), 1)


class HNFClassifier(_HNF, Classifier):
    """High-dimensional neural feature for classes.

    Args:
        layers: hidden layers; each doubles the width, from 2 m.
        m: rows of the first R, at least P + 1 (as published); the first width is 2 m. "auto": so many that the last
            layer has half as many nodes as there are samples, from 2000 to 4000, where P allows.
        matrix: "orthonormal" (random) or "dct" (with random signs).
        alpha: the ball's radius over the earlier solution's norm; 1 as published. Below 1 the ball need not hold any
            solution as good as the earlier one, which then stays. "auto": no ball; each layer's output is a ridge
            regression by `lam`, as the ball around a linear solution is too tight where a linear solution is poor.
        lam: ridge strength of the linear solution, and of each layer's with ``alpha="auto"``.
        scale, seed, batch_size, device, dtype: see `Learner`. As published: ``scale=None``.
        class_weight: see `Classifier`.

    Attributes:
        costs_: |T - outputs|^2 over the training samples, of the linear solution and after each layer; never rises.
        widths_: nodes of each layer.
        net_: ``Linear, ReLU, ..., Linear``.
        lam_: the strength used for the linear solution.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = HNFClassifier(layers=2).fit(X, y)
    >>> model.costs_ == sorted(model.costs_, reverse=True)
    True
    """

    def __init__(
        self,
        layers: int = 2,
        m: int | str = "auto",
        matrix: str = "orthonormal",
        alpha: float | str = "auto",
        lam: float | str = "auto",
        scale: str | None = "auto",
        seed: int = 0,
        batch_size: int = 4096,
        device: str = "cpu",
        dtype: str = "auto",
        class_weight: Mapping[Any, float] | str | None = None,
    ) -> None:
        super().__init__(layers, m, matrix, alpha, lam, scale, seed, batch_size, device, dtype)
        self.class_weight = class_weight


class HNFRegressor(_HNF, Regressor):
    """High-dimensional neural feature for numbers; parameters as `HNFClassifier`."""
