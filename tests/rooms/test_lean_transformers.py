"""Transformers as people have them lose whole heads and neurons in training, and what comes back is exact and goes on living."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gracile
from gracile.core.outputs import tensors_in
from gracile.export.sessions import run, session
from gracile.shrinking import load_lean, save_lean
from gracile.shrinking.parity import largest_difference
from tests.peers import peer

# Of a head, or of two narrower ones that share their keys.
WIDTH, HEADS, CLASSES, STEPS = 8, 4, 5, 6


class Encoder(nn.Module):
    """torch's own layer between two linear ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 32), nn.Linear(32, CLASSES)
        self.layer = nn.TransformerEncoderLayer(32, HEADS, 64, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x)).mean(1))


def timm(name: str, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: peer("timm").create_model(name, num_classes=CLASSES, in_chans=1, **settings)


def transformers(model: str, configuration: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        library = peer("transformers")
        return getattr(library, model)(getattr(library, configuration)(**settings))

    return build


def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def sequences(count: int, seed: int) -> Tensor:
    return torch.randn(count, 5, 6, generator=torch.Generator().manual_seed(seed))


def words(count: int, seed: int) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    mask = torch.ones(count, 7).long()
    mask[::2, 5:] = 0
    return {"input_ids": torch.randint(1, 40, (count, 7), generator=source), "attention_mask": mask}


@dataclass(frozen=True)
class Case:
    """A network and where its heads and neurons are seen.

    Attributes:
        build: a fresh one.
        example: inputs from a count and a seed.
        heads: end of the name of the weights that read the heads, and along which dimension.
        neurons: end of the name of the weights that read the neurons, and along which dimension.
    """

    build: Callable[[], nn.Module]
    example: Callable[[int, int], Any]
    heads: tuple[str, int]
    neurons: tuple[str, int]


VIT = {"img_size": 16, "patch_size": 8, "embed_dim": WIDTH * HEADS, "depth": 1, "num_heads": HEADS}
SMALL = {"hidden_size": WIDTH * HEADS, "num_hidden_layers": 1, "num_attention_heads": HEADS, "intermediate_size": 64}
TEXT = {**SMALL, "vocab_size": 40, "num_labels": CLASSES, "pad_token_id": 0}
CASES = {
    "timm ViT": Case(timm("vit_tiny_patch16_224", **VIT), images, ("attn.proj.weight", 1), ("fc2.weight", 1)),
    "timm DeiT": Case(
        timm("deit_tiny_distilled_patch16_224", **VIT), images, ("attn.proj.weight", 1), ("fc2.weight", 1)
    ),
    "timm Swin": Case(
        timm("swin_tiny_patch4_window7_224", img_size=16, window_size=2, embed_dim=32, depths=(2,), num_heads=(HEADS,)),
        images, ("attn.proj.weight", 1), ("fc2.weight", 1),
    ),
    "nn.TransformerEncoderLayer": Case(Encoder, sequences, ("out_proj.weight", 1), ("linear2.weight", 1)),
    "transformers ViT": Case(
        transformers(
            "ViTForImageClassification", "ViTConfig", **SMALL, image_size=16, patch_size=8, num_channels=1,
            num_labels=CLASSES,
        ),
        images, ("attention.o_proj.weight", 1), ("mlp.fc2.weight", 1),
    ),
    "transformers BERT": Case(
        transformers("BertForSequenceClassification", "BertConfig", **TEXT, max_position_embeddings=8),
        words, ("attention.output.dense.weight", 1), ("0.output.dense.weight", 1),
    ),
    "transformers GPT-2": Case(
        transformers(
            "GPT2ForSequenceClassification", "GPT2Config", vocab_size=40, n_embd=WIDTH * HEADS, n_layer=1, n_head=HEADS,
            n_positions=8, num_labels=CLASSES, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        ),
        words, ("attn.c_proj.weight", 0), ("mlp.c_proj.weight", 0),
    ),
    "transformers Llama": Case(
        transformers(
            "LlamaForSequenceClassification", "LlamaConfig",
            **{**TEXT, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 32},
        ),
        words, ("o_proj.weight", 1), ("down_proj.weight", 1),
    ),
}  # fmt: skip


def logits(model: nn.Module, inputs: Any) -> Tensor:
    return tensors_in(model(**inputs) if isinstance(inputs, dict) else model(inputs))[0]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Any) -> float:
    optimizer.zero_grad()
    out = logits(model, inputs)
    loss = F.cross_entropy(out, torch.arange(len(out)) % CLASSES)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@cache
def trained(name: str) -> tuple[nn.Module, nn.Module]:
    """The network with its zeros after a few steps under a dial, and the smaller one."""
    case = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own
        torch.manual_seed(0)
        model = case.build().train()
    example = case.example(4, 0)
    split = gracile.RGSM(model, beta=0.1, grouping="coupled", example=example)
    dial = gracile.splitting.Dial(split, steps=STEPS, macs=0.5, example=example)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    dial.attach(optimizer)
    for seed in range(STEPS):
        step(model, optimizer, case.example(8, seed))
    sparse = dial.sparse_model().eval()
    return sparse, gracile.shrink(sparse, example)


def lost(name: str, place: tuple[str, int]) -> list[tuple[int, int]]:
    """Sizes before and after of the weights of that name."""
    (end, dim), (sparse, lean) = place, trained(name)
    after = {key: one.shape[dim] for key, one in lean.named_parameters() if key.endswith(end)}
    return [(one.shape[dim], after[key]) for key, one in sparse.named_parameters() if key.endswith(end)]


@pytest.mark.parametrize("name", CASES)
def test_training_takes_out_whole_heads_and_neurons_exactly(name: str) -> None:
    case, (sparse, lean) = CASES[name], trained(name)
    assert type(lean) is type(sparse)
    heads, neurons = lost(name, case.heads), lost(name, case.neurons)
    assert sum(after for _, after in heads) < sum(before for before, _ in heads)
    assert all(after % WIDTH == 0 for _, after in heads)
    assert sum(after for _, after in neurons) < sum(before for before, _ in neurons)
    assert largest_difference(sparse, lean, case.example(5, 99)) < 1e-5
    found = gracile.channels.trace(lean, case.example(2, 0)).dense().macs
    assert found <= 0.5 * gracile.channels.trace(sparse, case.example(2, 0)).dense().macs


@pytest.mark.parametrize("name", CASES)
def test_a_network_without_those_heads_trains_on_and_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    case, (_, lean) = CASES[name], trained(name)
    going_on = gracile.shrink(lean, case.example(4, 0)).train()
    optimizer = torch.optim.SGD(going_on.parameters(), lr=0.05)
    before = {key: one.detach().clone() for key, one in going_on.named_parameters()}
    step(going_on, optimizer, case.example(8, 1))
    assert all(one.isfinite().all() for one in going_on.parameters())
    assert not all(torch.equal(one, before[key]) for key, one in going_on.named_parameters())
    save_lean(going_on, tmp_path / "lean.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = load_lean(case.build().eval(), tmp_path / "lean.safetensors")
    assert largest_difference(going_on, again, case.example(5, 98)) == 0


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnxruntime")
@pytest.mark.parametrize("name", CASES)
def test_the_smaller_transformer_is_exported(name: str, tmp_path: Path) -> None:
    case, (_, lean) = CASES[name], trained(name)
    gracile.export_onnx(lean, case.example(2, 0), tmp_path / "lean.onnx", verbose=False)
    fresh = case.example(3, 97)
    feed = fresh if isinstance(fresh, dict) else {"input": fresh}
    found = run(session(tmp_path / "lean.onnx"), {key: one.numpy() for key, one in feed.items()})[0]
    expected = logits(lean, fresh).detach()
    assert (torch.from_numpy(found) - expected).abs().max() < 1e-4 * expected.abs().max()
