"""Learning over many workers: the same network as in one place, whoever holds the samples."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import ConvergenceWarning

from gracile.core.errors import DataError, InputError
from gracile.layerwise import Consensus, ELMClassifier, SSFNClassifier
from gracile.layerwise.least_squares import exact
from gracile.layerwise.shared import Shared, joined
from gracile.layerwise.statistics import Statistics
from gracile.layerwise.table import ESTIMATORS
from gracile.workers import network

SMALL = {
    "ELM": {"n": 80, "lam": 3.0},
    "SLFN": {"rho": 2.0, "lam": 3.0},
    "SSFN": {"max_layers": 3, "max_nodes": 40, "node_step": 40, "lam": 3.0, "alpha": 2.0},
    "HNF": {"layers": 2, "m": 65, "lam": 3.0, "alpha": 1.0},
}
NAMES = sorted(name for name in ESTIMATORS if not name.startswith("DKN"))


class Here:
    """All workers in this process; gossip on a ring."""

    def __init__(self, workers: int) -> None:
        self.workers, self.local, self.bytes_sent = workers, range(workers), 0
        eye = torch.eye(workers, dtype=torch.float64)
        self.mixing = (eye + eye.roll(1, 0) + eye.roll(-1, 0)) / 3

    def average(self, values: torch.Tensor, rounds: int | None = None) -> torch.Tensor:
        sent = self.workers - 1 if rounds is None else self.workers * rounds
        self.bytes_sent += 2 * sent * values[0].numel() * values.element_size()
        if rounds is None:
            return values.mean(0, keepdim=True).expand_as(values).clone()
        mixing = torch.linalg.matrix_power(self.mixing, rounds).to(values.dtype)
        return (mixing @ values.flatten(1)).reshape(values.shape)


class Threads:
    """One worker for each thread: what separate processes see."""

    def __init__(self, workers: int) -> None:
        self.rows: list[torch.Tensor] = [torch.empty(0)] * workers
        self.barrier = threading.Barrier(workers, timeout=20)

    def fit(
        self, models: list, parts: list[tuple[np.ndarray, np.ndarray]], **options: object
    ) -> list[Exception | None]:
        raised: list[Exception | None] = [None] * len(models)

        def run(which: int) -> None:
            try:
                models[which].fit(*parts[which], workers=Consensus(Member(self, which), **options))
            except Exception as error:
                raised[which] = error
                self.barrier.abort()

        threads = [threading.Thread(target=run, args=(which,)) for which in range(len(models))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return raised


class Member:
    def __init__(self, network: Threads, which: int) -> None:
        self.network, self.local, self.workers, self.bytes_sent = network, [which], len(network.rows), 0

    def average(self, values: torch.Tensor, rounds: int | None = None) -> torch.Tensor:
        self.network.rows[self.local[0]] = values[0]
        self.network.barrier.wait()
        mean = torch.stack(self.network.rows).mean(0, keepdim=True)
        self.network.barrier.wait()
        return mean


def small(name: str, **more: object):
    options = next(options for start, options in SMALL.items() if name.startswith(start))
    return ESTIMATORS[name](**{**options, "scale": None, "dtype": "float64", **more})


def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True) if name.endswith("Classifier") else load_diabetes(return_X_y=True)
    return (x[:400] / 16 if name.endswith("Classifier") else 10 * x[:400]), y[:400]


def objective(model, x: np.ndarray, y: np.ndarray) -> float:
    """What the last layer minimises: squared error, with its ridge where there is one."""
    if hasattr(model, "costs_"):
        return model.costs_[-1]
    outputs = torch.from_numpy(model._outputs(x))
    targets = model._one_hot(model._index(y)) if hasattr(model, "classes_") else model._standardised(y)
    return float((outputs - targets).square().sum() + model.lam * model.net_[-1].weight.square().sum())


@pytest.mark.parametrize("name", NAMES)
def test_distributed_equals_central_in_cost(name):
    x, y = data(name)
    central, shared = (
        small(name).fit(x, y),
        small(name).fit(x, y, workers=Consensus(network("ring", 5), steps=1000)),
    )
    assert objective(shared, x, y) == pytest.approx(objective(central, x, y), rel=1e-4)
    assert abs(shared.score(x, y) - central.score(x, y)) < 0.01


@pytest.mark.parametrize("name", NAMES)
def test_adding_up_gram_matrices_is_exact(name):
    x, y = data(name)
    central, shared = small(name).fit(x, y), small(name).fit(x, y, workers=Consensus(Here(5), method="gram"))
    assert objective(shared, x, y) == pytest.approx(objective(central, x, y), rel=1e-8)


@pytest.mark.filterwarnings("ignore:Learning over workers")  # That it is told is tested below.
@pytest.mark.parametrize("name", ["ELMClassifier", "SSFNRegressor", "HNFClassifier"])
def test_gossip_comes_close_and_everyone_keeps_one_network(name):
    x, y = data(name)
    central = small(name).fit(x, y)
    shared = small(name).fit(x, y, workers=Consensus(network("ring", 5), rounds=10, steps=300))
    assert objective(shared, x, y) == pytest.approx(objective(central, x, y), rel=1e-2)


@pytest.mark.filterwarnings("ignore:Learning over workers")  # That it is told is tested below.
@pytest.mark.parametrize("name", NAMES)
def test_separate_processes_find_the_same_bits(name):
    x, y = data(name)
    edges = [0, 100, 200, 300, 400]
    parts = [(x[a:b], y[a:b]) for a, b in itertools.pairwise(edges)]
    models = [small(name) for _ in parts]
    assert Threads(4).fit(models, parts, steps=30) == [None] * 4
    together = small(name).fit(x, y, workers=Consensus(Here(4), steps=30))
    for model in models:
        for own, other in zip(model.net_.parameters(), models[0].net_.parameters(), strict=True):
            assert torch.equal(own, other)
    # Sums over a process's samples are taken in another order where it hosts several workers.
    np.testing.assert_allclose(models[0]._outputs(x), together._outputs(x), rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Learning over workers")  # That it is told is tested below.
@given(seed=st.integers(0, 10**6), workers=st.integers(1, 6), eps=st.floats(0.05, 20), scale=st.floats(1e-3, 1e3))
@settings(max_examples=25, deadline=None)
def test_a_ball_over_workers_has_the_exact_cost(seed, workers, eps, scale):
    """Whatever the units, and however unlike the workers' samples are."""
    random = torch.Generator().manual_seed(seed)
    y = scale * torch.randn(40 * workers, 6, generator=random, dtype=torch.float64)
    t = y @ torch.randn(6, 2, generator=random, dtype=torch.float64) / scale
    t += torch.randn(t.shape, generator=random, dtype=torch.float64)
    order = t[:, 0].argsort()
    parts = []
    for rows in order.tensor_split(workers):
        parts.append(Statistics(6, 2))
        parts[-1].add(y[rows], t[rows])
    problem = joined(parts, Consensus(Here(workers), steps=1000, tolerance=1e-8), torch.float64)
    assert isinstance(problem, Shared)
    found = problem.in_ball(eps / scale, torch.zeros(6, 2, dtype=torch.float64))
    whole = sum(parts[1:], parts[0])
    assert found.cost == pytest.approx(exact(whole, eps / scale).cost, rel=1e-4)
    assert float(found.weights.norm()) <= eps / scale * (1 + 1e-12)


