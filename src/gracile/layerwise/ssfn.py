"""Self-size-estimating feed-forward network: layers and nodes are added while they lower the training cost.

`y_l = relu([V_Q O_{l-1} y_{l-1}; normalised(R_l y_{l-1})])` with y_0 = [x; 1], and O_l by least squares in the ball
`|O|_F <= alpha sqrt(2 Q)`. For alpha >= 1 the matrix `[U_Q 0]` lies in the ball and repeats the earlier layer's
outputs, so the exact solution never costs more.

The random part is normalised as `sqrt(3 / r) R y / |y|` with R ~ U(-1, 1), whose norm is 1 in the mean over R. Dividing
by |R y| itself would tie every node to the number of nodes, and each size tried would need its own pass over the data;
so one pass serves all.

Source: [@chatterjee2019].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.core.estimators import is_number, whole
from gracile.core.seeding import generator
from gracile.layerwise.classifier import Classifier
from gracile.layerwise.estimator import Learned, Learner, solved
from gracile.layerwise.flow import listed, normalised, signed_relu, width_for
from gracile.layerwise.regressor import Regressor
from gracile.layerwise.ridge import generalised, ridge
from gracile.layerwise.shared import Shared, in_ball
from gracile.layerwise.source import Source
from gracile.layerwise.statistics import Dual, Statistics

# The published size of the ball, over sqrt(2 Q).
BALL = 2.0
# Nodes a layer of its own choice has at most: it looks at an eigendecomposition of every size tried.
MOST = 2000


class SSFNNet(nn.Module):
    """The grown network.

    Args:
        outputs: O_0 (P + 1, Q), then O_l (2 Q + r_l, Q).
        randoms: R_l (r_l, width of layer l - 1), one fewer than `outputs`.
        scaling: shift and factor of the inputs (2, P), float64, None to take them as they are.
    """

    scaling: Tensor | None

    def __init__(self, outputs: Sequence[Tensor], randoms: Sequence[Tensor], scaling: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("scaling", scaling)
        self.outputs = nn.ParameterList([nn.Parameter(o, requires_grad=False) for o in outputs])
        self.randoms = nn.ParameterList([nn.Parameter(r, requires_grad=False) for r in randoms])

    def forward(self, x: Tensor) -> Tensor:
        """(b, P) to (b, Q)."""
        y = self.features(x)
        return y @ self.outputs[len(self.randoms)]

    def features(self, x: Tensor) -> Tensor:
        """The last layer's y (b, width)."""
        if self.scaling is not None:
            # In float64: the difference of large numbers is what is left of a feature far from zero.
            x = ((x - self.scaling[0]) * self.scaling[1]).to(x.dtype)
        y = torch.cat((x, x.new_ones(len(x), 1)), 1)
        for output, random in zip(self.outputs, self.randoms, strict=False):
            y = layer(y, output, random)
        return y

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor]) -> SSFNNet:
        """The network whose `state_dict` these are."""
        return cls(listed(tensors, "outputs"), listed(tensors, "randoms"), tensors.get("scaling"))


def layer(y: Tensor, output: Tensor, random: Tensor) -> Tensor:
    """`relu([V_Q O y; R y / |y|])`, (b, 2 Q + r)."""
    return torch.cat((signed_relu(y @ output), (normalised(y) @ random.T).relu_()), 1)


class Grown(NamedTuple):
    """A layer's output matrix.

    Attributes:
        weights: O (kept + nodes, Q).
        nodes: of the random part.
        lam: ridge strength, or multiplier of the ball.
        cost: |T - Y O|^2.
        judged: what nodes and layers have to lower: the cost with a ball, the cross-validation error without.
        problem: that was solved.
    """

    weights: Tensor
    nodes: int
    lam: float
    cost: float
    judged: float
    problem: Statistics | Shared


def sizes(most: int, step: int | str) -> list[int]:
    """The numbers of nodes tried, up to `most`: a step apart, or with "auto" each twice the one before, from about 100."""
    if isinstance(step, str):
        halvings = max(0, int(math.log2(most / 100))) if most > 100 else 0
        return [most >> halving for halving in range(halvings, -1, -1)]
    return [*range(step, most, step), most]


