"""A loss of outputs and labels as something `gracile.fit` can minimise."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from gracile.training.adversarial import CrossEntropy, Objective
from gracile.training.attacked import logits_of

Loss = Callable[[Tensor, Tensor], Tensor]
"""From outputs (b, classes) and labels (b,) to a scalar, such as ``torch.nn.functional.cross_entropy``."""


class LossObjective(CrossEntropy):
    """Minimise a loss of the network's outputs on clean samples.

    Args:
        function: from outputs (b, classes) and labels (b,) to a scalar.
    """

    def __init__(self, function: Loss) -> None:
        self.function = function

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, progress: float, seed: int) -> tuple[Tensor, Tensor]:
        outputs = logits_of(model(x))
        return self.function(outputs, y), outputs


def on_probabilities(loss: Loss) -> Loss:
    """A loss of logits and labels by one of probabilities and one-hot targets, both (b, classes), such as ``mse_loss``."""
    return lambda logits, y: loss(logits.softmax(1), nn.functional.one_hot(y, logits.shape[1]).to(logits.dtype))


def as_objective(wanted: Objective | Loss | None) -> Objective:
    """An objective as it is, a loss function as an objective, and cross-entropy where nothing is given."""
    if wanted is None:
        return CrossEntropy()
    # Loss functions may be modules or other objects; only an objective has a method `loss`.
    if callable(getattr(wanted, "loss", None)):
        return wanted  # pyright: ignore[reportReturnType]
    return LossObjective(wanted)  # pyright: ignore[reportArgumentType]
