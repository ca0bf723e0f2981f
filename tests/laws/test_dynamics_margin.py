"""Where a deep linear network's predictor points, far into training on separable samples: at the largest margin."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from sklearn.svm import SVC
from torch import Tensor, nn


def samples() -> tuple[Tensor, Tensor]:
    """Two clouds that a line through the origin separates, one far wider than the other."""
    random = np.random.default_rng(0)
    one = np.array([2.0, 0.5]) + random.normal(size=(20, 2)) * [0.3, 1.5]
    two = np.array([-1.0, -0.5]) + random.normal(size=(20, 2)) * [0.2, 0.2]
    x, y = np.vstack([one, two]), np.repeat([1.0, -1.0], 20)
    return torch.tensor(x), torch.tensor(y)


def margins(direction: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (y * (x @ direction) / direction.norm()).min()


def trained_direction(x: Tensor, y: Tensor, depth: int, steps: int) -> Tensor:
    """Of the product of all layers, by steps of one length down the loss's logarithm, so that they do not die out with the loss."""
    torch.manual_seed(0)
    widths = [2, *[4] * (depth - 1), 1]
    layers = [nn.Linear(a, b, bias=False).double() for a, b in pairwise(widths)]
    network = nn.Sequential(*layers)
    weights = list(network.parameters())
    for _ in range(steps):
        slopes = torch.autograd.grad(torch.logsumexp(-y * network(x)[:, 0], 0), weights)
        length = torch.cat([slope.flatten() for slope in slopes]).norm()
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                weight.sub_(slope, alpha=float(0.02 / length))
    product = torch.eye(2, dtype=torch.float64)
    for layer in layers:
        product = layer.weight.detach() @ product
    return product[0]


def test_the_predictor_of_a_deep_linear_network_turns_to_the_largest_margin():
    x, y = samples()
    # Through the origin, as networks without biases are: each sample with its mirror image.
    machine = SVC(kernel="linear", C=1e8).fit(np.vstack([x, -x]), np.concatenate([y, -y]))
    largest = torch.tensor(machine.coef_[0])
    means = x[y > 0].mean(0) - x[y < 0].mean(0)
    cosine = nn.functional.cosine_similarity
    for depth in (2, 3):
        early, late = (trained_direction(x, y, depth, steps) for steps in (100, 2000))
        assert cosine(late, largest, dim=0) > 0.9995
        assert margins(late, x, y) > 0.99 * margins(largest, x, y)
        # It is still on its way when all samples have long been on their sides.
        assert margins(early, x, y) > 0
        for other in (early, means):
            assert 1 - cosine(late, largest, dim=0) < 0.1 * (1 - cosine(other, largest, dim=0))
