"""Whether a network has collapsed is said, and of one that works it is not."""

import torch
from torch import Tensor, nn

from gracile.data import Dataset
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
