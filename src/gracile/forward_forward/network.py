"""A network whose layers learn each on its own, forward only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from gracile.core.errors import DataError, InputError, pick
from gracile.forward_forward.goodness import GOODNESS
from gracile.forward_forward.labels import LABELS, check_labels, random_wrong
from gracile.forward_forward.losses import LOSSES, Local
from gracile.forward_forward.normalization import NORMALIZATIONS

# Whose goodness proposes negative labels: layers from the first on; none draws wrong labels alike, None asks them all.
NEGATIVES: dict[str, int | None] = {"random": 0, "first": 1, "all": None}


class FFNetwork(nn.Module):
    """Fully connected relu layers trained by forward-forward [@hinton2022], as a classifier.

    ``network(x)`` is the total goodness of every label, (b, classes), and the largest is the answer; `gradients` fills
    the gradient of every layer's own loss. ``gracile.fit(network, ..., learning_rule=network.gradients)`` trains it.
    The mathematics is closed-form: positive and negative samples share one product per layer, in the first layer even
    the product with the image, which the two have in common; nothing is kept of a layer once it is left, so that memory
    for activations does not grow with depth.

    Args:
        in_features: features of an input.
        num_classes: labels, at least 2.
        widths: units of each layer.
        goodness: a row of `GOODNESS`.
        loss: a row of `LOSSES`.
        negatives: how the wrong label of a negative sample is drawn: ``random``; ``first``: the more often the more the
            first layer takes it for right (hard negatives by the network's own guess, at the price of a sum of squares
            a label); ``all``: by the goodness of all layers, at the price of a forward pass a label.
        label: a row of `LABELS`.
        label_value: of the one that is hot, in units of the inputs.
        normalize: a row of `NORMALIZATIONS`.
        bias: whether layers have one.
        threshold: of losses that have one, in units of the goodness of a layer whose activations are all 1 (so 1 is the
            layer's width for ``squared_sum``).
        sharpness: the factor on goodness within the loss, and in the odds of negatives.
        skip: layers, from the first, that are left out of the total.
        inputs: applied to what comes in before it is flattened.

    Raises:
        InputError: a row that is not there, an overlay that does not fit, or a number out of its range.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        widths: Sequence[int] = (500, 500, 500, 500),
        *,
        goodness: str = "mean_square",
        loss: str = "pairwise",
        negatives: str = "first",
        label: str = "append",
        label_value: float = 1.0,
        normalize: str = "rms",
        bias: bool = True,
        threshold: float = 1.0,
        sharpness: float = 4.0,
        skip: int = 0,
        inputs: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.goodness = pick(GOODNESS, goodness, "goodness")
        self.loss = pick(LOSSES, loss, "loss")
        self.guessing = pick(NEGATIVES, negatives, "kind of negatives")
        self.place = pick(LABELS, label, "place of the label")
        self.normalization = pick(NORMALIZATIONS, normalize, "normalisation")
        _check_numbers(in_features, num_classes, widths, sharpness, label_value, skip)
        self.columns = self.place.columns(in_features, num_classes)
        self.num_classes, self.label_value, self.sharpness, self.skip = num_classes, label_value, sharpness, skip
        self.thresholds = [threshold * self.goodness.of_ones(width) for width in widths]
        self.inputs = inputs if inputs is not None else nn.Identity()
        units = [max(in_features, self.columns.stop), *widths]
        self.layers = nn.ModuleList(nn.Linear(m, n, bias=bias) for m, n in zip(units, widths, strict=False))
        for layer, m, n in zip(self.linear, units, widths, strict=False):
            nn.init.normal_(layer.weight, std=math.sqrt(self.normalization.variance(m, n)))
            if bias:
                nn.init.zeros_(layer.bias)

    @property
    def linear(self) -> list[nn.Linear]:
        """The layers, first to last."""
        return cast("list[nn.Linear]", list(self.layers))

    def forward(self, x: Tensor) -> Tensor:
        """Total goodness of each label (b, classes) for inputs x (b, ...)."""
        return self.goodness_by_layer(x)[:, :, self.skip :].sum(2)

    def goodness_by_layer(self, x: Tensor) -> Tensor:
        """Goodness (b, classes, layers) of inputs x (b, ...) with each label in turn."""
        return self._guesses(*self._shared(x), len(self.layers))

    def rows(self, x: Tensor, y: Tensor) -> Tensor:
        """What the first layer reads (b, m): inputs x (b, ...) with labels y (b,), normalised."""
        base, value, _ = self._shared(x)
        base[torch.arange(len(y), device=base.device), y + self.columns.start] = value[:, 0].to(base.dtype)
        return base

    def activations(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """What each layer answers (b, width) to inputs x (b, ...) shown with labels y (b,)."""
        _, value, z = self._shared(x)
        h = torch.relu(z + value * self._label_weights()[y])
        found = [h]
        for layer in self.linear[1:]:
            h = torch.relu(layer(self.normalization(h)))
            found.append(h)
        return found

    @torch.no_grad()
    def gradients(
        self, x: Tensor, y: Tensor, wrong: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Fill ``.grad`` of every parameter with the gradient of its own layer's mean loss over the batch.

        Args:
            x: (b, ...) inputs.
            y: int64 (b,) labels.
            wrong: int64 (b,) labels of the negative samples; None draws them as the network is told to, from torch's
                own generator.
            weights: (b,) factors on the samples' losses, whose sum is divided by b all the same; None is 1 for each.

        Returns:
            The sum over layers of the mean loss, and how many samples have more total goodness with their own label
            than with the wrong.

        Raises:
            DataError: labels out of range, or a negative sample that is its positive one.
        """
        base, value, z = self._shared(x)
        b, labels = len(y), self._label_weights()
        if wrong is None:
            wrong = self._draw(base, value, z, y)
        else:
            check_labels(wrong, self.num_classes)
            if bool((wrong == y).any()):
                raise DataError(
                    "A negative sample carries its right label, so it equals the positive one.", "Give wrong labels."
                )
        shown = torch.cat([y, wrong])
        # Both halves share the image's product; only the label's column differs.
        h = torch.relu_(torch.cat([torch.addcmul(z, value, labels[y]), torch.addcmul(z, value, labels[wrong])]))
        total: Tensor | float = 0.0
        loss, inputs = torch.zeros((), dtype=torch.float64, device=z.device), None
        for number, layer in enumerate(self.linear):
            if number:
                inputs = self.normalization(h)
                h = torch.relu_(layer(inputs))
            good = self.goodness.value(_exact(h))
            local = self.loss(good[:b], good[b:], self.thresholds[number], self.sharpness)
            if weights is not None:
                local = Local(*(part * weights for part in local))
            pull = self.goodness.pull(h, (torch.cat([local.by_positive, local.by_negative]) / b).to(h.dtype))
            gradient = self._first_gradient(pull, base, value, shown) if inputs is None else pull.T @ inputs
            layer.weight.grad = gradient.to(layer.weight.dtype)
            if layer.bias is not None:
                layer.bias.grad = pull.sum(0).to(layer.bias.dtype)
            loss += local.value.mean()
            if number >= self.skip:
                total = total + good[:b] - good[b:]
        return loss, (torch.as_tensor(total) > 0).sum()

    def _first_gradient(self, pull: Tensor, base: Tensor, value: Tensor, shown: Tensor) -> Tensor:
        """The gradient of the first weights: positive and negative inputs differ in the label's columns alone."""
        b = len(base)
        gradient = (pull[:b] + pull[b:]).T @ base
        hot = pull.new_zeros(2 * b, self.num_classes)
        hot[torch.arange(2 * b, device=hot.device), shown] = torch.cat([value, value])[:, 0].to(hot.dtype)
        gradient[:, self.columns] += pull.T @ hot
        return gradient

    def _shared(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What all labels have in common: normalised inputs without label (b, m), the label's value after it (b, 1), pre-activations."""
        base = self.place.room(self.inputs(x).flatten(1), self.num_classes)
        squares = base.square().sum(1, keepdim=True) + self.label_value**2
        factor = self.normalization.factor(squares, base.shape[1])
        base = base * factor
        return base, self.label_value * factor, self.linear[0](base)

    def _label_weights(self) -> Tensor:
        """The first layer's weights of each label (classes, n)."""
        return self.linear[0].weight[:, self.columns].T

    def _guesses(self, base: Tensor, value: Tensor, z: Tensor, depth: int) -> Tensor:
        """Goodness (b, classes, depth) with each label in turn; one label at a time stays within the processor's cache."""
        found = []
        for weights in self._label_weights():
            h = torch.relu_(torch.addcmul(z, value, weights))
            goods = [self.goodness.value(h)]
            for layer in self.linear[1:depth]:
                h = torch.relu_(layer(self.normalization(h)))
                goods.append(self.goodness.value(h))
            found.append(torch.stack(goods, 1))
        return torch.stack(found, 1)

    def _draw(self, base: Tensor, value: Tensor, z: Tensor, y: Tensor) -> Tensor:
        check_labels(y, self.num_classes)
        if self.guessing == 0:
            return random_wrong(y, self.num_classes)
        depth = self.guessing or len(self.layers)
        odds = self.sharpness * _exact(self._guesses(base, value, z, depth)).mean(2)
        odds.scatter_(1, y[:, None], -math.inf)
        return torch.multinomial(odds.softmax(1), 1)[:, 0]


def _exact(h: Tensor) -> Tensor:
    """At least float32, which sums of squares need where products run in half precision."""
    return h if h.dtype == torch.float64 else h.float()


def _check_numbers(
    in_features: int, num_classes: int, widths: Sequence[int], sharpness: float, label_value: float, skip: int
) -> None:
    if num_classes < 2:
        raise InputError(
            f"Forward-forward learns from wrong labels, and there are {num_classes} classes.",
            "Give data of at least two.",
        )
    if not widths or min((in_features, *widths)) < 1:
        raise InputError(
            f"A forward-forward network cannot have layers of {[in_features, *widths]} units.",
            "Give at least one layer, and every layer at least one unit.",
        )
    if not 0 <= skip < len(widths):
        raise InputError(
            f"skip = {skip} leaves no layer of {len(widths)} to answer.", "Skip fewer layers than there are."
        )
    if not (sharpness > 0 and label_value > 0):
        raise InputError(
            f"sharpness = {sharpness} and the label's value {label_value} must be positive.", "Pass values above 0."
        )
