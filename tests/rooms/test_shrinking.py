"""Physical removal: the same outputs, the planned size, files that come back, mistakes that are named."""

from __future__ import annotations

import copy
import json
import lzma
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, fx, nn

import gracile
from gracile.channels import register_rule, trace
from gracile.channels.table import RULES
from gracile.core.errors import InputError, StorageError
from gracile.models import lenet, resnet20
from gracile.shrinking import (
    Gathered,
    ParityError,
    apply_plan,
    load_lean,
    plan,
    read_plan,
    save_lean,
    save_plan,
    shrink,
    stored_sizes,
)
from gracile.shrinking.parity import largest_difference
from tests.models.well_known import LARGE, WELL_KNOWN, LambdaShortcutNet, randomised
from tests.models.zeros import zero_filters, zero_groups, zero_inputs_per_layer
from tests.peers import peer


def sparse(name: str, share: float, seed: int) -> tuple[nn.Module, Tensor]:
    make, shape = {**WELL_KNOWN, **LARGE}[name]
    model, source = randomised(make(), seed), torch.Generator().manual_seed(seed)
    x = torch.randn(2, *shape, generator=source)
    graph = trace(model, x)
    zero_groups(model, graph, torch.rand(graph.num_groups, generator=source) < share)
    return model, x


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", WELL_KNOWN)
@settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    seed=st.integers(0, 9999),
    share=st.sampled_from([0.1, 0.5, 0.9]),
    filters=st.sampled_from([0.0, 0.3]),
    layered=st.sampled_from([0.0, 0.5]),
    gather=st.booleans(),
)
def test_outputs_stay_and_sizes_are_the_planned_ones(
    name: str, seed: int, share: float, filters: float, layered: float, gather: bool
) -> None:
    model, x = sparse(name, share, seed)
    zero_filters(model, filters, seed)
    zero_inputs_per_layer(model, layered, seed)
    made = plan(model, x, dead="fold", gather=gather)
    lean = shrink(model, x, dead="fold", gather=gather)
    assert largest_difference(model, lean, torch.randn_like(x) * 3) < 1e-5
    assert size(lean) == made.after.parameters
    if not gather:
        assert trace(model, x).count() == made.after
    if list(lean.parameters()) and not made.gathers:
        assert trace(lean, x).dense().macs == made.after.macs


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", LARGE)
def test_networks_as_they_are_used(name: str, share: float) -> None:
    model, x = sparse(name, share, 0)
    lean = shrink(model, x, dead="fold")
    assert type(lean).__name__ == type(model).__name__
    assert isinstance(lean, type(model)) or share == 0.9  # only a dead branch needs a generated forward here
    assert largest_difference(model, lean, torch.randn_like(x)) < 1e-5
    assert size(lean) == trace(model, x).count().parameters


def test_half_of_resnet18s_groups_are_more_than_half_of_its_multiply_adds() -> None:
    model, x = sparse("resnet18", 0.5, 1)
    after = trace(shrink(model, x), x).dense()
    assert after.macs < 0.3 * 555_422_720


def test_the_callers_model_is_left_alone() -> None:
    model, x = sparse("resnet20-A", 0.5, 0)
    model.train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    identities = [id(parameter) for parameter in model.parameters()]
    lean = shrink(model, x, dead="fold")
    assert all(one.training for one in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert identities == [id(parameter) for parameter in model.parameters()]
    assert lean.training
    assert not {one.data_ptr() for one in lean.parameters()} & {one.data_ptr() for one in model.parameters()}


def test_a_dense_model_comes_back_as_it_is() -> None:
    model, x = sparse("resnet20-A", 0.0, 0)
    lean = shrink(model, x)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), lean.parameters(), strict=True))


