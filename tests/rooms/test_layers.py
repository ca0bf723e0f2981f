"""What is split: every weight matrix, whatever layer or wrapper it is in; and what is not is said, with its share."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from gracile import RGSM, RVSM
from gracile.core.errors import InputError
from gracile.core.prunable import left_out, weights
from tests.peers import peer


class Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.token, self.scale = (nn.Parameter(torch.randn(*s)) for s in ((3, 4), (1, 1, 4), (4,)))

    def forward(self, x):
        return x @ self.matrix * self.scale + self.token


class Symmetric(nn.Module):
    def forward(self, w):
        return w + w.T


def parametrized(layer: nn.Module, how: Callable[[nn.Module], object]) -> nn.Module:
    with warnings.catch_warnings():
        # The old forms of weight_norm and spectral_norm are deprecated, and in use.
        warnings.simplefilter("ignore")
        how(layer)
    return nn.Sequential(layer)


MODELS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "lstm": (lambda: nn.LSTM(3, 4, num_layers=1, proj_size=2), ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"]),
    "gru cell": (lambda: nn.GRUCell(3, 4), ["weight_ih", "weight_hh"]),
    "attention": (lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True), ["in_proj_weight", "out_proj.weight"]),
    "attention of three": (
        lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5), ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
    ),
    "embedding": (lambda: nn.Embedding(5, 3), ["weight"]),
    "bilinear": (lambda: nn.Bilinear(2, 3, 4), ["weight"]),
    "raw": (Raw, ["matrix"]),
    "norms": (lambda: nn.Sequential(nn.LayerNorm((3, 4)), nn.GroupNorm(2, 4), nn.RMSNorm((3, 4)), nn.Linear(4, 4)), ["3.weight"]),
    "one output": (lambda: nn.Linear(4, 1), ["weight"]),
    "spectral_norm": (lambda: parametrized(nn.Linear(4, 3), parametrizations.spectral_norm), ["0.parametrizations.weight.original"]),
    "old spectral_norm": (lambda: parametrized(nn.Linear(4, 3), nn.utils.spectral_norm), ["0.weight_orig"]),
    "prune": (lambda: parametrized(nn.Linear(4, 3), lambda m: prune.random_unstructured(m, "weight", 2)), ["0.weight_orig"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_matrix_is_split_and_norms_and_biases_are_not(name: str):
    build, expected = MODELS[name]
    model = build()
    found = weights(model)
    assert sorted(weight.name for weight in found) == sorted(expected)
    total = sum(p.numel() for p in model.parameters())
    assert sum(weight.tensor.numel() for weight in found) + sum(left_out(model, found).values()) == total


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", [RVSM, RGSM])
@pytest.mark.filterwarnings("ignore::gracile.core.errors.CollapseWarning")
def test_zeros_of_the_split_tensor_are_zeros_of_the_weight(name: str, method):
    torch.manual_seed(0)
    model = MODELS[name][0]().train()
    # Parametrised weights are computed by a forward pass, and then cannot be copied as they are.
    inside = model[0] if name in ("spectral_norm", "old spectral_norm", "prune") else None
    if inside is not None:
        model(torch.randn(2, 4)).sum().backward()
    split = RGSM(model, lam=0.3, beta=1.0, layers="all") if method is RGSM else RVSM(model, "l0", lam=0.03, beta=1.0)
    u = split.shadow()
    sparse = split.sparse_model()
    for weight in split.weights:
        assert u[weight.name].shape == weight.tensor.shape
    if inside is not None:
        sparse(torch.randn(2, 4))
        (only,) = u.values()
        assert torch.equal(only == 0, sparse[0].weight == 0) or name == "prune"
        assert bool((sparse[0].weight[only == 0] == 0).all())
        assert 0 < int((only == 0).sum()) < only.numel()


def test_an_lstm_classifier_is_split_nearly_whole():
    model = nn.ModuleDict({"embed": nn.Embedding(50, 16), "lstm": nn.LSTM(16, 32), "head": nn.Linear(32, 2)})
    split = RVSM(model)
    share = sum(left_out(model, split.weights).values()) / sum(p.numel() for p in model.parameters())
    assert share < 0.05
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    split.attach(optimizer)
    model["head"](model["lstm"](model["embed"](torch.arange(10)[:, None]))[0]).sum().backward()
    optimizer.step()
    assert {row.layer for row in split.summary().layers} == {"embed", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "head"}


def test_gpt2_is_split_with_its_tied_head_once():
    transformers = peer("transformers")
    config = transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=30, n_positions=8)
    model = transformers.GPT2LMHeadModel(config)
    found = weights(model)
    assert len([weight for weight in found if weight.shape == (30, 16)]) == 1
    attention = next(weight for weight in found if weight.name.endswith("attn.c_attn.weight"))
    assert (attention.kind, attention.input_dim, tuple(attention.shape)) == ("linear", 0, (16, 48))
    assert sum(left_out(model, found).values()) < 0.1 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("how", [parametrizations.weight_norm, nn.utils.weight_norm])
def test_weight_norm_is_left_alone_because_a_zero_row_would_be_nan(how):
    model = nn.Sequential(parametrized(nn.Linear(4, 3), how), nn.Linear(3, 2))
    split = RVSM(model)
    assert [weight.layer for weight in split.weights] == ["1"]
    assert split.summary().left_out["behind weight_norm"] == 15
    with pytest.raises(InputError, match="no trainable"):
        RVSM(model[0])


def test_other_parametrisations_are_left_alone_and_said():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    parametrize.register_parametrization(model[0], "weight", Symmetric())
    split = RVSM(model)
    assert [weight.layer for weight in split.weights] == ["1"]
    assert split.summary().left_out == {"behind a parametrisation": 9, "biases, norms and other vectors": 5}
    assert "behind a parametrisation" in str(split.summary())


@pytest.mark.parametrize(("layers", "expected"), [
    ("embedding", ["embed.weight"]),
    ("recurrent", ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]),
    (["lstm"], ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]),
    (["lstm.weight_hh_l0", "head.bias"], ["lstm.weight_hh_l0", "head.bias"]),
])  # fmt: skip
def test_kinds_modules_and_any_parameter_can_be_named(layers, expected: list[str]):
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "lstm": nn.LSTM(4, 3), "head": nn.Linear(3, 2)})
    assert [weight.name for weight in RVSM(model, layers=layers).weights] == expected
    for method in (RVSM(model, "top_k", layers=layers), RGSM(model, layers=layers, lam=1e-3)):
        assert set(method.shadow()) == set(expected)


def test_the_input_features_of_an_embedding_are_its_rows():
    model = nn.Embedding(5, 3)
    with torch.no_grad():
        model.weight[2] *= 1e-3
    sparse = RGSM(model, lam=0.1).sparse_model()
    assert sparse.weight[2].count_nonzero() == 0
    assert sparse.weight[[0, 1, 3, 4]].count_nonzero() > 0


def test_what_is_not_split_is_said_at_the_first_attach(caplog: pytest.LogCaptureFixture):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 20))
    split = RGSM(model, lam=1e-3)
    with caplog.at_level(logging.INFO, "gracile"):
        split.attach(torch.optim.SGD(model.parameters(), lr=0.1))
        split.detach()
        split.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    (record,) = caplog.records
    # More than half: everybody is to see it.
    assert record.levelno == logging.WARNING
    assert "97.4 % of the parameters are left alone: 94.1 % in layers not chosen, 3.2 % biases" in record.message


def test_a_parameter_that_is_gone_is_an_error_that_names_it():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    split = RVSM(model)
    parametrizations.weight_norm(model[1])
    with pytest.raises(InputError, match=r"no parameter '1\.weight' any more"):
        split.shadow()
    del model[1]
    with pytest.raises(InputError, match=r"no parameter '1\.weight' any more"):
        split.sparse_model()
