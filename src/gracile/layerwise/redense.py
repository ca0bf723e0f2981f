"""ReDense: a random, lossless layer before a trained network's linear layer, which is then trained in a norm ball.

`y = relu(V R h)` with h the layer's input, R random with orthonormal columns (m x n, m >= n). The new weights start at
`O R^+ U`, with which the network predicts what it did before, and are trained by softmax cross-entropy in the ball
`|O|_F <= |O R^+ U|_F`.

Source: [@javid2021redense; @javid2021, section 6.2].
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from gracile.core.errors import DataError, InputError, nearest
from gracile.core.estimators import tensor_of
from gracile.core.seeding import generator
from gracile.layerwise.flow import check_rows, linear, lossless_weights, orthonormal
from gracile.layerwise.least_squares import project
from gracile.layerwise.softmax import Features, Monitor, SoftmaxFit, fit_softmax


class ReDense(nn.Module):
    """A trained network with one more layer, which at first predicts exactly as the network does.

    Args:
        model: any trained module from inputs to logits (b, Q), or to a mapping or object that holds them as `logits`
            (as models of transformers do). It is copied, put into evaluation mode and frozen; yours stays as it is.
        layer: "last" for the last `nn.Linear`, or the name of a linear or ungrouped convolutional layer as in
            `named_modules()`. A convolution gets R as a 1x1 convolution over its input channels.
        m: rows of R, at least the layer's n inputs; None takes n, the published advice.
        matrix: "orthonormal", or "gaussian" as published. A square Gaussian has a condition number of hundreds to
            thousands: predictions then start equal to about 1e-4 in float32, and the ball around `O R^+ U` is wide.
        alpha: the ball's radius over the start's norm, 1 or more.
        seed: of R.

    Attributes:
        model: the copy, a plain module with the layer replaced by ``Sequential(expand, ReLU, output)``; `plain()`
            returns a copy.
        eps: radius of the ball that the output's weights are kept in.

    Raises:
        InputError: no linear layer, no such layer, or m below n.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> wider = ReDense(net, m=16)
    >>> x = torch.randn(5, 4)
    >>> torch.allclose(wider(x), net(x), atol=1e-5)
    True
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str = "last",
        m: int | None = None,
        *,
        matrix: str = "orthonormal",
        alpha: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not alpha >= 1:
            raise InputError(f"alpha = {alpha} puts the network's own solution outside the ball.", "Set it from 1 up.")
        if matrix not in MATRICES:
            raise InputError(f"There is no matrix named '{matrix}'.", f"Choose one of: {', '.join(MATRICES)}.")
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.layer = _last_linear(model) if layer == "last" else layer
        self._last = layer == "last"
        modules = dict(self.model.named_modules())
        if self.layer not in modules:
            raise InputError(f"The network has no layer named '{self.layer}'.", nearest(self.layer, modules))
        self._replaced = _expanded(modules[self.layer], self.layer, m, matrix, seed)
        self.eps = alpha * float(torch.linalg.vector_norm(self._output.weight))
        if self.layer == "":
            # The network is the linear layer itself.
            self.model = self._replaced
        else:
            parent, _, child = self.layer.rpartition(".")
            setattr(self.model.get_submodule(parent), child, self._replaced)

    def forward(self, x: Tensor) -> Tensor:
        """What the network's own forward takes and gives."""
        return self.model(x)

    def train(self, mode: bool = True) -> ReDense:
        """Stays in evaluation mode: the features are frozen, and dropout would make them random."""
        super().train(mode)
        self.model.eval()
        return self

    @torch.no_grad()
    def expand(self, inputs: Tensor) -> Tensor:
        """`relu(V R h)`, the new layer's features (b, 2 m) of h (b, n)."""
        return self._replaced[0](inputs).relu_()

    def plain(self) -> nn.Module:
        """A copy of the network that knows nothing of this library: torch modules only, ready to save or export."""
        return copy.deepcopy(self.model)

    def fit(
        self,
        data: tuple[Any, Any] | Iterable[tuple[Any, Any]],
        *,
        epochs: int = 300,
        method: str | None = None,
        lr: float = 1e-3,
        batch_size: int = 1000,
        seed: int = 0,
        monitor: Monitor | None = None,
    ) -> SoftmaxFit:
        """Train the new layer's output; the training loss of what is kept is never above the original network's.

        Args:
            data: (inputs, labels) of all training samples, or an iterable of such batches that can be passed over
                again.
            epochs: full-batch steps where the layer is the last one, passes over the data in batches otherwise.
            method: at the last layer "monotone" (default) or "adam", see `softmax.fit_softmax`; elsewhere the problem
                is not convex and "adam" in batches is the only one.
            lr: of Adam.
            batch_size: samples run through the network at a time.
            seed: order of the batches at an intermediate layer.
            monitor: called with the epoch, the training loss, the output's weights (features, Q) and its bias.

        Raises:
            InputError: the network's output is not the last linear layer's (a softmax follows it, say), or no such
                method.
            DataError: labels beyond the outputs, NaN, or no samples.
        """
        source = _Data(data, batch_size, next(self.parameters()))
        if self._last:
            inputs, labels = self.features(source)
            return self.fit_features(inputs, labels, epochs=epochs, method=method or "monotone", lr=lr, monitor=monitor)
        if method not in (None, "adam"):
            raise InputError(
                f"The method '{method}' needs the last layer.", "Leave method out at an intermediate layer."
            )
        return self._fit_inside(source, epochs, lr, seed, monitor)

    def fit_features(
        self,
        inputs: Tensor,
        labels: Tensor,
        *,
        epochs: int = 300,
        method: str = "monotone",
        lr: float = 1e-3,
        monitor: Monitor | None = None,
    ) -> SoftmaxFit:
        """`fit` at the last layer, on what `features` returned: for several fits without running the network again.

        Args:
            inputs: h (J, n).
            labels: (J,).
            epochs: full-batch steps.
            method: "monotone" or "adam", see `softmax.fit_softmax`.
            lr: of Adam.
            monitor: as in `fit`.
        """
        output = self._output
        if not self._last or not isinstance(output, nn.Linear):
            raise InputError(f"'{self.layer}' is not the last layer.", "Use fit.")
        _check_labels(labels, output.out_features)
        fitted = fit_softmax(
            Features(inputs, labels, self.expand),
            output.weight.data.T.contiguous(),
            bias_of(output),
            eps=self.eps,
            epochs=epochs,
            method=method,
            lr=lr,
            monitor=monitor,
        )
        output.weight.data = fitted.weights.T.contiguous()
        output.bias = nn.Parameter(fitted.bias, requires_grad=False)
        return fitted

    @torch.no_grad()
    def features(self, data: Any, batch_size: int = 1000) -> tuple[Tensor, Tensor]:
        """The inputs h of the replaced layer (J, n), found by a hook while the network runs, and the labels (J,)."""
        source = data if isinstance(data, _Data) else _Data(data, batch_size, next(self.parameters()))
        seen: list[tuple[Tensor, Tensor]] = []
        hook = self._replaced.register_forward_hook(
            lambda _, inputs, output: seen.append((inputs[0], cast(Tensor, output)))
        )
        features, labels = [], []
        try:
            for x, y in source:
                seen.clear()
                result = logits_of(self.model(x))
                if not bool(torch.isfinite(result).all()):
                    raise DataError("The network's outputs contain NaN or infinity.", "Check its inputs and weights.")
                if self._last and (len(seen) != 1 or not torch.equal(seen[0][1], result)):
                    raise InputError(
                        f"The network has no linear output: its result is not that of '{self.layer}'.",
                        "Give a network that ends in nn.Linear, without a softmax, or name an intermediate layer.",
                    )
                features.append(seen[0][0])
                labels.append(y)
        finally:
            hook.remove()
        return torch.cat(features), torch.cat(labels)

    def _fit_inside(self, source: _Data, epochs: int, lr: float, seed: int, monitor: Monitor | None) -> SoftmaxFit:
        output = self._output
        trained = [output.weight, *([output.bias] if output.bias is not None else [])]
        best_loss = self._loss(source)
        best = [p.data.clone() for p in trained]
        losses = [best_loss]
        optimizer = torch.optim.Adam(trained, lr=lr)
        for epoch in range(1, epochs + 1):
            for parameter in trained:
                parameter.requires_grad_(True)
            for x, y in source.shuffled(generator(seed, "redense", epoch)):
                optimizer.zero_grad()
                nn.functional.cross_entropy(logits_of(self.model(x)), y).backward()
                optimizer.step()
                output.weight.data = project(output.weight.data, self.eps)
            for parameter in trained:
                parameter.requires_grad_(False)
            losses.append(self._loss(source))
            if losses[-1] < best_loss:
                best_loss, best = losses[-1], [p.data.clone() for p in trained]
            if monitor is not None:
                monitor(epoch, losses[-1], output.weight.data, bias_of(output))
        for parameter, kept in zip(trained, best, strict=True):
            parameter.data, parameter.grad = kept, None
        return SoftmaxFit(output.weight.data, bias_of(output), losses)

    @torch.no_grad()
    def _loss(self, source: _Data) -> float:
        total, count = 0.0, 0
        for x, y in source:
            logits = logits_of(self.model(x))
            _check_labels(y, logits.shape[1])
            total += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
            count += len(y)
        if not math.isfinite(total):
            raise DataError("The network's loss is NaN or infinite.", "Check its inputs and weights.")
        return total / count

    @property
    def _output(self) -> nn.Linear | nn.Conv2d:
        output = self._replaced[2]
        assert isinstance(output, nn.Linear | nn.Conv2d)
        return output