@pytest.mark.parametrize("name", ["resnet20-A", "lambda-shortcut", "mobilenet"])
def test_the_smaller_network_copies_and_trains(name: str) -> None:
    model, x = sparse(name, 0.4, 2)
    lean = copy.deepcopy(shrink(model, x, dead="fold")).train()
    torch.manual_seed(0)  # dropout
    optimizer = torch.optim.SGD(lean.parameters(), lr=0.05)
    x, target = torch.randn(8, *x.shape[1:]), torch.arange(8) % 5
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(lean(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in lean.parameters())
    assert losses[-1] < 0.9 * losses[0]


def test_frozen_parameters_stay_frozen() -> None:
    model, x = sparse("lenet", 0.5, 0)
    model.get_parameter("conv2.weight").requires_grad_(False)
    lean = shrink(model, x)
    assert [name for name, one in lean.named_parameters() if not one.requires_grad] == ["conv2.weight"]


@pytest.mark.parametrize("name", ["resnet20-A", "lambda-shortcut"])
def test_dynamo_traces_the_smaller_network_whole(name: str) -> None:
    model, x = sparse(name, 0.5, 0)
    lean = shrink(model, x, dead="fold")
    compiled = torch.compile(lean, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), lean(x))


# Inductor's own imports use an interface that torch deprecates.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_inductor_compiles_the_smaller_network() -> None:
    model, x = sparse("mlp", 0.5, 0)
    lean = shrink(model, x)
    torch.testing.assert_close(torch.compile(lean)(x), lean(x))


class Frozen(nn.Module):
    """A norm whose author never lets it learn from the batch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance, training=False)


class Handwritten(Frozen):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance, training=self.training)


class Chosen(nn.BatchNorm2d):
    """As timm writes it: code between the mode and the function."""

    def forward(self, x: Tensor) -> Tensor:
        batch = True if self.training else self.running_mean is None
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, batch, 0.1, self.eps)


class StochasticDepth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0 if self.training else x


class Literal(nn.Module):
    """Its view names a number of channels, so that a forward is generated where one of them goes."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 8, 1)
        self.depth, self.head = StochasticDepth(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        return self.head((y + self.depth(self.second(y))).mean((2, 3)).view(-1, 8))


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, Chosen, Handwritten, Frozen])
def test_a_generated_forward_trains_as_the_model_does(kind: type[nn.Module]) -> None:
    """Recorded in evaluation, batch-norm used to keep its statistics, and stochastic depth was gone, while it trained on."""
    model, x = randomised(Literal(kind(8)), 0).double(), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    graph = trace(model, x)
    zero_groups(model, graph, torch.arange(graph.num_groups) < 3)
    lean = shrink(model, x)
    assert isinstance(lean, fx.GraphModule)
    for mode in (True, False):
        torch.testing.assert_close(lean.train(mode)(x), model.train(mode)(x))


def test_dropout_written_as_a_function_stays_dropout() -> None:
    model, x = randomised(LambdaShortcutNet(), 0), torch.randn(2, 3, 8, 8)
    graph = trace(model, x)
    zero_groups(model, graph, torch.arange(12) < 4)
    lean = shrink(model, x)
    assert isinstance(lean, fx.GraphModule)
    assert type(lean).__name__ == "LambdaShortcutNet"
    [dropped] = [node for node in lean.graph.nodes if node.target is F.dropout]
    assert 0.1 in (*dropped.args, *dropped.kwargs.values())
    torch.manual_seed(0)
    assert not torch.equal(lean.train()(x), lean(x))
    assert torch.equal(lean.eval()(x), lean(x))


def constant_net(padding: int) -> nn.Sequential:
    """The first filter is zero, so its channel is the bias 0.7, which filters of the second layer read."""
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3, padding=padding, bias=False)), 0)
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].bias[0] = 0.7
    return model  # type: ignore[return-value]


def test_a_constant_moves_into_the_next_bias_where_that_is_exact() -> None:
    model, x = constant_net(0), torch.randn(2, 3, 8, 8)
    made = plan(model, x)
    assert made.after.channels == 3
    assert "moved into its bias" in made.describe()
    lean = shrink(model, x)
    expected = torch.tanh(torch.tensor(0.7)) * model[2].weight[:, 0].sum((1, 2))
    torch.testing.assert_close(lean.get_parameter("2.bias"), expected)


