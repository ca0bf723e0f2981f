"""Extreme learning machine: random first layer, ridge regression on top.

`Y = relu(W [x; 1])`, W fixed, and `O = T Y' (Y Y' + lam I)^-1`.

Source: G.-B. Huang, Q.-Y. Zhu, C.-K. Siew, "Extreme learning machine" (2006). Receptive fields and contrast weights:
M. D. McDonnell, M. D. Tissera, T. Vladusich, A. van Schaik, J. Tapson, "Fast, simple and accurate handwritten digit
classification by training shallow neural network classifiers with the 'extreme learning machine' algorithm" (2015).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.core.seeding import generator
from gracile.layerwise.estimator import Classifier, Learner, Regressor
from gracile.layerwise.flow import chain, hidden
from gracile.layerwise.ridge import ridge
from gracile.layerwise.source import Source

WEIGHTS = ("uniform", "contrast")


def random_features(
    source: Source, n: int, weights: str, image_shape: Sequence[int] | None, seed: int
) -> tuple[Tensor, Tensor]:
    """The first layer's weight (n, P) and bias (n,).

    Args:
        source: needed for "contrast", which looks at the first samples.
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
        weight, bias = contrasts(*source.take(max(4096, 2 * n)), n, random), torch.zeros(n, dtype=torch.float64)
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
        raise InputError("The first samples all have one target.", 'Shuffle the data, or use weights="uniform".')
    chosen = apart[torch.arange(n) % len(apart)]
    return x[first[chosen]] - x[second[chosen]]


def rectangles(n: int, image_shape: Sequence[int], random: torch.Generator, shortest: int = 5) -> Tensor:
    """Masks of random rectangles, one a node, the same in all channels (n, c h w), float64.

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


class _ELM(Learner):
    n: int
    weights: str
    image_shape: Sequence[int] | None
    lam_: float

    def __init__(
        self,
        n: int = 1000,
        lam: float | str = "auto",
        weights: str = "uniform",
        image_shape: Sequence[int] | None = None,
        seed: int = 0,
        batch_size: int = 4096,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        self.n = n
        self.lam = lam
        self.weights = weights
        self.image_shape = image_shape
        self.seed = seed
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype

    def _learn(self, source: Source) -> nn.Module:
        self._check_own(source)
        if source.workers is not None and self.weights == "contrast":
            raise InputError(
                'weights="contrast" are differences of samples, which no two workers share.', 'Use weights="uniform".'
            )
        weight, bias = random_features(source, self.n, self.weights, self.image_shape, self.seed)
        solved = ridge(source.through(lambda x: hidden(x, weight, bias)), self.lam)
        self.lam_ = solved.lam
        return chain([(weight, bias), (solved.weights.T.to(source.dtype).contiguous(), None)])

    def _check_own(self, source: Source) -> None:
        if not isinstance(self.n, int) or self.n < 1:
            raise InputError(f"n = {self.n!r} is no number of nodes.", "Give a whole number from 1 up.")
        if self.weights not in WEIGHTS:
            raise InputError(f"There are no weights named {self.weights!r}.", 'Choose "uniform" or "contrast".')
        if self.image_shape is None:
            return
        size = int(torch.Size(self.image_shape).numel())
        if len(self.image_shape) not in (2, 3) or size != source.features:
            raise InputError(
                f"image_shape = {tuple(self.image_shape)} does not describe the {source.features} features of X.",
                "Give (h, w) or (c, h, w) whose product is the number of features.",
            )


class ELMClassifier(_ELM, Classifier):
    """Extreme learning machine for classes.

    Args:
        n: nodes of the hidden layer.
        lam: ridge strength from 0 up, or "auto" (leave-one-out; one more pass and an eigendecomposition of n x n).
        weights: "uniform": U(-1, 1), as published; "contrast": differences of samples of different classes.
        image_shape: (h, w) or (c, h, w) gives each node a random receptive field; None lets it see everything.
        seed, batch_size, device, dtype: see `Learner`.

    Attributes:
        net_: ``Linear, ReLU, Linear``.
        lam_: the strength used.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> ELMClassifier(n=500).fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.93
    True
    """


class ELMRegressor(_ELM, Regressor):
    """Extreme learning machine for numbers; parameters as `ELMClassifier`."""
