"""What share of known architectures can be removed exactly: half of all groups zeroed, shrunk, compared on fresh noise in double precision.

Run it from the checkout, with timm or transformers installed: ``python -m benchmarks.architectures timm:resnet18
timm:vit_tiny_patch16_224 hf:bert``. Names are ``timm:NAME`` and ``hf:NAME`` of `TRANSFORMERS`; weights are random.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from gracile.channels import survey, trace
from gracile.core.errors import GracileError
from gracile.shrinking import shrink
from gracile.shrinking.parity import largest_difference
from tests.models.zeros import zero_groups
from tests.models.zoo import randomised

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = {**SMALL, "vocab_size": 99}
# Name to (model, configuration, its settings, whether it reads words).
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], bool]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", WORDS, True),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", WORDS, True),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4}, True),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**WORDS, "num_key_value_heads": 2}, True),
    "vit": ("ViTForImageClassification", "ViTConfig", {**SMALL, "image_size": 32, "patch_size": 8}, False),
    "deit": ("DeiTForImageClassification", "DeiTConfig", {**SMALL, "image_size": 32, "patch_size": 8}, False),
}
DEFAULT = (
    "timm:resnet18",
    "timm:efficientnet_b0",
    "timm:vit_tiny_patch16_224",
    "hf:bert",
    "hf:gpt2",
    "hf:llama",
    "hf:vit",
)


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A model and one sample."""
    kind, _, rest = name.partition(":")
    torch.manual_seed(0)
    if kind == "timm":
        import timm

        model = timm.create_model(rest)
        side = model.default_cfg["input_size"][1] if model.default_cfg.get("fixed_input_size") else 96
        return model, torch.randn(1, 3, side, side)
    import transformers

    model_name, config_name, settings, words = TRANSFORMERS[rest]
    model = getattr(transformers, model_name)(getattr(transformers, config_name)(**settings))
    return model, torch.randint(0, 90, (1, 12)) if words else torch.randn(1, 3, 32, 32)


def zero_half(model: nn.Module, x: Tensor) -> int:
    """Zero half of the groups, but never all that a layer reads; returns how many groups there are."""
    graph = trace(model, x)
    zero = torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(0)) < 0.5
    for index in graph.group_index().values():
        groups = index.unique()
        groups = groups[groups >= 0]
        if len(groups) and bool(zero[groups].all()) and not bool((index < 0).any()):
            zero[groups[0]] = False
    zero_groups(model, graph, zero)
    return graph.num_groups


def row(name: str) -> dict[str, object]:
    """One architecture: shares of parameters that can be removed and that are left, the difference, and processor seconds."""
    model, x = build(name)
    model = randomised(model, 0).double()
    x = x.double() if x.is_floating_point() else x
    found: dict[str, object] = {"architecture": name}
    size: Callable[[nn.Module], int] = lambda one: sum(parameter.numel() for parameter in one.parameters())
    try:
        found["removable"] = survey(model, x).parameters
        start = time.process_time()
        found["groups"] = zero_half(model, x)
        found["trace s"] = time.process_time() - start
        start = time.process_time()
        lean = shrink(model, x)
        found["shrink s"] = time.process_time() - start
        found["left"] = size(lean) / size(model)
        noise = torch.randn(3, *x.shape[1:], dtype=x.dtype) if x.is_floating_point() else x.repeat(3, 1)
        found["difference"] = f"{largest_difference(model, lean, noise):.0e}"
    except GracileError as error:
        found["difference"] = str(error)[:80]
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    rows = [row(name) for name in sys.argv[1:] or DEFAULT]
    rows = [{key: f"{one:.2f}" if isinstance(one, float) else one for key, one in found.items()} for found in rows]
    print(f"torch {torch.__version__}, one thread, random weights\n")
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
