"""How learners scale their inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_friedman1

from gracile.core.errors import InputError
from gracile.layerwise import ELMRegressor, SLFNClassifier
from gracile.layerwise.kernels import best_kernel_fit
from gracile.layerwise.scaling import LEAST, SCALES, _squared_derivatives, relevances
from gracile.layerwise.source import Chunk


def drawn(rows: int, seed: int = 0) -> Chunk:
    """Targets that the first two of six features make alone."""
    x = torch.randn(rows, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / 6**0.5
    return Chunk(x, torch.stack([x[:, 0] * x[:, 1], x[:, 0].sin()], 1), None)


def test_derivatives_are_those_of_autograd():
    x, t, _ = drawn(30)
    alpha, gamma = best_kernel_fit(x, t, (1.0,))
    fit = lambda z: torch.exp(-gamma * (z - x).square().sum(1)) @ alpha
    slopes = torch.func.vmap(torch.func.jacrev(fit))(x)
    torch.testing.assert_close(_squared_derivatives(x, alpha, gamma, None), slopes.square().sum((0, 1)))


def test_features_that_say_nothing_count_little():
    found = relevances(drawn(300))
    assert found.max() == 1
    assert found[:2].min() > 5 * found[2:].max()
    assert found.min() >= LEAST


def test_a_weight_of_three_is_three_copies():
    x, t, _ = drawn(80)
    copies = torch.tensor([1, 3]).repeat(40)
    weighted = relevances(Chunk(x, t, copies.double()))
    copied = relevances(Chunk(x.repeat_interleave(copies, 0), t.repeat_interleave(copies, 0), None))
    torch.testing.assert_close(weighted, copied, rtol=1e-5, atol=1e-7)


def test_auto_finds_out_which_features_matter():
    """Five of ten features of Friedman's first problem are noise, to which random nodes listened: R2 0.89 of 0.96."""
    x, y = make_friedman1(3000, noise=1.0, random_state=0)
    scores = {
        scale: ELMRegressor(n=300, scale=scale).fit(x[:1500], y[:1500]).score(x[1500:], y[1500:])
        for scale in ("auto", "each")
    }
    assert scores["auto"] > 0.94 > scores["each"] + 0.04


def test_what_matters_little_can_still_be_had_back():
    x, y = load_digits(return_X_y=True)
    model = SLFNClassifier(rho=2, scale="relevance").fit(x[:300], y[:300])
    np.testing.assert_allclose(model.invert(model.hidden(x[:300])), x[:300], atol=1e-7)


def test_an_unknown_scale_is_refused_with_those_there_are():
    x, y = make_friedman1(50, random_state=0)
    with pytest.raises(InputError, match=", ".join(SCALES)):
        ELMRegressor(scale="some").fit(x, y)