class Inlined(nn.Module):
    """The second layer is a function of parameters, whose shift a third may read too."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.first, self.shared = nn.Conv2d(3, 4, 3), shared
        self.kernel, self.shift = nn.Parameter(torch.randn(2, 4, 1, 1)), nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(torch.tanh(self.first(x)), self.kernel, self.shift)
        return y * self.shift[:, None, None] if self.shared else y


@pytest.mark.parametrize("shared", [False, True])
def test_a_constant_moves_into_a_bias_that_is_a_parameter_unless_others_read_it(shared: bool) -> None:
    model, x = randomised(Inlined(shared), 0), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        model.get_parameter("first.weight")[0] = 0
    lean = shrink(model, x)
    assert lean.get_parameter("kernel").shape[1] == (4 if shared else 3)
    assert torch.equal(lean.get_parameter("shift"), model.get_parameter("shift")) == shared


def test_a_constant_stays_where_the_reading_layer_is_called_twice() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        first.weight[0] = 0
    model, x = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), second), torch.randn(2, 4)
    assert plan(model, x).after == plan(model, x).before


def test_a_constant_beside_a_comparison_is_looked_at_as_what_it_is() -> None:
    class Where(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x > 0, x, 0.5 * x)

    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), Where(), nn.Conv2d(4, 2, 1)), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        model[0].weight[0] = 0
    shrink(model, x)


class Steps(nn.Module):
    """A recurrent layer over pixels, whose number is read from the image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body, self.head = nn.Conv2d(3, 4, 1), nn.LSTM(4, 5, batch_first=True), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.body(x.flatten(2).transpose(1, 2))[0].transpose(1, 2)
        return self.head(y.reshape(len(y), -1, *x.shape[2:]))


def test_a_reader_that_cannot_do_without_inputs_keeps_one() -> None:
    model, x = Steps(), torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        model.body.weight_ih_l0.zero_()
    with pytest.raises(InputError, match="none of its 4 outputs left"):
        shrink(model, x)
    lean = shrink(model, x, dead="fold")
    assert lean.get_parameter("first.weight").shape[0] == 1
    assert plan(model, x, dead="fold").after.parameters == size(lean)


def test_a_constant_stays_in_front_of_zero_padding_and_the_plan_says_so() -> None:
    model, x = constant_net(1), torch.randn(2, 3, 8, 8)
    made = plan(model, x)
    assert made.after == made.before
    assert "zero padding in '2' makes them differ at the border" in made.describe()
    shrink(model, x)


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_padding_with_the_image_itself_keeps_constants_exact(mode: str) -> None:
    model, x = constant_net(1), torch.randn(2, 3, 8, 8)
    model[2] = nn.Conv2d(4, 2, 3, padding=1, padding_mode=mode)
    assert plan(model, x).after.channels == 3
    shrink(model, x)


def test_zero_filters_behind_batch_norm_do_not_vanish_silently() -> None:
    """Removing them regardless of the norm's beta changes outputs; that is a known fault of pruning tools."""
    model = randomised(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1)), 0
    )
    with torch.no_grad():
        model[0].weight[:3] = 0
        model[1].bias[:3] = torch.tensor([9.0, -9.0, 9.0])
    x = torch.randn(2, 3, 8, 8)
    assert plan(model, x).after.channels == 5  # only the one that ReLU takes to zero
    shrink(model, x)


def dead_net() -> tuple[nn.Module, Tensor]:
    model = randomised(resnet20(image_size=8, num_classes=5), 0)
    with torch.no_grad():
        model.get_parameter("stages.1.1.conv2.weight").zero_()
    return model, torch.randn(2, 3, 8, 8)


def test_a_dead_layer_is_refused_by_name() -> None:
    model, x = dead_net()
    with pytest.raises(InputError, match=r"'stages.1.1.conv1' has none of its 32 outputs left.*dead='fold'"):
        shrink(model, x)


def test_a_dead_branch_folds_to_its_constant() -> None:
    model, x = dead_net()
    lean = shrink(model, x, dead="fold")
    assert not any(name.startswith("stages.1.1.conv") for name, _ in lean.named_parameters())
    assert [name for name, _ in lean.named_buffers() if name.startswith("constant_")] == ["constant_stages_1_1_bn2"]
    assert plan(model, x, dead="fold").after.parameters == size(lean)
    # A constant beside an image of another size still spreads over it.
    larger = torch.randn(2, 3, 16, 16)
    assert largest_difference(model, lean, larger) < 1e-5


