"""ReDense: equal at the start, in the ball, never worse; errors that say what to do."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from gracile.core.errors import DataError, InputError
from gracile.layerwise.beside_control import BesideControl
from gracile.layerwise.redense import ReDense, retrain_last
from gracile.layerwise.softmax import Features, fit_softmax

METHODS = ["monotone", "adam"]


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x[:600]).float() / 16, torch.tensor(y[:600]).long()


def network(seed: int = 0, *, bias: bool = True) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, 10, bias=bias))


def convolutional() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(),
            nn.Conv2d(6, 5, 3, stride=2, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(80, 10),
        )  # fmt: skip


@pytest.mark.parametrize("m", [None, 24, 25, 60])
@pytest.mark.parametrize("bias", [True, False])
def test_starting_predictions_are_the_networks(digits, m, bias):
    net = network(bias=bias).eval()
    wider = ReDense(net, m=m)
    torch.testing.assert_close(wider(digits[0]), net(digits[0]), rtol=1e-6, atol=1e-6)


def test_starting_predictions_in_float64(digits):
    net = network().double().eval()
    torch.testing.assert_close(ReDense(net)(digits[0].double()), net(digits[0].double()), rtol=1e-13, atol=1e-13)


def test_a_gaussian_matrix_starts_equal_too_but_its_ball_is_wider_the_squarer_it_is(digits):
    net = network().double().eval()
    square, tall = (ReDense(net, m=m, matrix="gaussian") for m in (24, 240))
    for wider in (square, tall):
        torch.testing.assert_close(wider(digits[0].double()), net(digits[0].double()), rtol=1e-9, atol=1e-9)
    # Relative to the size of the features: |O R^+ U| |R|, which for orthonormal columns does not depend on m.
    width = lambda wider: wider.eps * float(wider.model[3][0].weight.norm())
    assert width(square) > 2 * width(tall)


def test_alpha_widens_the_ball(digits):
    net = network().eval()
    tight, wide = ReDense(net), ReDense(net, alpha=5)
    assert wide.eps == pytest.approx(5 * tight.eps)
    assert wide.fit(digits, epochs=60).losses[-1] < tight.fit(digits, epochs=60).losses[-1]
    with pytest.raises(InputError, match="outside the ball"):
        ReDense(net, alpha=0.9)


def test_an_unknown_matrix_is_refused():
    with pytest.raises(InputError, match="no matrix named 'unit'"):
        ReDense(network(), matrix="unit")


@pytest.mark.parametrize("layer", ["1", "3", "6"])
def test_starting_predictions_inside_a_convolutional_network(digits, layer):
    net = convolutional()
    torch.testing.assert_close(ReDense(net, layer=layer, m=100)(digits[0]), net(digits[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_is_never_above_the_original_and_weights_stay_in_the_ball(digits, method, seed):
    net = network(seed).eval()
    wider = ReDense(net, m=40, seed=seed)
    wider.fit(digits, epochs=30, method=method, lr=0.1)
    before, after = (nn.functional.cross_entropy(model(digits[0]), digits[1]) for model in (net, wider))
    assert after < before
    assert wider.model[3][2].weight.norm() <= wider.eps * (1 + 1e-6)


def test_monotone_never_rises_where_adam_does(digits):
    """A large step of Adam with the tight ball raises the loss; that is why it is not the default."""
    net = network().eval()
    rises = {}
    for method in METHODS:
        losses = ReDense(net).fit(digits, epochs=40, method=method, lr=1.0).losses
        rises[method] = max(after - before for before, after in itertools.pairwise(losses))
    assert rises["monotone"] <= 0
    assert rises["adam"] > 0


def test_monotone_reaches_the_optimum_of_a_convex_problem(digits):
    """The plain twin is projected gradient descent with a tiny step."""
    features = Features(digits[0].double(), digits[1])
    start, bias = torch.zeros(64, 10, dtype=torch.float64), torch.zeros(10, dtype=torch.float64)
    found = fit_softmax(features, start, bias, eps=2.0, epochs=150).losses[-1]
    weights = start.clone()
    for _ in range(1500):
        slopes = (digits[0].double() @ weights + bias).softmax(1)
        slopes[torch.arange(600), digits[1]] -= 1
        weights = weights - 0.15 * digits[0].double().T @ slopes / 600
        weights *= min(1.0, 2.0 / float(weights.norm()))
        bias = bias - 0.15 * slopes.mean(0)
    plain = float(nn.functional.cross_entropy(digits[0].double() @ weights + bias, digits[1]))
    assert found == pytest.approx(plain, abs=1e-4)


def test_features_too_large_to_keep_give_the_same(digits):
    transform = lambda h: torch.cat((h, -h), 1).relu()
    kept, anew = (Features(*digits, transform, keep=keep) for keep in (2**30, 0))
    weights, bias = torch.randn(128, 10, generator=torch.Generator().manual_seed(0)), torch.zeros(10)
    torch.testing.assert_close(kept.logits(weights, bias), anew.logits(weights, bias))
    slopes = torch.ones(600, 10)
    torch.testing.assert_close(kept.gradient(slopes), anew.gradient(slopes))
    assert kept.mean_square() == pytest.approx(anew.mean_square())


def test_an_intermediate_layer_learns_without_moving_the_rest(digits):
    net = convolutional()
    wider = ReDense(net, layer="3")
    fitted = wider.fit(digits, epochs=3)
    assert min(fitted.losses) < fitted.losses[0]
    state, after = net.state_dict(), wider.plain().state_dict()
    assert all(torch.equal(state[name], after[name]) for name in ("1.weight", "1.bias", "6.weight", "6.bias"))
    assert wider.model[3][2].weight.norm() <= wider.eps * (1 + 1e-6)
    kept = nn.functional.cross_entropy(wider(digits[0]), digits[1])
    assert float(kept) == pytest.approx(min(fitted.losses), rel=1e-5)


def test_the_users_network_stays_as_it_was(digits):
    net = network().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    ReDense(net).fit(digits, epochs=3)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_plain_network_knows_nothing_of_this_library(digits):
    wider = ReDense(network())
    plain = wider.plain()
    assert all(type(module).__module__.startswith("torch.") for module in plain.modules())
    torch.testing.assert_close(plain(digits[0]), wider(digits[0]))


def test_training_mode_does_not_wake_dropout(digits):
    wider = ReDense(network()).train()
    assert torch.equal(wider(digits[0]), wider(digits[0]))


def test_batches_equal_whole_arrays(digits):
    x, y = digits
    wider, batched = ReDense(network()), ReDense(network())
    wider.fit(digits, epochs=5)
    batched.fit([(x[:250], y[:250]), (x[250:], y[250:])], epochs=5)
    torch.testing.assert_close(wider(x), batched(x), rtol=1e-4, atol=1e-5)


def test_a_bare_linear_layer_is_a_network_too(digits):
    net = nn.Linear(64, 10)
    wider = ReDense(net)
    torch.testing.assert_close(wider(digits[0]), net(digits[0]), rtol=1e-5, atol=1e-5)
    wider.fit(digits, epochs=3)


@pytest.mark.parametrize("method", METHODS)
def test_the_control_trains_the_last_layer_alone(digits, method):
    net = network()
    retrained, fitted = retrain_last(net, digits, epochs=20, method=method, lr=0.01)
    assert fitted.losses[-1] < fitted.losses[0]
    assert torch.equal(retrained[0].weight, net[0].weight)
    assert not torch.equal(retrained[3].weight, net[3].weight)
    with torch.no_grad():
        assert float(nn.functional.cross_entropy(retrained(digits[0]), digits[1])) == pytest.approx(
            min(fitted.losses), rel=1e-5
        )


def test_too_few_rows_are_refused():
    with pytest.raises(InputError, match=r"m = 23 is below n = 24.*Set m to 24"):
        ReDense(network(), m=23)


def test_a_network_without_a_linear_layer_is_refused():
    with pytest.raises(InputError, match="no linear output"):
        ReDense(nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten()))


def test_a_softmax_behind_the_last_layer_is_refused(digits):
    with pytest.raises(InputError, match=r"no linear output.*without a softmax"):
        ReDense(nn.Sequential(network(), nn.Softmax(1))).fit(digits, epochs=1)


def test_an_unknown_layer_names_the_nearest():
    with pytest.raises(InputError, match="no layer named 'classifer'"):
        ReDense(network(), layer="classifer")


def test_a_layer_of_another_kind_is_refused():
    with pytest.raises(InputError, match="is a ReLU"):
        ReDense(network(), layer="1")


def test_labels_beyond_the_outputs_are_refused(digits):
    with pytest.raises(DataError, match="Labels run from 1 to 10"):
        ReDense(network()).fit((digits[0], digits[1] + 1), epochs=1)


def test_nan_inputs_are_refused(digits):
    x = digits[0].clone()
    x[3, 3] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        ReDense(network()).fit((x, digits[1]), epochs=1)


def test_nan_weights_are_refused(digits):
    net = network()
    net[3].weight.data[0, 0] = torch.nan
    with pytest.raises(DataError, match="outputs contain NaN"):
        ReDense(net).fit(digits, epochs=1)


def test_data_that_pass_once_are_refused(digits):
    with pytest.raises(InputError, match="only once"):
        ReDense(network()).fit(iter([digits]), epochs=1)


def test_an_unknown_method_is_refused(digits):
    with pytest.raises(InputError, match="no method 'sgd'"):
        ReDense(network()).fit(digits, epochs=1, method="sgd")


class Wrapped(nn.Module):
    """Returns what `wrap` makes of the logits, as models of other libraries do."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.inside, self.wrap = network(), wrap

    def forward(self, x: Tensor):
        return self.wrap(self.inside(x))


