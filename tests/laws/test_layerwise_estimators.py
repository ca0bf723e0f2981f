"""What every row of `gracile.layerwise.table.ESTIMATORS` promises."""

from __future__ import annotations

import itertools
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_array, csr_array
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_iris, load_wine, make_classification
from sklearn.metrics import recall_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gracile.core.errors import DataError, InputError, StorageError
from gracile.forward_forward import FFClassifier
from gracile.layerwise import ELMClassifier, HNFClassifier, SSFNClassifier, load
from gracile.layerwise.classifier import Classifier
from gracile.layerwise.estimator import Learned, Learner
from gracile.layerwise.regressor import Regressor
from gracile.layerwise.table import ESTIMATORS
from tests.peers import peer

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
def test_scikit_learn_checks(estimator, check, array_api):
    check(estimator)


@parametrize_with_checks(
    [
        small("ELMClassifier", dtype="float64", lam=1.0, scale=None),
        small("SLFNRegressor", lam=1.0, scale=None),
        small("SSFNRegressor", dtype="float64", alpha=2.0),
    ]
)
def test_scikit_learn_checks_with_pieces_and_with_a_ball(estimator, check, array_api):
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
def test_labels_that_fit_never_saw_count_as_missed(name):
    x, y = data(name)
    model = small(name).fit(x[y < 8], y[y < 8])
    known = y < 8
    assert model.score(x, y) == pytest.approx(model.score(x[known], y[known]) * known.mean())


def test_folds_without_a_class_have_a_score():
    """Iris is sorted by class, so that each of three folds lacks one in training: all scores are 0, none is nan."""
    x, y = load_iris(return_X_y=True)
    assert cross_val_score(ELMClassifier(n=50), x, y, cv=KFold(3)).tolist() == [0, 0, 0]


def pandas():
    return peer("pandas")


KINDS = {
    "reversed": lambda x: x[::-1].copy()[::-1],
    "every second": lambda x: np.repeat(x, 2, axis=0)[::2],
    "by columns": np.asfortranarray,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "longdouble": lambda x: x.astype(np.longdouble) if x.dtype.kind == "f" else x,
    "float16": lambda x: x.astype(np.float16),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "frame": lambda x: pandas().DataFrame(x) if x.ndim == 2 else pandas().Series(x),
    "csr": lambda x: csr_array(x) if x.ndim == 2 else x,
    "csc": lambda x: csc_array(x) if x.ndim == 2 else x,
    "list": lambda x: x.tolist(),
}
FORWARD = {"FFClassifier": lambda: FFClassifier((20,), epochs=2)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*EVERY, *FORWARD])
def test_arrays_of_any_kind_mean_the_same(name, kind):
    """Whole numbers below 2048, which every kind holds exactly."""
    make = FORWARD.get(name) or (lambda: small(name))
    classifies = name.endswith("Classifier")
    x, y = data("ELMClassifier" if classifies else name)
    x, y = (x[:120], y[:120]) if classifies else (np.round(2000 * x[:120]), np.round(y[:120]))
    plain, turned = make().fit(x, y), make().fit(KINDS[kind](x), KINDS[kind](y))
    expected = plain.decision_function(x) if classifies else plain.predict(x)
    given = KINDS[kind](x)
    found = turned.decision_function(given) if classifies else turned.predict(given)
    # float16 is answered in float32, everything else as it was learned.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", EVERY)
def test_numpy_numbers_are_parameters_too(name):
    x, y = data(name)
    plain = small(name)
    scalars = {
        key: np.int64(value) if isinstance(value, int) else np.float32(value)
        for key, value in plain.get_params().items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and key not in ("lr", "node_gain", "layer_gain")
    }
    turned = clone(plain).set_params(**scalars, lam=np.float32(1.0)).fit(x, y)
    np.testing.assert_array_equal(answers(turned, x), answers(plain.set_params(lam=1.0).fit(x, y), x))


