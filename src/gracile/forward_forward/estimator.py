"""Forward-forward as a scikit-learn classifier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gracile.core.devices import device_named
from gracile.core.errors import DataError, InputError
from gracile.core.estimators import (
    NetworkClassifier,
    as_tensor,
    classes_of,
    is_number,
    labels_of,
    temperature,
    whole,
)
from gracile.core.row_keys import keys_of
from gracile.core.sample_weights import check_weights, present, weights_of_classes
from gracile.core.seeding import derive_seed
from gracile.data import Dataset, Splits
from gracile.forward_forward.network import FFNetwork
from gracile.training import Cosine, History, fit

# Samples that choose the temperature, a single number.
CALIBRATION = 2000
# Copies an epoch may have for each sample; more is a matter of epochs.
MOST = 20


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
        class_weight: None, "balanced" (classes of equal weight in sum), or a weight for each label.

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
        class_weight: Mapping[Any, float] | str | None = None,
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
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> FFClassifier:
        """Fit to arrays; the order of the samples makes no difference.

        Args:
            X: (samples, features), any number type.
            y: labels (samples,), numbers or strings; several targets at once are refused, since a label is what an input
                is shown with.
            sample_weight: how much each sample counts (samples,), from 0 up. A weight of 3 is three copies, and one of
                2.5 three whose losses count 5/6, so that an epoch takes so much longer.

        Raises:
            DataError: NaN, one class only, more than one label column, or weights that are below 0, all 0, or so many
                copies that an epoch is 20 times as long.
            InputError: a parameter out of its range, or labels that do not fit the overlay.
        """
        device = device_named(self.device)
        X, y = self._valid(X, y, ensure_min_samples=2, multi_output=True)
        y = labels_of(y)
        rows, factors = self._weighted(X, y, sample_weight)
        index = self._index(y[rows])
        inputs = as_tensor(X[rows], torch.float32, device)
        labels = torch.from_numpy(index.astype(np.int64)).to(device)
        names = tuple(map(str, self.classes_.tolist()))
        self.label_value_ = self._label_value(inputs, factors)
        network = self._network(inputs.shape[1], len(names)).to(device)
        trained = network
        if factors is not None:
            # The samples' weights travel with them, as one more column.
            inputs = torch.cat([inputs, torch.from_numpy(factors).to(inputs)[:, None]], 1)
            trained = _Weighted(network)
        data = Dataset(inputs, labels, names, "the samples given")
        none = data.subset([])
        epochs = whole("epochs", self.epochs, 0)
        self.history_ = fit(
            trained,
            Splits(data, none, none),
            epochs=epochs,
            batch_size=whole("batch_size", self.batch_size),
            optimizer=self.optimizer,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule=Cosine(epochs) if epochs > 0 else None,
            learning_rule=trained.gradients,
            seed=self.seed,
            precision="float32",
        )
        self.net_ = network.eval()
        some = slice(None, None, -(-len(index) // CALIBRATION))
        with torch.no_grad():
            scores = trained.eval()(inputs[some]).cpu().numpy()
        found = temperature(scores, index[some], None if factors is None else factors[some])
        # Samples it has learned from make it too sure: no surer than if what the layers say were independent of each
        # other, nor less sure than if they all said the same.
        surest = 1 / self.sharpness
        self.temperature_ = np.array([min(max(found, surest), surest * (len(network.layers) - self.skip))])
        return self

    def _weighted(self, X: Any, y: np.ndarray, sample_weight: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows of X, some several times, in an order that follows from what they are, and factors on their losses."""
        weights = np.ones(len(y)) if sample_weight is None else check_weights(sample_weight, len(y))
        there = present(weights)
        self.classes_ = classes_of(y[there])
        if self.class_weight is not None:
            known = self._index(y[there])
            by_class = weights_of_classes(
                self.class_weight, known, self.classes_, None if sample_weight is None else weights[there]
            )
            # A heavy class is no class of many copies: the others count less instead.
            weights[there] *= (by_class / by_class.max())[known]
            there = present(weights)
        copies = np.ceil(weights).astype(np.int64)
        if copies.sum() > MOST * there.sum():
            raise DataError(
                f"Weights that sum to {weights.sum():g} are as many copies of {there.sum()} samples.",
                f"Divide them by {weights.sum() / there.sum():g}, and set epochs as you need.",
            )
        order = np.lexsort((y.astype(str), keys_of(X)))
        rows = np.repeat(order, copies[order])
        factors = (weights / copies.clip(min=1))[rows]
        return rows, None if (factors == 1).all() else factors

    def _label_value(self, inputs: Tensor, factors: np.ndarray | None) -> float:
        if not (is_number(self.label_strength) and self.label_strength > 0):
            raise InputError(f"label_strength = {self.label_strength!r} must be positive.", "Try 0.5.")
        squares = inputs.double().square().sum(1).cpu().numpy()
        # Inputs that are all 0 have no length to measure by; any will do.
        return self.label_strength * (math.sqrt(np.average(squares, weights=factors)) or 1.0)

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


class _Weighted(nn.Module):
    """A network whose inputs carry the samples' weights as their last column."""

    def __init__(self, network: FFNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x[:, :-1])

    def gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """`FFNetwork.gradients` of weighted samples."""
        return self.network.gradients(x[:, :-1], y, weights=x[:, -1])


class _ByLayer(torch.nn.Module):
    """`FFNetwork.goodness_by_layer` as a forward pass."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.network, FFNetwork)
        return self.network.goodness_by_layer(x)
