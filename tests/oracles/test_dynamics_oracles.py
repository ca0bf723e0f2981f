"""Closed answers and plain twins of the dynamics room."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.core.power_law import exponent
from gracile.dynamics import bounds as theorem_2
from gracile.dynamics import (
    count_paths,
    example_networks,
    find,
    gradient_flow,
    log_logistic,
    normalised_flow,
    tree_decomposition,
)
from gracile.dynamics.descent import OPTIMIZERS, descend
from gracile.dynamics.spectra import leading, singular_values
from gracile.models import build


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in model.named_parameters()}


# Gradient flow.


@pytest.mark.parametrize(("method", "step", "error"), [("adaptive", None, 1e-11), ("rk4", 0.01, 1e-8)])
def test_a_quadratic_flows_as_an_exponential(method: str, step: float | None, error: float) -> None:
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(2.0)
    flow = gradient_flow(model, lambda net: net.weight.square().sum() / 2, time=1.5, method=method, step=step)  # type: ignore[arg-type]
    assert model.weight.item() == pytest.approx(2 * math.exp(-1.5), abs=error)
    assert flow.losses == pytest.approx((2.0, 2 * math.exp(-3.0)))


def test_the_time_of_a_sign_change_is_exact() -> None:
    """relu(w) with loss (relu(w) + 1)^2 / 2: w + 1 decays from 2, and w reaches 0 at log 2."""
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    one = torch.ones(1, 1, dtype=torch.float64)

    def loss(net: nn.Module) -> Tensor:
        return (torch.relu(net(one)) + 1).square().sum() / 2

    flow = gradient_flow(model, loss, time=5.0, sign_changes="stop")
    assert flow.stopped
    assert flow.time == pytest.approx(math.log(2), abs=1e-9)
    assert gradient_flow(model, loss, time=1.0).losses == (0.5, 0.5)  # switched off, nothing moves


def test_sliding_along_a_kink_is_refused_with_a_remedy() -> None:
    """-relu(w) + 2 relu(-w)... pulls to zero from both sides."""
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(0.1)
    one = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(InputError, match=r"slides along the kink.*rk4"):
        gradient_flow(model, lambda net: (2 * torch.relu(net(one)) - net(one)).sum(), time=10.0)


@pytest.mark.parametrize(
    ("model", "loss", "cause"),
    [
        (nn.Linear(1, 1), lambda net: net.weight.sum(), "float64"),
        (nn.Linear(2, 1).double(), lambda net: net.weight, "one float64 number"),
        (nn.Linear(2, 1).double().requires_grad_(False), lambda net: net.weight.sum(), "no trainable"),
    ],
)
def test_what_cannot_flow(model: nn.Module, loss: object, cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        gradient_flow(model, loss, time=1.0)  # type: ignore[arg-type]


def test_max_pooling_stalls_the_adaptive_solver_and_is_refused() -> None:
    model = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.5]]))
    x = torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(InputError, match="rk4"):
        gradient_flow(model, lambda net: nn.functional.max_pool1d(net(x), 2).square().sum(), time=50.0)


def test_weight_decay_lets_d_decay_exponentially() -> None:
    model = example_networks.network("linear", 3)
    x, y = example_networks.regression("linear", 6, 3)
    before = [one.difference(tensors(model)) for one in find(model, x)]

    def loss(net: nn.Module) -> Tensor:
        return (net(x) - y).square().mean() + 0.2 * sum(one.square().sum() for one in net.parameters())

    gradient_flow(model, loss, time=0.5)
    for one, then in zip(find(model, x), before, strict=True):
        assert (one.difference(tensors(model)) - math.exp(-2 * 0.4 * 0.5) * then).abs().max() < 1e-11


def test_descent_drifts_with_slope_one_and_adam_does_not_vanish() -> None:
    model = example_networks.network("relu", 0)
    x, y = example_networks.regression("relu", 8, 0)
    rates = [0.02, 0.01, 0.005]
    found = {
        name: descend(model, lambda net: (net(x) - y).square().mean(), x, OPTIMIZERS[name], time=0.5, lrs=rates)
        for name in ("gradient descent", "Adam")
    }
    assert exponent(found["gradient descent"]) == pytest.approx(1, abs=0.15)
    assert abs(exponent(found["Adam"])) < 0.3


def test_lemma_4_gives_the_rate_of_the_off_diagonal() -> None:
    """d/dt D_uv = sum_i (m_iv - m_iu)(s_iu z_iv - s_iv z_iu), against a difference quotient of the flow."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False)).double()
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    (junction,) = find(model, x)
    with torch.no_grad():
        z = x @ model[0].weight.T
        s = 2 * (model(x) - y) / len(x) @ model[2].weight
    m = (z > 0).double()
    rate = torch.einsum("iuv,iu,iv->uv", m[:, None, :] - m[:, :, None], s, z)
    rate = rate - torch.einsum("iuv,iv,iu->uv", m[:, None, :] - m[:, :, None], s, z)
    before, h = junction.difference(tensors(model)), 1e-5
    gradient_flow(model, lambda net: (net(x) - y).square().mean(), time=h, sign_changes="stop")
    found = (junction.difference(tensors(model)) - before) / h
    assert rate.abs().max() > 1e-2
    assert (found - rate).abs().max() < 1e-3