def retrain_last(
    model: nn.Module,
    data: Any,
    *,
    epochs: int = 300,
    method: str = "monotone",
    lr: float = 1e-3,
    batch_size: int = 1000,
    monitor: Monitor | None = None,
) -> tuple[nn.Module, SoftmaxFit]:
    """The control of ReDense: a copy of the network whose last layer is trained on, with the same budget, no ball."""
    fitted = retrain_features(
        model, *ReDense(model).features(data, batch_size), epochs=epochs, method=method, lr=lr, monitor=monitor
    )
    result = copy.deepcopy(model).eval()
    last = result.get_submodule(_last_linear(model))
    assert isinstance(last, nn.Linear)
    last.weight.data = fitted.weights.T.contiguous()
    last.bias = nn.Parameter(fitted.bias)
    return result, fitted


def retrain_features(model: nn.Module, inputs: Tensor, labels: Tensor, **options: Any) -> SoftmaxFit:
    """`retrain_last` on what `ReDense.features` returned, for several fits; the network stays as it is.

    Args:
        model: whose last layer is where the fit begins.
        inputs: h (J, n).
        labels: (J,).
        options: as for `softmax.fit_softmax`.
    """
    last = model.get_submodule(_last_linear(model))
    assert isinstance(last, nn.Linear)
    return fit_softmax(Features(inputs, labels), last.weight.data.T.contiguous(), bias_of(last), **options)


