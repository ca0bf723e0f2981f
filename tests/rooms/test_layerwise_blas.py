"""Products by scipy's BLAS: the same numbers as torch's, however the rows lie in memory."""

from __future__ import annotations

import pytest
import torch

from gracile.layerwise.blas import product, upper_gram

LAYOUTS = {
    "by rows": lambda y: y.contiguous(),
    "by columns": lambda y: y.T.contiguous().T,
    "some rows of columns": lambda y: torch.cat([y, y]).T.contiguous().T[: len(y)],
    "every other column": lambda y: torch.stack([y, y], 2).flatten(1)[:, ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_equal_torchs(layout, dtype):
    torch.manual_seed(0)
    tight = 1e-12 if dtype == torch.float64 else 1e-4
    y, weight = torch.randn(7, 5, dtype=dtype), torch.randn(4, 5, dtype=dtype)
    laid = LAYOUTS[layout](y)
    out = torch.full((5, 5), torch.nan, dtype=dtype)
    upper_gram(laid, out)
    assert torch.allclose(out.triu(), (y.T @ y).triu(), atol=tight)
    assert torch.allclose(product(laid, weight), y @ weight.T, atol=tight)


def test_the_product_lies_column_by_column():
    """As the symmetric product wants it."""
    assert product(torch.rand(6, 3), torch.rand(4, 3)).T.is_contiguous()
