"""Checksums of rows."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.datasets import load_digits

from gracile.core.row_keys import digest_of, keys_of


def test_rows_of_small_whole_numbers_have_keys_of_their_own():
    """As float64 these differ in their first twelve bits alone, of which 1797 images of digits made 1300 keys."""
    x, _ = load_digits(return_X_y=True)
    assert len(np.unique(keys_of(x))) == len(np.unique(x, axis=0))


def test_a_key_is_that_of_the_numbers_whatever_holds_them():
    x, _ = load_digits(return_X_y=True)
    for kind in (x.astype(np.float32), x.astype(np.uint8), x.astype(">f8"), csr_matrix(x), np.asfortranarray(x)):
        np.testing.assert_array_equal(keys_of(kind), keys_of(x))
    np.testing.assert_array_equal(keys_of(x[::-1]), keys_of(x)[::-1])


def test_a_digest_adds_up_and_knows_labels_and_places():
    x, y = load_digits(return_X_y=True)
    assert (digest_of(x[:100], y[:100], None) + digest_of(x[100:], y[100:], None)) % 2**64 == digest_of(x, y, None)
    assert digest_of(x[::-1], y[::-1], None) == digest_of(x, y, None) != digest_of(x, y[::-1], None)
    assert digest_of(x[::-1], y[::-1], 0) != digest_of(x, y, 0)
