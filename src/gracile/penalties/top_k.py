"""The k-sparse set: vectors with at most k entries that are not zero."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.penalties.base import project, share


def largest(sizes: Tensor, k: int) -> Tensor:
    """Where the k largest entries of each row are, exactly k of them; the first of equals.

    Multiplying a row by this mask of its magnitudes is its Euclidean projection on the vectors of at most k non-zeros;
    with the l2 norms of disjoint groups for sizes, on those of at most k groups.

    Args:
        sizes: ``(vectors, members)``, at least 0 and no NaN.
        k: 0 to ``members``.

    Returns:
        Of bool, shaped like `sizes`.

    >>> largest(torch.tensor([[3.0, 1.0, 2.0, 2.0]]), 2).tolist()
    [[True, False, True, False]]
    """
    members = sizes.shape[1]
    if k in (0, members):
        return torch.full_like(sizes, k > 0, dtype=torch.bool)
    # The k-th largest, and of the entries that equal it as many as are still missing.
    limit = sizes.kthvalue(members - k + 1, dim=1, keepdim=True).values
    above, equal = sizes > limit, sizes == limit
    missing = k - above.sum(1, keepdim=True)
    return above | (equal & (equal.cumsum(1) <= missing))


def keep_largest(w: Tensor, k: int) -> Tensor:
    """The nearest point of each row with at most k non-zeros: its k entries of largest absolute value, the first of equals.

    Args:
        w: ``(vectors, members)``; NaN stays NaN.
        k: at least 1.
    """
    # NaN is neither above nor equal to anything, and must be seen.
    kept = largest(w.abs(), min(k, w.shape[1])) | w.isnan()
    return w.masked_fill(~kept, 0.0)


class TopK:
    """0 where each vector has at most k non-zeros, infinity elsewhere; a vector is the whole weight of a layer.

    Its proximal map is the projection, iterative hard thresholding's [@blumensath2009, eq. 6].

    Args:
        keep: share in (0, 1] of each vector's entries, rounded, one at least.
        k: a count, in place of `keep`.

    Raises:
        InputError: not one of `keep` and `k`, or one out of range.
    """

    name: ClassVar[str] = "top_k"

    def __init__(self, keep: float | None = None, k: int | None = None) -> None:
        if keep is not None and k is not None:
            raise InputError("Top-k takes a share to keep or a count, not both.", "Give keep or k.")
        if k is not None and k < 1:
            raise InputError(f"Top-k cannot keep k={k} entries.", "Keep one at least.")
        self.k = k
        self.keep = share(0.1 if keep is None else keep, "Top-k", "keep")

    @property
    def block(self) -> int | None:
        return None

    def count(self, members: int) -> int:
        """How many entries a vector of so many may keep."""
        return min(members, self.k or max(1, round(self.keep * members)))

    def value(self, w: Tensor) -> Tensor:
        excess = w.count_nonzero(1) > self.count(w.shape[1])
        return torch.where(excess.any(), torch.inf, 0.0).to(w)

    def prox(self, w: Tensor, mu: float) -> Tensor:
        return project(self, w, mu)

    def unchecked_prox(self, w: Tensor, mu: float) -> Tensor:
        return keep_largest(w, self.count(w.shape[1])) if mu > 0 else w.clone()