@pytest.mark.parametrize("layer", ["last", "inside.0"])
@pytest.mark.parametrize("wrap", [lambda z: {"logits": z}, lambda z: SimpleNamespace(logits=z)], ids=["dict", "object"])
def test_logits_may_come_in_a_mapping_or_an_object(digits, wrap, layer):
    fitted = ReDense(Wrapped(wrap).eval(), layer=layer).fit(digits, epochs=2)
    plain = ReDense(network().eval(), layer=layer.removeprefix("inside.")).fit(digits, epochs=2)
    assert fitted.losses[0] == pytest.approx(plain.losses[0])
    assert min(fitted.losses) < fitted.losses[0]


def test_an_output_without_logits_names_the_remedy(digits):
    with pytest.raises(InputError, match=r"returns a dict without logits.*forward returns the logits"):
        ReDense(Wrapped(lambda z: {"scores": z}).eval()).fit(digits, epochs=1)


@pytest.mark.parametrize("layer", ["last", "0"])
def test_float64_arrays_of_any_kind_fit_a_float32_network(digits, layer):
    x, y = (part.numpy() for part in digits)
    plain = ReDense(network().eval(), layer=layer).fit(digits, epochs=1)
    turned = x.astype(">f8")[::-1].copy()[::-1], y.astype(">i4")[::-1].copy()[::-1]
    assert turned[0].strides[0] < 0
    assert ReDense(network().eval(), layer=layer).fit(turned, epochs=1).losses[0] == pytest.approx(plain.losses[0])