def grow(sums: Statistics | Shared, kept: int, step: int | str, gain: float, eps: float | None) -> Grown:
    """Find how many nodes a layer needs: add some while each step improves the cost in dB by a share `gain`.

    Args:
        sums: statistics of the widest layer, its random part not yet divided by sqrt(r); its first `kept` features
            repeat the earlier outputs.
        kept: 2 Q.
        step: nodes per step, or "auto"; see `sizes`.
        gain: share, such as 0.005.
        eps: the ball; None chooses a ridge by generalised cross-validation, whose error is then the cost.
    """
    most = len(sums.cross) - kept
    best: Grown | None = None
    for nodes in sizes(most, step):
        scale = torch.ones(kept + nodes, dtype=torch.float64, device=sums.cross.device)
        scale[kept:] = nodes**-0.5
        problem = sums.leading(kept + nodes).scaled(scale)
        if eps is None:
            assert isinstance(problem, Statistics)
            weights, lam, judged = generalised(problem)
            cost = problem.cost(weights)
        else:
            weights, lam, cost = in_ball(problem, eps, repeat(kept + nodes, kept // 2, scale.device))
            judged = cost
        if best is not None and improvement(best.judged, judged, sums.energy) < gain:
            # A step that does not pay is not taken, so the layer is as small as its cost allows.
            break
        best = Grown(weights, nodes, lam, cost, judged, problem)
    assert best is not None
    return best


def improvement(before: float, after: float, energy: float) -> float:
    """How much the cost in dB (10 log10 of cost over target energy) fell, as a share of its size before."""
    floor = 1e-12 * energy
    old, new = (10 * math.log10(max(cost, floor) / energy) for cost in (before, after))
    return (old - new) / abs(old) if old else (math.inf if new < old else 0.0)


class _SSFN(Learner):
    network_type = SSFNNet

    lam_: float
    costs_: list[float]
    widths_: list[int]

    def __init__(
        self,
        alpha: float | str = "auto",
        max_layers: int = 10,
        max_nodes: int | str = "auto",
        node_step: int | str = "auto",
        node_gain: float = 0.005,
        layer_gain: float = 0.02,
        lam: float | str = "auto",
        finetune_epochs: int = 0,
        lr: float = 1e-3,
        scale: str | None = "auto",
        seed: int = 0,
        batch_size: int = 4096,
        device: str = "cpu",
        dtype: str = "auto",
    ) -> None:
        self.alpha = alpha
        self.max_layers = max_layers
        self.max_nodes = max_nodes
        self.node_step = node_step
        self.node_gain = node_gain
        self.layer_gain = layer_gain
        self.lam = lam
        self.finetune_epochs = finetune_epochs
        self.lr = lr
        self.scale = scale
        self.seed = seed
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype

    def _learn(self, source: Source) -> Learned:
        self._check_own()
        if source.workers is not None and self.finetune_epochs:
            raise InputError(
                "Fine-tuning takes gradient steps on samples in one place.", "Set finetune_epochs to 0 with workers."
            )
        # Cross-validation needs everyone's sums in one place; consensus has the ball.
        alpha = BALL if self.alpha == "auto" and source.workers is not None else self.alpha
        q = source.outputs
        network = SSFNNet([torch.zeros(source.features + 1, q, dtype=source.dtype, device=source.device)], [])
        first = ridge(source.through(network.features), self.lam)
        self.lam_ = first.lam
        eps = None if isinstance(alpha, str) else float(alpha) * math.sqrt(2 * q)
        outputs, randoms = [first.weights.to(source.dtype)], []
        most = min(MOST, width_for(source.rows)) if isinstance(self.max_nodes, str) else int(self.max_nodes)
        step = self.node_step if isinstance(self.node_step, str) else int(self.node_step)
        self.costs_, self.widths_ = [], []
        last, judged = (first.problem, first.weights, first.lam), math.inf
        for depth in range(1, int(self.max_layers) + 1):
            sums, wide = self._widest(source, outputs, randoms, depth, most)
            if not self.costs_:
                self.costs_.append(sums.cost(repeat(len(sums.cross), q, sums.cross.device)))
                judged = self.costs_[0] if eps is not None else _linear_error(first.problem, first.lam, self.costs_[0])
            found = grow(sums, 2 * q, step, self.node_gain, eps)
            if not (found.cost < self.costs_[-1] and found.judged < judged):
                # Nothing is gained beyond rounding, or alpha is below 1: the earlier layers stand.
                break
            gained = improvement(judged, found.judged, sums.energy)
            outputs.append(found.weights.to(source.dtype))
            randoms.append(wide[: found.nodes] * found.nodes**-0.5)
            self.costs_.append(found.cost)
            self.widths_.append(2 * q + found.nodes)
            last, judged = (found.problem, found.weights, found.lam), found.judged
            if gained < self.layer_gain:
                break
        network = SSFNNet(outputs, randoms)
        if self.finetune_epochs:
            # Its outputs are logits, of a network that has seen every sample: the softmax is taken as it is.
            return Learned(_scaled(finetune(network, source, self), source), 1.0)
        return solved(_scaled(network, source), network.features, *last)

    def _widest(
        self, source: Source, outputs: list[Tensor], randoms: list[Tensor], depth: int, most: int
    ) -> tuple[Statistics | Shared, Tensor]:
        """Statistics of the next layer with all nodes it may get, and its R, before the division by sqrt(r)."""
        random = generator(self.seed, "layerwise", "ssfn", depth)
        r = torch.rand(most, len(outputs[-1]), generator=random, dtype=torch.float64) * 2 - 1
        r = (math.sqrt(3) * r).to(source.device, source.dtype)
        network = SSFNNet(outputs, [*randoms, r])
        sums = source.through(network.features).problem(primal=True)
        assert not isinstance(sums, Dual)
        return sums, r

    def _check_own(self) -> None:
        if self.alpha != "auto" and not (is_number(self.alpha) and float(self.alpha) > 0):
            raise InputError(
                f"alpha = {self.alpha!r} gives no ball.",
                'Set it above 0, or to "auto"; from 1 up every layer\'s ball holds the earlier solution.',
            )
        whole("max_layers", self.max_layers)
        for name in ("max_nodes", "node_step"):
            if getattr(self, name) != "auto":
                whole(name, getattr(self, name))
        whole("finetune_epochs", self.finetune_epochs, 0)


def _linear_error(problem: Statistics | Dual | Shared, lam: float, cost: float) -> float:
    """The generalised cross-validation error of the linear start, see `ridge.generalised`."""
    assert not isinstance(problem, Shared)
    values = problem.spectrum().values
    free = problem.count - float((values / (values + lam)).sum()) if lam > 0 else problem.count - len(values)
    return problem.count * cost / max(free, 1e-9 * problem.count) ** 2


def _scaled(network: SSFNNet, source: Source) -> SSFNNet:
    """The network for inputs that are not scaled yet."""
    if source.scaling is None:
        return network
    return SSFNNet(list(network.outputs), list(network.randoms), source.scaling.stacked())


def repeat(width: int, q: int, device: torch.device) -> Tensor:
    """`[U_Q 0]` transposed (width, Q): the weights that repeat the earlier layer's outputs."""
    weights = torch.zeros(width, q, dtype=torch.float64, device=device)
    weights[:q] = torch.eye(q)
    weights[q : 2 * q] = -torch.eye(q)
    return weights


def finetune(network: SSFNNet, source: Source, settings: _SSFN) -> SSFNNet:
    """Train all matrices by Adam in batches of 128: cross-entropy where targets are one-hot, else squared error.

    Outputs then are logits; their largest entry still names the class. The samples are shuffled within each chunk.
    """
    one_hot = isinstance(settings, Classifier)
    network.requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr)
    for epoch in range(int(settings.finetune_epochs)):
        random = generator(settings.seed, "layerwise", "ssfn", "finetune", epoch)
        for x, t, w in source:
            for rows in torch.randperm(len(x), generator=random).to(x.device).split(128):
                outputs = network(x[rows])
                losses = (
                    nn.functional.cross_entropy(outputs, t[rows], reduction="none")
                    if one_hot
                    else (outputs - t[rows]).square().mean(1)
                )
                loss = losses.mean() if w is None else (losses * w[rows]).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return network.requires_grad_(False)


class SSFNClassifier(_SSFN, Classifier):
    """Self-size-estimating feed-forward network for classes.

    Args:
        alpha: size of the ball each layer's output matrix lies in, `alpha sqrt(2 Q)`, as published. A small ball
            regularises strongly; below 1 it need not hold any solution as good as the earlier layer's, and growing then
            ends. "auto": no ball; each output matrix is the ridge solution of least generalised cross-validation error,
            and nodes and layers are added while that error falls; over workers 2.
        max_layers, max_nodes: where growing ends (`max_nodes` random nodes per layer, beside the 2 Q that repeat the
            outputs); nodes "auto": a quarter of the samples, from 1000 to 2000.
        node_step: random nodes added at a time; "auto": twice as many at each try.
        node_gain, layer_gain: nodes, and layers, are added while the cost in dB improves by this share. As published:
            ``alpha=2, max_layers=20, node_step=50, layer_gain=0.1``.
        lam: ridge strength of the first, linear solution.
        finetune_epochs, lr: epochs of Adam on all matrices afterwards; none by default.
        scale, seed, batch_size, device, dtype: see `Learner`. As published: ``scale=None``.
        class_weight: see `Classifier`.

    Attributes:
        costs_: |T - outputs|^2 over the training samples, of the linear solution and after each layer; never rises.
        widths_: nodes of each layer.
        lam_: the strength used.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = SSFNClassifier(max_layers=3, max_nodes=100).fit(X, y)
    >>> model.costs_ == sorted(model.costs_, reverse=True)
    True
    """

    def __init__(
        self,
        alpha: float | str = "auto",
        max_layers: int = 10,
        max_nodes: int | str = "auto",
        node_step: int | str = "auto",
        node_gain: float = 0.005,
        layer_gain: float = 0.02,
        lam: float | str = "auto",
        finetune_epochs: int = 0,
        lr: float = 1e-3,
        scale: str | None = "auto",
        seed: int = 0,
        batch_size: int = 4096,
        device: str = "cpu",
        dtype: str = "auto",
        class_weight: Mapping[Any, float] | str | None = None,
    ) -> None:
        super().__init__(
            alpha, max_layers, max_nodes, node_step, node_gain, layer_gain, lam, finetune_epochs, lr, scale, seed,
            batch_size, device, dtype,
        )  # fmt: skip
        self.class_weight = class_weight


class SSFNRegressor(_SSFN, Regressor):
    """Self-size-estimating feed-forward network for numbers; parameters as `SSFNClassifier`."""