class _Data:
    """Training samples in batches, from two arrays or from a re-iterable of batches."""

    def __init__(self, data: Any, batch_size: int, like: Tensor) -> None:
        """Inputs come on the device and in the floating type of `like`, a parameter of the network."""
        self.pair = None
        if isinstance(data, tuple) and len(data) == 2:
            self.pair = (tensor_of(data[0]), tensor_of(data[1]))
            if len(self.pair[0]) != len(self.pair[1]) or not len(self.pair[0]):
                raise DataError(
                    f"There are {len(self.pair[0])} inputs and {len(self.pair[1])} labels.", "Give one label per input."
                )
        elif isinstance(data, Iterator):
            raise InputError(
                "The batches can be passed over only once.", "Give a DataLoader or a list of batches, not an iterator."
            )
        self.data, self.batch_size, self.like = data, batch_size, like

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pairs = zip(*(part.split(self.batch_size) for part in self.pair), strict=True) if self.pair else self.data
        for x, y in pairs:
            yield self._moved(x, y)

    def shuffled(self, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass in random order, in batches of 128; batches that came as such keep theirs."""
        if self.pair is None:
            yield from self
            return
        for rows in torch.randperm(len(self.pair[0]), generator=random).split(128):
            yield self._moved(self.pair[0][rows], self.pair[1][rows])

    def _moved(self, x: Any, y: Any) -> tuple[Tensor, Tensor]:
        x, y = tensor_of(x), tensor_of(y)
        if y.ndim != 1 or y.is_floating_point():
            raise DataError(
                f"Labels have the shape {tuple(y.shape)} and type {y.dtype}.", "Give one whole number per sample."
            )
        return x.to(self.like), y.to(self.like.device, torch.int64)


def logits_of(output: Any) -> Tensor:
    """The logits (b, Q) of what a network returned: a tensor, or a mapping or object that holds `logits`.

    Raises:
        InputError: neither.
    """
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if isinstance(found, Tensor):
        return found
    raise InputError(
        f"The network returns a {type(output).__name__} without logits.",
        "Wrap it in a module whose forward returns the logits (samples, classes).",
    )


def _last_linear(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise InputError(
            "The network has no linear output: there is no nn.Linear in it.",
            "Name an intermediate convolution with layer=...",
        )
    return names[-1]


def gaussian(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Entries N(0, 1 / columns), in float64; as `flow.orthonormal` otherwise."""
    check_rows(rows, columns)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) / math.sqrt(columns)


