"""What an evaluation counts, and how it tells that a network has failed as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gracile.data import Dataset
from gracile.training import evaluate

# 60 of the first class, 40 of the second, as one feature.
LABELS = torch.tensor([0] * 60 + [1] * 40)


class Answering(nn.Module):
    """Logits by a function of the inputs; with a parameter, since an evaluation asks for the device."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer, self.zero = answer, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x[:, 0]) + self.zero


def data() -> Dataset:
    return Dataset(LABELS.float()[:, None] + torch.linspace(0, 0.5, 100)[:, None], LABELS, ("a", "b"), "made up")


def logits(first: Tensor) -> Tensor:
    return torch.stack([first, torch.zeros_like(first)], 1)


@pytest.mark.parametrize(("answer", "collapsed"), [
    (lambda x: logits(0.75 - x), ""),
    (lambda x: logits(torch.ones_like(x)), "constant output"),
    (lambda x: logits(1 + x), "one class only"),
    (lambda x: logits(torch.where(x > 0.01, 1.0, -1.0) * (1 + x)), "at chance"),
    (lambda x: logits(x * float("nan")), "one class only"),
])  # fmt: skip
def test_a_network_that_failed_as_a_whole_is_told(answer, collapsed: str):
    assert evaluate(Answering(answer), data(), batch_size=33).collapsed == collapsed


def test_what_is_taken_for_what_is_counted():
    found = evaluate(Answering(lambda x: logits(1.25 - x)), data(), batch_size=33)
    # Of the second class, inputs are 1 plus a number from 0.303 to 0.5: all on their side.
    assert found.confusion.tolist() == [[60, 0], [0, 40]]
    assert found.accuracy == 1.0
    wrong = evaluate(Answering(lambda x: logits(0.1 - x)), data(), batch_size=7)
    assert wrong.confusion.tolist() == [[20, 40], [0, 40]]
    assert wrong.accuracy == pytest.approx(0.6)
    assert wrong.to_json(("a", "b"))["confusion"] == {"a": {"a": 20, "b": 40}, "b": {"b": 40}}


def test_of_one_class_nothing_can_be_told():
    one = data().subset(range(60))
    assert evaluate(Answering(lambda x: logits(1 + x)), one).collapsed == ""
