"""Robust accuracy of networks on a data set, with intervals and warnings, in print and in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gracile.attacks import ENTRIES, Card, Robustness, card, evaluate, preset
from gracile.core.console import told
from gracile.core.devices import device_named
from gracile.core.errors import InputError
from gracile.core.files import write_json, write_text
from gracile.core.provenance import environment
from gracile.core.runs import check_results
from gracile.core.seeding import generator
from gracile.data import Dataset, Splits, batches
from gracile.data.dataset import check_data
from gracile.deploy import cards
from gracile.export.samples import as_examples, feed
from gracile.export.sessions import run, session

# What papers of the field report.
REPORTED = ("fgsm", "ifgsm", "cw", "nattack", "autoattack")
QUICK = {
    "cw": {"steps": 20},
    "nattack": {"steps": 80},
    "square": {"steps": 1000},
    "autoattack": {"steps": 20, "search_steps": 1000},
}
FEWER = "a fifth of the steps (quick), so robustness is overstated"
# What is tried on every form of a compressed network; enough to compare forms, less than a report of one network.
BRIEF = ("pgd", "cw", "square")
BRIEF_OPTIONS = {"cw": {"steps": 20}, "square": {"steps": 500}}


@dataclass(frozen=True)
class Attacked:
    """What attacks left of networks.

    Attributes:
        models: what was found of each, by name.
        data: the data set's name.
        split: ``test``, or ``validation`` where there is no other.
        samples: how many were attacked.
        note: what a reader must know of the data.
        quick: whether attacks took a fifth of their steps.
        cards: robustness and cost in one row, by network.
    """

    models: dict[str, Robustness]
    data: str
    split: str
    samples: int
    note: str = ""
    quick: bool = False
    cards: dict[str, Card] = field(default_factory=dict)

    def __str__(self) -> str:
        ends = "".join(f"; {end}" for end in (self.note, FEWER if self.quick else "") if end)
        parts = [
            f"{name}: {self.samples} {self.split} samples of {self.data}, {one.norm} ball of {one.eps:.4g}{ends}\n\n{one}"
            for name, one in self.models.items()
        ]
        return "\n\n".join([*parts, cards.one_row_each(self.cards.values())] if self.cards else parts)

    def to_json(self) -> dict[str, Any]:
        """The same for a file."""
        return {
            "data": self.data, "note": self.note, "split": self.split, "quick": self.quick,
            "networks": {name: one.to_json() for name, one in self.models.items()},
            "cards": {name: one.to_json() for name, one in self.cards.items()},
        }  # fmt: skip


def attack(
    models: nn.Module | Mapping[str, nn.Module],
    data: Splits,
    *,
    eps: float = 8 / 255,
    norm: str = "linf",
    attacks: Sequence[str] = REPORTED,
    samples: int = 256,
    nattack_samples: int = 16,
    draws: int | None = None,
    quick: bool = False,
    seed: int = 0,
    device: str = "cpu",
    folder: Path | str | None = None,
) -> Attacked:
    """Attack classifiers on the test split of their data and measure the accuracy that is left.

    `gracile.attacks.evaluate` does the same to one network on tensors.

    Args:
        models: one, or several by name; the first is the surrogate whose adversarial examples are tried on the others.
        data: its test split is attacked, the validation split where there is no other.
        eps: radius of the ball, in the inputs' unit.
        norm: of the ball, as `gracile.attacks.evaluate` takes it.
        attacks: of ``fgsm``, ``ifgsm``, ``pgd``, ``cw``, ``cw_paper``, ``nattack``, ``square`` and ``autoattack``, or any other that
            `gracile.attacks.preset` knows.
        samples: drawn once from the split; 0 for all.
        nattack_samples: of which NAttack is tried on, since it asks the network up to 120,000 times a sample.
        draws: passes that gradients are the mean of; by default 20 where a network draws random numbers, else 1.
        quick: a fifth of the steps of C&W, NAttack, Square and AutoAttack.
        seed: of the attacks' own random numbers and the network's.
        device: where the networks run; they stay there.
        folder: where ``attack.json`` and ``table.md`` go, and of each network ``NAME.card.json`` and its adversarial examples,
            ``NAME.examples.safetensors``; nowhere by default.

    Returns:
        Robustness and cost of each network by name, with clean and robust accuracies in per cent; printing it gives the tables.

    Raises:
        InputError: an argument that cannot be used, data that are no images, a device that is not there, or a `folder` that is a run's
            own.
        NonFiniteError: outputs or gradients that are not finite.
        StorageError: the files cannot be written; that is tried before anything is attacked.
    """
    check_data(data)
    for name in attacks:
        preset(name)
    device_named(device)
    if folder is not None:
        check_results(Path(folder))
    named = {"network": models} if isinstance(models, nn.Module) else models
    split = "test" if len(data.test) else "validation"
    x, y = draw(data.test if len(data.test) else data.validation, samples)
    found: dict[str, Robustness] = {}
    made: dict[str, Card] = {}
    note = data.test.note or data.train.note
    surrogate: nn.Module | None = None
    for name, model in named.items():
        model.to(device)
        found[name] = evaluate(
            model, x.to(device), y.to(device), eps=eps, norm=norm, attacks=attacks, surrogate=surrogate,
            options=QUICK if quick else None, limits={"nattack": nattack_samples}, draws=draws, seed=seed,
            progress=lambda line, name=name: told.info("%s: %s", name, line),
        )  # fmt: skip
        made[name] = card(
            found[name], name=name, architecture=cards.architecture(model), dataset=data.train.name,
            cost=cards.cost(model, x[:2].to(device)), footnote="; ".join(filter(None, (note, FEWER if quick else ""))) or None,
        )  # fmt: skip
        surrogate = surrogate or model
    result = Attacked(found, data.train.name, split, len(x), note, quick, made)
    if folder is not None:
        with cards.shown_if_lost(result):
            cards.write_cards(Path(folder), made, found, x, y)
            write_text(Path(folder) / "table.md", f"{result}\n")
            write_json(Path(folder) / "attack.json", {**result.to_json(), "environment": environment()})
    return result


def attack_forms(
    models: Mapping[str, nn.Module], int8: Path | None, data: Dataset, *, eps: float, samples: int
) -> tuple[dict[str, Robustness], list[str]]:
    """Robust accuracy of each form of a network, and what a reader must know.

    The int8 file runs in onnxruntime, where no gradient flows. It is attacked by transfer from the last of `models`, which it
    was made from, and by black-box Square.

    Args:
        models: dense, sparse, shrunk, ...
        int8: the file of the last one in int8, if there is one.
        data: the split attacked.
        eps: l-inf ball.
        samples: drawn from it; 0 for all.
    """
    x, y = draw(data, samples)
    settings: dict[str, Any] = {"eps": eps, "options": BRIEF_OPTIONS}
    found = {name: evaluate(model, x, y, attacks=BRIEF, **settings) for name, model in models.items()}
    what = ", ".join(ENTRIES[name].title for name in BRIEF)
    notes = [f"robust %: worst case per sample of {what} in an l-inf ball of {eps:.4g}, on {len(x)} samples"]
    if int8 is not None:
        last = list(models.values())[-1]
        found["shrunk + int8"] = evaluate(_asked(int8), x, y, attacks=("square",), surrogate=last, **settings)
        notes.append(
            "robust % of int8: onnxruntime gives no gradients, so this is what PGD transferred from the float network and black-box "
            "Square leave standing; an attack with gradients of its own may break more"
        )
    for name, one in found.items():
        notes += [f"{name}: {warning}" for warning in one.warnings]
    return found, notes


def _asked(file: Path) -> Any:
    """An ONNX file as a function from inputs to logits."""
    loaded = session(file, threads=1)

    def logits(x: Tensor) -> Tensor:
        return torch.from_numpy(run(loaded, feed(as_examples(x)))[0]).to(x.device)

    return logits


def draw(data: Dataset, samples: int) -> tuple[Tensor, Tensor]:
    """A fixed draw of images (n, c, h, w) in [0, 1] and their labels (n,).

    Raises:
        InputError: the data are no images, or there are none.
    """
    if not len(data):
        raise InputError(f"There are no test samples in '{data.name}'.", "Give data with a test split.")
    if not data.is_image:
        raise InputError(
            f"'{data.name}' holds features, not images, and attacks speak of pixels in [0, 1].",
            "Scale the features to [0, 1] and call gracile.attacks on tensors.",
        )
    if samples < 0:
        raise InputError(f"The number of samples is {samples}.", "Give a number of samples, 0 for all.")
    order = torch.randperm(len(data), generator=generator(0, "attacked"))
    chosen = data.subset(order[: samples or len(data)])
    return next(batches(chosen, len(chosen)))
