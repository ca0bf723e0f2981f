"""What single learners of `gracile.layerwise` promise beyond the laws of the room."""

from __future__ import annotations

import ast
import doctest
import graphlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gracile import layerwise
from gracile.core.errors import DataError, InputError
from gracile.core.seeding import generator
from gracile.layerwise import DKNClassifier, ELMClassifier, HNFClassifier, SLFNClassifier, SSFNClassifier
from gracile.layerwise.elm import rectangles
from gracile.layerwise.information import Mixture, elm_inversion_error, mixture_information, slfn_inversion_error
from gracile.layerwise.kernel_ridge import exact_kernel_ridge, kernel_ridge
from gracile.layerwise.kernels import gaussian
from gracile.layerwise.saturation import mixture_sweep, rho_sweep
from gracile.layerwise.ssfn import improvement


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    return load_digits(return_X_y=True)


def test_elm_equals_its_formula(digits):
    x, y = digits[0][:200] / 16, digits[1][:200]
    model = ELMClassifier(n=50, lam=0.7, scale=None, dtype="float64").fit(x, y)
    w, b = model.net_[0].weight.numpy(), model.net_[0].bias.numpy()
    assert abs(w).max() <= 1
    assert w.std() == pytest.approx(1 / math.sqrt(3), rel=0.05)
    h = np.maximum(x @ w.T + b, 0)
    o = np.linalg.solve(h.T @ h + 0.7 * np.eye(50), h.T @ np.eye(10)[y])
    np.testing.assert_allclose(model.decision_function(x), h @ o, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("weights", ["uniform", "contrast"])
def test_receptive_fields_see_one_rectangle_each(digits, weights):
    model = ELMClassifier(n=40, weights=weights, image_shape=(8, 8)).fit(*digits)
    seen = (model.net_[0].weight != 0).view(40, 8, 8)
    for field in seen:
        rows, columns = field.any(1).nonzero()[:, 0], field.any(0).nonzero()[:, 0]
        assert len(rows) <= rows.max() - rows.min() + 1 <= 8
        assert len(columns) <= columns.max() - columns.min() + 1 <= 8
    # Corner pixels of the digits are constant zero, so contrasts vanish there; uniform weights fill their rectangle.
    if weights == "uniform":
        assert all(field.sum() == field.any(1).sum() * field.any(0).sum() for field in seen)


def test_receptive_fields_are_the_same_in_all_channels():
    masks = rectangles(20, (3, 6, 9), generator(0, "test")).view(20, 3, 6, 9)
    assert torch.equal(masks[:, 0], masks[:, 1])
    assert (masks.sum((2, 3)) >= 25).all()


def test_contrast_weights_are_unit_differences_between_classes(digits):
    x, y = digits[0][:300], digits[1][:300]
    model = ELMClassifier(n=30, weights="contrast", scale=None, dtype="float64").fit(x, y)
    differences = (x[:, None] - x[None]).reshape(-1, 64)
    apart = (y[:, None] != y[None]).reshape(-1)
    differences = differences[apart] / np.linalg.norm(differences[apart], axis=1, keepdims=True)
    nearest = (model.net_[0].weight.numpy() @ differences.T).max(1)
    np.testing.assert_allclose(nearest, 1, atol=1e-12)


def test_contrasts_lift_accuracy_on_digits(digits):
    x, y = digits
    scores = [
        ELMClassifier(n=300, weights=weights, image_shape=shape, scale=None)
        .fit(x[:1200], y[:1200])
        .score(x[1200:], y[1200:])
        for weights, shape in (("uniform", None), ("contrast", (8, 8)))
    ]
    assert scores[1] > scores[0] + 0.005


@pytest.mark.parametrize("rho", [2, 2.5, 6])
def test_slfn_gives_its_input_back(digits, rho):
    x, y = digits
    model = SLFNClassifier(rho=rho, dtype="float64").fit(x, y)
    hidden = model.hidden(x)
    assert hidden.shape == (len(x), model.n_)
    assert hidden.min() >= 0
    np.testing.assert_allclose(model.invert(hidden), x, atol=1e-9)


@pytest.mark.parametrize("rho", [0.5, 2, 6])
def test_slfn_solves_for_pairs_what_it_would_for_their_nodes(digits, rho):
    """It reads |z| and the inputs in place of relu(z) and relu(-z), which is a rotation of them."""
    x, y = digits
    model = SLFNClassifier(rho=rho, lam=3.0, scale=None, dtype="float64").fit(x / 16, y)
    nodes, targets = model.hidden(x / 16), np.eye(10)[y]
    plain = np.linalg.solve(nodes.T @ nodes + 3.0 * np.eye(model.n_), nodes.T @ targets)
    np.testing.assert_allclose(model.net_[-1].weight.numpy().T, plain, atol=1e-9)


def test_slfn_below_two_refuses_to_invert(digits):
    model = SLFNClassifier(rho=1.9).fit(*digits)
    with pytest.raises(InputError, match="loses information"):
        model.invert(model.hidden(digits[0]))


def test_slfn_refuses_another_width(digits):
    with pytest.raises(DataError, match=r"Give \(samples, 128\)"):
        SLFNClassifier(rho=2).fit(*digits).invert(np.zeros((3, 64)))


def test_inversion_is_exact_from_two_and_not_below():
    x = torch.rand(30, 20, generator=torch.Generator().manual_seed(0))
    for rho, exact in ((0.5, False), (1.0, False), (1.8, False), (2.0, True), (4.0, True)):
        assert bool((slfn_inversion_error(x, rho) < 1e-9).all()) is exact


def test_elm_is_inverted_for_some_inputs_at_two_and_for_all_far_above():
    x = torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    recovered = [float((elm_inversion_error(x, rho) < 1e-6).double().mean()) for rho in (0.9, 2.0, 8.0)]
    assert recovered[0] == 0
    assert 0.2 < recovered[1] < 0.9
    assert recovered[2] == 1


def test_information_is_all_there_from_two():
    mixture = Mixture.random(5, 12, 3.0)
    whole = mixture_information(mixture, None)
    found = [mixture_information(mixture, rho).value for rho in (0.2, 0.5, 1.0, 1.5, 2.0, 5.0)]
    assert found[:4] == sorted(found[:4])
    assert found[3] < whole.value - 10 * 1e-3
    assert found[4] == pytest.approx(whole.value, abs=1e-9)
    assert found[5] == pytest.approx(whole.value, abs=1e-9)
    assert 0 < whole.value < math.log(5)


def test_information_of_two_classes_equals_the_integral():
    """Two Gaussians at distance 2 on a line: I = log 2 - E log(1 + exp(-2 - 2 u)), u standard normal."""
    mixture = Mixture(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
    u = torch.linspace(-12, 12, 100001, dtype=torch.float64)
    density = torch.exp(-u.square() / 2) / math.sqrt(2 * math.pi)
    exact = math.log(2) - float(torch.trapezoid(density * torch.log1p(torch.exp(-2 - 2 * u)), u))
    found = mixture_information(mixture, None, samples=200000)
    assert abs(found.value - exact) < 4 * found.error
    assert found.error < 2e-3


def test_ssfn_first_nodes_repeat_the_earlier_outputs(digits):
    x, y = digits[0][:400] / 16, digits[1][:400]
    model = SSFNClassifier(alpha=2, max_layers=2, max_nodes=40, layer_gain=0, scale=None, dtype="float64").fit(x, y)
    net, inputs = model.net_, torch.tensor(x)
    linear = torch.cat((inputs, torch.ones(400, 1)), 1) @ net.outputs[0]
    z = torch.cat((inputs, torch.ones(400, 1, dtype=torch.float64)), 1)
    random = (z / z.norm(dim=1, keepdim=True)) @ net.randoms[0].T
    expected = torch.cat((linear.relu(), (-linear).relu(), random.relu()), 1)
    from gracile.layerwise.ssfn import layer

    torch.testing.assert_close(layer(z, net.outputs[0], net.randoms[0]), expected)


def test_ssfn_weights_lie_in_the_ball_and_sizes_are_its_own(digits):
    model = SSFNClassifier(alpha=2, max_nodes=200, max_layers=6, scale=None).fit(*digits)
    for output in list(model.net_.outputs)[1:]:
        assert output.norm() <= 2 * math.sqrt(20) * (1 + 1e-6)
    assert [len(output) for output in list(model.net_.outputs)[1:]] == model.widths_
    assert all(20 < width <= 220 for width in model.widths_)


def test_ssfn_random_part_has_unit_norm_in_the_mean(digits):
    model = SSFNClassifier(alpha=2, max_layers=1, max_nodes=200, node_gain=0, scale=None, dtype="float32").fit(*digits)
    z = torch.tensor(np.column_stack([digits[0], np.ones(len(digits[0]))])).float()
    z = z / z.norm(dim=1, keepdim=True)
    assert float((z @ model.net_.randoms[0].T).square().sum(1).mean()) == pytest.approx(1, rel=0.15)


def test_ssfn_fine_tuning_lowers_the_training_error(digits):
    x, y = digits[0][:500] / 16, digits[1][:500]
    plain = SSFNClassifier(alpha=2, scale=None, max_layers=1, max_nodes=50, node_step=50).fit(x, y)
    tuned = SSFNClassifier(
        alpha=2, scale=None, max_layers=1, max_nodes=50, node_step=50, finetune_epochs=20, lr=3e-3
    ).fit(x, y)
    assert tuned.score(x, y) > plain.score(x, y)


def test_improvement_is_a_share_of_decibels():
    assert improvement(0.1, 0.01, 1.0) == pytest.approx(1.0)
    assert improvement(0.1, 0.1, 1.0) == 0
    assert improvement(1.0, 0.5, 1.0) == math.inf
    assert improvement(0.1, 0.0, 1.0) == pytest.approx(11)


def test_hnf_doubles_its_width_and_starts_where_the_linear_solution_ended(digits):
    model = HNFClassifier(layers=3, m=65, alpha=1, scale=None, dtype="float64").fit(*digits)
    assert model.widths_ == [130, 260, 520]
    linear = HNFClassifier(layers=1, m=65, alpha=1, scale=None, lam=model.lam_, dtype="float64").fit(*digits)
    assert linear.costs_[0] == pytest.approx(model.costs_[0], rel=1e-9)


def test_hnf_hidden_layers_lose_nothing(digits):
    model = HNFClassifier(layers=3, m=65, alpha=1, matrix="dct", scale=None, dtype="float64").fit(*digits)
    y = model.net_[:6](torch.tensor(digits[0]))
    for place in (4, 2):
        y = (y[:, : y.shape[1] // 2] - y[:, y.shape[1] // 2 :]) @ torch.linalg.pinv(
            model.net_[place].weight[: y.shape[1] // 2]
        ).T
    y = y[:, : y.shape[1] // 2] - y[:, y.shape[1] // 2 :]
    first = model.net_[0]
    x = (y - first.bias[:65]) @ torch.linalg.pinv(first.weight[:65]).T
    torch.testing.assert_close(x, torch.tensor(digits[0]), rtol=0, atol=1e-9)


def test_exact_kernel_ridge_equals_its_formula():
    random = torch.Generator().manual_seed(0)
    z, t = (
        torch.randn(40, 3, generator=random, dtype=torch.float64),
        torch.randn(40, 2, generator=random, dtype=torch.float64),
    )
    k = torch.exp(-0.5 * torch.cdist(z, z).square())
    torch.testing.assert_close(gaussian(z, z, 0.5), k)
    rest = torch.arange(40) != 7
    fit = exact_kernel_ridge(z, t, rest.long(), 0.5, 0.1)
    torch.testing.assert_close(fit.coefficients, torch.linalg.solve(k + 0.1 * torch.eye(40), t))
    alone = k[7][rest] @ torch.linalg.solve(k[rest][:, rest] + 0.1 * torch.eye(39), t[rest])
    torch.testing.assert_close(fit.held_out[7], alone)


def test_nystroem_with_every_sample_a_landmark_is_exact():
    random = torch.Generator().manual_seed(0)
    z, t = (
        torch.randn(40, 3, generator=random, dtype=torch.float64),
        torch.randn(40, 2, generator=random, dtype=torch.float64),
    )
    folds = torch.arange(40) % 5
    exact = exact_kernel_ridge(z, t, folds, 0.5, 0.1)
    near = kernel_ridge(lambda: iter([(z, t, None)]), folds, z, 0.5, 0.1)
    torch.testing.assert_close(near.coefficients, exact.coefficients, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(near.held_out, exact.held_out, rtol=1e-6, atol=1e-7)


def test_dkn_training_features_do_not_see_their_own_label(digits):
    """With a tiny lam the fitted outputs equal the labels; were they handed on, the second layer would copy them."""
    x, y = digits
    model = DKNClassifier(layers=2, nodes=20, gamma=30.0, lam=1e-6).fit(x[:400], y[:400])
    assert model.score(x[:400], y[:400]) == 1
    assert model.errors_[0] > 0.005
    if len(model.errors_) == 2:
        assert model.errors_[1] > 0.0005


def test_dkn_leaves_out_a_layer_that_does_not_help():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(150, 4)), random.integers(0, 2, 150)
    model = DKNClassifier(layers=4, nodes=5).fit(x, y)
    assert len(model.errors_) == len(model.net_.coefficients) == len(model.net_.randoms) + 1
    assert model.errors_ == sorted(model.errors_, reverse=True)
    assert model.predict(x).shape == (150,)


def test_examples_of_the_page_hold():
    page = Path(__file__).parents[2] / "docs" / "layerwise.md"
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert tried > 30
    assert failed == 0


def test_no_module_of_the_room_needs_itself():
    """Importing one module never leads back to it: each can be read, and used, after the ones it names."""
    room = Path(layerwise.__file__).parent
    needs = {
        file.stem: {
            node.module.rpartition(".")[2]
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gracile.layerwise.")
        }
        for file in room.glob("*.py")
    }
    assert len(needs) > 15
    tuple(graphlib.TopologicalSorter(needs).static_order())  # Raises CycleError.


def test_a_sweep_over_rho_tells_what_each_learner_tells_by_itself():
    x, y = load_digits(return_X_y=True)
    train, test = (x[:500].astype("float32"), y[:500]), (x[500:700].astype("float32"), y[500:700])
    points = rho_sweep(train, test, [0.5, 2.0], lam=0.1, top=16.0, inverted=5, seed=3)
    assert [(point["rho"], point["n"]) for point in points] == [(0.5, 32), (2.0, 128)]
    learner = ELMClassifier(n=128, lam=0.1, scale=None, dtype="float32", seed=3).fit(train[0] / 16, train[1])
    assert points[1]["elm"] == pytest.approx(100 * learner.score(test[0] / 16, test[1]), abs=1.0)
    assert points[1]["inversion"] < 1e-9 < points[0]["inversion"]
    assert 0 <= points[0]["recovered"] <= points[1]["recovered"] <= 100


def test_a_mixture_loses_no_information_from_rho_2_on():
    few, enough = mixture_sweep(Mixture.random(3, 8, 4.0), [0.5, 2.0], samples=400, inverted=3)
    assert few["information_lost"] > 0.01
    assert enough["information_lost"] == pytest.approx(0, abs=1e-9)
    assert enough["information"] > few["information"] > 0
    assert few["information_error"] > 0