@pytest.mark.filterwarnings("ignore:Learning over workers")  # That it is told is tested below.
@pytest.mark.parametrize("rounds", [None, 10])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_the_training_cost_never_rises(alpha, rounds):
    x, y = data("SSFNClassifier")
    order = y.argsort(kind="stable")
    shared = Consensus(Here(4), steps=40, rounds=rounds)
    model = small("SSFNClassifier", alpha=alpha, layer_gain=0.0).fit(x[order], y[order], workers=shared)
    assert model.costs_ == sorted(model.costs_, reverse=True)


@pytest.mark.filterwarnings("ignore:Learning over workers")  # That it is told is tested below.
def test_messages_depend_on_the_network_and_not_on_the_samples():
    x, y = data("ELMClassifier")
    sent = []
    for samples in (200, 400):
        here = Here(4)
        small("ELMClassifier").fit(
            x[:samples], y[:samples], workers=Consensus(here, method="admm", steps=20, tolerance=0.0)
        )
        sent.append(here.bytes_sent)
    assert sent[0] == sent[1]
    # 20 means, the last one and the residual at it, of 80 x 10 float64 over 6 messages; little else.
    assert 22 * 6 * 800 * 8 <= sent[0] < 22 * 6 * 800 * 8 * 1.02


@pytest.mark.parametrize("skew", [False, True])
def test_nearly_collinear_features_come_to_the_central_solution_or_are_told(skew):
    """400 nodes on 64 inputs: ADMM's weights were 77 % off after all its iterations, in silence."""
    x, y = load_digits(return_X_y=True)
    x, y = x / 16, y
    order = y.argsort(kind="stable") if skew else np.random.default_rng(0).permutation(len(y))
    x, y = x[order], y[order]
    made = [ELMClassifier(n=400, lam=0.01, dtype="float64") for _ in range(3)]
    central = objective(made[0].fit(x, y), x, y)
    ring = network("ring", 5)
    shared = objective(made[1].fit(x, y, workers=ring), x, y)
    assert central * (1 - 1e-9) <= shared <= central * (1 + 1e-4)
    with pytest.warns(ConvergenceWarning, match="of itself above that of one place"):
        made[2].fit(x, y, workers=Consensus(network("ring", 5), method="admm", steps=100))


