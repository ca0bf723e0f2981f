"""Who holds which samples: splits of a training set among workers, one table.

Iid shards hide what a topology does; skew by label shows it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gracile.core.errors import InputError, pick
from gracile.core.seeding import derive_seed, generator


def shards(labels: Tensor, workers: int, split: str = "iid", *, seed: int = 0) -> list[Tensor]:
    """Disjoint shards that together hold every sample.

    Args:
        labels: (n,) integers.
        workers: how many shards.
        split: a row of `SPLITS`; ``dirichlet:0.3`` names the concentration.
        seed: of the draw.

    Returns:
        per worker the int64 indices of its samples, sorted.

    Raises:
        InputError: no such split, or a worker would be left without samples.
    """
    name, _, argument = split.partition(":")
    built = pick(SPLITS, name, "split")(labels.cpu(), workers, argument, seed)
    for worker, shard in enumerate(built):
        if len(shard) == 0:
            raise InputError(
                f"The split '{split}' of {len(labels)} samples leaves worker {worker} of {workers} without any.",
                "Use fewer workers, more samples, another seed or, for dirichlet, a larger concentration.",
            )
    return [shard.sort().values for shard in built]


def label_skew(labels: Tensor, parts: list[Tensor]) -> float:
    """Mean total-variation distance, in [0, 1], between a shard's label distribution and that of all samples.

    Args:
        labels: (n,) integers from 0.
        parts: as `shards` returns them.
    """
    labels = labels.cpu()
    classes = int(labels.max()) + 1
    whole = torch.bincount(labels, minlength=classes) / len(labels)
    own = [torch.bincount(labels[part], minlength=classes) / len(part) for part in parts]
    return float(torch.stack([(share - whole).abs().sum() / 2 for share in own]).mean())


def _iid(labels: Tensor, workers: int, argument: str, seed: int) -> list[Tensor]:
    order = torch.randperm(len(labels), generator=generator(seed, "shards"))
    return list(order.tensor_split(workers))


def _label(labels: Tensor, workers: int, argument: str, seed: int) -> list[Tensor]:
    """Sorted by label, cut into equal runs: a worker sees a class or two."""
    order = torch.randperm(len(labels), generator=generator(seed, "shards"))
    return list(order[labels[order].argsort(stable=True)].tensor_split(workers))


def _dirichlet(labels: Tensor, workers: int, argument: str, seed: int) -> list[Tensor]:
    """Each class is dealt out by shares drawn from Dirichlet(alpha, ..., alpha) [@hsu2019]."""
    try:
        alpha = float(argument or 0.5)
    except ValueError:
        alpha = 0.0
    if not alpha > 0:
        raise InputError(f"'{argument}' is no Dirichlet concentration.", "Write dirichlet:0.5, with a number above 0.")
    random = np.random.default_rng(derive_seed(seed, "shards"))
    parts: list[list[Tensor]] = [[] for _ in range(workers)]
    for label in labels.unique().tolist():
        rows = torch.from_numpy(random.permutation(torch.nonzero(labels == label).flatten().numpy()))
        cuts = (np.cumsum(random.dirichlet(np.full(workers, alpha)))[:-1] * len(rows)).round().astype(int)
        for part, piece in zip(parts, rows.tensor_split(torch.from_numpy(cuts)), strict=True):
            part.append(piece)
    return [torch.cat(part) for part in parts]


# Name to (labels, workers, argument after the colon, seed) -> shards.
SPLITS: dict[str, Callable[[Tensor, int, str, int], list[Tensor]]] = {
    "dirichlet": _dirichlet,
    "iid": _iid,
    "label": _label,
}
