"""More than channels made lean: ranks of adapters, words and classes, and weights on the integers' grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gracile import RGSM, RVSM, shrink
from gracile.core.errors import InputError
from gracile.export import export_onnx
from gracile.shrinking import RenumberedEmbedding, shrink_classes, shrink_vocabulary
from gracile.splitting import Dial


class Adapted(nn.Module):
    """A frozen linear layer with a pair of low rank beside it, built as peft builds it."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.base_layer = nn.Linear(inputs, outputs).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(inputs, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, outputs, bias=False)})
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(0.1)})
        self.scaling = {"default": 2.0}

    def forward(self, x: Tensor) -> Tensor:
        low = self.lora_A["default"](self.lora_dropout["default"](x))
        return self.base_layer(x) + self.lora_B["default"](low) * self.scaling["default"]


def adapted() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Adapted(12, 16, 6), nn.ReLU(), Adapted(16, 4, 6))


def test_ranks_of_an_adapter_with_a_column_of_zeros_are_removed():
    model, x = adapted().eval(), torch.randn(5, 12)
    with torch.no_grad():
        model[0].lora_B["default"].weight[:, [1, 4]] = 0
    lean = shrink(model, x)
    assert lean[0].lora_A["default"].weight.shape == (4, 12)
    assert lean[0].lora_B["default"].weight.shape == (16, 4)
    assert lean[0].base_layer.weight.shape == (16, 12)
    assert lean[2].lora_A["default"].weight.shape == (6, 16)
    torch.testing.assert_close(lean(x), model(x))


def test_an_adapter_learns_the_rank_it_needs():
    """The update to be learned has rank 2 of the 6 there are; the others go, physically."""
    torch.manual_seed(1)
    model, x = adapted(), torch.randn(256, 12)
    model[0].lora_dropout["default"] = model[2].lora_dropout["default"] = nn.Identity()
    layer = model[0]
    with torch.no_grad():
        update = torch.randn(16, 2) @ torch.randn(2, 12) / 4
        target = layer.base_layer(x) + x @ update.T
    split = RGSM(model, "group_l0", beta=0.5, example=x, layers=["0.lora_B"])
    # Each of its ranks has 12 + 16 weights, and 4 of them go.
    total = sum(parameter.numel() for parameter in model.parameters())
    dial = Dial(split, steps=150, params=(total - 4 * 28) / total, example=x)
    optimizer = torch.optim.Adam([*layer.lora_A.parameters(), *layer.lora_B.parameters()], lr=0.02)
    dial.attach(optimizer)
    for _ in range(150):
        optimizer.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimizer.step()
    lean = shrink(dial.sparse_model().eval(), x)
    assert lean[0].lora_A["default"].weight.shape == (2, 12)
    assert lean[2].lora_A["default"].weight.shape == (6, 16)
    assert (lean[0](x) - target).square().mean() < 0.1 * (x @ update.T).square().mean()


class Reader(nn.Module):
    """Words to classes."""

    def __init__(self, padding: int | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6, padding_idx=padding)
        self.head = nn.Linear(6, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.words(ids).mean(1))


def test_words_with_rows_of_zeros_go_and_every_id_gives_what_it_gave():
    torch.manual_seed(0)
    model, ids = Reader(padding=3), torch.arange(20).view(10, 2)
    split = RGSM(model, "group_l0", lam=2.0, beta=1.0, grouping="input_channel", layers=["words"])
    sparse = split.sparse_model()
    dead = (sparse.words.weight == 0).all(1)
    # The padding's row is zero from the start.
    assert 1 < dead.sum() < 20
    lean, rows = shrink_vocabulary(sparse, "words")
    assert isinstance(lean.words, RenumberedEmbedding)
    torch.testing.assert_close(lean(ids), sparse(ids), rtol=0, atol=0)
    # One row for all words without one, and the padding's own.
    assert lean.words.embedding.num_embeddings == int((~dead).sum()) + 2
    assert lean.words.embedding.padding_idx == rows[3]
    assert torch.equal(lean.words.embedding.weight[rows], sparse.words.weight)


def test_a_vocabulary_can_be_named():
    torch.manual_seed(0)
    model = Reader()
    lean, rows = shrink_vocabulary(model, "words", kept=[2, 5, 7])
    asked = torch.tensor([[2, 7], [5, 5]])
    assert torch.equal(lean(asked), model(asked))
    assert lean.words.embedding.num_embeddings == 4
    assert bool((lean.words.embedding.weight[rows[0]] == 0).all())
    assert rows[[2, 5, 7]].unique().numel() == 3


def test_classes_that_are_not_needed_go():
    torch.manual_seed(0)
    model, ids = Reader(), torch.arange(20).view(10, 2)
    lean = shrink_classes(model, "head", [4, 1])
    torch.testing.assert_close(lean(ids), model(ids)[:, [4, 1]])
    assert model.head.out_features == 5


def tied() -> Reader:
    model = Reader()
    model.head = nn.Linear(6, 20)
    model.head.weight = model.words.weight
    return model


@pytest.mark.parametrize(("build", "message"), [
    (lambda: shrink_vocabulary(Reader(), "word"), "no Embedding named 'word'. It has: words"),
    (lambda: shrink_vocabulary(Reader(), "words"), "Every row of 'words' is needed"),
    (lambda: shrink_vocabulary(Reader(), "words", kept=[20]), "Give numbers from 0 to 19, each once"),
    (lambda: shrink_vocabulary(Reader(), "words", kept=[1, 1]), "each once"),
    (lambda: shrink_vocabulary(tied(), "words", kept=[1]), "shared with another layer"),
    (lambda: shrink_classes(Reader(), "words", [1]), "no Linear named 'words'. It has: head"),
    (lambda: shrink_classes(Reader(), "head", []), "not a choice of its 5 rows"),
])  # fmt: skip
def test_rows_that_cannot_go_are_refused(build, message: str):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize(("levels", "bits"), [(64, 7), (127, 8)])
def test_weights_trained_on_the_grid_are_the_integers_of_the_int8_file(tmp_path: Path, levels: int, bits: int):
    """Also through a batch-norm that the export folds into them: it scales whole output channels."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 5),
    )  # fmt: skip
    split = RVSM(model, {"name": "grid", "levels": levels}, lam=1.0, beta=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    split.attach(optimizer)
    random = torch.Generator().manual_seed(0)
    x = torch.rand(64, 1, 8, 8, generator=random)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.randint(5, (64,), generator=random)).backward()
        optimizer.step()
    kept = split.sparse_model().eval()
    export_onnx(kept, x[:2], tmp_path / "grid.onnx", int8=x, weight_bits=bits, verbose=False)
    onnx = pytest.importorskip("onnx")
    found = [
        onnx.numpy_helper.to_array(one)
        for one in onnx.load(tmp_path / "grid.onnx").graph.initializer
        if one.data_type == 3
    ]
    for place in (0, 3, 6):
        weight = kept[place].weight.detach()
        rows = weight.flatten(1)
        integers = (rows / rows.abs().amax(1, keepdim=True) * levels).view_as(weight).numpy()
        assert np.abs(integers - integers.round()).max() < 1e-3
        ours = integers.round().astype(np.int8)
        assert any(
            theirs.shape in (ours.shape, ours.T.shape)
            and (np.array_equal(theirs, ours) or np.array_equal(theirs, ours.T))
            for theirs in found
        ), place
