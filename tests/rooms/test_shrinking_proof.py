"""The proof that a smaller network is the larger one's equal, and the copy that it is cut from."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gracile.channels import trace
from gracile.shrinking import ParityError, shrink
from gracile.shrinking.build import _copied
from gracile.shrinking.parity import agrees, largest_difference, shown_and_drawn
from tests.models.zeros import zero_groups


class Net(nn.Module):
    """A layer between two, and something done to what they give."""

    def __init__(self, after: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 2)
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(torch.relu(self.first(x)))
        return h if self.after is None else self.after(x, h)


def sparse(model: nn.Module, x: Tensor) -> nn.Module:
    graph = trace(model, x)
    zero_groups(model, graph, torch.arange(graph.num_groups) % 2 == 0)
    return model


def given(model: nn.Module, pair: Any) -> list[Tensor]:
    with torch.no_grad():
        return [model(*pair)]


def test_a_network_agrees_with_itself_and_not_with_another() -> None:
    model, pair = Net(), shown_and_drawn(torch.randn(5, 3))
    assert [tuple(one.shape) for one in pair] == [(2, 3)]
    assert agrees(Net(), pair, given(model, pair), 1e-12)
    other = Net()
    with torch.no_grad():
        other.second.bias += 1e-3
    assert not agrees(other, pair, given(model, pair), 1e-5)
    other.second.bias.data.fill_(float("nan"))
    assert not agrees(other, pair, given(model, pair), 1e-5)


def test_the_batch_compared_is_of_another_size_than_was_traced() -> None:
    """What is right for two samples alone, as a number written into a forward may be, does not pass."""
    model, pair = Net(), shown_and_drawn(torch.randn(1, 3))
    for wrong in (lambda _, h: h * (1 + (len(h) != 2)), lambda _, h: h[:2], lambda _, h: h.reshape(2, 2)):
        assert torch.equal(given(Net(wrong), pair)[0], given(model, pair)[0])
        assert not agrees(Net(wrong), pair, given(model, pair), 1e-5)


@pytest.mark.parametrize("after", [lambda _, h: h.mean(), lambda _, h: h.mean(0), lambda _, h: h.T])
def test_outputs_without_samples_are_compared_by_running_both(after: Any) -> None:
    x = torch.randn(2, 3)
    model = sparse(Net(after), x)
    pair = shown_and_drawn(x)
    assert not agrees(model, pair, given(model, pair), 1e-5)
    lean = shrink(model, x)
    assert lean.first.out_features == 4
    assert largest_difference(model, lean, torch.randn(4, 3)) < 1e-6


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_rows_that_the_input_chooses(sign: float) -> None:
    """As many of them for the pair as for two samples or not, the larger network is asked where it matters."""
    x = sign * torch.ones(2, 3)
    model = sparse(Net(lambda x, h: h[x[:, 0] > 0]), x)
    lean = shrink(model, x)
    assert lean.first.out_features == 4
    assert largest_difference(model, lean, torch.randn(6, 3)) < 1e-6


def test_words_are_compared_on_the_examples_own_samples() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.net = nn.Embedding(9, 3), Net()

        def forward(self, ids: Tensor) -> Tensor:
            return self.net(self.table(ids))

    ids = torch.randint(9, (4, 5))
    model = sparse(Words(), ids)
    pair = shown_and_drawn(ids)
    assert torch.equal(pair[0], ids[[0, 0]])
    assert not agrees(model, pair, given(model, pair), 1e-5)
    assert shrink(model, ids).net.first.out_features == 4


def test_noise_that_a_network_does_not_take_is_said_of_the_comparison_not_of_the_example() -> None:
    x = torch.rand(2, 3)

    def probable(x: Tensor, h: Tensor) -> Tensor:
        return h + nn.functional.binary_cross_entropy(x, torch.ones_like(x), reduction="none")[:, :2]

    trace(Net(probable), x)
    with pytest.raises(ParityError, match="between 0 and 1"):
        shrink(Net(probable), x)
    with pytest.raises(ArithmeticError, match="not finite"):
        shrink(Net(lambda x, h: h + x[:, :1].sqrt()), x)


def test_a_wrong_network_is_found_by_the_short_proof_and_named_by_the_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3)
    model = sparse(Net(), x)
    build = shrink.__globals__["fill"]

    def spoiled(lean: nn.Module, made: Any) -> None:
        build(lean, made)
        with torch.no_grad():
            lean.first.weight[0] *= 1.5

    monkeypatch.setitem(shrink.__globals__, "fill", spoiled)
    with pytest.raises(ParityError, match="differ by"):
        shrink(model, x)


class Own(nn.Module):
    """Says itself how it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.copies = nn.Parameter(torch.ones(2)), 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Own:
        made = Own()
        made.copies = self.copies + 1
        memo[id(self)] = made
        return made


class Kept(nn.Module):
    """Keeps what modules keep: hooks, a module twice, lists and names of others, a shared empty dictionary, recurrent weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.own, self.recurrent = nn.Conv2d(1, 2, 1), Own(), nn.LSTM(2, 3, batch_first=True)
        self.again, self.beside = self.first, [self.first]
        self.empty: dict[str, int] = {}
        self.same, self.ordered, self.full = self.empty, OrderedDict[str, int](), {"a": [1]}
        self.register_buffer("numbers", torch.arange(3), persistent=False)
        self.first.register_forward_hook(lambda _module, _x, y: y + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent(self.first(x).flatten(2).mT)[0] * self.own.weight.sum()


def test_a_copy_is_as_deep_as_pythons() -> None:
    model = Kept()
    made, theirs = _copied(model, {}), copy.deepcopy(model)
    x = torch.randn(2, 1, 2, 2)
    assert torch.equal(made(x), theirs(x))
    assert set(vars(made)) == set(vars(theirs))
    assert made.again is made.first is made.beside[0] is not model.first
    assert made.same is made.empty is not model.empty
    assert (made.own.copies, made.full) == (1, {"a": [1]})
    assert made.full["a"] is not model.full["a"]
    assert list(made.state_dict()) == list(model.state_dict()) == list(theirs.state_dict())
    mine = {id(one) for one in (*model.parameters(), *model.buffers(), *model.modules())}
    assert not mine & {id(one) for one in (*made.parameters(), *made.buffers(), *made.modules())}
    model.first.weight.data.zero_()
    made.recurrent.flatten_parameters()
    assert torch.equal(made(x), theirs(x))
    made.empty["new"] = 1
    assert not model.empty
    made.register_forward_hook(lambda _module, _x, y: y * 0)
    assert model(x).abs().sum() > 0
