"""Networks as people write them: half of the groups zeroed, what can go goes, and the outputs stay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gracile.channels import trace
from gracile.core.errors import InputError
from gracile.shrinking import plan, shrink
from gracile.shrinking.parity import largest_difference
from gracile.splitting import RGSM
from tests.models.idioms import IDIOMS, Attention, Counted, Divided, Grouped, Texts, Transformer, TwiceRead
from tests.models.well_known import randomised
from tests.models.zeros import zero_groups


def example(shapes: tuple[tuple[int, ...], ...], batch: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
    source = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, *shape, generator=source, dtype=torch.float64) for shape in shapes)


def half_zero(model: nn.Module, x: tuple[Tensor, ...] | Tensor, seed: int = 0) -> None:
    """Zero half of the groups, but never all that a layer reads."""
    graph = trace(model, x)
    zero = torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(seed)) < 0.5
    for index in graph.group_index().values():
        groups = index.unique()
        groups = groups[groups >= 0]
        if len(groups) and bool(zero[groups].all()) and not bool((index < 0).any()):
            zero[groups[0]] = False
    zero_groups(model, graph, zero)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# torch's own older forms of weight and spectral norm say that they are older.
@pytest.mark.filterwarnings("ignore:.*is deprecated in favor of:FutureWarning")
@pytest.mark.parametrize("name", IDIOMS)
def test_what_can_go_goes_and_the_outputs_stay(name: str) -> None:
    make, shapes, removable = IDIOMS[name]
    torch.manual_seed(0)
    model, x = randomised(make(), 0).double(), example(shapes)
    half_zero(model, x)
    lean = shrink(model, x)
    assert largest_difference(model, lean, example(shapes, 3, seed=1)) < 1e-12
    assert (size(lean) < size(model)) == removable
    assert size(lean) == plan(model, x).after.parameters


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_hidden_units_of_recurrent_layers_go_and_tied_weights_stay_tied(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = Texts(kind).double().eval(), torch.randint(0, 20, (2, 5))
    graph = trace(model, x)
    assert (graph.group_index()["back.weight"] >= 0).all()  # the six hidden units
    half_zero(model, x)
    lean = shrink(model, x)
    assert lean.body.hidden_size < 6
    assert lean.body.weight_hh_l0.shape[1] == lean.body.hidden_size
    assert lean.head.weight is lean.words.weight
    assert lean.words.embedding_dim == lean.words.weight.shape[1]
    assert largest_difference(model, lean, torch.randint(0, 20, (3, 7))) < 1e-12


def test_heads_are_groups_and_their_number_follows() -> None:
    model, x = randomised(Transformer(), 0).double(), example(((3, 16, 16),))
    graph = trace(model, x)
    assert graph.group_index()["body.0.out.weight"].flatten().tolist() == [head for head in range(4) for _ in range(4)]
    zero_groups(model, graph, torch.arange(graph.num_groups) == 1)
    lean = shrink(model, x)
    assert (lean.body[0].heads, lean.body[2].heads) == (3, 4)
    assert lean.body[0].qkv.weight.shape == (36, 16)
    assert lean.body[0].out.in_features == 12


def test_heads_of_a_written_attention_lose_pairs_and_values_each_its_own() -> None:
    torch.manual_seed(0)
    model, (x,) = Attention().double().eval(), example(((5, 16),))
    with torch.no_grad():
        for head in range(4):
            model.qkv.weight[4 * head + head] = 0  # of the queries, another place in each head
            model.qkv.bias[4 * head + head] = 0
            model.out.weight[:, 4 * head + (head + 1) % 4] = 0
    lean = shrink(model, x)
    assert type(lean) is Attention
    assert lean.qkv.weight.shape == (3 * 4 * 3, 16)
    assert (lean.heads, lean.each, lean.scale, lean.out.in_features) == (4, 3, 0.5, 12)
    assert largest_difference(model, lean, torch.randn(3, 7, 16, dtype=torch.float64)) < 1e-12
    with torch.no_grad():  # as many pairs of one head alone leave nothing: a view has one width
        again = Attention().double().eval()
        again.qkv.weight[0] = again.qkv.bias[0] = 0
    assert size(shrink(again, x)) == size(again)


def test_shared_keys_go_with_all_queries_that_ask_them() -> None:
    torch.manual_seed(0)
    model, (x,) = Grouped().double().eval(), example(((5, 16),))
    with torch.no_grad():
        for head in range(2):
            model.k.weight[[4 * head + head, 4 * head + 3]] = 0
        model.out.weight[:, 2::4] = 0
    lean = shrink(model, x)
    assert [len(one.weight) for one in (lean.q, lean.k, lean.v)] == [8, 4, 6]
    assert largest_difference(model, lean, torch.randn(3, 7, 16, dtype=torch.float64)) < 1e-12


def test_a_scale_that_is_read_off_the_width_holds_it() -> None:
    torch.manual_seed(0)
    model, (x,) = Divided().double().eval(), example(((5, 16),))
    graph = trace(model, x)
    assert not graph.blocks
    assert any("divides by its number" in reason for reason in graph.reasons.values())
    with torch.no_grad():
        model.qkv.weight[:16:4] = 0
        model.qkv.bias[:16:4] = 0
    assert size(shrink(model, x)) == size(model)


def test_attention_of_torch_loses_heads_and_still_takes_masks() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, dropout=0.0).double().eval()
    x = example(((5, 16),))[0]
    with torch.no_grad():
        layer.self_attn.out_proj.weight[:, 4:12] = 0
    lean = shrink(layer, x)
    assert lean.self_attn.num_heads == 2
    assert lean.self_attn.in_proj_weight.shape == (24, 16)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    causal = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    for arguments in (
        {},
        {"src_mask": causal},
        {"src_key_padding_mask": padding.double().masked_fill(padding, -torch.inf)},
    ):
        torch.testing.assert_close(lean(x, **arguments), layer(x, **arguments), rtol=0, atol=1e-12)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_attention_of_torch_loses_pairs_and_values_within_heads(apart: bool, weights: bool) -> None:
    """Each head loses others; a query's zeros need its bias to be zero, a key's do not, since softmax forgets what all keys have."""
    torch.manual_seed(0)
    sizes = {"kdim": 12, "vdim": 12} if apart else {}
    model = nn.MultiheadAttention(16, 4, batch_first=True, **sizes).double().eval()
    model.in_proj_bias.data.normal_()
    query, key = (model.q_proj_weight, model.k_proj_weight) if apart else model.in_proj_weight.chunk(3)[:2]
    with torch.no_grad():
        key[[0, 5, 10, 15]] = 0
        query[[1, 4, 11]] = 0
        query[14] = 0  # with a bias that is not zero
        model.in_proj_bias[[1, 4, 11]] = 0
        model.out_proj.weight[:, [2, 3, 5, 7, 8, 9, 13]] = 0

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = model

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            return self.attention(x, memory, memory, need_weights=weights)[0]

    net, x = Net(), example(((5, 16), (6, 12 if apart else 16)))
    lean = shrink(net, x)
    found = lean.attention
    # One pair more is left of three heads, and one value of the last, than need be: heads are alike.
    pairs = found.q_proj_weight if apart else found.in_proj_weight[:12]
    assert (found.num_heads, pairs.shape[0], found.out_proj.weight.shape) == (4, 12, (16, 12))
    assert largest_difference(net, lean, example(((7, 16), (4, 12 if apart else 16)), 3, seed=1)) < 1e-12
    assert size(lean) == plan(net, x).after.parameters
    with torch.no_grad():
        found.out_proj.weight[:, 3:6] = 0  # the second head, of three values
    again = shrink(lean, x)
    assert (again.attention.num_heads, again.attention.out_proj.weight.shape) == (3, (16, 9))
    assert largest_difference(lean, again, x) < 1e-12


def test_an_attention_of_torch_may_lose_all_heads() -> None:
    torch.manual_seed(0)
    model, x = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True).double().eval(), example(((5, 8),))[0]
    model.self_attn.out_proj.weight.data.zero_()
    lean = shrink(model, x, dead="fold")
    assert lean.self_attn.num_heads == 0
    assert largest_difference(model, lean, x) < 1e-12


def test_a_mask_for_each_head_keeps_the_heads() -> None:
    """One head's mask used to stand for all."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.attention(x, x, x, attn_mask=mask.flatten(0, 1), need_weights=False)[0]

    model, x = Masked().double().eval(), example(((5, 8), (2, 5, 5)))
    model.attention.out_proj.weight.data[:, :5] = 0
    lean = shrink(model, x)
    assert lean.attention.num_heads == 2
    assert lean.attention.out_proj.in_features == 6  # three values of each head, as the second has
    assert largest_difference(model, lean, example(((5, 8), (2, 5, 5)), 3, seed=1)) < 1e-12


