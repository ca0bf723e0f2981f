"""Dense kernel network: kernel ridge regression on all earlier layers side by side.

`z_1 = [x]`, `z_{l+1} = [z_l; y_l]`, `y_l = relu([V_Q t_l; R_l z_l / |z_l|])` with t_l the outputs of layer l, kernel
ridge regression on z_l. The cost follows the number of samples, not the dimension; beyond `landmarks` samples the
kernel is approximated by Nystroem's method, whose cost follows the landmarks.

Source: [@javid2021, chapter 4], the dense kernel network, of which only the idea is published in detail; two things are ours:

- The outputs that a training sample hands to the next layer are predictions by a fit on other samples, four folds of
  five. Its fitted ones come so close to its own label that the next layer would learn to copy them. Predictions that
  leave only the sample itself out give its label away too: against the smooth fit of its neighbours they lie a little
  on the far side of it, which the next layer reads (on noisy targets its error then halves, and the true one rises).
- Blocks are scaled to equal mean squared norm before they enter the kernel, as x would drown the others otherwise.

Over workers, which the source leaves to future work, the network is the one that a single place finds: features at the landmarks make
each layer a least-squares problem, whose sums over samples add up. Everyone comes to know the landmarks, which are samples, and those sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.core.estimators import is_number, whole
from gracile.core.seeding import generator
from gracile.layerwise.classifier import Classifier
from gracile.layerwise.consensus import Consensus
from gracile.layerwise.estimator import Learned, Learner
from gracile.layerwise.flow import listed, normalised, signed_relu
from gracile.layerwise.kernel_ridge import FEW, choose_gamma, exact_kernel_ridge, folds_of, kernel_ridge
from gracile.layerwise.kernels import gaussian
from gracile.layerwise.regressor import Regressor
from gracile.layerwise.source import Chunk, Source, joined_chunks
from gracile.layerwise.statistics import Stream


class DKNNet(nn.Module):
    """The fitted network.

    Args:
        landmarks: z of the last layer at the landmarks (m, d); earlier layers use its leading columns.
        coefficients: per layer, kernel values to outputs (m, Q).
        randoms: per layer but the last, R_l (r, d_l).
        scales: factor of x and of each layer's y (layers,).
        gammas: of each layer's kernel (layers,).
        scaling: shift and factor of the inputs (2, P), float64, None to take them as they are.
    """

    scaling: Tensor | None

    def __init__(
        self,
        landmarks: Tensor,
        coefficients: Sequence[Tensor],
        randoms: Sequence[Tensor],
        scales: Tensor,
        gammas: Tensor,
        scaling: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("scaling", scaling)
        frozen = lambda tensor: nn.Parameter(tensor, requires_grad=False)
        self.landmarks, self.scales, self.gammas = frozen(landmarks), frozen(scales), frozen(gammas)
        self.coefficients = nn.ParameterList(map(frozen, coefficients))
        self.randoms = nn.ParameterList(map(frozen, randoms))

    def forward(self, x: Tensor) -> Tensor:
        """(b, P) to (b, Q)."""
        if self.scaling is not None:
            x = ((x - self.scaling[0]) * self.scaling[1]).to(x.dtype)
        z = x * self.scales[0]
        for depth in range(len(self.randoms)):
            z = torch.cat((z, self.block(z, self.at(z, depth), depth)), 1)
        return self.at(z, len(self.randoms))

    def at(self, z: Tensor, depth: int) -> Tensor:
        """A layer's outputs from its inputs (b, d_l)."""
        kernel = gaussian(z, self.landmarks[:, : z.shape[1]], float(self.gammas[depth]))
        return kernel @ self.coefficients[depth]

    def block(self, z: Tensor, outputs: Tensor, depth: int) -> Tensor:
        """What a layer adds to z (b, 2 Q + r)."""
        return dense_block(z, outputs, self.randoms[depth]) * self.scales[depth + 1]

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor]) -> DKNNet:
        """The network whose `state_dict` these are."""
        lists = listed(tensors, "coefficients"), listed(tensors, "randoms")
        return cls(tensors["landmarks"], *lists, tensors["scales"], tensors["gammas"], tensors.get("scaling"))


def dense_block(z: Tensor, outputs: Tensor, random: Tensor) -> Tensor:
    """`relu([V_Q t; R z / |z|])`."""
    return torch.cat((signed_relu(outputs), (normalised(z) @ random.T).relu_()), 1)


@dataclass(frozen=True)
class _Landmarks:
    """Random samples of all, in the order of the processes that hold them.

    Attributes:
        samples: all of them.
        slots: which of them are of this process.
        rows: where in this process's stream those lie.
        workers: whom the others lie with, None where all lie here.
    """

    samples: Chunk
    slots: Tensor
    rows: Tensor
    workers: Consensus | None

    def of_all(self, own: Tensor) -> Tensor:
        """What every process has of its own landmarks (slots, Q), of all of them (m, Q)."""
        return _joined(own, self.slots, len(self.samples.x), self.workers)