# Theorem 2.


@settings(max_examples=40, deadline=None, derandomize=True)
@given(a=st.integers(1, 5), h=st.integers(1, 5), b=st.integers(1, 5), seed=st.integers(0, 10_000))
def test_lemma_11_holds_with_two(a: int, h: int, b: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    y, u, z = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((h, a), (b, h), (b, a)))
    left, right = theorem_2.lemma_11(y, u, z)
    assert left >= right * (1 - 1e-12)
    assert right >= theorem_2.lemma_11(y, u, z, factor=8.0)[1] or right < 0


def test_two_is_attained_in_lemma_11() -> None:
    y, u, z = torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0], [1.0]])
    left, right = theorem_2.lemma_11(y, u, z)
    assert left == pytest.approx(right)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(c=st.integers(1, 5), o=st.integers(1, 5), k=st.integers(1, 3), seed=st.integers(0, 10_000))
def test_lemma_10_both_ways(c: int, o: int, k: int, seed: int) -> None:
    kernel = torch.randn(o, c, k, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    inputs, outputs, factor = theorem_2.lemma_10(kernel)
    assert outputs <= factor * inputs * (1 + 1e-12)
    assert inputs <= min(k * k, o) * outputs * (1 + 1e-12)


@pytest.mark.parametrize("name", ["linear", "free-blocks", "free-block-tail", "convolutions", "convolution-block"])
@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_the_bounds_hold_for_any_weights(name: str, seed: int) -> None:
    """Only that the right side stays constant needs the flow."""
    model = example_networks.network(name, seed)
    x, _ = example_networks.regression(name, 2, seed)
    links = theorem_2.tail(find(model, x), tensors(model))
    assert links
    for link in links:
        value, bound, whole = link.bound(tensors(model))
        assert bound <= value + 1e-12 * whole


def test_the_bound_of_convolutions_counts_inputs_not_outputs() -> None:
    """One output channel: its flattening by outputs is a vector, far above the other, and min(k^2, c_out) = 1 would be wrong."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 2, bias=False), nn.Conv2d(4, 1, 2, bias=False), nn.Flatten(), nn.Linear(4, 1, bias=False)]
    model = nn.Sequential(*layers).double()
    links = theorem_2.tail(find(model, torch.zeros(1, 2, 4, 4, dtype=torch.float64)), tensors(model))
    assert [link.factor for link in links] == [1, 4]
    for link in links:
        value, bound, whole = link.bound(tensors(model))
        assert bound <= value + 1e-12 * whole


def test_several_classes_bound_the_sum_of_as_many_values() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in ((6, 5), (5, 6), (6, 2)))).double()
    links = theorem_2.tail(find(model, torch.zeros(1, 6, dtype=torch.float64)), tensors(model))
    assert [link.outputs for link in links] == [2, 2]
    for link in links:
        value, bound, _ = link.bound(tensors(model))
        assert bound <= value


def test_the_paper_has_eight_where_two_is_enough() -> None:
    model = example_networks.network("free-block-tail", 0)
    links = theorem_2.tail(find(model, example_networks.regression("free-block-tail", 2, 0)[0]), tensors(model))
    assert [(link.factor, link.paper) for link in links] == [(1, 1), (1, 1), (2, 8)]


def test_a_linear_network_far_into_training_aligns() -> None:
    model = example_networks.network("linear", 1)
    x, y = example_networks.separable("linear", 8, 1)
    flow = normalised_flow(model, lambda net: log_logistic(net(x)[:, 0] * y), until=-1000.0, tolerance=1e-6)
    assert flow.log_loss <= -1000
    for junction in find(model, x):
        first, _ = junction.stacked(tensors(model))
        squares = singular_values(first).square()
        assert squares[0] / squares.sum() > 0.9


def test_the_log_loss_neither_underflows_nor_jumps() -> None:
    margins = torch.tensor([1e5, 2e5], dtype=torch.float64)
    assert log_logistic(margins).item() == pytest.approx(-1e5 - math.log(2))
    near = torch.tensor([0.3, 29.999, 30.001], dtype=torch.float64)
    assert log_logistic(near).item() == pytest.approx(math.log(torch.log1p(torch.exp(-near)).mean().item()))


# Singular values.


def test_gram_matrices_give_the_singular_values() -> None:
    matrix = torch.randn(120, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(singular_values(matrix), torch.linalg.svdvals(matrix), rtol=1e-8)


def test_power_iteration_finds_the_norm_from_below() -> None:
    matrix = torch.randn(7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    norm, left, vector = leading(matrix, torch.ones(9, dtype=torch.float64), 200)
    truth = torch.linalg.matrix_norm(matrix, 2).item()
    assert norm <= truth * (1 + 1e-14)
    assert norm == pytest.approx(truth)
    first, _, second = torch.linalg.svd(matrix)
    for found, true in ((left, first[:, 0]), (vector, second[0])):
        assert found.norm().item() == pytest.approx(1)
        assert abs(found @ true).item() == pytest.approx(1)


# The tree.


@pytest.mark.parametrize("name", example_networks.NETWORKS)
def test_the_tree_computes_the_network_with_signs_alone(name: str) -> None:
    model = example_networks.network(name, 4)
    x, _ = example_networks.regression(name, 16, 4)
    tree = tree_decomposition(model, x)
    with torch.no_grad():
        assert np.abs(tree.evaluate(x) - model(x)[:, 0].numpy()).max() < 1e-12
    assert set(np.unique(tree.weights)) <= {-1.0, 1.0}
    assert tree.num_paths == count_paths(model, x)


def test_the_tree_depends_on_signs_only() -> None:
    """With the weights rescaled, and their signs kept, the same h applied to the new paths is the new network."""
    model = example_networks.network("relu", 0)
    x, _ = example_networks.regression("relu", 5, 0)
    tree = tree_decomposition(model, x)
    with torch.no_grad():
        for one in model.parameters():
            one.mul_(0.5 + torch.rand(one.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
        assert np.abs(tree.evaluate(x, model) - model(x)[:, 0].numpy()).max() < 1e-12


def test_paths_are_products_of_weights_and_one_input() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    x = torch.tensor([[2.0, -3.0]], dtype=torch.float64)
    w, v = model[0].weight.detach(), model[2].weight.detach()[0]
    expected = sorted((w[j, i] * v[j] * x[0, i]).item() for i in range(2) for j in range(2))
    assert sorted(tree_decomposition(model).path_enumeration(x)[0].tolist()) == pytest.approx(expected)


def test_paths_of_the_study_network_are_counted_with_biases() -> None:
    model = build("mlp", widths=(500,) * 4, image_size=28)
    expected = 10 * (784 * 500**4 + 500**4 + 500**3 + 500**2 + 500 + 1)
    assert count_paths(model, torch.zeros(1, 1, 28, 28)) == expected
    with pytest.raises(InputError, match=f"{expected // 10} paths, more than limit=100000"):
        tree_decomposition(model, torch.zeros(1, 1, 28, 28), output=0)


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 1)), "GELU.*not positively homogeneous"),
        (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), "batch-norm"),
        (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), "2 outputs.*conserved quantities hold"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2), nn.Flatten()), "shape of the inputs"),
    ],
)
def test_what_has_no_tree(model: nn.Module, cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        tree_decomposition(model)
