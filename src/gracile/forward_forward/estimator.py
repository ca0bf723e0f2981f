"""Forward-forward as a scikit-learn classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import validate_data

from gracile.core.errors import InputError
from gracile.core.estimators import NetworkClassifier, as_tensor, device_of, in_our_words, refuse_columns
from gracile.core.seeding import derive_seed
from gracile.data import Dataset, Splits
from gracile.forward_forward.network import FFNetwork
from gracile.training import Cosine, History, fit


class FFClassifier(NetworkClassifier):
    """Layers that learn each on its own to tell inputs with their right label from inputs with a wrong one (Hinton 2022).

    Trained by `gracile.fit`, so that a fit with the same seed on the same machine gives the same bits. Lengths of inputs matter only
    against the label's; features of very different scale are standardised first, in a pipeline.

    Args:
        widths: units of each layer.
        goodness, loss, negatives, label, normalize, bias, threshold, sharpness, skip: see `FFNetwork`.
        label_strength: value of the hot label's entry, as a multiple of the root mean square length of the training inputs.
        optimizer: ``sgd``, ``adam`` or ``adamw``.
        lr, momentum, weight_decay: the optimiser's; the rate falls to 0 along half a cosine.
        epochs: passes over the data.
        batch_size: samples a step.
        seed: of weights, order and negatives.
        device: "cpu" or "cuda".

    Attributes:
        classes_: the labels, sorted (Q,).
        net_: the `FFNetwork`; its outputs are total goodness.
        history_: `gracile.training.History`, one row an epoch.
    """

    history_: History

    def __init__(
        self,
        widths: Sequence[int] = (500, 500),
        *,
        goodness: str = "mean_square",
        loss: str = "pairwise",
        negatives: str = "first",
        label: str = "append",
        label_strength: float = 0.5,
        normalize: str = "rms",
        bias: bool = True,
        threshold: float = 1.0,
        sharpness: float = 4.0,
        skip: int = 0,
        optimizer: str = "adamw",
        lr: float = 3e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        epochs: int = 30,
        batch_size: int = 128,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.widths = widths
        self.goodness = goodness
        self.loss = loss
        self.negatives = negatives
        self.label = label
        self.label_strength = label_strength
        self.normalize = normalize
        self.bias = bias
        self.threshold = threshold
        self.sharpness = sharpness
        self.skip = skip
        self.optimizer = optimizer
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.device = device

    def fit(self, X: Any, y: Any) -> FFClassifier:
        """Fit to arrays.

        Args:
            X: (samples, features), any number type.
            y: labels (samples,), numbers or strings.

        Raises:
            DataError: NaN, one class only, or more than one label column.
            InputError: a parameter out of its range, or labels that do not fit the overlay.
        """
        refuse_columns(y)
        device = device_of(self.device)
        X, y = in_our_words(lambda: validate_data(self, X, y, dtype="numeric", ensure_min_samples=2))
        X, index = self._indexed(X, y)
        inputs = as_tensor(X, torch.float32, device)
        labels = torch.from_numpy(index.astype(np.int64)).to(device)
        names = tuple(map(str, self.classes_.tolist()))
        data = Dataset(inputs, labels, names, "the samples given")
        none = data.subset([])
        network = self._network(inputs, len(names)).to(device)
        self.history_ = fit(
            network,
            Splits(data, none, none),
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule=Cosine(self.epochs) if self.epochs > 0 else None,
            learning_rule=network.gradients,
            seed=self.seed,
            precision="float32",
        )
        self.net_ = network.eval()
        return self

    def goodness_by_layer(self, X: Any) -> np.ndarray:
        """Goodness (samples, classes, layers) of each sample with each label in turn."""
        return self._run(_ByLayer(self.net_), X)

    def _network(self, inputs: torch.Tensor, num_classes: int) -> FFNetwork:
        if not self.label_strength > 0:
            raise InputError(f"label_strength = {self.label_strength!r} must be positive.", "Try 0.5.")
        length = math.sqrt(inputs.double().square().sum(1).mean().item())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "initialisation"))
            return FFNetwork(
                inputs.shape[1],
                num_classes,
                tuple(self.widths),
                goodness=self.goodness,
                loss=self.loss,
                negatives=self.negatives,
                label=self.label,
                # Inputs that are all 0 have no length to measure by; any will do.
                label_value=self.label_strength * (length or 1.0),
                normalize=self.normalize,
                bias=self.bias,
                threshold=self.threshold,
                sharpness=self.sharpness,
                skip=self.skip,
            )


class _ByLayer(torch.nn.Module):
    """`FFNetwork.goodness_by_layer` as a forward pass."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.network, FFNetwork)
        return self.network.goodness_by_layer(x)