@given(seed=st.integers(0, 10**6), workers=st.integers(1, 6), lam=st.floats(1e-3, 10), ball=st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_bound_on_the_cost_holds(seed, workers, lam, ball):
    """At any weights, of which those of few iterations are one kind and random ones another."""
    random = torch.Generator().manual_seed(seed)
    y = torch.randn(30 * workers, 6, generator=random, dtype=torch.float64)
    t = y @ torch.randn(6, 2, generator=random, dtype=torch.float64) + torch.randn(len(y), 2, generator=random).double()
    parts = []
    for rows in t[:, 0].argsort().tensor_split(workers):
        parts.append(Statistics(6, 2))
        parts[-1].add(y[rows], t[rows])
    problem = joined(parts, Consensus(Here(workers)), torch.float64)
    assert isinstance(problem, Shared)
    whole, weights = sum(parts[1:], parts[0]), torch.randn(6, 2, generator=random, dtype=torch.float64)
    if ball:
        weights, best = weights / weights.norm() * lam, exact(whole, lam).cost
        bound, misfit = problem._bound(weights, eps=lam)
        own = misfit
    else:
        solved = whole.ridge(lam)
        best = whole.cost(solved) + lam * float(solved.square().sum())
        bound, misfit = problem._bound(weights, lam)
        own = misfit + lam * float(weights.square().sum())
    assert misfit == pytest.approx(whole.cost(weights))
    assert own - best <= bound * own * (1 + 1e-9)
    if workers == 1 and not ball:
        assert own - best == pytest.approx(bound * own, rel=1e-6)


def test_conjugate_gradients_send_less_than_admm_where_both_converge():
    x, y = data("ELMClassifier")
    sent = {}
    for method in ("admm", "cg"):
        here = Here(4)
        made = ELMClassifier(n=80, lam=100.0, dtype="float64").fit(x, y, workers=Consensus(here, method=method))
        sent[method] = here.bytes_sent
        assert objective(made, x, y) <= objective(clone(made).fit(x, y), x, y) * (1 + 1e-4)
    assert sent["cg"] < 0.5 * sent["admm"]


def test_float32_learners_send_float32():
    x, y = data("ELMClassifier")
    sent = {}
    for dtype in ("float32", "float64"):
        here = Here(4)
        clone(small("ELMClassifier")).set_params(dtype=dtype).fit(x, y, workers=Consensus(here, method="gram"))
        sent[dtype] = here.bytes_sent
    assert sent["float64"] / sent["float32"] == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("name", ["DKNClassifier", "DKNRegressor"])
@pytest.mark.parametrize("lam", [0.1, "auto"])
def test_a_dense_kernel_network_over_workers_is_the_one_of_a_single_place(name, lam):
    """Layer by layer: the widths, strengths and held-out errors, and what it predicts; separate workers find the same bits."""
    x, y = data(name)
    make = lambda: ESTIMATORS[name](
        layers=3, nodes=20, gamma=0.5, landmarks=60, lam=lam, scale=None, dtype="float64", batch_size=64
    )
    central, here = make().fit(x, y), make().fit(x, y, workers=Here(4))
    edges = [0, 90, 210, 300, 400]
    apart = [make() for _ in range(4)]
    parts = [(x[a:b], y[a:b]) for a, b in itertools.pairwise(edges)]
    assert Threads(4).fit(apart, parts) == [None] * 4
    for model in (here, apart[0]):
        assert len(model.errors_) == len(central.errors_)
        np.testing.assert_allclose(model.errors_, central.errors_, rtol=1e-9)
        np.testing.assert_allclose(model.lams_, central.lams_, rtol=1e-9)
        np.testing.assert_allclose(model._outputs(x), central._outputs(x), rtol=0, atol=1e-7)
    states = [model.net_.state_dict() for model in apart]
    for state in states[1:]:
        assert all(torch.equal(state[key], states[0][key]) for key in state)


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("ELMClassifier", {"lam": "auto"}, InputError),
        ("ELMClassifier", {"weights": "contrast"}, InputError),
        ("SSFNClassifier", {"finetune_epochs": 1}, InputError),
    ],
)
def test_what_needs_all_samples_in_one_place_is_refused(name, options, error):
    x, y = data(name)
    with pytest.raises(error):
        small(name).set_params(**options).fit(x, y, workers=Here(3))


