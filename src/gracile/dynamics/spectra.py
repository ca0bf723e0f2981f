"""Singular values of the matrices at a junction, as cheaply as the question allows."""

from __future__ import annotations

import torch
from torch import Tensor

# A symmetric eigenvalue problem on the smaller side is cheaper than an SVD from this size on.
GRAM_FROM = 96


def leading(matrix: Tensor, start: Tensor, steps: int) -> tuple[float, Tensor, Tensor]:
    """The largest singular value with its left and right singular vectors, by power iteration.

    Args:
        matrix: (a, n).
        start: (n,), not zero; the vector of the last call makes few steps enough.
        steps: at least 1.

    Returns:
        A lower bound on the norm, never above it but for rounding, and unit vectors (a,) and (n,); 0, zeros and the start
        where the matrix is zero.
    """
    vector = start / start.norm()
    image = matrix @ vector
    for _ in range(steps):
        back = matrix.t() @ image
        norm = torch.linalg.vector_norm(back)
        if not norm > 0:
            return 0.0, torch.zeros_like(image), vector
        vector = back / norm
        image = matrix @ vector
    size = torch.linalg.vector_norm(image)
    return size.item(), image / size, vector


def singular_values(matrix: Tensor) -> Tensor:
    """All singular values, descending, in float64.

    Of matrices with more than `GRAM_FROM` rows and columns they are roots of the eigenvalues of the Gram matrix, and
    those below 1e-8 of the largest are rounding.
    """
    matrix = matrix.detach().to(torch.float64)
    if min(matrix.shape) <= GRAM_FROM and max(matrix.shape) < 4 * GRAM_FROM:
        return torch.linalg.svdvals(matrix)
    gram = matrix @ matrix.t() if matrix.shape[0] <= matrix.shape[1] else matrix.t() @ matrix
    return torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).sqrt()


def stable_rank(matrix: Tensor) -> float:
    """``|W|_F^2 / |W|_2^2``, at least 1; 0 for a zero matrix."""
    values = singular_values(matrix)
    top = values[0].item() if len(values) else 0.0
    return values.square().sum().item() / top**2 if top else 0.0


def principal(matrix: Tensor) -> tuple[float, Tensor, Tensor]:
    """The largest singular value with its left and right vectors, by a full SVD."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return values[0].item(), left[:, 0], right[0]


def alignment(first: Tensor, second: Tensor) -> float:
    """``|<v, u>|`` for the top left vector u of W1 (n, a) and the top right vector v of W2 (c, n); in [0, 1]."""
    return abs(torch.dot(principal(first)[1], principal(second)[2]).item())


def largest_sum(eigenvalues: Tensor, number: int) -> float:
    """S_c: the sum of the `number` largest."""
    return eigenvalues.sort(descending=True).values[:number].sum().item()
