"""A BERT with half of its multiply-adds: it tells from a sentence which library's documentation it stands in.

python examples/text_classifier.py
python examples/text_classifier.py --epochs 12 --width 256 --layers 4
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections import Counter
from pathlib import Path
from tempfile import mkdtemp

import torch
from transformers import BertConfig, BertForSequenceClassification

import gracile

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--width", type=int, default=128)
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--sentences", type=int, default=800, help="of each library")
options = parser.parse_args()
LIBRARIES = {
    "numpy": "numpy",
    "torch": "torch torch.nn",
    "scipy": "scipy.stats scipy.signal",
    "sklearn": "sklearn.metrics",
}
LIBRARIES["sklearn"] += " sklearn.linear_model sklearn.cluster sklearn.preprocessing sklearn.model_selection"
LENGTH, WORDS, BATCH = 24, 2000, 32

# Sentences of documentation, without the libraries' own names.
texts: list[tuple[list[str], int]] = []
for label, modules in enumerate(LIBRARIES.values()):
    things = [thing for name in modules.split() for thing in vars(importlib.import_module(name)).values()]
    documents = "\n\n".join(sorted({inspect.getdoc(thing) or "" for thing in things if callable(thing)}))
    sentences = {tuple(re.findall("[a-z]+", one.lower())) for one in re.split(r"\.\s|\n\n", documents)}
    kept = [[word for word in one if word not in {*LIBRARIES, "np"}] for one in sorted(sentences) if len(one) >= 6]
    chosen = torch.randperm(len(kept), generator=torch.Generator().manual_seed(label))[: options.sentences]
    texts += [(kept[row][:LENGTH], label) for row in chosen]
order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
texts, (first, second) = [texts[row] for row in order], (int(0.7 * len(texts)), int(0.85 * len(texts)))
common = Counter(word for words, _ in texts[:first] for word in words).most_common(WORDS - 2)
number = {word: at for at, (word, _) in enumerate(common, start=2)}  # 0 pads, 1 is any other word
ids = torch.zeros(len(texts), LENGTH, dtype=torch.long)
for row, (words, _) in enumerate(texts):
    ids[row, : len(words)] = torch.tensor([number.get(word, 1) for word in words])
table = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": torch.tensor([label for _, label in texts])}


def batches(start: int, stop: int, shuffled: bool = False) -> list[dict[str, torch.Tensor]]:
    rows = start + torch.randperm(stop - start) if shuffled else torch.arange(start, stop)
    return [{name: column[one] for name, column in table.items()} for one in rows.split(BATCH)]


def train(sparse: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    shape = {"hidden_size": options.width, "num_hidden_layers": options.layers, "intermediate_size": 4 * options.width}
    network = BertForSequenceClassification(
        BertConfig(vocab_size=WORDS, num_attention_heads=options.width // 32, num_labels=len(LIBRARIES), **shape)
    )
    steps = options.epochs * len(batches(0, first))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    if sparse:
        split = gracile.RGSM(network, beta=0.1, grouping="coupled", example=example)
        dial = gracile.splitting.Dial(split, steps=steps, macs=0.5, example=example)
        dial.attach(optimizer)
    for _ in range(options.epochs):
        for batch in batches(0, first, shuffled=True):
            optimizer.zero_grad()
            network(**batch).loss.backward()
            optimizer.step()
            schedule.step()
    return (dial.sparse_model() if sparse else network).eval()


example = {name: table[name][:2] for name in ("input_ids", "attention_mask")}
networks = {"dense": train(sparse=False), "sparse": train(sparse=True)}
networks["shrunk"] = gracile.shrink(networks["sparse"], example)
folder = Path(mkdtemp())
files = {name: folder / f"{name}.onnx" for name in (*networks, "int8")}
for name, network in networks.items():
    gracile.export_onnx(network, example, files[name], verbose=False)
gracile.export_onnx(
    networks["shrunk"], example, files["int8"], batches(0, min(first, 512)), validation=batches(first, second)
)
measured = gracile.export.latency_table(files, example, batch_sizes=(1,), threads=(1,), progress=False)
more = {
    name: {"parameters": f"{sum(p.numel() for p in networks.get(name, networks['shrunk']).parameters()):,}"}
    for name in files
}
for name, file in files.items():
    more[name]["test %"] = f"{gracile.export.accuracy(file, batches(second, len(texts)), example).percent:.1f}"
print(measured.format(more))