def test_weights_that_attention_returns_hold_its_heads_only_where_they_are_used() -> None:
    class Seen(nn.Module):
        def __init__(self, used: bool) -> None:
            super().__init__()
            self.attention, self.used = nn.MultiheadAttention(8, 2, batch_first=True), used

        def forward(self, x: Tensor) -> Tensor:
            y, weights = self.attention(x, x, x)
            return y + weights.mean() if self.used else y

    x = torch.randn(2, 5, 8)
    assert trace(Seen(False), x).num_groups == 2
    graph = trace(Seen(True), x)
    assert graph.num_groups == 0
    assert any("averaged over its heads" in reason for reason in graph.reasons.values())


def test_a_tensor_read_by_module_and_by_name_is_one() -> None:
    assert trace(TwiceRead(), torch.randn(1, 3, 4, 4)).num_groups == 8


@pytest.mark.parametrize("power", [False, True])
def test_a_number_of_channels_used_as_a_value_pins_them_and_says_where(power: bool) -> None:
    graph = trace(Counted(power), torch.randn(1, 3, 4, 4))
    assert graph.num_groups == 0
    assert any("their number is used as a value at" in reason and "y.s" in reason for reason in graph.reasons.values())


def test_grouped_convolutions_lose_channels_evenly_where_there_are_more_of_them_than_groups() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=2), nn.Conv2d(16, 2, 1))
    index = trace(model, torch.randn(1, 3, 6, 6)).group_index()
    assert index["1.weight"].flatten().tolist() == list(range(8))
    assert index["2.weight"].flatten().tolist() == [*range(8, 16), *range(8, 16)]


