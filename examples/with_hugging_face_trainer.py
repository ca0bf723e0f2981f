"""Make a vision transformer lean under Hugging Face's Trainer: one callback, and whole heads and neurons go.

python examples/with_hugging_face_trainer.py
"""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import mkdtemp

import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import gracile
from gracile.data import Dataset, batches, load
from gracile.integrations.transformers import SparseCallback
from gracile.shrinking import load_lean, save_lean

warnings.filterwarnings("ignore", ".*pin_memory.*")


def rows(split: Dataset) -> list[dict[str, torch.Tensor]]:
    x, y = next(batches(split, len(split)))
    return [{"pixel_values": image, "labels": label} for image, label in zip(x, y, strict=True)]


def build() -> ViTForImageClassification:
    return ViTForImageClassification(
        ViTConfig(
            image_size=8, patch_size=2, num_channels=1, num_labels=10, hidden_size=64, num_hidden_layers=3,
            num_attention_heads=4, intermediate_size=128,
        )
    )  # fmt: skip


splits = load("digits")
train, test = rows(splits.train), next(batches(splits.test, len(splits.test)))
example = {"pixel_values": test[0][:2]}


def sparse(model: ViTForImageClassification, steps: int) -> gracile.splitting.Dial:
    split = gracile.RGSM(model, beta=0.1, grouping="coupled", example=example)
    return gracile.splitting.Dial(split, steps=steps, macs=0.5, example=example)


torch.manual_seed(0)
callback = SparseCallback(sparse, example=example)
folder = Path(mkdtemp())
arguments = TrainingArguments(
    str(folder), num_train_epochs=8, per_device_train_batch_size=32, learning_rate=2e-3, warmup_steps=30, use_cpu=True,
    report_to=[], save_strategy="no", logging_strategy="epoch", disable_tqdm=True, seed=0,
)  # fmt: skip
Trainer(build(), arguments, train_dataset=train, callbacks=[callback]).train()

lean = gracile.shrink(callback.sparse_model.eval(), example)
with torch.no_grad():
    right = float((lean(pixel_values=test[0]).logits.argmax(1) == test[1]).float().mean())
print(gracile.shrinking.plan(callback.sparse_model.eval(), example).describe().splitlines()[-1])
print(f"test accuracy of the lean network: {100 * right:.1f} %")

# Fewer heads, the same class: it is saved as weights and what was kept of them, and comes back from a dense one.
save_lean(lean, folder / "lean.safetensors")
again = load_lean(build(), folder / "lean.safetensors").eval()
with torch.no_grad():
    assert torch.equal(again(pixel_values=test[0]).logits, lean(pixel_values=test[0]).logits)