def test_beside_its_control_redense_is_what_both_are_by_themselves(digits):
    train, test = tuple(one[:400] for one in digits), tuple(one[400:] for one in digits)
    net = network().eval()
    beside = BesideControl(net, train, test)
    accuracy = lambda model: 100 * float((model(test[0]).argmax(1) == test[1]).double().mean())
    assert beside.accuracy(net) == pytest.approx(accuracy(net))
    options = {"epochs": 5, "method": "monotone", "lr": 1e-3}
    found, control = beside.at_the_end(m=30, seed=1, **options), beside.control(**options)
    wider = ReDense(net, m=30, seed=1)
    losses = wider.fit(train, **options).losses
    assert found["losses"] == pytest.approx(losses)
    assert found["redense"] == pytest.approx(accuracy(wider))
    assert found["m"] == 30
    assert found["start_difference"] < 1e-6
    assert len(found["curve"]) == len(losses)
    retrained, fitted = retrain_last(net, train, **options)
    assert control["control_losses"] == fitted.losses
    assert control["control"] == pytest.approx(accuracy(retrained))


def test_a_layer_inside_is_measured_by_the_whole_network(digits):
    net = network().eval()
    beside = BesideControl(net, digits, digits)
    found = beside.inside("0", epochs=1, lr=1e-3)
    assert found["start_difference"] < 1e-5
    assert found["kept_loss"] == min(found["losses"])
    assert found["redense"] >= beside.accuracy(net) - 1
