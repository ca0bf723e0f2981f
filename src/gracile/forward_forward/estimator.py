"""Forward-forward as a scikit-learn classifier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.core.estimators import (
    NetworkClassifier,
    as_tensor,
    classes_of,
    device_of,
    is_number,
    labels_of,
    temperature,
    whole,
)
from gracile.core.seeding import derive_seed
from gracile.data import Dataset, Splits
from gracile.forward_forward.network import FFNetwork
from gracile.training import Cosine, History, fit

# Samples that choose the temperature, a single number.
CALIBRATION = 2000


class FFClassifier(NetworkClassifier):
    """Layers that each learn on their own to tell inputs with the right label from inputs with a wrong one.

    Trained by `gracile.fit`, so that a fit with the same seed on the same machine gives the same bits. Lengths of
    inputs matter only against the label's; features of very different scale are standardised first, in a pipeline.

    Source: G. Hinton, "The Forward-Forward Algorithm: Some Preliminary Investigations" (2022).

    Args:
        widths: units of each layer.
        goodness: what a layer tells right from wrong by; see `FFNetwork` for this and the next eight.
        loss: of each layer.
        negatives: which wrong labels are shown.
        label: where the label goes.
        normalize: between the layers.
        bias: whether layers have biases.
        threshold: of the loss.
        sharpness: of the loss.
        skip: first layers whose goodness does not count in the answer.
        label_strength: value of the hot label's entry, as a multiple of the root mean square length of the training
            inputs.
        optimizer: ``sgd``, ``adam`` or ``adamw``.
        lr: learning rate at the start; it falls to 0 along half a cosine.
        momentum: of the optimiser.
        weight_decay: of the optimiser.
        epochs: passes over the data.
        batch_size: samples per step.
        seed: of weights, order and negatives.
        device: "cpu" or "cuda".

    Attributes:
        classes_: the labels, sorted (Q,).
        net_: the `FFNetwork`; its outputs are total goodness.
        history_: `gracile.training.History`, one row per epoch.
        label_value_: what `label_strength` came to, in units of the inputs.
        temperature_: of `predict_proba` (1,): the likeliest on the training samples between `1 / sharpness`, as if the
            layers' odds multiplied, and the number of layers times that, as if they were one.
    """

    history_: History
    label_value_: float

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
        device = device_of(self.device)
        X, y = self._valid(X, y, ensure_min_samples=2, multi_output=True)
        y = labels_of(y)
        self.classes_ = classes_of(y)
        index = self._index(y)
        inputs = as_tensor(X, torch.float32, device)
        labels = torch.from_numpy(index.astype(np.int64)).to(device)
        names = tuple(map(str, self.classes_.tolist()))
        data = Dataset(inputs, labels, names, "the samples given")
        none = data.subset([])
        if not (is_number(self.label_strength) and self.label_strength > 0):
            raise InputError(f"label_strength = {self.label_strength!r} must be positive.", "Try 0.5.")
        # Inputs that are all 0 have no length to measure by; any will do.
        self.label_value_ = self.label_strength * (math.sqrt(inputs.double().square().sum(1).mean().item()) or 1.0)
        network = self._network(inputs.shape[1], len(names)).to(device)
        epochs = whole("epochs", self.epochs, 0)
        self.history_ = fit(
            network,
            Splits(data, none, none),
            epochs=epochs,
            batch_size=whole("batch_size", self.batch_size),
            optimizer=self.optimizer,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule=Cosine(epochs) if epochs > 0 else None,
            learning_rule=network.gradients,
            seed=self.seed,
            precision="float32",
        )
        self.net_ = network.eval()
        rows = slice(None, None, -(-len(index) // CALIBRATION))
        with torch.no_grad():
            found = temperature(network(inputs[rows]).cpu().numpy(), index[rows])
        # Samples it has learned from make it too sure: no surer than if what the layers say were independent of each
        # other, nor less sure than if they all said the same.
        surest = 1 / self.sharpness
        self.temperature_ = np.array([min(max(found, surest), surest * (len(network.layers) - self.skip))])
        return self

    def goodness_by_layer(self, X: Any) -> np.ndarray:
        """Goodness (samples, classes, layers) of each sample with each label in turn."""
        return self._run(_ByLayer(self.net_), X)

    def _network(self, in_features: int, num_classes: int) -> FFNetwork:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "initialisation"))
            return FFNetwork(
                in_features,
                num_classes,
                tuple(whole("width", width) for width in self.widths),
                goodness=self.goodness,
                loss=self.loss,
                negatives=self.negatives,
                label=self.label,
                label_value=self.label_value_,
                normalize=self.normalize,
                bias=self.bias,
                threshold=self.threshold,
                sharpness=self.sharpness,
                skip=self.skip,
            )

    def _fitted(self) -> dict[str, Any]:
        return {**super()._fitted(), "history_": {"rows": self.history_.rows, "seconds": self.history_.seconds}}

    def _restored(self, fitted: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
        self.history_ = History(**fitted["history_"])
        network = self._network(self.n_features_in_, len(self.classes_))
        network.load_state_dict(dict(tensors))
        return network.requires_grad_(False).eval()


class _ByLayer(torch.nn.Module):
    """`FFNetwork.goodness_by_layer` as a forward pass."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.network, FFNetwork)
        return self.network.goodness_by_layer(x)