@pytest.mark.parametrize(("groups", "each", "inside"), [(12, 8, True), (12, 4, False), (2, 4, True)])
def test_grouped_convolutions_lose_places_within_groups_where_there_are_enough_of_them(
    groups: int, each: int, inside: bool
) -> None:
    """A share p of the places leaves p^2 of the weights, a share p of the groups p; but of four places each is a quarter."""
    wide = groups * each
    model = nn.Sequential(
        nn.Conv2d(3, wide, 1), nn.Conv2d(wide, wide, 3, groups=groups), nn.Conv2d(wide, 2, 1)
    ).double()
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    graph = trace(model, x)
    of_reader = graph.group_index()["2.weight"].flatten()
    assert len(of_reader.unique()) == (each if inside else groups)
    halves = torch.zeros(graph.num_groups, dtype=torch.bool)
    halves[of_reader.unique()[::2]] = True
    if inside:  # what goes of its inputs and what goes of its outputs differ, and a filter that goes reads nothing
        halves[graph.group_index()["1.weight"].unique()[1::2]] = True
    zero_groups(model, graph, halves)
    lean = shrink(model, x)
    left = (groups, each // 2) if inside else (groups // 2, each)
    assert (lean[1].groups, lean[1].weight.shape[1], lean[1].out_channels) == (*left, wide // 2)
    assert largest_difference(model, lean, torch.randn(3, 3, 6, 6, dtype=torch.float64)) < 1e-12


def test_inputs_by_name_and_optional_arguments() -> None:
    make, shapes, _ = IDIOMS["optional"]
    model, x = randomised(make(), 0).double(), example(shapes)[0]
    half_zero(model, x)
    lean = shrink(model, {"x": x})
    mask = torch.rand(2, 1, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(lean(x, mask)["out"], model(x, mask)["out"], rtol=0, atol=1e-12)


def test_an_expanded_example_is_an_example() -> None:
    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            batch, frames = x.shape[:2]
            return self.head(F_relu(self.stem(x.view(batch * frames, 6)))).view(batch, frames, 2)

    F_relu = torch.relu
    assert trace(Frames(), torch.randn(1, 1, 6).expand(2, 5, 6)).num_groups == 8


def test_numbers_of_modules_are_numbers_again_after_tracing() -> None:
    model = Attention().double()
    trace(model, example(((5, 16),)))
    assert type(model.heads) is int
    assert type(model.each) is int


def test_a_value_that_depends_on_the_input_is_refused_with_its_line() -> None:
    class Reading(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float(x.max())

    with pytest.raises(InputError, match=r"test_channels_idioms.py:\d+ `return x \* float\(x.max\(\)\)`"):
        trace(nn.Sequential(nn.Linear(3, 4), Reading(), nn.Linear(4, 2)), torch.randn(1, 3))


def test_training_takes_out_whole_heads_and_neurons() -> None:
    """Under a strong penalty groups of heads and neurons vanish, and what comes back computes the same."""
    torch.manual_seed(0)
    model, (x,) = Transformer().double(), example(((3, 16, 16),), 16)
    target = torch.arange(16) % 5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    split = RGSM(model, grouping="coupled", example=x, lam=0.3, beta=1.0)
    split.attach(optimizer)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
    sparse = split.sparse_model()
    graph = trace(sparse, x)
    gone = graph.num_groups - graph.count().channels
    assert 0 < gone < graph.num_groups
    lean = shrink(sparse, x, dead="fold")
    assert largest_difference(sparse, lean, x) < 1e-10
    assert size(lean) < size(model)


def test_heads_that_read_a_constant_keep_their_own_places_of_it() -> None:
    torch.manual_seed(0)
    stem, read = nn.Linear(6, 4), nn.Linear(4, 16)
    model, (x,) = nn.Sequential(stem, read, Attention(), nn.Linear(16, 3)).double().eval(), example(((5, 6),))
    with torch.no_grad():
        model[2].norm = nn.Identity()
        read.weight.zero_()  # all channels of the stem go, and what is behind it is a constant
        for head in range(4):
            model[2].out.weight[:, 4 * head + head] = 0
            model[2].qkv.weight[4 * head + head] = model[2].qkv.bias[4 * head + head] = 0
    lean = shrink(model, x, dead="fold")
    assert lean.get_submodule("2").out.in_features == 4 * 3
    assert largest_difference(model, lean, torch.randn(3, 5, 6, dtype=torch.float64)) < 1e-12