def _joined(own: Tensor, slots: Tensor, length: int, workers: Consensus | None) -> Tensor:
    if workers is None:
        return own
    found = torch.zeros(length, *own.shape[1:], dtype=torch.float64, device=own.device)
    found[slots] = own.double()
    return workers.total(found).to(own.dtype)


class _DKN(Learner):
    network_type = DKNNet
    # Held-out outputs of earlier layers are kept by the samples' places.
    ordered = True

    gammas_: list[float]
    lams_: list[float]
    errors_: list[float]

    def __init__(
        self,
        layers: int = 3,
        nodes: int = 100,
        gamma: float | str = "auto",
        landmarks: int = 2000,
        lam: float | str = "auto",
        scale: str | None = "auto",
        seed: int = 0,
        batch_size: int = 4096,
        device: str = "cpu",
        dtype: str = "auto",
    ) -> None:
        self.layers = layers
        self.nodes = nodes
        self.gamma = gamma
        self.landmarks = landmarks
        self.lam = lam
        self.scale = scale
        self.seed = seed
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype

    def _learn(self, source: Source) -> Learned:
        layers = self._check_own()
        workers = source.workers
        if workers is not None:
            self._check_spread(source)
        held_by = self._landmarks(source)
        marks = held_by.samples
        folds, copies = folds_of(source)
        held: list[Tensor] = []
        coefficients: list[Tensor] = []
        randoms: list[Tensor] = []
        scales = [_unit_scale(marks.x, marks.w)]
        z = marks.x * scales[0]
        self.gammas_, self.lams_, self.errors_ = [], [], []
        for depth in range(1, layers + 1):
            stream = self._dense(source, list(held), list(randoms), list(scales))
            gamma = self._gamma(stream, source.rows)
            if workers is not None:
                fit = kernel_ridge(stream, folds, z, gamma, self.lam, workers.total)
            elif len(marks.x) == source.rows:
                fit = exact_kernel_ridge(z, marks.t, folds, gamma, self.lam, marks.w, copies)
            else:
                fit = kernel_ridge(stream, folds, z, gamma, self.lam)
            if self.errors_ and not fit.error < self.errors_[-1]:
                # The layer does not predict samples it has not seen any better: the one before stays the last.
                z = z[:, : randoms[-1].shape[1]]
                randoms.pop()
                scales.pop()
                break
            coefficients.append(fit.coefficients)
            self.gammas_.append(gamma)
            self.lams_.append(fit.lam)
            self.errors_.append(fit.error)
            held.append(fit.held_out)
            if depth < layers:
                random = generator(self.seed, "layerwise", "dkn", depth)
                r = torch.rand(int(self.nodes), z.shape[1], generator=random, dtype=torch.float64) * 2 - 1
                r = (r * math.sqrt(3 / int(self.nodes))).to(source.device, source.dtype)
                # The landmarks enter as the training samples they are: with their held-out outputs.
                block = dense_block(z, held_by.of_all(fit.held_out[held_by.rows]), r)
                randoms.append(r)
                scales.append(_unit_scale(block, marks.w))
                z = torch.cat((z, block * scales[-1]), 1)
        kinds = {"dtype": source.dtype, "device": source.device}
        net = DKNNet(
            z.contiguous(),
            coefficients,
            randoms,
            torch.tensor(scales, **kinds),
            torch.tensor(self.gammas_, **kinds),
            None if source.scaling is None else source.scaling.stacked(),
        )
        if workers is not None:
            return Learned(net, self.errors_[-1])
        return Learned(net, self.errors_[-1], lambda chunk, places: held[-1][places].double())

    def _check_spread(self, source: Source) -> None:
        """What samples that lie apart ask for.

        Raises:
            InputError: a width that is to be found, which looks at further samples of everyone; gossip; landmarks that would be all
                of them.
        """
        if isinstance(self.gamma, str):
            raise InputError(
                'Over workers the width gamma="auto" would look at more samples of everyone.', "Give it as a number."
            )
        if source.workers is not None and source.workers.rounds is not None:
            raise InputError(
                "A dense kernel network needs exact sums over workers, and not gossip.", "Leave out rounds."
            )
        if int(self.landmarks) >= source.rows:
            raise InputError(
                f"The {source.rows} samples of all workers are no more than the landmarks, which everyone comes to know.",
                f"Set landmarks below {source.rows}.",
            )

    def _landmarks(self, source: Source) -> _Landmarks:
        """Random samples, or all of a few."""
        random = generator(self.seed, "layerwise", "dkn", "landmarks")
        drawn = torch.randperm(source.rows, generator=random)[: int(self.landmarks)].sort().values
        first, last = _own_places(source)
        slots = ((drawn >= first) & (drawn < last)).nonzero()[:, 0]
        rows = drawn[slots] - first
        found: list[Chunk] = []
        start = 0
        for x, t, w in source:
            inside = (rows[(rows >= start) & (rows < start + len(x))] - start).to(x.device)
            found.append(Chunk(x[inside], t[inside], None if w is None else w[inside]))
            start += len(x)
        slots, own = slots.to(source.device), joined_chunks(found)
        of_all = lambda values: _joined(values, slots, len(drawn), source.workers)
        samples = Chunk(of_all(own.x), of_all(own.t), None if own.w is None else of_all(own.w))
        return _Landmarks(samples, slots, rows.to(source.device), source.workers)

    def _gamma(self, stream: Stream, rows: int) -> float:
        if not isinstance(self.gamma, str):
            return float(self.gamma)
        step, start = -(-rows // FEW), 0
        few: list[Chunk] = []
        for z, t, w in stream():
            inside = torch.arange(-start % step, len(z), step, device=z.device)
            few.append(Chunk(z[inside], t[inside], None if w is None else w[inside]))
            start += len(z)
        return choose_gamma(*joined_chunks(few))

    def _dense(self, source: Source, held: list[Tensor], randoms: list[Tensor], scales: list[float]) -> Stream:
        """The stream of the next layer's z, made with the held-out outputs of the earlier ones; not yet weighted."""

        def stream() -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
            start = 0
            for x, t, w in source:
                z = x * scales[0]
                for outputs, random, scale in zip(held, randoms, scales[1:], strict=True):
                    z = torch.cat((z, dense_block(z, outputs[start : start + len(x)], random) * scale), 1)
                start += len(x)
                yield z, t, w

        return stream

    def _check_own(self) -> int:
        for name in ("nodes", "landmarks"):
            whole(name, getattr(self, name))
        if self.gamma != "auto" and not (is_number(self.gamma) and float(self.gamma) > 0):
            raise InputError(f"gamma = {self.gamma!r} is no width of a kernel.", 'Give a number above 0, or "auto".')
        return whole("layers", self.layers)


def _own_places(source: Source) -> tuple[int, int]:
    """Where this process's samples begin and end among those of all processes, in the order of their workers."""
    workers = source.workers
    if workers is None:
        return 0, source.rows
    counts = torch.zeros(workers.network.workers, dtype=torch.float64)
    which = workers.network.local[0]
    counts[which] = sum(len(x) for x, _, _ in source)
    counts = workers.total(counts).round().long()
    first = int(counts[:which].sum())
    return first, first + int(counts[which])


def _unit_scale(block: Tensor, weights: Tensor | None) -> float:
    """The factor that brings the mean squared norm of rows to 1."""
    squares = block.double().square().sum(1)
    mean = float(squares.mean() if weights is None else weights.double() @ squares / weights.double().sum())
    return mean**-0.5 if mean > 0 else 1.0


class DKNClassifier(_DKN, Classifier):
    """Dense kernel network for classes.

    Args:
        layers: at most; a layer that does not lower the error on held-out samples is left out and ends the growth.
        nodes: random nodes of each layer, beside the 2 Q of its outputs.
        gamma: of the Gaussian kernel, on inputs scaled to mean squared norm 1; "auto": by leave-one-out on 600 samples.
        landmarks: with more samples than this the kernel is approximated on so many random ones. Over workers they are what every
            worker comes to know, and must be fewer than the samples; gamma is a number there.
        lam: ridge strength, the same in all layers, or "auto" in each.
        scale, seed, batch_size, device, dtype: see `Learner`.
        class_weight: see `Classifier`.

    Attributes:
        gammas_: of the kernel, per layer.
        lams_: ridge strengths, per layer.
        errors_: mean squared errors on held-out samples (five folds), per layer. In later layers a held-out sample's label
            has entered others' predictions, so their errors are a little too good.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> DKNClassifier(layers=1).fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.95
    True
    """

    def __init__(
        self,
        layers: int = 3,
        nodes: int = 100,
        gamma: float | str = "auto",
        landmarks: int = 2000,
        lam: float | str = "auto",
        scale: str | None = "auto",
        seed: int = 0,
        batch_size: int = 4096,
        device: str = "cpu",
        dtype: str = "auto",
        class_weight: Mapping[Any, float] | str | None = None,
    ) -> None:
        super().__init__(layers, nodes, gamma, landmarks, lam, scale, seed, batch_size, device, dtype)
        self.class_weight = class_weight


class DKNRegressor(_DKN, Regressor):
    """Dense kernel network for numbers; parameters as `DKNClassifier`."""