def test_a_grid_over_numpy_ranges_is_searched():
    x, y = data("ELMClassifier")
    grid = GridSearchCV(ELMClassifier(), {"n": np.arange(20, 61, 20), "lam": np.logspace(-2, 0, 2)}, cv=2)
    assert grid.fit(x, y).best_params_["n"] == 60


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_several_targets_are_learned_at_once(name, tmp_path):
    x, y = data(name)
    both = np.stack([y, y % 3], 1)
    model = small(name).fit(x, both)
    assert [part.shape for part in model.predict_proba(x)] == [(300, 10), (300, 3)]
    assert model.score(x[:50], both[:50]) > 0.8
    model.save(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(load(tmp_path / "model.safetensors").predict(x), model.predict(x))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_one_hot_columns_are_labels_each(name):
    x, y = data(name)
    model = small(name).fit(x, np.eye(10)[y])
    assert model.predict_proba(x).shape == model.decision_function(x).shape == (300, 10)
    assert (model.predict(x[:100]).argmax(1) == y[:100]).mean() > 0.9


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_probabilities_are_as_sure_as_they_are_right(name):
    """On samples it has not seen: mean confidence is the accuracy, and the classes it names are predict's."""
    x, y = load_digits(return_X_y=True)
    model = ESTIMATORS[name]().fit(x[:700], y[:700])
    found = model.predict_proba(x[700:])
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_array_equal(found.argmax(1), model.predict(x[700:]))
    assert found.max(1).mean() == pytest.approx(model.score(x[700:], y[700:]), abs=0.05)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_balanced_weights_find_a_rare_class(name):
    x, y = make_classification(600, 6, n_informative=4, weights=[0.94], class_sep=0.5, random_state=0)
    recall = lambda model: recall_score(y[300:], model.fit(x[:300], y[:300]).predict(x[300:]))
    assert recall(small(name, class_weight="balanced")) > recall(small(name)) + 0.1


SUMS = ["ELMClassifier", "ELMRegressor", "SLFNClassifier", "SLFNRegressor"]


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("name", SUMS)
def test_piece_by_piece_is_one_fit(name, weights):
    x, y = data(name)
    w = np.random.default_rng(0).integers(0, 4, 300) if weights else None
    model = small(name, lam=2.0, scale=None, dtype="float64")
    whole, pieces = clone(model).fit(x, y, sample_weight=w), clone(model)
    for a, b in itertools.pairwise([0, 1, 90, 91, 300]):
        known = {"classes": range(10)} if name in CLASSIFIERS and a == 0 else {}
        pieces.partial_fit(x[a:b], y[a:b], sample_weight=None if w is None else w[a:b], **known)
    np.testing.assert_allclose(answers(pieces, x), answers(whole, x), rtol=1e-7, atol=1e-9)


def test_pieces_need_everything_known_before():
    x, y = data("ELMClassifier")
    with pytest.raises(AttributeError, match="partial_fit") as caught:
        ELMClassifier().partial_fit(x, y)
    assert "set lam and the width to numbers and scale to None" in str(caught.value.__cause__)


@pytest.mark.parametrize("name", SUMS)
def test_a_fit_is_gone_on_with_and_a_file_is_not(name, tmp_path):
    x, y = data(name)
    model = small(name, lam=2.0, scale=None, dtype="float64")
    known = {"classes": range(10)} if name in CLASSIFIERS else {}
    pieces = clone(model).fit(x[:100], y[:100], **known).partial_fit(x[100:], y[100:])
    np.testing.assert_allclose(answers(pieces, x), answers(model.fit(x, y), x), rtol=1e-7, atol=1e-9)
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"without keeping sums.*clone"):
        load(tmp_path / "model.safetensors").partial_fit(x, y)


