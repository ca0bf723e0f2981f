"""Whether a network has collapsed is said, and of one that works it is not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gracile.core.collapse import of_several
from gracile.data import Dataset
from gracile.recipes import kinds, run, schema
from gracile.report import read
from gracile.report.page import show
from gracile.training import evaluate


def collapsed(network: nn.Module, data: Dataset) -> str:
    return evaluate(network, data).collapsed


class _Answers(nn.Module):
    """Answers each sample with the class that its features are the logits of."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def _data(answers: Tensor, labels: Tensor, classes: int) -> Dataset:
    """Features that make `_Answers` give these answers."""
    jitter = torch.rand(len(answers), classes, generator=torch.Generator().manual_seed(0))
    inputs = nn.functional.one_hot(answers, classes).float() + 0.1 * jitter
    return Dataset(inputs, labels, tuple(str(one) for one in range(classes)), "made")


def _balanced(classes: int, each: int) -> Tensor:
    return torch.arange(classes).repeat(each)


def test_a_network_that_works_has_not_collapsed() -> None:
    labels = _balanced(10, 20)
    assert collapsed(_Answers(), _data(labels, labels, 10)) == ""


def test_the_same_output_for_every_input() -> None:
    labels = _balanced(10, 20)
    network = _Answers()
    with torch.no_grad():
        network.scale.zero_()
    assert collapsed(network, _data(labels, labels, 10)) == "constant output"


def test_one_class_for_every_sample() -> None:
    labels = _balanced(10, 20)
    told = collapsed(_Answers(), _data(torch.full_like(labels, 3), labels, 10))
    assert told == "one class only"


def test_guesses_are_at_chance() -> None:
    labels = _balanced(10, 50)
    guesses = torch.randint(10, labels.shape, generator=torch.Generator().manual_seed(1))
    told = collapsed(_Answers(), _data(guesses, labels, 10))
    assert told == "at chance"


def test_two_answers_of_ten_are_a_collapse_though_above_chance() -> None:
    labels = _balanced(10, 100)
    answers = labels.clamp(max=1)
    told = collapsed(_Answers(), _data(answers, labels, 10))
    assert told == "half of the classes never"


def test_uneven_classes_are_judged_by_each_class_alike() -> None:
    """Nine in ten are of class 0: an accuracy below that can be worth more than the guess that has it."""
    labels = torch.cat([torch.zeros(900, dtype=torch.long), torch.ones(100, dtype=torch.long)])
    answers = labels.clone()
    answers[:150] = 1  # 85 % right, and all of class 1 found
    assert collapsed(_Answers(), _data(answers, labels, 2)) == ""
    blind = (torch.arange(1000) % 10 == 0).long()  # 82 % right, without looking
    told = collapsed(_Answers(), _data(blind, labels, 2))
    assert told == "at chance"


def test_what_few_samples_cannot_tell_is_not_claimed() -> None:
    labels = torch.tensor([0, 1, 2])
    assert collapsed(_Answers(), _data(labels, labels, 3)) == ""


def test_of_several_networks_it_is_said_how_many() -> None:
    assert of_several(["", ""], "workers") == ""
    assert of_several(["at chance", "at chance"], "workers") == "at chance"
    assert of_several(["at chance", "", "one class only"], "workers") == "2 of 3 workers: at chance, one class only"


# Kinds whose recipes measure accuracies, with settings of a second on labels that have nothing to do with the inputs.
ROUNDS = {"rounds": 3, "batch_size": 16, "every": 3}
KINDS: dict[str, dict[str, Any]] = {
    "train": {"data": {}, "model": {"name": "mlp"}, "training": {"epochs": 1, "lr": 0.01}, "arms": {"dense": {}}},
    "perceptron": {
        "data": {}, "training": {"steps": 5, "every": 5, "batch_size": 20, "lr": 0.01}, "arms": {"dense": {"network": {"widths": [4]}}},
    },
    "workers": {
        "data": {}, "model": {"name": "mlp"}, "training": ROUNDS,
        "arms": {"dense": {"method": "dsgd", "workers": 3, "options": {"lr": 0.01}}},
    },
    "layerwise-workers": {
        "data": "", "workers": 2, "learner": {"max_layers": 1, "lam": 1.0}, "arms": {"admm": {}},
        "baselines": {"dense": {"widths": [4], "lr": 0.01, **ROUNDS}},
    },
    "layerwise-redense": {
        "data": "", "hidden": 4, "m": [4], "epochs": 2, "seeds": [0], "base": {"epochs": 1}, "inside": ["1"], "inside_epochs": 1,
    },
    "layerwise-rho": {
        "sweeps": {"blind": {"data": "", "rhos": [1.0], "trials": 1}}, "inverted": 2,
        "mixture": {"samples": 400, "trials": 1, "rhos": [1.0], "spread": 0.0},
    },
}  # fmt: skip


# Kinds that measure no accuracy, and one that trains as `train` does.
WITHOUT = {"conserved", "ff-random-layer", "ff-sparsity", "low-rank", "one-layer", "tree", "walk-rates", "file-size"}


def test_each_kind_is_known_to_measure_accuracies_or_not() -> None:
    assert KINDS.keys() | WITHOUT == kinds.KINDS.keys()


def pointed(settings: dict[str, Any], path: str) -> dict[str, Any]:
    """The settings with the data's path wherever data are named."""
    return {
        key: ({"name": path} if value == {} else path) if key == "data" else pointed(value, path) if isinstance(value, dict) else value
        for key, value in settings.items()
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_names_what_has_collapsed(kind: str, tmp_path: Path) -> None:
    """In the table, so on the terminal too, in the notes where parts are networks, and at the head of the page."""
    draw = np.random.default_rng(0)
    images = kind == "layerwise-redense"
    x = draw.random((600, 4, 4) if images else (600, 6))
    np.savez(tmp_path / "blind.npz", x=x, y=draw.integers(0, 4, 600))
    settings = pointed(KINDS[kind], str(tmp_path / "blind.npz"))
    finished = run(schema.Recipe(name="blind", title="blind", kind=kind, settings=settings), tmp_path / "run")
    rows = finished.outcome.rows
    assert rows
    assert all(row.get("collapsed") for row in rows), rows
    assert "collapsed" in str(finished)
    page = show(read(tmp_path / "run"))
    assert any(how in page for how in ("at chance", "one class only"))
    assert "Collapsed:" in page
    if kind != "layerwise-rho":
        assert any("has collapsed" in note for note in finished.outcome.notes)
