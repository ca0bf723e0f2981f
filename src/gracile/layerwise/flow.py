"""Lossless flow: `U relu(V z) = z`, and the random matrices that precede it.

Source: [@chatterjee2019; @javid2020].
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.layerwise.blas import product


def signed_relu(z: Tensor, dim: int = -1) -> Tensor:
    """`relu(V z)` with `V = [I; -I]`: the positive part and the negative part side by side.

    Args:
        z: any shape; axis `dim` of size m becomes 2m.
        dim: the axis of the features.
    """
    return torch.cat((z, -z), dim).relu_()


def fold(y: Tensor, dim: int = -1) -> Tensor:
    """`U y` with `U = [I -I]`, the exact inverse of `signed_relu`.

    Args:
        y: its axis `dim` has an even size 2m, which becomes m.
        dim: that axis.
    """
    positive, negative = y.chunk(2, dim)
    return positive - negative


def normalised(z: Tensor) -> Tensor:
    """Each row scaled to unit Euclidean norm; a row of zeros stays zeros.

    Args:
        z: (samples, n).
    """
    norm = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    return z / torch.where(norm > 0, norm, 1)


def check_rows(rows: int, columns: int) -> None:
    """Refuse a matrix that would lose some of its input.

    Raises:
        InputError: fewer rows than columns.
    """
    if rows < columns:
        raise InputError(
            f"A lossless layer needs at least as many rows m as it has inputs; m = {rows} is below n = {columns}.",
            f"Set m to {columns} or more.",
        )


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A random matrix with orthonormal columns, uniform (Haar) among them, in float64.

    A raw square Gaussian has a condition number of hundreds to thousands, which the inverse of the flow would multiply
    rounding by.

    Args:
        rows: at least `columns`.
        columns: of the matrix.
        generator: what it is drawn from.

    Raises:
        InputError: fewer rows than columns.
    """
    check_rows(rows, columns)
    q, r = torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))
    # The sign of r's diagonal makes the draw uniform instead of depending on the factorisation's convention.
    return q * r.diagonal().sign()


def cosine(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """The first `columns` columns of the orthonormal DCT-II matrix of size `rows`, with random signs, in float64.

    Args:
        rows: at least `columns`.
        columns: of the matrix.
        generator: what the signs are drawn from.
    """
    check_rows(rows, columns)
    k = torch.arange(rows, dtype=torch.float64)[:, None]
    j = torch.arange(columns, dtype=torch.float64)[None, :]
    matrix = math.sqrt(2 / rows) * torch.cos(math.pi * (j + 0.5) * k / rows)
    matrix[0] /= math.sqrt(2)
    signs = torch.randint(0, 2, (columns,), generator=generator).double() * 2 - 1
    return matrix * signs


def hidden(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`relu(W x + b)` for rows x.

    Args:
        x: (b, P).
        weight: W (n, P).
        bias: b (n,).

    Returns:
        (b, n), stored column by column: the product then is of two matrices that are long where they meet, which takes
        two thirds of the time at n = 4710.
    """
    return product(x, weight).add_(bias).relu_()


def lossless_weights(matrix: Tensor) -> Tensor:
    """`V R`, stacked: (2m, n) from (m, n)."""
    return torch.cat((matrix, -matrix))


class Chain(nn.Sequential):
    """A plain network, linear layers with a ReLU between each two, that can be read from a file."""

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor]) -> Chain:
        """The network whose `state_dict` these are."""
        places = sorted({int(name.partition(".")[0]) for name in tensors})
        return chain([(tensors[f"{place}.weight"], tensors.get(f"{place}.bias")) for place in places])


def chain(layers: list[tuple[Tensor, Tensor | None]]) -> Chain:
    """Linear layers with a ReLU between each two.

    Args:
        layers: weight (outputs, inputs) and bias (outputs,) or None, first layer first.
    """
    modules: list[nn.Module] = []
    for weight, bias in layers:
        if modules:
            modules.append(nn.ReLU())
        modules.append(linear(weight, bias))
    return Chain(*modules)


def listed(tensors: Mapping[str, Tensor], name: str) -> list[Tensor]:
    """The tensors ``name.0``, ``name.1`` and so on of a `state_dict`."""
    return [tensors[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in tensors))]


def width_for(rows: int) -> int:
    """Random nodes that suit so many samples: a quarter of them, from 1000 to 4000.

    Below 1000 samples the ridge, not the width, keeps the fit from following noise; above 4000 nodes time grows faster
    than accuracy.
    """
    return min(4000, max(1000, rows // 4))


def paired_width_for(rows: int) -> int:
    """Nodes of a lossless layer, which come in pairs of one direction: up to twice as many, at most 4000 again."""
    return min(4000, 2 * width_for(rows))


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """An `nn.Linear` that holds these tensors; its gradients are switched off."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
