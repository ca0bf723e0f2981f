"""Dense kernel network: kernel ridge regression on all earlier layers side by side.

`z_1 = [x]`, `z_{l+1} = [z_l; y_l]`, `y_l = relu([V_Q t_l; R_l z_l / |z_l|])` with t_l the outputs of layer l, kernel
ridge regression on z_l. The cost follows the number of samples, not the dimension; beyond `landmarks` samples the
kernel is approximated by Nystroem's method, whose cost follows the landmarks.

Source: the dense kernel network (chapter 4), of which only the idea is published in detail; two things are ours:

- The outputs that a training sample hands to the next layer are its leave-one-out predictions. Its fitted ones come so
  close to its own label that the next layer would learn to copy them, and its leave-one-out error would mean nothing.
- Blocks are scaled to equal mean squared norm before they enter the kernel, as x would drown the others otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gracile.core.errors import DataError, InputError
from gracile.core.seeding import generator
from gracile.layerwise.estimator import Classifier, Learner, Regressor
from gracile.layerwise.flow import normalised, signed_relu
from gracile.layerwise.ridge import candidates, dual_loo, leverages, loo_residuals
from gracile.layerwise.source import Source
from gracile.layerwise.statistics import Spectrum, Stream, accumulate, singular

# Widths of the Gaussian tried by gamma="auto", in units of 1 / (median squared distance).
GAMMAS = (0.5, 1.0, 2.0, 4.0, 8.0)
# ... on so many samples: the choice is coarse, and its cost is cubic in them.
FEW = 600


def gaussian(z: Tensor, landmarks: Tensor, gamma: float) -> Tensor:
    """`exp(-gamma |z - w|^2)`, (b, m) from (b, d) and (m, d)."""
    return (-gamma * squared_distances(z, landmarks)).exp_()


def squared_distances(z: Tensor, w: Tensor) -> Tensor:
    """(b, m), not below zero."""
    return torch.addmm(w.square().sum(1), z, w.T, alpha=-2).add_(z.square().sum(1, keepdim=True)).clamp_(min=0)


class DKNNet(nn.Module):
    """The fitted network.

    Args:
        landmarks: z of the last layer at the landmarks (m, d); earlier layers use its leading columns.
        coefficients: per layer, kernel values to outputs (m, Q).
        randoms: per layer but the last, R_l (r, d_l).
        scales: factor of x and of each layer's y (layers,).
        gammas: of each layer's kernel (layers,).
    """

    def __init__(
        self,
        landmarks: Tensor,
        coefficients: Sequence[Tensor],
        randoms: Sequence[Tensor],
        scales: Tensor,
        gammas: Tensor,
    ) -> None:
        super().__init__()
        frozen = lambda tensor: nn.Parameter(tensor, requires_grad=False)
        self.landmarks, self.scales, self.gammas = frozen(landmarks), frozen(scales), frozen(gammas)
        self.coefficients = nn.ParameterList(map(frozen, coefficients))
        self.randoms = nn.ParameterList(map(frozen, randoms))

    def forward(self, x: Tensor) -> Tensor:
        """(b, P) to (b, Q)."""
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


def dense_block(z: Tensor, outputs: Tensor, random: Tensor) -> Tensor:
    """`relu([V_Q t; R z / |z|])`."""
    return torch.cat((signed_relu(outputs), (normalised(z) @ random.T).relu_()), 1)


@dataclass(frozen=True)
class KernelFit:
    """One layer's kernel ridge regression.

    Attributes:
        coefficients: (m, Q) on the kernel values at the landmarks.
        lam: strength used.
        loo: its leave-one-out mean squared error.
        held_out: leave-one-out predictions of all samples, in the stream's order (samples, Q).
    """

    coefficients: Tensor
    lam: float
    loo: float
    held_out: Tensor


def kernel_ridge(stream: Stream, landmarks: Tensor, gamma: float, lam: float | str) -> KernelFit:
    """Kernel ridge regression by Nystroem's method, with the leave-one-out predictions of every sample.

    Args:
        stream: yields z (b, d) and targets (b, Q); passed over two or three times.
        landmarks: (m, d).
        gamma: of the Gaussian.
        lam: from 0 up, or "auto".

    Raises:
        InputError: the kernel matrix is singular at `lam`.
    """
    kernel = gaussian(landmarks.double(), landmarks.double(), gamma)
    # Features phi with phi(z) . phi(w) = k(z, w) on the landmarks, without the directions below the kernel's rounding.
    values, basis = torch.linalg.eigh(kernel)
    keep = values > values[-1] * len(values) * torch.finfo(landmarks.dtype).eps
    whiten = basis[:, keep] * values[keep].rsqrt()
    small = whiten.to(landmarks.dtype)

    def features() -> Iterator[tuple[Tensor, Tensor]]:
        for z, t in stream():
            yield gaussian(z, landmarks, gamma) @ small, t

    spectrum = accumulate(features).spectrum()
    lams = _strengths(spectrum, lam, landmarks.dtype)
    best, error, held_out = _primal_loo(spectrum, features, lams)
    chosen = float(lams[best])
    return KernelFit(
        (whiten @ spectrum.weights(chosen)).to(landmarks.dtype), chosen, error, held_out.to(landmarks.dtype)
    )


def exact_kernel_ridge(z: Tensor, t: Tensor, gamma: float, lam: float | str) -> KernelFit:
    """Kernel ridge regression on every sample; arguments as `kernel_ridge`, z (samples, d) and t (samples, Q)."""
    values, basis = torch.linalg.eigh(gaussian(z.double(), z.double(), gamma))
    spectrum = Spectrum(values.clamp(min=0), basis, basis.T @ t.double())
    lams = _strengths(spectrum, lam, z.dtype)
    residuals = dual_loo(spectrum, lams)
    best = int(residuals.square().mean((1, 2)).argmin())
    return KernelFit(
        spectrum.weights(float(lams[best])).to(z.dtype),
        float(lams[best]),
        float(residuals[best].square().mean()),
        (t.double() - residuals[best]).to(z.dtype),
    )


def _strengths(spectrum: Spectrum, lam: float | str, dtype: torch.dtype) -> Tensor:
    if isinstance(lam, str):
        return candidates(spectrum, dtype)
    if lam <= 1e-14 * float(spectrum.values[-1]):
        raise singular(lam, 1e-9 * float(spectrum.values[-1]))
    return torch.tensor([lam], dtype=torch.float64, device=spectrum.values.device)


def _primal_loo(spectrum: Spectrum, features: Stream, lams: Tensor) -> tuple[int, float, Tensor]:
    """Choose among `lams`, then collect the held-out predictions of the chosen one; one pass each."""
    best = 0
    if len(lams) > 1:
        errors = torch.zeros(len(lams), dtype=torch.float64, device=lams.device)
        for y, t in features():
            errors += loo_residuals(t.double(), *leverages(y, spectrum, lams)).square().sum((0, 2))
        best = int(errors.argmin())
    held_out, total, count = [], 0.0, 0
    for y, t in features():
        residuals = loo_residuals(t.double(), *leverages(y, spectrum, lams[best : best + 1]))[:, 0]
        held_out.append(t.double() - residuals)
        total += float(residuals.square().sum())
        count += t.numel()
    return best, total / count, torch.cat(held_out)


def choose_gamma(z: Tensor, t: Tensor) -> float:
    """The width with the least leave-one-out error on a few samples, `lam` free in each.

    Raises:
        DataError: all the samples are the same.
    """
    distances = squared_distances(z.double(), z.double())
    unit = float(distances[~torch.eye(len(z), dtype=torch.bool, device=z.device)].median()) if len(z) > 1 else 0.0
    unit = unit or float(distances.max())
    if not unit > 0:
        raise DataError("All samples looked at to choose gamma are the same.", "Shuffle the data, or give gamma.")

    return min(GAMMAS, key=lambda factor: exact_kernel_ridge(z, t, factor / unit, "auto").loo) / unit


class _DKN(Learner):
    gammas_: list[float]
    lams_: list[float]
    loo_: list[float]

    def __init__(
        self,
        layers: int = 3,
        nodes: int = 100,
        gamma: float | str = "auto",
        landmarks: int = 2000,
        lam: float | str = "auto",
        seed: int = 0,
        batch_size: int = 4096,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        self.layers = layers
        self.nodes = nodes
        self.gamma = gamma
        self.landmarks = landmarks
        self.lam = lam
        self.seed = seed
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype

    def _learn(self, source: Source) -> nn.Module:
        self._check_own()
        if source.workers is not None:
            raise InputError(
                "A kernel looks at samples of all workers at once.", "Take another learner, or fit in one place."
            )
        marks, mark_rows, count = self._landmarks(source)
        held: list[Tensor] = []
        parts: dict[str, list[Tensor]] = {"coefficients": [], "randoms": []}
        scales = [_unit_scale(marks)]
        z = marks * scales[0]
        self.gammas_, self.lams_, self.loo_ = [], [], []
        for depth in range(1, self.layers + 1):
            stream = self._dense(source, list(held), list(parts["randoms"]), list(scales))
            gamma = self._gamma(stream)
            if count == len(marks):
                fit = exact_kernel_ridge(z, torch.cat([t for _, t in source]), gamma, self.lam)
            else:
                fit = kernel_ridge(stream, z, gamma, self.lam)
            if self.loo_ and not fit.loo < self.loo_[-1]:
                # The layer does not predict samples it has not seen any better: the one before stays the last.
                d = z.shape[1] - parts["randoms"][-1].shape[0] - 2 * source.outputs
                z = z[:, :d]
                parts["randoms"].pop()
                scales.pop()
                break
            parts["coefficients"].append(fit.coefficients)
            self.gammas_.append(gamma)
            self.lams_.append(fit.lam)
            self.loo_.append(fit.loo)
            if depth < self.layers:
                random = generator(self.seed, "layerwise", "dkn", depth)
                r = torch.rand(self.nodes, z.shape[1], generator=random, dtype=torch.float64) * 2 - 1
                r = (r * math.sqrt(3 / self.nodes)).to(source.device, source.dtype)
                held.append(fit.held_out)
                # The landmarks enter as the training samples they are: with their held-out outputs.
                block = dense_block(z, fit.held_out[mark_rows], r)
                parts["randoms"].append(r)
                scales.append(_unit_scale(block))
                z = torch.cat((z, block * scales[-1]), 1)
        kinds = {"dtype": source.dtype, "device": source.device}
        return DKNNet(
            z.contiguous(),
            parts["coefficients"],
            parts["randoms"],
            torch.tensor(scales, **kinds),
            torch.tensor(self.gammas_, **kinds),
        )

    def _landmarks(self, source: Source) -> tuple[Tensor, Tensor, int]:
        """Random samples (m, P), or all of a few, their places in the stream, and how many samples it has."""
        count = sum(len(x) for x, _ in source)
        random = generator(self.seed, "layerwise", "dkn", "landmarks")
        rows = torch.randperm(count, generator=random)[: self.landmarks].sort().values
        found, start = [], 0
        for x, _ in source:
            inside = rows[(rows >= start) & (rows < start + len(x))] - start
            found.append(x[inside.to(x.device)])
            start += len(x)
        return torch.cat(found), rows.to(source.device), count

    def _gamma(self, stream: Stream) -> float:
        if not isinstance(self.gamma, str):
            return float(self.gamma)
        few: list[tuple[Tensor, Tensor]] = []
        for z, t in stream():
            few.append((z[:FEW], t[:FEW]))
            if sum(len(part) for part, _ in few) >= FEW:
                break
        return choose_gamma(torch.cat([z for z, _ in few])[:FEW], torch.cat([t for _, t in few])[:FEW])

    def _dense(self, source: Source, held: list[Tensor], randoms: list[Tensor], scales: list[float]) -> Stream:
        """The stream of z of the next layer, made with the held-out outputs of the earlier ones."""

        def stream() -> Iterator[tuple[Tensor, Tensor]]:
            start = 0
            for x, t in source:
                z = x * scales[0]
                for outputs, random, scale in zip(held, randoms, scales[1:], strict=True):
                    z = torch.cat((z, dense_block(z, outputs[start : start + len(x)], random) * scale), 1)
                start += len(x)
                yield z, t

        return stream

    def _check_own(self) -> None:
        for name in ("layers", "nodes", "landmarks"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} = {value!r} is not a whole number from 1 up.", "Correct it.")
        if self.gamma != "auto" and not (isinstance(self.gamma, int | float) and self.gamma > 0):
            raise InputError(f"gamma = {self.gamma!r} is no width of a kernel.", 'Give a number above 0, or "auto".')


def _unit_scale(block: Tensor) -> float:
    """The factor that brings the mean squared norm of rows to 1."""
    mean = float(block.double().square().sum(1).mean())
    return mean**-0.5 if mean > 0 else 1.0


class DKNClassifier(_DKN, Classifier):
    """Dense kernel network for classes.

    Args:
        layers: at most; a layer that does not lower the leave-one-out error is left out and ends the growth.
        nodes: random nodes of each layer, beside the 2 Q of its outputs.
        gamma: of the Gaussian kernel, on inputs scaled to mean squared norm 1; "auto": by leave-one-out on 600 samples.
        landmarks: with more samples than this the kernel is approximated on so many random ones.
        lam: ridge strength, the same in all layers, or "auto" in each.
        seed, batch_size, device, dtype: see `Learner`.

    Attributes:
        gammas_, lams_, loo_: per layer: width, strength and leave-one-out mean squared error. The later layers' errors
            look at samples whose own labels entered only through others' predictions, so they are a little too good.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> DKNClassifier(layers=1).fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.95
    True
    """


class DKNRegressor(_DKN, Regressor):
    """Dense kernel network for numbers; parameters as `DKNClassifier`."""