def test_dead_must_be_a_known_word() -> None:
    with pytest.raises(InputError, match="'refuse' or 'fold'"):
        plan(lenet(), torch.randn(1, 1, 28, 28), dead="skip")


def test_gather_removes_what_others_still_read() -> None:
    model = randomised(resnet20(image_size=8), 0)
    with torch.no_grad():
        model.get_parameter("stages.0.1.conv1.weight")[:, 3:9] = 0
    x = torch.randn(2, 3, 8, 8)
    off = plan(model, x)
    assert off.after == off.before
    row = next(row for row in off.rows if row.layer == "stages.0.1.conv1")
    assert (row.zero_inputs, row.gather_saves) == (6, 6 * 16 * 9 * 64)
    assert "'stages.0.0.conv1' reads them" in row.reason
    assert f"gather=True) would save {6 * 16 * 9 * 64:,}" in off.describe()
    lean = shrink(model, x, gather=True)
    selected = lean.get_submodule("stages.0.1.conv1")
    assert isinstance(selected, Gathered)
    assert selected.index.tolist() == [0, 1, 2, *range(9, 16)]
    assert size(lean) == size(model) - 6 * 16 * 9
    with pytest.raises(InputError, match="shrunk with gather=True already"):
        shrink(lean, x)


def test_the_plan_is_a_table_of_layers_and_sums() -> None:
    model, x = sparse("lenet", 0.5, 0)
    made = plan(model, x)
    text = made.describe()
    for layer in ("conv1", "conv2", "linear1", "linear2", "linear3"):
        assert f"| {layer} " in text
    assert f"parameters {made.before.parameters:,} -> {made.after.parameters:,}" in text


def test_a_wrong_rule_is_caught_by_the_comparison() -> None:
    class Reversed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flip(1)

    model = randomised(nn.Sequential(nn.Conv2d(3, 5, 3), Reversed(), nn.Conv2d(5, 2, 3)), 0)
    register_rule(Reversed)(lambda op: op.x.channels)
    try:
        with torch.no_grad():
            model[2].weight[:, 0] = 0
        with pytest.raises(ParityError, match="a rule for one of its operations is wrong"):
            shrink(model, torch.randn(2, 3, 8, 8))
    finally:
        del RULES[Reversed]


@pytest.mark.parametrize(
    "name", ["lenet", "resnet20-A", "lambda-shortcut", "mobilenet", "resnext", "densenet", "splitting"]
)
@pytest.mark.parametrize("gather", [False, True])
def test_a_saved_network_comes_back_from_a_fresh_dense_one(name: str, gather: bool, tmp_path: Path) -> None:
    model, x = sparse(name, 0.5, 2)
    zero_filters(model, 0.2, 2)
    zero_inputs_per_layer(model, 0.3, 2)
    lean = shrink(model, x, dead="fold", gather=gather)
    save_lean(lean, tmp_path / "lean.safetensors")
    fresh = randomised(WELL_KNOWN[name][0](), 77)
    again = load_lean(fresh, tmp_path / "lean.safetensors")
    torch.testing.assert_close(again(x), lean(x), rtol=0, atol=0)
    assert type(again).__name__ == type(lean).__name__
    assert size(fresh) == size(model)


