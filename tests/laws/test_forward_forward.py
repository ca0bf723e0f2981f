"""Forward-forward: every row's gradient is autograd's, the laws' derivatives are those of the step, the classifier is a good citizen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import Tensor

from gracile.core.errors import DataError, InputError
from gracile.core.memory import peak_bytes
from gracile.core.seeding import generator
from gracile.data import Dataset
from gracile.forward_forward import (
    FFClassifier,
    FFNetwork,
    hoyer_sparsity,
    network_changes,
    random_wrong,
    theorem1,
    theorem2,
    write_labels,
)
from gracile.forward_forward.descent import correlation, watched_descent
from gracile.forward_forward.goodness import GOODNESS
from gracile.forward_forward.labels import LABELS
from gracile.forward_forward.losses import LOSSES
from gracile.forward_forward.network import NEGATIVES
from gracile.forward_forward.normalization import NORMALIZATIONS
from gracile.forward_forward.reach import law_reach, theorem1_sides
from gracile.forward_forward.watching import random_layer
from tests.conftest import make_blobs

F64 = torch.float64
CLASSES = 3
ROWS = list(itertools.product(sorted(GOODNESS), sorted(LOSSES), sorted(NORMALIZATIONS), sorted(LABELS)))


def problem(seed: int, samples: int = 9, features: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(samples, features, generator=random, dtype=F64)
    y = torch.randint(CLASSES, (samples,), generator=random)
    return x, y, random_wrong(y, CLASSES, random)


def network(seed: int = 0, **options: object) -> FFNetwork:
    torch.manual_seed(seed)
    return FFNetwork(12, CLASSES, (17, 16, 15), sharpness=1.5, **options).double()


def forward(net: FFNetwork, x: Tensor, y: Tensor, label: str, normalize: str, detach: bool) -> list[Tensor]:
    """The network written again, plainly."""
    h, layers = write_labels(x, y, CLASSES, label=label), []
    for layer in net.layers:
        if normalize != "none":
            h = h / h.norm(dim=1, keepdim=True).clamp_min(1e-6)
            h = h * h.shape[1] ** 0.5 if normalize == "rms" else h
        h = torch.relu(h.detach() @ layer.weight.T + layer.bias if detach else h @ layer.weight.T + layer.bias)
        layers.append(h)
    return layers


def local_losses(net: FFNetwork, positive: list[Tensor], negative: list[Tensor]) -> Tensor:
    good = net.goodness.value
    pairs = zip(positive, negative, net.thresholds, strict=True)
    return torch.stack([net.loss(good(p), good(n), theta, net.sharpness).value.mean() for p, n, theta in pairs]).sum()


@pytest.mark.parametrize(("goodness", "loss", "normalize", "label"), ROWS)
def test_gradients_are_those_of_each_layers_own_loss(goodness: str, loss: str, normalize: str, label: str):
    net = network(goodness=goodness, loss=loss, normalize=normalize, label=label)
    x, y, wrong = problem(1)
    found, right = net.gradients(x, y, wrong)
    positive, negative = (forward(net, x, labels, label, normalize, detach=True) for labels in (y, wrong))
    total = local_losses(net, positive, negative)
    expected = torch.autograd.grad(total, list(net.parameters()))
    assert found.item() == pytest.approx(total.item(), rel=1e-12)
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)
    good = torch.stack([net.goodness.value(p) - net.goodness.value(n) for p, n in zip(positive, negative, strict=True)])
    assert right == (good.sum(0) > 0).sum()
    totals = torch.stack(
        [sum(map(net.goodness.value, forward(net, x, y * 0 + c, label, normalize, False))) for c in range(CLASSES)], 1
    )
    torch.testing.assert_close(net(x), totals)


@pytest.mark.parametrize(("goodness", "loss", "normalize", "label"), ROWS)
def test_a_deep_laws_derivative_is_that_of_the_step(goodness: str, loss: str, normalize: str, label: str):
    """Twin: autograd through the whole network by the step size, every layer moving at once."""
    net = network(2, goodness=goodness, loss=loss, normalize=normalize, label=label)
    x, y, wrong = problem(3)
    changes = network_changes(net, x, y, wrong, wrong, undefined="nan")
    assert all(parameter.grad is None for parameter in net.parameters())
    net.gradients(x, y, wrong)
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    weights = {name: parameter.detach() for name, parameter in net.named_parameters()}

    def sparsities(eta: Tensor) -> Tensor:
        moved = {name: value - eta * gradients[name] for name, value in weights.items()}
        h, found = write_labels(x, wrong, CLASSES, label=label), []
        for number in range(3):
            if normalize != "none":
                h = h / h.norm(dim=1, keepdim=True) * (h.shape[1] ** 0.5 if normalize == "rms" else 1.0)
            h = torch.relu(h @ moved[f"layers.{number}.weight"].T + moved[f"layers.{number}.bias"])
            found.append((h.shape[1] ** 0.5 - h.sum(1) / h.norm(dim=1)) / (h.shape[1] ** 0.5 - 1))
        return torch.stack(found)

    expected = torch.autograd.functional.jacobian(sparsities, torch.zeros((), dtype=F64))
    torch.testing.assert_close(torch.stack([one.derivative for one in changes]), expected, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(one.sparser, one.derivative > 0) for one in changes)


def layer(seed: int, unit: bool = True, samples: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x, other = (torch.randn(samples, 6, generator=random, dtype=F64) for _ in range(2))
    if unit:
        x, other = x / x.norm(dim=1, keepdim=True), other / other.norm(dim=1, keepdim=True)
    return x, other, torch.randn(40, 6, generator=random, dtype=F64)


def derivative(weights: Tensor, bias: Tensor, x: Tensor, objective: Tensor) -> Tensor:
    """d S(x) / d eta at 0 of a gradient step on the objective, by autograd alone."""
    by_weights, *rest = torch.autograd.grad(objective, [weights, bias] if bias.requires_grad else [weights])
    by_bias = rest[0] if rest else torch.zeros_like(bias)

    def sparsity(eta: Tensor) -> Tensor:
        return hoyer_sparsity(torch.relu(x @ (weights - eta * by_weights).T + bias - eta * by_bias))

    return torch.autograd.functional.jacobian(sparsity, torch.zeros((), dtype=F64)).detach()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), bias=st.booleans(), unit=st.booleans(), loss=st.sampled_from(["decrease", *LOSSES]))
def test_the_theorems_derivatives_are_autograds(seed: int, bias: bool, unit: bool, loss: str):
    x, other, weights = layer(seed, unit)
    weights.requires_grad_()
    shift = torch.zeros(40, dtype=F64, requires_grad=bias)
    h, below = torch.relu(x @ weights.T + shift), torch.relu(other @ weights.T + shift)
    goods = [one.square().sum(1) for one in (h, below)]
    options = {"bias": bias, "unit_length": unit}
    pairs = (x, h.detach()), (other, below.detach())
    if loss == "decrease":
        found, objective = theorem1(*pairs[0], pairs[0], **options), goods[0].sum()
    else:
        found = theorem2(*pairs[1], *pairs, loss=loss, threshold=3.0, sharpness=0.7, **options)
        objective = LOSSES[loss](*goods, 3.0, 0.7).value.sum()
    expected = derivative(weights, shift, x if loss == "decrease" else other, objective)
    assert (found.derivative - expected).abs().max() <= 1e-12 * max(1.0, expected.abs().max().item())
    assert torch.equal(found.sparser, found.derivative > 0)


def test_theorem_1_is_the_printed_one_written_out_by_loops():
    x, _, weights = layer(5)
    h = torch.relu(x @ weights.T)
    found = theorem1(x, h, (x, h))
    for i in range(len(x)):
        a = b = 0.0
        for k in range(len(x)):
            masked, cos = h[k] * (h[i] > 0), (x[k] @ x[i]).item()
            a += masked.sum().item() * cos
            # |h_k * m_i| cos(h_i, h_k * m_i)
            b += (masked @ h[i] / h[i].norm()).item() * cos
        one, two = h[i].sum().item(), h[i].norm().item()
        assert found.left[i].item() == pytest.approx(one * b, rel=1e-12)
        assert found.right[i].item() == pytest.approx(two * a, rel=1e-12)
        if b > 0:
            assert found.sparser[i].item() == (one / two < a / b)
    opposite = theorem1(x, h, (x, h), increase=True)
    torch.testing.assert_close(opposite.derivative, -found.derivative)


def test_the_printed_quotient_turns_where_its_denominator_is_negative():
    """A sample that the batch pushes away from: the products say what happens, the quotient the opposite."""
    _, _, weights = layer(8)
    away = torch.eye(1, 6, dtype=F64)
    crowd = torch.nn.functional.normalize(
        torch.cat([-torch.ones(5, 1, dtype=F64), 0.3 * torch.randn(5, 5, dtype=F64)], 1), dim=1
    )
    h, pushed = torch.relu(away @ weights.T), torch.relu(crowd @ weights.T + 1)
    found = theorem1(away, h, (crowd, pushed))
    assert found.left.item() < 0
    quotient = found.right.item() / h.norm().item() / (found.left.item() / h.sum().item())
    assert (h.sum().item() / h.norm().item() < quotient) != found.sparser.item()
    after = torch.relu(away @ (weights - 2e-7 * pushed.T @ crowd).T)
    assert (hoyer_sparsity(after) > hoyer_sparsity(h)).item() == found.sparser.item()


def test_the_predicate_is_the_sign_of_small_steps_and_not_of_large_ones():
    from gracile.forward_forward.watching import random_layer, step_layer, unit_pairs

    digits, labels = load_digits(return_X_y=True)
    random = torch.Generator().manual_seed(0)
    pairs = unit_pairs(torch.tensor(digits[:128]), torch.tensor(labels[:128]), 10, random)
    weights = random_layer(2000, 64, random, F64)
    options = {"loss": "difference", "threshold": 0.0, "sharpness": 1.0}
    agree = [step_layer(weights.clone(), *pairs, rate, **options)["positive"].agree for rate in (1e-6, 1e-3, 0.1, 1.0)]
    assert agree[0] == 1.0
    assert agree == sorted(agree, reverse=True)
    assert agree[-1] < 0.95


def test_the_order_of_the_batch_does_not_matter():
    x, other, weights = layer(6)
    pairs = [(one, torch.relu(one @ weights.T)) for one in (x, other)]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    mixed = [(one[order], h[order]) for one, h in pairs]
    for loss in LOSSES:
        plain, shuffled = (theorem2(*pairs[0], *both, loss=loss) for both in (pairs, mixed))
        torch.testing.assert_close(plain.derivative, shuffled.derivative, rtol=1e-10, atol=1e-13)
    net, (x, y, wrong) = network(), problem(4)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    net.gradients(x, y, wrong)
    first = [parameter.grad for parameter in net.parameters()]
    net.gradients(x[order], y[order], wrong[order])
    for before, parameter in zip(first, net.parameters(), strict=True):
        torch.testing.assert_close(before, parameter.grad, rtol=1e-10, atol=1e-13)


def test_hoyer_sparsity_has_its_ends_and_says_where_it_is_undefined():
    assert hoyer_sparsity(torch.ones(3, 8, dtype=F64)).tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    assert hoyer_sparsity(5 * torch.eye(4, dtype=F64)).tolist() == pytest.approx([1] * 4)
    zeros = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    with pytest.raises(InputError, match=r"1 of 2 samples activate nothing.*undefined"):
        hoyer_sparsity(zeros)
    assert hoyer_sparsity(zeros, undefined="nan").isnan().tolist() == [True, False]
    with pytest.raises(InputError, match="n from 2 up"):
        hoyer_sparsity(torch.ones(3, 1))


def test_the_theorems_refuse_what_they_do_not_hold_for():
    x, other, weights = layer(7)
    h, below = torch.relu(x @ weights.T), torch.relu(other @ weights.T)
    with pytest.raises(InputError, match=r"inputs of length 1.*unit_length=False"):
        theorem1(2 * x, h, (x, h))
    with pytest.raises(InputError, match=r"equals its positive one"):
        theorem2(x, h, (x, h), (x, h))
    with pytest.raises(InputError, match="negative numbers"):
        theorem1(x, -h - 1, (x, h))
    with pytest.raises(InputError, match="do not fit"):
        theorem2(x, h[1:], (x, h), (other, below))
    with pytest.raises(InputError, match="of one layer"):
        theorem1(x, h, (x, h[:, 1:]))
    dead = torch.where(torch.arange(len(h))[:, None] == 2, 0.0, h)
    with pytest.raises(InputError, match="1 of 11 samples activate nothing"):
        theorem1(x, dead, (x, h))
    found = theorem1(x, dead, (x, h), undefined="nan")
    assert found.derivative.isnan().nonzero().flatten().tolist() == [2]
    assert not found.sparser[2]


@pytest.mark.parametrize("negatives", sorted(NEGATIVES))
def test_negatives_are_wrong_and_hard_ones_follow_the_networks_guess(negatives: str):
    net = network(negatives=negatives)
    x, _, _ = problem(5, samples=1)
    x, y = x.expand(4000, -1), torch.zeros(4000, dtype=torch.long)
    wrong = net._draw(*net._shared(x), y)
    assert not (wrong == y).any()
    depth = NEGATIVES[negatives]
    odds = (
        (net.sharpness * net.goodness_by_layer(x[:1])[0, 1:, : depth or 3].mean(1)).exp()
        if depth != 0
        else torch.ones(2)
    )
    share = (wrong == 1).double().mean().item()
    # Four standard errors of a share of 4000.
    assert share == pytest.approx((odds[0] / odds.sum()).item(), abs=4 * 0.5 / 4000**0.5)


def test_memory_for_activations_does_not_grow_with_depth():
    """Beyond the gradients themselves: 40 kB a layer, where the activations of one are 800 kB."""
    x, y = torch.rand(1024, 100), torch.randint(10, (1024,))

    def peak(depth: int) -> int:
        net = FFNetwork(100, 10, [100] * depth)
        return peak_bytes(lambda: net.gradients(x, y)) - 40_400 * depth

    peak(1)
    assert abs(peak(9) - peak(3)) < 100_000


def test_labels_that_cannot_be_shown_are_refused():
    with pytest.raises(InputError, match=r"20 labels do not fit into 12 features.*append"):
        FFNetwork(12, 20, (5,), label="overlay")
    net, (x, y, _) = network(), problem(0)
    with pytest.raises(DataError, match="equals the positive one"):
        net.gradients(x, y, y)
    with pytest.raises(DataError, match="labels run from"):
        net.gradients(x, y + 1)
    with pytest.raises(InputError, match=r"no goodness named 'mean_squares'.*Did you mean 'mean_square'"):
        FFNetwork(12, 3, goodness="mean_squares")
    for wrong in ({"widths": ()}, {"widths": (0,)}, {"skip": 4}, {"sharpness": 0.0}, {"num_classes": 1}):
        with pytest.raises(InputError):
            FFNetwork(**{"in_features": 12, "num_classes": 3, **wrong})


SMALL = {"widths": (20, 20), "epochs": 20, "batch_size": 32}


@parametrize_with_checks([FFClassifier(**SMALL)])
def test_scikit_learn_checks(estimator, check, array_api):
    check(estimator)


def test_a_sample_of_weight_two_pulls_as_two_of_it():
    net, (x, y, _) = network(), problem(0)
    wrong = (y + 1) % 3
    twice = torch.cat([torch.arange(len(y)), torch.tensor([0, 0])])
    net.gradients(x[twice], y[twice], wrong[twice])
    copied = [parameter.grad.clone() * len(twice) for parameter in net.parameters()]
    weights = torch.ones(len(y)).index_fill(0, torch.tensor([0]), 3.0)
    net.gradients(x, y, wrong, weights=weights)
    for parameter, expected in zip(net.parameters(), copied, strict=True):
        torch.testing.assert_close(parameter.grad * len(y), expected, rtol=1e-4, atol=1e-6)


def test_weights_decide_what_it_learns():
    """Every sample stands there with two labels; the weights say which."""
    x, _, y, _ = digits()
    x, y = x[:200], y[:200]
    weights = np.repeat([2.5, 0.1], len(y))
    model = FFClassifier((50,), epochs=15, batch_size=32)
    model.fit(np.tile(x, (2, 1)), np.concatenate([y, (y + 1) % 10]), sample_weight=weights)
    assert model.score(x, y) > 0.9


def test_the_order_of_samples_makes_no_difference():
    x, test_x, y, _ = digits()
    turned = [clone(FFClassifier((20,), epochs=1)).fit(x[::step], y[::step]) for step in (1, -1)]
    assert np.array_equal(*(model.decision_function(test_x) for model in turned))


def test_class_weights_move_what_is_predicted():
    x, test_x, y, _ = digits()
    model = FFClassifier((20,), epochs=2)
    plain, heavy = clone(model).fit(x, y), clone(model).set_params(class_weight={3: 15.0}).fit(x, y)
    assert (heavy.predict(test_x) == 3).sum() > (plain.predict(test_x) == 3).sum()


def test_weights_and_targets_it_cannot_take_are_refused():
    x, _, y, _ = digits()
    model = FFClassifier((20,), epochs=1)
    with pytest.raises(DataError, match=r"as many copies.*Divide them by 1000"):
        model.fit(x, y, sample_weight=np.full(len(y), 1000.0))
    with pytest.raises(DataError, match="All weights are zero"):
        model.fit(x, y, sample_weight=np.zeros(len(y)))
    with pytest.raises(DataError, match="2 columns, and one label per sample"):
        model.fit(x, np.stack([y, y], 1))


def digits() -> tuple[np.ndarray, ...]:
    x, y = load_digits(return_X_y=True)
    return train_test_split(x, y, random_state=0)


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({}, 0.95),
        ({"loss": "logistic"}, 0.92),
        ({"negatives": "random"}, 0.9),
        ({"goodness": "length"}, 0.93),
        ({"goodness": "squared_sum", "normalize": "length", "sharpness": 6.0}, 0.9),
    ],
)
def test_it_learns_digits_in_seconds(options: dict[str, object], least: float):
    x, test_x, y, test_y = digits()
    model = FFClassifier((100, 100), epochs=10, batch_size=32, **options).fit(x, y)
    assert model.score(test_x, test_y) > least
    assert model.goodness_by_layer(test_x[:5]).shape == (5, 10, 2)
    rows = model.history_.rows
    assert len(rows) == 10
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    x, test_x, y, _ = digits()
    scores = [clone(FFClassifier((20,), epochs=2, seed=seed)).fit(x, y).decision_function(test_x) for seed in (0, 0, 1)]
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_its_probabilities_are_as_sure_as_they_are_right():
    x, test_x, y, test_y = digits()
    model = FFClassifier((100, 100), epochs=10, batch_size=32).fit(x, y)
    found = model.predict_proba(test_x)
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_array_equal(found.argmax(1), model.predict(test_x))
    assert found.max(1).mean() == pytest.approx(model.score(test_x, test_y), abs=0.05)
    # No surer than if the layers' odds multiplied, nor less than if they were one.
    assert 1 / 4 <= model.temperature_[0] <= 2 / 4


def test_it_is_saved_and_read_without_pickle(tmp_path):
    x, test_x, y, _ = digits()
    model = FFClassifier((20, 15), epochs=1, label="overlay", skip=1).fit(x, np.array([f"class {one}" for one in y]))
    model.save(tmp_path / "ff.safetensors")
    again = FFClassifier.load(tmp_path / "ff.safetensors")
    assert again.get_params() == model.get_params()
    np.testing.assert_array_equal(again.predict_proba(test_x), model.predict_proba(test_x))
    np.testing.assert_array_equal(again.goodness_by_layer(test_x), model.goodness_by_layer(test_x))
    assert again.history_.rows == model.history_.rows
    assert b"pickle" not in (tmp_path / "ff.safetensors").read_bytes()


def images(samples: int = 96) -> Dataset:
    return make_blobs().train.subset(torch.arange(samples))


@pytest.mark.parametrize("labelled", [False, True])
def test_sides_of_theorem_1_are_those_of_each_batch(labelled: bool) -> None:
    data = images()
    found = theorem1_sides(data, width=32, batch_size=40, seed=3, labelled=labelled)
    assert found.left.shape == found.right.shape == found.satisfied.shape == (80,)
    assert len(found.lengths) == 2
    # Inputs of length 1 keep it on average under weights of variance 2 / n.
    assert all(0.6 < length < 1.5 for length in found.lengths)
    weights = random_layer(32, 64, generator(3, "layer"))
    order = torch.randperm(96, generator=generator(3, "order"))[40:80]
    x = data.inputs[order].flatten(1) / 255
    if labelled:
        x = write_labels(x, data.labels[order], 3)
    x = x / x.norm(dim=1, keepdim=True)
    h = torch.relu(x @ weights.T)
    torch.testing.assert_close(found.left[40:], theorem1(x, h, (x, h)).left)


def test_a_small_step_does_what_the_laws_foretell_and_a_large_one_not_always() -> None:
    found = law_reach(images(), [1e-6, 0.1], width=200, batch_size=48, samples=96)
    assert set(found) == {"theorem 1", "theorem 2"}
    for small, large in found.values():
        assert len(small) == len(large) == 2
        assert min(one.agree for one in small) == 1.0
    assert min(one.agree for one in found["theorem 2"][1]) < 1.0


@pytest.mark.parametrize(("loss", "kinds"), [("decrease", ["positive"]), ("difference", ["positive", "negative"])])
def test_a_watched_descent_of_one_layer_tells_every_step(loss: str, kinds: list[str]) -> None:
    (layer,) = watched_descent(
        images(), loss=loss, lr=1e-3, epochs=2, widths=[24], batch_size=32, probes=20, probe_steps=4
    )
    assert list(layer.shares) == kinds
    assert all(len(values) == 6 for shares in layer.shares.values() for values in vars(shares).values())
    assert [probe["iteration"] for probe in layer.probes] == [0, 4, 6]
    assert all(0 <= probe["positive"] <= 1 and 0 <= probe["dead"] <= 100 for probe in layer.probes)
    assert layer.to_json()["probes"] == layer.probes


def test_a_watched_network_tells_each_layer_and_repeats_itself() -> None:
    settings = {"loss": "difference", "lr": 0.01, "epochs": 1, "widths": [16, 12], "batch_size": 32, "probes": 20}
    first, second = (watched_descent(images(), **settings) for _ in range(2))
    assert len(first) == 2
    assert first == second


def test_what_stands_still_correlates_with_itself_alone() -> None:
    still, moving = np.ones(5), np.arange(5.0)
    assert correlation(still, still) == 1.0
    assert correlation(still, moving) == 0.0
    assert correlation(moving, 2 * moving) == pytest.approx(1.0)