MATRICES = {"orthonormal": orthonormal, "gaussian": gaussian}


def _expanded(old: nn.Module, name: str, m: int | None, matrix: str, seed: int) -> nn.Sequential:
    """The layer's replacement: expand, ReLU, output, together equal to the old layer."""
    convolution = isinstance(old, nn.Conv2d)
    if not isinstance(old, nn.Linear | nn.Conv2d) or (convolution and (old.groups != 1 or old.padding_mode != "zeros")):
        raise InputError(
            f"The layer '{name}' is a {type(old).__name__}.",
            "Name an nn.Linear, or an ungrouped nn.Conv2d that pads with zeros.",
        )
    weight = old.weight.data
    n = weight.shape[1]
    r = MATRICES[matrix](n if m is None else m, n, generator(seed, "redense", name)).to(weight.device)
    # Padding with zeros passes through R and the ReLU unchanged, as neither has a bias.
    start = torch.einsum("kn...,nm->km...", weight.double(), torch.linalg.pinv(r))
    start = torch.cat((start, -start), 1).to(weight.dtype).contiguous()
    expand_weight = lossless_weights(r).to(weight.dtype)
    bias = None if old.bias is None else old.bias.data.clone()
    if isinstance(old, nn.Linear):
        return nn.Sequential(linear(expand_weight), nn.ReLU(), linear(start, bias))
    expand = nn.Conv2d(n, len(expand_weight), 1, bias=False, device=weight.device, dtype=weight.dtype).requires_grad_(
        False
    )
    expand.weight.data = expand_weight[:, :, None, None]
    output = copy.deepcopy(old).requires_grad_(False)
    output.in_channels, output.weight = len(expand_weight), nn.Parameter(start, requires_grad=False)
    return nn.Sequential(expand, nn.ReLU(), output)


def bias_of(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """A copy of the layer's bias, zeros where it has none."""
    if layer.bias is None:
        return layer.weight.new_zeros(len(layer.weight))
    return layer.bias.data.clone()


def _check_labels(labels: Tensor, outputs: int) -> None:
    if int(labels.min()) < 0 or int(labels.max()) >= outputs:
        raise DataError(
            f"Labels run from {int(labels.min())} to {int(labels.max())} and the network has {outputs} outputs.",
            "Number them from 0.",
        )