def test_the_files_header_holds_the_kept_indices(tmp_path: Path) -> None:
    model, x = sparse("lenet", 0.0, 0)
    with torch.no_grad():
        model.get_parameter("conv2.weight")[:, [1, 4]] = 0
    save_lean(shrink(model, x), tmp_path / "lean.safetensors")
    with safe_open(tmp_path / "lean.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["gracile"])
    assert header["steps"][0]["kept"] == {
        "conv1.weight": {"0": [0, 2, 3, 5]},
        "conv1.bias": {"0": [0, 2, 3, 5]},
        "conv2.weight": {"1": [0, 2, 3, 5]},
    }


def test_a_network_shrunk_twice_and_trained_between_comes_back(tmp_path: Path) -> None:
    model, x = sparse("lambda-shortcut", 0.2, 0)
    once = copy.deepcopy(shrink(model, x))
    graph = trace(once, x)
    zero_groups(once, graph, torch.arange(graph.num_groups) == 1)
    twice = shrink(once, x)
    assert size(twice) < size(once) < size(model)
    with torch.no_grad():
        for parameter in twice.parameters():
            parameter.add_(0.01)
    save_lean(copy.deepcopy(twice), tmp_path / "lean.safetensors")
    again = load_lean(LambdaShortcutNet().eval(), tmp_path / "lean.safetensors")
    torch.testing.assert_close(again(x), twice(x), rtol=0, atol=0)


def test_saving_and_loading_name_what_does_not_fit(tmp_path: Path) -> None:
    model, x = sparse("lenet", 0.5, 0)
    path = tmp_path / "lean.safetensors"
    with pytest.raises(InputError, match="was not made by shrink"):
        save_lean(model, path)
    with pytest.raises(StorageError, match="There is no file"):
        load_lean(model, path)
    save_lean(shrink(model, x), path)
    with pytest.raises(InputError, match=r"another architecture: 'conv1.weight' is \[6, 1, 5, 5\] in the model"):
        load_lean(lenet(image_size=16), path)
    with pytest.raises(InputError, match=r"'weight' is .* in the model and absent in the file"):
        load_lean(nn.Linear(2, 2), path)
    plain = tmp_path / "plain.safetensors"
    from safetensors.torch import save_file

    save_file(model.state_dict(), plain)
    with pytest.raises(StorageError, match="holds no network that was shrunk"):
        load_lean(model, plain)
    plain.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StorageError, match="cannot be read"):
        load_lean(model, plain)


def test_the_public_name_is_the_function() -> None:
    assert gracile.shrink is shrink
    assert gracile.shrinking.plan is plan


