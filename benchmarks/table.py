"""The benchmarks: one row each, name to (function, what it asks). To add one, write its file and a row here."""

from __future__ import annotations

from benchmarks import (
    adversarial,
    attacks,
    dynamics,
    export,
    forward_forward,
    growth,
    layerwise,
    lean_passes,
    multiples,
    one_layer,
    shrink,
    splitting,
    start,
    study,
    training,
    walks,
    workers,
)
from benchmarks.protocol import Benchmark

BENCHMARKS: dict[str, tuple[Benchmark, str]] = {
    "splitting": (splitting.cases, "a training step that is split, beside a plain one"),
    "training": (training.cases, "an epoch of `gracile.fit`, beside a plain PyTorch loop with a DataLoader"),
    "lean-passes": (
        lean_passes.cases,
        "a step once the choice is final, through what stays and through the whole network",
    ),
    "adversarial": (adversarial.cases, "a step on attacked samples, beside a plain one; ensembles, beside one member"),
    "attacks": (attacks.cases, "PGD, beside torchattacks"),
    "layerwise": (layerwise.cases, "an ELM, beside scikit-learn's RBFSampler and RidgeClassifier"),
    "forward-forward": (forward_forward.cases, "a step without backpropagation, beside one with"),
    "workers": (workers.cases, "a step of 64 stacked workers, beside a loop over modules"),
    "shrink": (shrink.cases, "tracing and shrinking, beside torch-pruning"),
    "export": (export.cases, "shrunk and int8 in onnxruntime, beside dense float32"),
    "multiples": (multiples.cases, "channels by fours in onnxruntime, beside all that can go"),
    "dynamics": (dynamics.cases, "ten steps with a record, beside ten without"),
    "study": (study.cases, "steps by formulas, l1 batch-norm, a record of smoothness"),
    "one-layer": (one_layer.cases, "many starts at once, beside one after the other"),
    "walks": (walks.cases, "simulated walks, beside one step at a time"),
    "start": (start.cases, "import and help, beside a bare Python"),
    "growth": (growth.cases, "exponents of time against sizes, memory against a model's own"),
}
