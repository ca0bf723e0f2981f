"""The identities of appendix A and of the lossless flow, on anything finite."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gracile.core.errors import InputError
from gracile.core.seeding import generator
from gracile.layerwise.flow import cosine, fold, lossless_weights, orthonormal, signed_relu

SHAPES = {"seed": st.integers(0, 2**20), "n": st.integers(1, 30), "scale": st.sampled_from([1e-6, 1.0, 1e6])}


def draw(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(**SHAPES)
def test_folding_undoes_the_relu_exactly(seed, n, scale):
    z = draw(seed, 5, n, scale=scale)
    assert torch.equal(fold(signed_relu(z)), z)


@settings(max_examples=50, deadline=None)
@given(**SHAPES)
def test_proposition_4_is_an_identity(seed, n, scale):
    """|y1 - y2|^2 = 1/2 |z1 - z2|^2 + 1/2 ||z1| - |z2||^2, which bounds it from both sides."""
    z1, z2 = draw(seed, n, scale=scale), draw(seed + 1, n, scale=scale)
    distance = (signed_relu(z1) - signed_relu(z2)).square().sum()
    before = (z1 - z2).square().sum()
    torch.testing.assert_close(distance, before / 2 + (z1.abs() - z2.abs()).square().sum() / 2, rtol=1e-12, atol=0)
    assert before / 2 * (1 - 1e-12) <= distance <= before * (1 + 1e-12)


@settings(max_examples=50, deadline=None)
@given(**SHAPES)
def test_norms_are_kept(seed, n, scale):
    z = draw(seed, n, scale=scale)
    torch.testing.assert_close(signed_relu(z).square().sum(), z.square().sum(), rtol=1e-13, atol=0)


@settings(max_examples=50, deadline=None)
@given(**SHAPES)
def test_property_3_noise_is_not_enlarged(seed, n, scale):
    z1, z2 = draw(seed, n, scale=scale), draw(seed + 1, n, scale=scale)
    assert (z1.relu() - z2.relu()).norm() <= (z1 - z2).norm() * (1 + 1e-14)


@settings(max_examples=50, deadline=None)
@given(**SHAPES)
def test_remark_6_bounds_the_effect_of_changed_weights(seed, n, scale):
    w, dw, q = draw(seed, 7, n), draw(seed + 1, 7, n, scale=scale), draw(seed + 2, n)
    moved = (signed_relu(w @ q) - signed_relu((w + dw) @ q)).norm()
    # What rounding of w + dw itself adds is no part of the remark.
    assert moved <= dw.norm() * q.norm() + 1e-14 * (w.norm() + dw.norm()) * q.norm()


@pytest.mark.parametrize("make", [orthonormal, cosine])
@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (64, 65 - 1), (100, 17), (1, 1)])
def test_columns_are_orthonormal(make, rows, columns):
    r = make(rows, columns, generator(0, "flow"))
    torch.testing.assert_close(r.T @ r, torch.eye(columns, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [orthonormal, cosine])
def test_too_few_rows_are_refused(make):
    with pytest.raises(InputError, match="Set m to 6 or more"):
        make(5, 6, generator(0, "flow"))


def test_stacked_weights_make_the_signed_relu():
    r, x = draw(0, 6, 4), draw(1, 3, 4)
    torch.testing.assert_close((x @ lossless_weights(r).T).relu(), signed_relu(x @ r.T))