def test_weights_keep_their_memory_format() -> None:
    model, x = sparse("resnet20-B", 0.5, 0)
    lean = shrink(model.to(memory_format=torch.channels_last), x, dead="fold")
    weight = lean.get_parameter("stages.0.0.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)


class Ensemble(nn.Module):
    """The mean of networks' outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList(lenet(image_size=16, in_channels=3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


def test_the_members_of_an_ensemble_shrink_by_themselves() -> None:
    model, x = randomised(Ensemble(), 0), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        model.get_parameter("members.1.conv2.weight")[:, :3] = 0
    lean = shrink(model, x)
    assert [one.conv1.out_channels for one in lean.get_submodule("members")] == [6, 3]  # type: ignore[union-attr, attr-defined]


def test_half_precision_is_compared_by_its_own_rounding() -> None:
    model, x = sparse("mlp", 0.5, 0)
    lean = shrink(model.bfloat16(), x.bfloat16())
    assert lean(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ParityError, match="beyond 0"):
        shrink(sparse("resnet20-A", 0.3, 0)[0], torch.randn(2, 3, 16, 16), tolerance=0)


@pytest.mark.parametrize("name", ["lenet", "googlenet", "densenet", "resnet20-B"])
def test_the_reference_implementation_removes_the_same(name: str) -> None:
    """torch-pruning, told to remove one channel, must cut the same parameters as we do."""
    torch_pruning = peer("torch_pruning")
    make, shape = WELL_KNOWN[name]
    model, x = randomised(make(), 0), torch.randn(1, *shape)
    graph = trace(model, x)
    for group in range(0, graph.num_groups, 1 + graph.num_groups // 6):
        ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
        zero_groups(ours, trace(ours, x), torch.arange(graph.num_groups) == group)
        lean = shrink(ours, x)
        dependencies = torch_pruning.DependencyGraph().build_dependency(theirs, example_inputs=x)
        weight, slices = next(iter(graph.members(group).items()))
        layer = theirs.get_submodule(weight.removesuffix(".weight"))
        cut = (
            torch_pruning.prune_linear_in_channels
            if isinstance(layer, nn.Linear)
            else torch_pruning.prune_conv_in_channels
        )
        dependencies.get_pruning_group(layer, cut, idxs=slices).prune()
        assert [tuple(one.shape) for one in lean.parameters()] == [tuple(one.shape) for one in theirs.parameters()]


def test_a_plan_is_a_file_that_another_copy_is_cut_by(tmp_path: Path) -> None:
    model, x = sparse("lambda-shortcut", 0.4, 3)
    zero_filters(model, 0.2, 3)
    made, lean = plan(model, x), shrink(model, x)
    save_plan(made, tmp_path / "plan.json")
    assert any("conv2" in line for line in read_plan(tmp_path / "plan.json")["table"])
    for source in (made, tmp_path / "plan.json"):
        again = apply_plan(copy.deepcopy(model), source)
        torch.testing.assert_close(again(x), lean(x), rtol=0, atol=0)
    pruned = apply_plan(randomised(LambdaShortcutNet(), 9), tmp_path / "plan.json")  # whatever its weights are
    assert [one.shape for one in pruned.parameters()] == [one.shape for one in lean.parameters()]
    with pytest.raises(InputError, match="belongs to another architecture"):
        apply_plan(lenet(), tmp_path / "plan.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(StorageError, match="holds no plan"):
        apply_plan(model, tmp_path / "other.json")


def test_a_plan_maps_old_parameters_to_new_ones() -> None:
    model, x = sparse("resnet20-B", 0.5, 1)
    made, lean = plan(model, x), shrink(model, x)
    mapping = made.mapping()
    assert mapping
    for name, parameter in lean.named_parameters():
        old = model.get_parameter(name)
        for dim, kept in mapping.get(name, {}).items():
            old = old.index_select(dim, torch.tensor(kept))
        assert torch.equal(parameter, old)


@pytest.mark.parametrize(("multiple_of", "conv", "linear"), [(8, 8, 8), ({"conv": 4}, 4, 1), ({"linear": 10}, 1, 10)])
def test_channels_are_rounded_up_to_multiples(multiple_of: int | dict[str, int], conv: int, linear: int) -> None:
    model, x = sparse("vgg16", 0.4, 0)
    dense = dict(model.named_modules())
    lean = shrink(model, x, multiple_of=multiple_of)
    assert largest_difference(model, lean, torch.randn_like(x)) < 1e-5
    for name, module in lean.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.out_channels % conv == 0
        if isinstance(module, nn.Linear):
            assert module.in_features % linear == 0 or module.in_features == dense[name].in_features
    assert size(lean) < size(model)


@pytest.mark.parametrize(
    ("multiple_of", "says"), [(0, "multiple_of=0 is no multiple"), ({"dense": 8}, "no kind of layer 'dense'")]
)
def test_a_multiple_that_is_none_is_named(multiple_of: int | dict[str, int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        plan(lenet(), torch.randn(1, 1, 28, 28), multiple_of=multiple_of)


def test_an_output_of_an_unknown_class_is_compared_all_the_same() -> None:
    class Answer:
        def __init__(self, scores: Tensor) -> None:
            self.scores = scores

    class Hidden(nn.Linear):
        def forward(self, input: Tensor) -> Answer:  # type: ignore[override]
            return Answer(super().forward(input))

    with pytest.raises(InputError, match="output holds no tensor"):
        largest_difference(Hidden(3, 2), Hidden(3, 2), torch.randn(1, 3))


def test_a_smaller_network_that_does_not_run_is_a_parity_error() -> None:
    class Stubborn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1, 5)

    model = nn.Sequential(nn.Linear(3, 5), Stubborn(), nn.Linear(5, 2))
    register_rule(Stubborn)(lambda op: op.x.channels)
    try:
        with torch.no_grad():
            model[2].weight[:, 0] = 0
        with pytest.raises(ParityError, match="does not run"):
            shrink(model, torch.randn(2, 3))
    finally:
        del RULES[Stubborn]


def test_stored_sizes_are_those_of_the_files(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model[0].weight[:4] = 0
        model[0].bias[:4] = 0
    lean, found = stored_sizes(model, torch.zeros(2, 6), tmp_path)
    assert lean[0].out_features == 4
    assert found["zeros"] == pytest.approx(100 * 24 / 72)
    assert (found["parameters"], found["parameters_shrunk"]) == (83, 43)
    for key, name in (("file_kb", "model"), ("shrunk_kb", "lean")):
        assert found[key] == (tmp_path / f"{name}.safetensors").stat().st_size / 1000
    assert (
        lzma.decompress((tmp_path / "lean.safetensors.xz").read_bytes()) == (tmp_path / "lean.safetensors").read_bytes()
    )
