"""What attacks climb, one value a sample; each rises as the network comes nearer to what the attack wants."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from gracile.core.errors import pick


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The largest other logit less that of `y`: positive exactly where `y` is not the answer (Carlini and Wagner's f)."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], float("-inf"))
    return others.amax(dim=1) - own


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """The margin over the gap from the first to the third logit, which no rescaling of logits changes.

    @croce2020, equation 6. Two classes have no third: there it is the margin.
    """
    return margin(logits, y) / _gap(logits, (2,))


def dlr_towards(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The logit of `target` less that of `y`, over the gap from the first to the mean of the third and fourth.

    @croce2020, equation 7; three classes use the third alone, two none.
    """
    towards = logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])
    return towards.squeeze(1) / _gap(logits, (2, 3))


def _gap(logits: Tensor, places: tuple[int, ...]) -> Tensor | float:
    ranked = logits.sort(dim=1, descending=True).values
    known = [place for place in places if place < logits.shape[1]]
    if not known:
        return 1.0
    return ranked[:, 0] - ranked[:, known].mean(dim=1) + 1e-12


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each sample, in nats."""
    return functional.cross_entropy(logits, y, reduction="none")


UNTARGETED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}


def climbed(name: str, *, targeted: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss to climb by name: as it stands, or its negative where `y` is the class wanted.

    Raises:
        InputError: no such loss.
    """
    loss = pick(UNTARGETED, name, "loss of attacks")
    return (lambda logits, y: torch.neg(loss(logits, y))) if targeted else loss
