"""Theorem 2 with every constant computed from the weights at the start, and its lemmas with the sharper constants.

For the layers j = 1 .. L of a linear tail (linear layers, convolutions, free residual blocks, then one linear layer
with one output): ``|W_j|_2^2 >= (|W_j|_F^2 - t_j) / F_j - e_j``, where F_j is the product of 2 for every free block and
min(k^2, c_in) for every convolution behind layer j, and e_j, t_j follow from the conserved D. The paper (theorem 2,
lemma 11) has 8 for every block. For fully connected tails with c outputs the same holds for the sum of the c largest
squared singular values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.core.seeding import generator
from gracile.dynamics.junctions import Junction, Term
from gracile.dynamics.spectra import largest_sum, singular_values


def lemma_11(y: Tensor, u: Tensor, z: Tensor, *, factor: float = 2.0) -> tuple[float, float]:
    """Both sides of ``|[U Z]|^2 >= (|[Y; Z]|^2 - |Y Y^T - U^T U|) / factor``.

    The paper proves it with 8; it holds with 2, and with no less: for Y Y^T = U^T U and Z = U V' where the norms of Z
    and Y add up.

    Args:
        y: (h, a).
        u: (b, h).
        z: (b, a).
        factor: 2 (ours) or 8 (the paper's).

    Returns:
        Left and right side.
    """
    left = torch.linalg.matrix_norm(torch.cat([u, z], dim=1), 2).item() ** 2
    stacked = torch.linalg.matrix_norm(torch.cat([y, z], dim=0), 2).item() ** 2
    return left, (stacked - torch.linalg.matrix_norm(y @ y.t() - u.t() @ u, 2).item()) / factor


def lemma_11_slack(blocks: int, seed: int) -> tuple[float, float]:
    """How much of the left side `lemma_11`, with 2 in place of 8, leaves over.

    Args:
        blocks: random ones, of up to 5 neurons a layer.
        seed: of them.

    Returns:
        The least share over the random blocks, and that of a block which meets the lemma with equality.
    """
    draw, least = generator(seed, "lemma 11"), float("inf")
    for _ in range(blocks):
        a, h, b = (int(one) for one in torch.randint(1, 6, (3,), generator=draw))
        left, right = lemma_11(*(torch.randn(s, generator=draw, dtype=torch.float64) for s in ((h, a), (b, h), (b, a))))
        least = min(least, (left - right) / left)
    # [Y; Z] adds up along one input direction what [U Z] keeps apart in two output directions.
    y, u, z = torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0], [1.0]])
    left, right = lemma_11(y.double(), u.double(), z.double())
    return least, (left - right) / left


def lemma_10(kernel: Tensor) -> tuple[float, float, float]:
    """The two flattenings of a convolution's weight (c_out, c_in, ...): their squared norms, and the factor f = min(k^2, c_in).

    ``|T_out|^2 <= f |T_in|^2``, where the rows of T_out are the outputs and those of T_in the inputs: a unit matrix
    (c_in, k^2) has rank at most f, so its product with the tensor is at most sqrt(f) times that with a product of
    vectors. The converse has min(k^2, c_out).

    Returns:
        ``|T_in|^2``, ``|T_out|^2`` and f.
    """
    outputs = kernel.flatten(1)
    inputs = kernel.movedim(1, 0).flatten(1)
    pixels = kernel[0, 0].numel()
    return (
        torch.linalg.matrix_norm(inputs, 2).item() ** 2,
        torch.linalg.matrix_norm(outputs, 2).item() ** 2,
        float(min(pixels, kernel.shape[1])),
    )


@dataclass(frozen=True, eq=False)
class Link:
    """A layer of the tail and the junction behind it.

    Attributes:
        name: of the layer, ``[u, z]`` for a block.
        junction: between it and the next layer.
        factor: F_j, ours.
        paper: ``8^{N_j} M_j``, the paper's.
        trace: t_j, constant under gradient flow.
        loss: e_j, constant under gradient flow.
        outputs: c.
    """

    name: str
    junction: Junction
    factor: float
    paper: float
    trace: float
    loss: float
    outputs: int

    def bound(self, parameters: Mapping[str, Tensor]) -> tuple[float, float, float]:
        """What theorem 2 speaks of, now.

        Returns:
            The sum of the c largest squared singular values of W_j, its lower bound, and ``|W_j|_F^2``.
        """
        first, _ = self.junction.stacked(parameters)
        squares = singular_values(first).square()
        whole = squares.sum().item()
        return squares[: self.outputs].sum().item(), (whole - self.trace) / self.factor - self.loss, whole


def tail(junctions: Sequence[Junction], parameters: Mapping[str, Tensor]) -> list[Link]:
    """The linear tail of a network, last layer first, with its constants from the weights as they are now (at the start).

    The walk begins at the one layer that nothing reads, and ends at the first junction that is not linear or has a
    bias: with a trainable bias D holds ``b b^T`` too, and the theorem, which is about networks without, does not carry
    on to the next layer.

    Returns:
        None for every network without such a tail: an empty list.
    """
    makes = {term.name for one in junctions for term in one.makers}
    last = {term.name for one in junctions for term in one.readers} - makes
    by_readers = {
        frozenset(term.name for term in one.readers): one for one in junctions if one.case != "residual stream"
    }
    links: list[Link] = []
    if len(last) != 1:
        return links
    current, factor, paper, trace, loss = frozenset(last), 1.0, 1.0, 0.0, 0.0
    final = by_readers.get(current)
    if final is None:
        return links
    outputs = parameters[final.readers[0].weight].shape[0]
    junction: Junction | None = final
    while junction is not None and _linear_and_free_of_bias(junction):
        difference = junction.difference(parameters).to(torch.float64)
        reshaped = _reshaping(junction.readers, junction)
        if outputs > 1 and (reshaped > 1 or len(junction.readers) > 1):
            break  # the sum of several singular values is not carried over another flattening
        factor, paper, loss = factor * reshaped, paper * reshaped, loss / reshaped
        loss += largest_sum(torch.linalg.eigvalsh(-difference), outputs)
        trace += difference.trace().item()
        name = junction.name.split(" -> ")[0]
        links.append(Link(name, junction, factor, paper, trace, loss, outputs))
        names = [term.name for term in junction.makers]
        if len(names) == 1:
            junction = by_readers.get(frozenset(names))
            continue
        junction, step = _through_block(names, by_readers, parameters)
        if step is None:
            break
        # [Y; Z] is at least half of [U Z]; lemma 11 works both ways.
        factor, paper, loss, trace = factor * 2, paper * 8, loss / 2 + step[0] / 2, trace + step[1]
    return links


def _linear_and_free_of_bias(junction: Junction) -> bool:
    return junction.invariance == "full" and all(term.bias is None and term.kind != "shift" for term in junction.makers)


def _reshaping(readers: Sequence[Term], junction: Junction) -> float:
    """By how much the reader's flattening at this junction can fall short of its flattening at the next one."""
    if len(readers) == 1 and readers[0].kind == "conv":
        return float(min(readers[0].pixels, junction.size))  # lemma 10, with c_in
    # A flattened image of m positions is read by a matrix that is rearranged as in case 5.
    return float(min(max(term.index.shape[1] for term in readers), junction.size))


def _through_block(
    names: Sequence[str], by_readers: Mapping[frozenset[str], Junction], parameters: Mapping[str, Tensor]
) -> tuple[Junction | None, tuple[float, float] | None]:
    """From the makers [U, Z] of a free block to the junction before [Y; Z]; with |Y Y^T - U^T U| and |Y|_F^2 - |U|_F^2."""
    if len(names) != 2:
        return None, None
    for second, around in (names, reversed(names)):
        inside = by_readers.get(frozenset([second]))
        if inside is None or len(inside.makers) != 1 or not _linear_and_free_of_bias(inside):
            continue
        before = by_readers.get(frozenset([inside.makers[0].name, around]))
        difference = inside.difference(parameters).to(torch.float64)
        step = torch.linalg.matrix_norm(difference, 2).item(), difference.trace().item()
        return before, step
    return None, None
