"""Extreme learning machine: random first layer, ridge regression on top.

`Y = relu(W [x; 1])`, W fixed, and `O = T Y' (Y Y' + lam I)^-1`.

Source: [@huang2006]; receptive fields and contrast weights: [@mcdonnell2015].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.estimators import whole
from gracile.core.seeding import generator
from gracile.layerwise.flow import width_for
from gracile.layerwise.source import Source
from gracile.layerwise.sums import Nodes, SumClassifier, SumLearner, SumRegressor

WEIGHTS = ("uniform", "contrast")


def random_features(
    source: Source, n: int, weights: str, image_shape: Sequence[int] | None, seed: int
) -> tuple[Tensor, Tensor]:
    """The first layer's weight (n, P) and bias (n,).

    Args:
        source: needed for "contrast", which looks at some samples.
        n: nodes.
        weights: "uniform" draws weights and bias from U(-1, 1); "contrast" takes differences of two samples of
            different classes, scaled to unit norm, without bias.
        image_shape: (h, w) or (c, h, w) of a flattened image; each node then sees one random rectangle of it.
        seed: of the draw.
    """
    random = generator(seed, "layerwise", "elm")
    if weights == "uniform":
        weight = torch.rand(n, source.features, generator=random, dtype=torch.float64) * 2 - 1
        bias = torch.rand(n, generator=random, dtype=torch.float64) * 2 - 1
    else:
        (x, t, _), _ = source.sample(max(4096, 2 * n))
        weight, bias = contrasts(x, t, n, random), torch.zeros(n, dtype=torch.float64)
    if image_shape is not None:
        weight = weight * rectangles(n, image_shape, random)
    if weights == "contrast":
        norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
        weight = weight / torch.where(norm > 0, norm, 1)
    return weight.to(source.device, source.dtype), bias.to(source.device, source.dtype)


def contrasts(x: Tensor, t: Tensor, n: int, random: torch.Generator) -> Tensor:
    """Differences x_i - x_j of random pairs whose targets differ (n, P), float64."""
    x, t = x.cpu().double(), t.cpu()
    first = torch.randint(len(x), (64 * n,), generator=random)
    second = torch.randint(len(x), (64 * n,), generator=random)
    apart = (t[first] != t[second]).any(1).nonzero()[:, 0]
    if not len(apart):
        raise InputError("The samples looked at all have one target.", 'Use weights="uniform".')
    chosen = apart[torch.arange(n) % len(apart)]
    return x[first[chosen]] - x[second[chosen]]


def rectangles(n: int, image_shape: Sequence[int], random: torch.Generator, shortest: int = 5) -> Tensor:
    """Masks of random rectangles, one per node, the same in all channels (n, c h w), float64.

    Both corners are uniform; sides below `shortest` pixels (or the image's own side) are drawn again.
    """
    height, width = image_shape[-2:]

    def spans(size: int) -> Tensor:
        least = min(shortest, size)
        edges = torch.randint(size + 1, (n, 2), generator=random)
        while (bad := (edges[:, 1] - edges[:, 0]).abs() < least).any():
            edges[bad] = torch.randint(size + 1, (int(bad.sum()), 2), generator=random)
        place = torch.arange(size)
        return (place >= edges.amin(1, keepdim=True)) & (place < edges.amax(1, keepdim=True))

    masks = spans(height)[:, :, None] & spans(width)[:, None, :]
    channels = image_shape[0] if len(image_shape) == 3 else 1
    return masks[:, None].expand(-1, channels, -1, -1).reshape(n, -1).double()


class _ELM(SumLearner):
    n: int | str
    weights: str
    image_shape: Sequence[int] | None
    lam_: float

    def __init__(
        self,
        n: int | str = "auto",
        lam: float | str = "auto",
        weights: str = "uniform",
        image_shape: Sequence[int] | None = None,
        scale: str | None = "auto",
        seed: int = 0,
        batch_size: int = 4096,
        device: str = "cpu",
        dtype: str = "auto",
    ) -> None:
        self.n = n
        self.lam = lam
        self.weights = weights
        self.image_shape = image_shape
        self.scale = scale
        self.seed = seed
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype

    def _first_layer(self, source: Source) -> Nodes:
        n = width_for(source.rows) if self.n == "auto" else whole("n", self.n)
        if self.weights not in WEIGHTS:
            raise InputError(f"There are no weights named {self.weights!r}.", 'Choose "uniform" or "contrast".')
        if self.weights == "contrast" and source.workers is not None:
            raise InputError(
                'weights="contrast" are differences of samples, which no two workers share.', 'Use weights="uniform".'
            )
        shape = None if self.image_shape is None else [int(side) for side in self.image_shape]
        if shape is not None and (len(shape) not in (2, 3) or math.prod(shape) != source.features):
            raise InputError(
                f"image_shape = {tuple(shape)} does not describe the {source.features} features of X.",
                "Give (h, w) or (c, h, w) whose product is the number of features.",
            )
        return Nodes(*random_features(source, n, self.weights, shape, self.seed))

    def _known_before(self) -> bool:
        return self.n != "auto" and self.weights == "uniform"


class ELMClassifier(_ELM, SumClassifier):
    """Extreme learning machine for classes.

    Args:
        n: nodes of the hidden layer; "auto": a quarter of the samples, from 1000 to 4000.
        lam: ridge strength from 0 up, or "auto" (leave-one-out; one more pass and an eigendecomposition of n x n).
        weights: "uniform": U(-1, 1), as published; "contrast": differences of samples of different classes.
        image_shape: (h, w) or (c, h, w) gives each node a random receptive field; None lets it see everything.
        scale, seed, batch_size, device, dtype: see `Learner`. As published: ``scale=None``.
        class_weight: see `Classifier`.

    Attributes:
        net_: ``Linear, ReLU, Linear``.
        lam_: the strength used.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> ELMClassifier().fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.93
    True
    """

    def __init__(
        self,
        n: int | str = "auto",
        lam: float | str = "auto",
        weights: str = "uniform",
        image_shape: Sequence[int] | None = None,
        scale: str | None = "auto",
        seed: int = 0,
        batch_size: int = 4096,
        device: str = "cpu",
        dtype: str = "auto",
        class_weight: Mapping[Any, float] | str | None = None,
    ) -> None:
        super().__init__(n, lam, weights, image_shape, scale, seed, batch_size, device, dtype)
        self.class_weight = class_weight


class ELMRegressor(_ELM, SumRegressor):
    """Extreme learning machine for numbers; parameters as `ELMClassifier`."""
