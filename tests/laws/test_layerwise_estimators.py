"""What every row of `gracile.layerwise.table.ESTIMATORS` promises."""

from __future__ import annotations

import itertools
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_wine
from sklearn.utils.estimator_checks import parametrize_with_checks

from gracile.core.errors import DataError, InputError, StorageError
from gracile.layerwise import ELMClassifier, HNFClassifier, SSFNClassifier, load
from gracile.layerwise.estimator import Classifier, Learner
from gracile.layerwise.table import ESTIMATORS

# Sizes at which the many fits of scikit-learn's checks stay quick; nothing else is changed.
SMALL = {
    "ELM": {"n": 60},
    "SLFN": {"rho": 4.0},
    "SSFN": {"max_layers": 2, "max_nodes": 40, "node_step": 20},
    "HNF": {"layers": 2},
    "DKN": {"layers": 2, "nodes": 10, "landmarks": 150},
}
CLASSIFIERS = [name for name in ESTIMATORS if name.endswith("Classifier")]
EVERY = sorted(ESTIMATORS)


def small(name: str, **more: object) -> Learner:
    return ESTIMATORS[name](**next(options for start, options in SMALL.items() if name.startswith(start)), **more)


def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True) if name in CLASSIFIERS else load_diabetes(return_X_y=True)
    return x[:300], y[:300]


def answers(model: Learner, x: np.ndarray) -> np.ndarray:
    return model.decision_function(x) if isinstance(model, Classifier) else model.predict(x)


