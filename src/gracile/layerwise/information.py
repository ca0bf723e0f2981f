"""What a random layer keeps of its input: exact inversion, and information on the label where it can be known.

Source: [@javid2021, section 6.3, proposition 9]. `y = relu(V A x)` is a bijection of `z = A x`, so
`I(y; t) = I(A x; t)` at any width, and `= I(x; t)` once A has full column rank (rho = n / P >= 2). For x from a
mixture of Gaussians, A x is one too and the information follows from the densities by Monte Carlo, without a density
estimate. From a finite data set it cannot be read: distinct samples stay distinct under almost every random layer, so
a plug-in estimate says H(t) at every width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.seeding import generator
from gracile.layerwise.slfn import invert


def slfn_inversion_error(x: Tensor, rho: float, seed: int = 0) -> Tensor:
    """|x - k(y)| / |x| of each sample under a random lossless layer, with `k(y) = pinv(A) U y` (samples,).

    Args:
        x: (samples, P).
        rho: nodes per input.
        seed: of A.
    """
    x = x.double()
    m = max(1, round(rho * x.shape[1] / 2))
    a = torch.rand(m, x.shape[1], generator=generator(seed, "information", "slfn"), dtype=torch.float64) * 2 - 1
    weight = torch.cat((a, -a))
    return _relative(x, invert(weight, weight.new_zeros(2 * m), (x @ weight.T).relu()))


def elm_inversion_error(x: Tensor, rho: float, seed: int = 0) -> Tensor:
    """|x - k(y)| / |x| of each sample (samples,) under `y = relu(W x)`, W ~ U(-1, 1); k solves the active rows.

    A sample is recovered when its active rows have full column rank, which needs about rho = 2; that all inputs are
    needs more.

    Args:
        x: (samples, P).
        rho: nodes per input.
        seed: of W.
    """
    x = x.double()
    n = max(1, round(rho * x.shape[1]))
    w = torch.rand(n, x.shape[1], generator=generator(seed, "information", "elm"), dtype=torch.float64) * 2 - 1
    found = []
    for sample in (x @ w.T).relu():
        active = sample > 0
        found.append(torch.linalg.pinv(w[active]) @ sample[active])
    return _relative(x, torch.stack(found))


def _relative(x: Tensor, found: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=1)
    return torch.linalg.vector_norm(x - found, dim=1) / torch.where(norm > 0, norm, 1)


@dataclass(frozen=True)
class Mixture:
    """Classes t, equally likely, each a Gaussian N(mean_t, I).

    Attributes:
        means: (Q, P).
    """

    means: Tensor

    @classmethod
    def random(cls, classes: int, inputs: int, spread: float, seed: int = 0) -> Mixture:
        """Means drawn from N(0, spread^2 / P I), so that their distances do not grow with P."""
        random = generator(seed, "information", "mixture")
        return cls(spread / math.sqrt(inputs) * torch.randn(classes, inputs, generator=random, dtype=torch.float64))

    def sample(self, samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Draw x (samples, P) and t (samples,)."""
        random = generator(seed, "information", "samples")
        t = torch.randint(len(self.means), (samples,), generator=random)
        return self.means[t] + torch.randn(samples, self.means.shape[1], generator=random, dtype=torch.float64), t


@dataclass(frozen=True)
class Information:
    """A Monte Carlo estimate in nats.

    Attributes:
        value: I(y; t).
        error: its standard error.
    """

    value: float
    error: float


def mixture_information(mixture: Mixture, rho: float | None, samples: int = 20000, seed: int = 0) -> Information:
    """I(y; t) of `y = relu(V A x)` for x from a mixture, or I(x; t) with ``rho=None``.

    It is the mean of `log p(t | z) + log Q` over samples, with p(t | z) from the exact densities of z = A x. The
    samples are the same for every rho, so estimates compare better than their errors suggest.

    Args:
        mixture: where x and t come from.
        rho: nodes per input; m = rho P / 2 rows of A, from one draw whose first rows smaller layers share.
        samples: of the Monte Carlo.
        seed: of A and the samples.

    Raises:
        InputError: rho is not above 0.
    """
    if rho is not None and not rho > 0:
        raise InputError(f"rho = {rho} is not above 0.", "Give nodes per input.")
    x, t = mixture.sample(samples, seed)
    means = mixture.means
    if rho is not None:
        p = means.shape[1]
        m = max(1, round(rho * p / 2))
        a = torch.randn(m, p, generator=generator(seed, "information", "matrix"), dtype=torch.float64)
        # z = A x has the covariance A A'; in the basis of A's row space it is white, and nothing else of x reaches z.
        _, values, rows = torch.linalg.svd(a, full_matrices=False)
        rows = rows[values > values[0] * 1e-12]
        x, means = x @ rows.T, means @ rows.T
    log_density = -torch.cdist(x, means).square() / 2
    gain = log_density.log_softmax(1)[torch.arange(samples), t] + math.log(len(means))
    return Information(float(gain.mean()), float(gain.std() / math.sqrt(samples)))