@pytest.mark.parametrize("name", EVERY)
def test_streams_of_any_kind_are_taken(name):
    x, y = data(name)
    whole = small(name, dtype="float64").fit(x, y)
    edges = [0, 60, 60, 150, 300]  # One batch is empty.

    def batches():
        return ((x[a:b], y[a:b]) for a, b in itertools.pairwise(edges))

    tensors = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    for stream in (batches, list(batches()), DataLoader(tensors, batch_size=77)):
        streamed = clone(whole).fit_stream(stream)
        np.testing.assert_allclose(answers(streamed, x), answers(whole, x), rtol=1e-5, atol=1e-6)
    weights = np.repeat([2.0, 0.0, 1.0], [100, 20, 180])
    weighted = clone(whole).fit_stream([(x[:110], y[:110], weights[:110]), (x[110:], y[110:], weights[110:])])
    heavier = clone(whole).fit(x, y, sample_weight=weights)
    np.testing.assert_allclose(answers(weighted, x), answers(heavier, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_an_iterator_is_no_stream(name):
    x, y = data(name)
    with pytest.raises(InputError, match=r"only once.*generator function itself"):
        small(name).fit_stream(iter([(x, y)]))


@pytest.mark.parametrize("name", EVERY)
def test_a_stream_that_draws_anew_is_refused(name):
    x, y = data(name)
    random = np.random.default_rng(0)
    with pytest.raises(DataError, match=r"did not give.*Switch off"):
        small(name).fit_stream(lambda: [(x + random.normal(size=x.shape), y)])
    sizes = iter(range(300, 200, -1))
    with pytest.raises(DataError, match=r"gave 299 samples and the first one 300"):
        small(name).fit_stream(lambda: [(x[: (n := next(sizes))], y[:n])])


@pytest.mark.parametrize("name", EVERY)
def test_a_shuffled_stream_is_learned_where_order_means_nothing_and_refused_elsewhere(name):
    """A dense kernel network keeps outputs by the samples' places: shuffled it scored 0.2 on its own training data."""
    x, y = data(name)
    random = np.random.default_rng(0)

    def shuffled():
        order = random.permutation(300)
        return [(x[order], y[order])]

    if name.startswith("DKN"):
        with pytest.raises(DataError, match=r"in the same order.*shuffling"):
            small(name).fit_stream(shuffled)
        return
    # The samples that choose scale and temperature are evenly spaced, and here all of them.
    model, whole = small(name, dtype="float64").fit_stream(shuffled), small(name, dtype="float64").fit(x, y)
    np.testing.assert_allclose(answers(model, x), answers(whole, x), rtol=1e-4, atol=1e-5)


class Mean(nn.Module):
    """A network of another make: its outputs are the mean targets, whatever comes in."""

    def __init__(self, mean: torch.Tensor) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mean.expand(len(x), -1)

    @classmethod
    def restored(cls, tensors):
        return cls(tensors["mean"])


class MeanRegressor(Regressor):
    network_type = Mean

    def __init__(self, lam=0.0, scale=None, batch_size=100, device="cpu", dtype="auto"):
        self.lam, self.scale, self.batch_size, self.device, self.dtype = lam, scale, batch_size, device, dtype

    def _learn(self, source):
        return Learned(Mean(torch.cat([t for _, t, _ in source]).mean(0)), 1.0)


def test_a_foreign_learner_goes_round_with_one_row(tmp_path, monkeypatch):
    x, y = data("ELMRegressor")
    model = MeanRegressor().fit(x, y)
    model.save(tmp_path / "mean.safetensors")
    np.testing.assert_allclose(MeanRegressor.load(tmp_path / "mean.safetensors").predict(x), y.mean())
    with pytest.raises(StorageError, match="holds a MeanRegressor"):
        load(tmp_path / "mean.safetensors")
    monkeypatch.setitem(ESTIMATORS, "MeanRegressor", MeanRegressor)
    np.testing.assert_array_equal(load(tmp_path / "mean.safetensors").predict(x), model.predict(x))


def test_class_weights_and_labels_of_any_kind_survive_a_file(tmp_path):
    x, y = data("ELMClassifier")
    model = ELMClassifier(n=20, class_weight={0: 2.0, 1: np.float64(0.5)}).fit(x, y.astype(">i2"))
    model.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.class_weight == {0: 2.0, 1: 0.5}
    assert again.classes_.dtype == model.classes_.dtype
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))


# A dense kernel network divides samples into folds by a hash of their numbers, which a unit changes.
@pytest.mark.parametrize("name", [name for name in EVERY if not name.startswith("DKN")])
def test_units_of_features_do_not_matter(name):
    x, y = load_wine(return_X_y=True) if name in CLASSIFIERS else load_diabetes(return_X_y=True)
    units = np.logspace(-4, 4, x.shape[1])
    model, moved = small(name, scale="each").fit(x, y), small(name, scale="each").fit(x * units + 7 * units, y)
    np.testing.assert_allclose(answers(moved, x * units + 7 * units), answers(model, x), rtol=1e-4, atol=1e-4)


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
        ({"device": "abacus"}, "is not there"),
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
        (ELMClassifier(n=0), "n = 0 is no whole number from 1 up"),
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
    model = ELMClassifier(n=100, lam=1.0, scale=None, dtype="float32")
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
