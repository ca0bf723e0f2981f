"""Whether a network has collapsed: it answers, but its answers say nothing of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gracile.core.errors import DataError
from gracile.data import Dataset, batches

# Logits that vary over the samples by no more than this share of the largest are the same for all: float32's rounding.
SAME = 1e-5
# Standard errors above chance up to which a balanced accuracy is not told from it.
ERRORS = 3.0
# Samples of each class, on average, from which on it means something that a class is never answered.
SAMPLES_PER_CLASS = 10


def collapsed(network: nn.Module, data: Dataset, *, batch_size: int = 500) -> str | None:
    """Why a network's answers are worth nothing on these data, in one clause, or None if they are worth something.

    Call it after pruning, or after training at a large rate, before an accuracy is compared with others: what died is no
    result of the method at that budget. A network has collapsed if, in this order, its outputs are not finite; its
    outputs do not depend on the input; it gives every sample the same class; its accuracy, averaged over the classes,
    is not above chance by three standard errors; or it never answers with half of the classes or more. Chance is one over
    the number of classes that occur: the most that answers regardless of the input can have by this measure, however
    uneven the classes are. What few samples cannot tell is not claimed.

    Args:
        network: gives logits ``(n, classes)``; evaluated in float32 and evaluation mode, and its mode left as found.
        data: at least one sample; the split that the accuracy was taken on.
        batch_size: samples per forward pass.

    Returns:
        a clause such as ``answers every sample with class '3'``, to follow the network's name.

    Raises:
        DataError: there are no samples.
    """
    if not len(data):
        raise DataError(f"The split of '{data.name}' holds no samples.", "Give one that does.")
    if not torch.isfinite(logits := _logits(network, data, batch_size)).all():
        return "gives outputs that are not finite"
    if len(data) > 1 and float((logits.amax(0) - logits.amin(0)).max()) <= SAME * float(logits.abs().max()):
        return "gives the same output whatever the input"
    labels, answers = data.labels.cpu(), logits.argmax(dim=1)
    counts = labels.bincount(minlength=logits.shape[1]).double()
    present = counts > 0
    classes = int(present.sum())
    if classes < 2:
        return None
    answered = answers.unique()
    if len(answered) == 1:
        return f"answers every sample with class '{data.classes[int(answered)]}'"
    right = labels[answers == labels].bincount(minlength=len(counts)).double()
    balanced, chance = float((right[present] / counts[present]).mean()), 1 / classes
    error = (chance * (1 - chance) * float((1 / counts[present]).sum())) ** 0.5 / classes
    bound = chance + ERRORS * error
    if balanced <= bound <= (1 + chance) / 2:
        return f"is at chance: {100 * balanced:.1f} % averaged over the {classes} classes, where guessing has {100 * chance:.1f} %"
    used = int(present[answered].sum())
    if 2 * used <= classes and classes > 2 and len(data) >= SAMPLES_PER_CLASS * classes:
        return f"answers with {used} of the {classes} classes only"
    return None


@torch.no_grad()
def _logits(network: nn.Module, data: Dataset, batch_size: int) -> Tensor:
    """Logits of all samples, ``(n, classes)`` float32, on the CPU."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    try:
        return torch.cat([network(x.to(device)).float().cpu() for x, _ in batches(data, batch_size)])
    finally:
        network.train(training)