def test_bad_networks_and_settings_are_refused():
    x, y = data("ELMClassifier")
    with pytest.raises(InputError, match="gamma"):
        ESTIMATORS["DKNClassifier"](lam=1.0).fit(x, y, workers=Here(3))
    with pytest.raises(InputError, match="landmarks"):
        ESTIMATORS["DKNClassifier"](lam=1.0, gamma=1.0).fit(x, y, workers=Here(3))
    with pytest.raises(InputError, match="exact sums"):
        ESTIMATORS["DKNClassifier"](lam=1.0, gamma=1.0).fit(x, y, workers=Consensus(Here(3), rounds=5))
    with pytest.raises(DataError, match="too few"):
        ELMClassifier(lam=1.0).fit(x[:5], y[:5], workers=Here(6))
    for wrong in (
        {"method": "telepathy"},
        {"rounds": 0},
        {"steps": 0},
        {"relaxation": 2.0},
        {"method": "cg", "rounds": 3},
    ):
        with pytest.raises(InputError):
            Consensus(Here(2), **wrong)
    with pytest.raises(DataError, match="not among the classes"):
        ELMClassifier(lam=1.0).fit(x, y, workers=Here(2), classes=[0, 1, 2])


def test_workers_that_set_out_for_different_networks_are_told():
    x, y = data("ELMClassifier")
    parts = [(x[:200], y[:200]), (x[200:], y[200:])]
    raised = Threads(2).fit([small("ELMClassifier", seed=0), small("ELMClassifier", seed=1)], parts)
    assert any(isinstance(error, InputError) and "do not agree" in str(error) for error in raised)


def test_a_process_may_lack_a_class_that_it_knows_of():
    x, y = data("ELMClassifier")
    model = ELMClassifier(n=50, lam=1.0).fit(x[y < 5], y[y < 5], workers=Here(2), classes=range(10))
    assert len(model.classes_) == 10
    assert set(model.predict(x[y < 5])) <= set(range(5))


def test_a_network_given_plainly_takes_the_default_settings():
    x, y = data("SSFNClassifier")
    model = SSFNClassifier(max_layers=1, max_nodes=20, lam=1.0).fit(x, y, workers=Here(3))
    assert model.score(x, y) > 0.9


def test_inputs_are_scaled_alike_by_all():
    """By the moments of all workers' samples, whatever lies with whom."""
    x, y = data("ELMClassifier")
    order = x.sum(1).argsort()
    central = ELMClassifier(n=60, lam=1.0, scale="each", dtype="float64").fit(x[order], y[order])
    edges = [0, 100, 200, 300, 400]
    parts = [(x[order][a:b], y[order][a:b]) for a, b in itertools.pairwise(edges)]
    models = [ELMClassifier(n=60, lam=1.0, scale="each", dtype="float64") for _ in parts]
    assert Threads(4).fit(models, parts, method="gram") == [None] * 4
    np.testing.assert_allclose(models[0]._outputs(x), central._outputs(x), rtol=1e-6, atol=1e-7)