@parametrize_with_checks([small(name) for name in EVERY])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@parametrize_with_checks([small("ELMClassifier", dtype="float64"), small("SSFNRegressor", dtype="float64")])
def test_scikit_learn_checks_in_float64(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", EVERY)
def test_streamed_equals_in_memory(name):
    x, y = data(name)
    whole = small(name, dtype="float64").fit(x, y)
    # Uneven batches, so that neither the batch size nor its divisors can hide a mistake.
    edges = [0, 1, 90, 91, 200, 300]
    streamed = clone(whole).fit_stream(lambda: [(x[a:b], y[a:b]) for a, b in itertools.pairwise(edges)])
    np.testing.assert_allclose(answers(streamed, x), answers(whole, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_a_stream_is_not_gathered(name):
    """Of 20 batches no more than three are alive at a time: memory does not follow the number of samples."""
    x, y = data(name)
    alive: dict[int, None] = {}
    most = 0

    class Batch(np.ndarray):
        """numpy's own arrays take no weak references."""

    def batches():
        nonlocal most
        for start in range(0, 600, 30):
            batch = x[start % 300 : start % 300 + 30].copy().view(Batch)
            alive[start] = None
            weakref.finalize(batch, alive.pop, start, None)
            most = max(most, len(alive))
            yield batch, y[start % 300 : start % 300 + 30]

    small(name).fit_stream(batches)
    assert 1 <= most <= 3


@pytest.mark.parametrize("name", EVERY)
def test_chunks_do_not_change_the_result(name):
    x, y = data(name)
    whole = small(name, dtype="float64").fit(x, y)
    chunked = clone(whole).set_params(batch_size=37).fit(x, y)
    np.testing.assert_allclose(answers(chunked, x), answers(whole, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_seed_decides(name):
    x, y = data(name)
    np.testing.assert_array_equal(answers(small(name, seed=3).fit(x, y), x), answers(small(name, seed=3).fit(x, y), x))
    assert np.abs(answers(small(name, seed=3).fit(x, y), x) - answers(small(name, seed=4).fit(x, y), x)).max() > 1e-4


@pytest.mark.parametrize("name", EVERY)
def test_saved_predicts_as_before_without_pickle(name, tmp_path):
    x, y = data(name)
    y = np.array([f"class {label}" for label in y]) if name in CLASSIFIERS else y
    model = small(name).fit(x, y)
    model.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert type(again) is type(model)
    assert again.get_params() == model.get_params()
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    assert b"pickle" not in (tmp_path / "model.safetensors").read_bytes()


def test_loading_something_else_names_the_file(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    with pytest.raises(StorageError, match=r"x\.safetensors cannot be read"):
        load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", EVERY)
def test_learns_better_than_guessing(name):
    x, y = data(name)
    score = small(name).fit(x[:200], y[:200]).score(x[200:], y[200:])
    assert score > (0.75 if name in CLASSIFIERS else 0.2)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_label_columns_are_refused(name):
    x, y = data(name)
    with pytest.raises(DataError, match="10 columns"):
        small(name).fit(x, np.eye(10)[y])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_scoring_unseen_classes_is_refused(name):
    x, y = data(name)
    model = small(name).fit(x[y < 8], y[y < 8])
    with pytest.raises(DataError, match="8, 9"):
        model.score(x, y)


@pytest.mark.parametrize("name", EVERY)
def test_constant_features_are_refused(name):
    _, y = data(name)
    with pytest.raises(DataError, match="constant"):
        small(name).fit(np.ones((300, 4)), y)


@pytest.mark.parametrize("name", EVERY)
def test_nan_is_told_with_a_remedy(name):
    x, y = data(name)
    x = x.copy()
    x[7, 3] = np.nan
    with pytest.raises(DataError, match=r"NaN.*Drop or fill"):
        small(name).fit(x, y)
    with pytest.raises(DataError, match=r"NaN.*Drop or fill"):
        small(name).fit_stream(lambda: [(x, y)])


@pytest.mark.parametrize("name", EVERY)
def test_changing_features_in_a_stream_are_refused(name):
    x, y = data(name)
    batches = lambda: [(x[:100], y[:100]), (x[100:, :5], y[100:])]
    with pytest.raises(DataError, match="5 features and the first one had"):
        small(name).fit_stream(batches)


@pytest.mark.parametrize("name", EVERY)
def test_batches_whose_halves_do_not_match_are_refused(name):
    x, y = data(name)
    with pytest.raises(DataError, match="300 rows of X and 299 of y"):
        small(name).fit_stream(lambda: [(x, y[:299])])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_stream_with_an_unnamed_class_is_refused(name):
    x, y = data(name)
    with pytest.raises(DataError, match="not among the classes"):
        small(name).fit_stream(lambda: [(x, y)], classes=range(9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1.0}, "no regularisation strength"),
        ({"lam": "best"}, "no regularisation strength"),
        ({"batch_size": 0}, "no whole number"),
        ({"device": "abacus"}, "no device"),
        ({"dtype": "float16"}, "not supported"),
    ],
)
@pytest.mark.parametrize("name", EVERY)
def test_shared_parameters_are_checked(name, options, message):
    x, y = data(name)
    with pytest.raises(InputError, match=message):
        small(name, **options).fit(x, y)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ELMClassifier(n=0), "no number of nodes"),
        (ELMClassifier(weights="gold"), "no weights"),
        (ELMClassifier(image_shape=(8, 9)), "does not describe the 64"),
        (SSFNClassifier(alpha=0), "no ball"),
        (SSFNClassifier(max_nodes=0), "max_nodes"),
        (HNFClassifier(m=64), "m = 64 is below"),
        (HNFClassifier(matrix="unit"), "no matrix"),
        (ESTIMATORS["DKNClassifier"](gamma=0.0), "no width"),
        (ESTIMATORS["SLFNClassifier"](rho=0), "no ratio"),
    ],
)
def test_own_parameters_are_checked(model, message):
    with pytest.raises(InputError, match=message):
        model.fit(*data("ELMClassifier"))


def test_singular_gram_names_the_lam_that_works():
    x, y = data("ELMClassifier")
    x = np.concatenate([x, x], 1)
    model = HNFClassifier(layers=1, lam=0.0, dtype="float64")
    with pytest.raises(InputError, match=r"singular.*Set lam to") as caught:
        model.fit(x, y)
    enough = float(caught.value.remedy.split("Set lam to ")[1].split(" ")[0])
    model.set_params(lam=enough).fit(x, y)


def test_rounding_of_large_features_is_told_as_singular_too():
    """Proline in the thousands, next to ash around 2, leaves rounding far above lam = 1 in their Gram matrix."""
    x, y = load_wine(return_X_y=True)
    model = ELMClassifier(n=100, lam=1.0)
    with pytest.raises(InputError, match="scale the features") as caught:
        model.fit(x, y)
    enough = float(caught.value.remedy.split("Set lam to ")[1].split(" ")[0])
    model.set_params(lam=enough).fit(x, y)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    samples=st.integers(4, 60),
    features=st.integers(1, 8),
    classes=st.integers(2, 4),
    alpha=st.floats(1, 50),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_training_cost_never_rises(seed, samples, features, classes, alpha, scale):
    random = np.random.default_rng(seed)
    x = scale * random.normal(size=(samples, features))
    y = np.arange(samples) % classes
    ssfn = SSFNClassifier(
        alpha=alpha, max_layers=4, max_nodes=20, node_step=7, layer_gain=0, seed=seed, dtype="float64"
    )
    hnf = HNFClassifier(layers=3, seed=seed, dtype="float64")
    for model in (ssfn, hnf):
        costs = model.fit(x, y).costs_
        assert all(after <= before * (1 + 1e-9) + 1e-9 for before, after in itertools.pairwise(costs)), (
            model,
            costs,
        )


@pytest.mark.parametrize("model", [SSFNClassifier(max_layers=5, max_nodes=60, layer_gain=0), HNFClassifier(layers=3)])
def test_told_costs_are_those_of_the_network(model):
    x, y = data("SSFNClassifier")
    model.set_params(dtype="float64").fit(x, y)
    outputs = model._outputs(x)
    assert np.square(outputs - np.eye(10)[y]).sum() == pytest.approx(model.costs_[-1], rel=1e-6)
    assert model.costs_ == sorted(model.costs_, reverse=True)
    assert model.costs_[-1] < 0.5 * model.costs_[0]
