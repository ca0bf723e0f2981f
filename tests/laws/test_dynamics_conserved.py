"""Every line of theorem 1's table, on drawn architectures: gradient flow conserves what theory grants, and moves the rest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gracile.dynamics import Drift, Junction, bounds, decay_error, example_networks, find, flow_drift, gradient_flow

EXACT = 1e-11  # what is asked of linear networks
SMOOTH = 1e-10  # of ReLU networks between sign changes
widths = st.integers(2, 5)
seeds = st.integers(0, 10_000)
drawn = settings(max_examples=5, deadline=None, derandomize=True)


class FreeBlock(nn.Module):
    """``U s(Y x) + Z x``."""

    def __init__(self, inputs: int, hidden: int, outputs: int, act: Callable[[], nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.y = nn.Linear(inputs, hidden, bias=False)
        self.u = nn.Linear(hidden, outputs, bias=False)
        self.z = nn.Linear(inputs, outputs, bias=False)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return self.u(self.act(self.y(x))) + self.z(x)


class Skip(nn.Module):
    """``U s(Y x) + d * x``: identity for d None."""

    def __init__(self, width: int, hidden: int, *, diagonal: bool, act: Callable[[], nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.y = nn.Linear(width, hidden, bias=False)
        self.u = nn.Linear(hidden, width, bias=False)
        self.d = nn.Parameter(1 + torch.rand(width)) if diagonal else None
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return self.u(self.act(self.y(x))) + (x if self.d is None else self.d * x)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: one.detach() for name, one in model.named_parameters()}


def flow(model: nn.Module, shape: tuple[int, ...], seed: int, *, outputs: int = 1, time: float = 0.5, **how: object):
    """Let the model flow on random data; its junctions with the change of D, and the flow."""
    model.double()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for one in model.parameters():
            one.copy_(
                0.8 * torch.randn(one.shape, generator=random, dtype=torch.float64) / max(1, one[0].numel()) ** 0.5
            )
    x = torch.randn(6, *shape, generator=random, dtype=torch.float64)
    y = 2 * torch.randn(6, outputs, generator=random, dtype=torch.float64)
    junctions = find(model, x)
    before = {one.name: one.difference(tensors(model)) for one in junctions}
    start = torch.cat([one.detach().flatten() for one in model.parameters()])
    found = gradient_flow(model, lambda net: (net(x) - y).square().mean(), time=time, **how)  # type: ignore[arg-type]
    moved = (torch.cat([one.detach().flatten() for one in model.parameters()]) - start).abs().max()
    changes = {one.name: (one, one.difference(tensors(model)) - before[one.name]) for one in junctions}
    return changes, found, moved.item()


def off_diagonal(change: Tensor) -> float:
    return (change - torch.diag(change.diagonal())).abs().max().item()


def one(changes: dict[str, tuple[Junction, Tensor]], case: str) -> tuple[Junction, Tensor]:
    (found,) = [pair for pair in changes.values() if pair[0].case == case]
    return found


def linear_linear(a: int, b: int, c: int) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Linear(a, b), nn.Linear(b, c)), (a,)


def conv_conv(a: int, b: int, c: int) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1, stride=2), nn.AvgPool2d(2), nn.Conv2d(b, c, 2, padding=1)), (
        a,
        8,
        8,
    )


def conv_linear(a: int, b: int, c: int) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Conv2d(a, b, 2), nn.Flatten(), nn.Linear(9 * b, c)), (a, 4, 4)


def within_block(a: int, b: int, c: int) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(FreeBlock(a, b, c)), (a,)


def block_block(a: int, b: int, c: int) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(FreeBlock(a, b, c), FreeBlock(c, a, b)), (a,)


def conv_block(a: int, b: int, c: int) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Conv2d(a, b, 2), nn.Flatten(), FreeBlock(4 * b, c, a)), (a, 3, 3)


def block_linear(a: int, b: int, c: int) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(FreeBlock(a, b, c), nn.Linear(c, b)), (a,)


def linear_block(a: int, b: int, c: int) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Linear(a, b), FreeBlock(b, a, c)), (a,)


TABLE = {
    "linear-linear": (1, linear_linear),
    "conv-conv": (2, conv_conv),
    "within block": (3, within_block),
    "block-block": (4, block_block),
    "conv-linear": (5, conv_linear),
    "conv-block": (6, conv_block),
    "block-linear": (7, block_linear),
    "linear-block": (7, linear_block),
}


@pytest.mark.parametrize("case", TABLE)
@drawn
@given(a=widths, b=widths, c=widths, seed=seeds)
def test_linear_networks_conserve_all_of_d(case: str, a: int, b: int, c: int, seed: int) -> None:
    number, build = TABLE[case]
    body, shape = build(a, b, c)
    model = nn.Sequential(body, nn.Flatten())
    with torch.no_grad():
        outputs = model(torch.zeros(1, *shape)).shape[1]
    changes, _, moved = flow(model, shape, seed, outputs=outputs)
    found = [pair for pair in changes.values() if pair[0].case == case]
    assert found
    assert moved > 1e-3
    for junction, change in found:
        assert junction.number == number
        assert junction.invariance == "full"
        assert change.abs().max() < EXACT


@drawn
@given(a=widths, b=st.integers(3, 6), c=st.integers(3, 6), leaky=st.booleans(), seed=seeds)
def test_relu_networks_conserve_the_diagonal_up_to_a_sign_change_and_move_the_rest(
    a: int, b: int, c: int, leaky: bool, seed: int
) -> None:
    act = nn.LeakyReLU(0.2) if leaky else nn.ReLU()
    model = nn.Sequential(nn.Linear(a, b), act, nn.Linear(b, c), nn.ReLU(), nn.Linear(c, 1))
    changes, _, _ = flow(model, (a,), seed, sign_changes="stop")
    for junction, change in changes.values():
        assert junction.invariance == "pattern"
        assert change.diagonal().abs().max() < SMOOTH


@pytest.mark.parametrize("kind", ["linear", "conv", "within block"])
def test_relu_moves_the_off_diagonal(kind: str) -> None:
    model, shape = {
        "linear": (nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1)), (3,)),
        "conv": (
            nn.Sequential(nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.Flatten(), nn.Linear(3, 1)),
            (2, 3, 3),
        ),
        "within block": (nn.Sequential(FreeBlock(3, 5, 4, nn.ReLU), nn.Linear(4, 1)), (3,)),
    }[kind]
    changes, _, _ = flow(model, shape, 3, sign_changes="stop", time=0.3)
    _, change = next(pair for pair in changes.values() if pair[0].invariance == "pattern")
    assert change.diagonal().abs().max() < SMOOTH
    assert off_diagonal(change) > 1e-4


def test_the_diagonal_survives_sign_changes_that_are_crossed_exactly() -> None:
    changes, found, _ = flow(
        nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 1)), (4,), CROSSING, time=0.5
    )
    assert len(found.sign_changes) >= 2
    for _, change in changes.values():
        assert change.diagonal().abs().max() < SMOOTH


CROSSING = 0


@drawn
@given(a=widths, b=widths, seed=seeds)
def test_always_active_neurons_conserve_their_block(a: int, b: int, seed: int) -> None:
    model = nn.Sequential(nn.Linear(a, b + 2), nn.ReLU(), nn.Linear(b + 2, 1)).double()
    torch.manual_seed(seed)
    x, y = torch.randn(5, a, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    with torch.no_grad():
        model[0].bias[:2] = 30.0  # far above every input
        model[2].weight[:, :2] *= 0.1
    (junction,) = find(model, x)
    before = junction.difference(tensors(model))
    gradient_flow(model, lambda net: (net(x) - y).square().mean(), time=0.01, sign_changes="stop")
    change = junction.difference(tensors(model)) - before
    assert change[:2, :2].abs().max() < SMOOTH
    assert change.diagonal().abs().max() < SMOOTH


@pytest.mark.parametrize("act", [nn.Identity, nn.ReLU])
@drawn
@given(a=widths, b=widths, seed=seeds)
def test_identity_skips_conserve_the_stream_and_not_the_pair(act: type[nn.Module], a: int, b: int, seed: int) -> None:
    model = nn.Sequential(
        nn.Linear(a, b), Skip(b, 3, diagonal=False, act=act), Skip(b, 4, diagonal=False, act=act), nn.Linear(b, 1)
    )
    changes, _, _ = flow(model, (a,), seed, sign_changes="stop")
    stream, change = one(changes, "residual stream")
    assert stream.invariance == "full"
    assert change.abs().max() < EXACT
    pairs = [pair for pair in changes.values() if pair[0].case not in ("residual stream", "within block")]
    assert len(pairs) == 3
    for junction, _ in pairs:
        assert junction.invariance == "none"
        assert "identity skip" in junction.reason
    assert max(moved.abs().max().item() for _, moved in pairs) > 1e-7


@drawn
@given(a=widths, b=widths, seed=seeds)
def test_diagonal_skips_conserve_the_diagonal_and_not_the_rest(a: int, b: int, seed: int) -> None:
    model = nn.Sequential(nn.Linear(a, b), Skip(b, 3, diagonal=True), Skip(b, 4, diagonal=True), nn.Linear(b, 1))
    changes, _, _ = flow(model, (a,), seed)
    around = [pair for pair in changes.values() if pair[0].invariance == "diagonal"]
    assert len(around) == 3
    for _, change in around:
        assert change.diagonal().abs().max() < EXACT
    assert max(off_diagonal(change) for _, change in around) > 1e-7


@drawn
@given(a=widths, b=st.integers(2, 3), seed=seeds)
def test_grouped_convolutions_and_concatenations_conserve_the_diagonal(a: int, b: int, seed: int) -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(a, b, 1), nn.Conv2d(a, b, 1)
            self.depthwise = nn.Conv2d(2 * b, 2 * b, 2, groups=2 * b)
            self.last = nn.Conv2d(2 * b, 1, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.depthwise(torch.cat([self.first(x), self.second(x)], 1))).flatten(1)

    changes, _, _ = flow(Joined(), (a, 3, 3), seed)
    assert len(changes) == 3
    for junction, change in changes.values():
        assert junction.invariance == "diagonal"
        assert change.diagonal().abs().max() < EXACT


@drawn
@given(a=widths, b=widths, c=widths, seed=seeds)
def test_sums_of_squares_of_layers_keep_their_difference(a: int, b: int, c: int, seed: int) -> None:
    """Lemma 3, over a chain with ReLUs, pooling and a free block."""
    model = nn.Sequential(
        nn.Conv2d(a, b, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), FreeBlock(4 * b, 3, c, nn.ReLU), nn.Linear(c, 1)
    )
    changes, _, _ = flow(model, (a, 5, 5), seed, sign_changes="stop", time=0.05)
    for junction, change in changes.values():
        assert junction.invariance != "none"
        assert abs(change.trace()) < SMOOTH


class Wrong:
    """Rearrangements that look right and are not."""

    @staticmethod
    def flattened_by_rows(weights: dict[str, Tensor]) -> Tensor:
        first, second = weights["0.weight"].flatten(1), weights["2.weight"]
        return first @ first.t() - second.reshape(-1, len(first)).t() @ second.reshape(-1, len(first))

    @staticmethod
    def inputs_not_moved_last(weights: dict[str, Tensor]) -> Tensor:
        first, second = weights["0.weight"].flatten(1), weights["1.weight"]
        matrix = second.reshape(-1, second.shape[1])
        return first @ first.t() - matrix.t() @ matrix

    @staticmethod
    def skip_left_out(weights: dict[str, Tensor]) -> Tensor:
        first, second = weights["0.weight"], weights["1.y.weight"]
        return first @ first.t() - second.t() @ second

    @staticmethod
    def bias_left_out(weights: dict[str, Tensor]) -> Tensor:
        first, second = weights["0.weight"], weights["1.weight"]
        return first @ first.t() - second.t() @ second


@pytest.mark.parametrize(
    ("model", "shape", "wrong"),
    [
        (
            nn.Sequential(nn.Conv2d(1, 3, 2, bias=False), nn.Flatten(), nn.Linear(12, 2)),
            (1, 3, 3),
            Wrong.flattened_by_rows,
        ),
        (
            nn.Sequential(nn.Conv2d(1, 3, 2, bias=False), nn.Conv2d(3, 2, 2), nn.Flatten()),
            (1, 3, 3),
            Wrong.inputs_not_moved_last,
        ),
        (nn.Sequential(nn.Linear(3, 3, bias=False), FreeBlock(3, 4, 2)), (3,), Wrong.skip_left_out),
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), (3,), Wrong.bias_left_out),
    ],
    ids=["conv-linear", "conv-conv", "block", "bias"],
)
def test_a_wrong_rearrangement_drifts(
    model: nn.Module, shape: tuple[int, ...], wrong: Callable[[dict[str, Tensor]], Tensor]
) -> None:
    random = torch.Generator().manual_seed(1)
    model.double()
    x = torch.randn(6, *shape, generator=random, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64) / 2)
        y = 2 * torch.randn(model(x).shape, generator=random, dtype=torch.float64)
    junction = find(model, x)[0]
    right_before, wrong_before = junction.difference(tensors(model)), wrong(tensors(model))
    gradient_flow(model, lambda net: (net(x) - y).square().mean(), time=0.5)
    assert (junction.difference(tensors(model)) - right_before).abs().max() < EXACT
    assert (wrong(tensors(model)) - wrong_before).abs().max() > 1e-4


def test_drift_along_a_flow_is_rounding_where_d_is_conserved_and_more_elsewhere() -> None:
    model = example_networks.network("relu", 0)
    x, y = example_networks.regression("relu", 8, 0)
    junctions, flow = flow_drift(model, lambda net: (net(x) - y).square().mean(), x, time=0.5, records=4)
    assert len(flow.observed[0][1]) == len(junctions)
    assert flow.observed[0][1][0] == Drift(0.0, 0.0)
    last = flow.observed[-1][1]
    assert max(drift.conserved for drift in last) < SMOOTH
    assert {one.invariance for one in junctions} == {"pattern"}
    assert min(drift.free for drift in last) > 1e-4


def test_weight_decay_shrinks_what_flow_conserves_by_its_law() -> None:
    model = example_networks.network("linear", 0)
    x, y = example_networks.regression("linear", 8, 0)
    loss = lambda net: (net(x) - y).square().mean()
    assert decay_error(model, loss, x, weight_decay=0.3, time=0.5) < 1e-9


def test_lemma_11_leaves_something_over_at_random_and_nothing_at_its_tight_block() -> None:
    least, tight = bounds.lemma_11_slack(50, 0)
    assert 0 < least < 1
    assert tight == pytest.approx(0, abs=1e-12)
