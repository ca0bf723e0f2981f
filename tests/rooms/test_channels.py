"""The channel graph: groups, liveness and counts against brute force; errors that name the line."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gracile.channels import Counts, register_rule, survey, trace
from gracile.channels.table import RULES
from gracile.core.errors import InputError
from gracile.models import mlp, resnet18, resnet20
from tests.models.well_known import LARGE, WELL_KNOWN, InvertedResidual, randomised
from tests.models.zeros import zero_filters, zero_groups, zero_inputs_per_layer

few = settings(max_examples=3, deadline=None)


def traced(name: str, seed: int = 0):
    make, shape = WELL_KNOWN[name]
    model = randomised(make(), seed)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    return model, x, trace(model, x)


@pytest.mark.parametrize("name", WELL_KNOWN)
def test_group_index_broadcasts_to_every_weight_and_numbers_all_groups(name: str) -> None:
    model, _, graph = traced(name)
    index = graph.group_index()
    weights = {
        f"{path}.weight"
        for path, one in model.named_modules()
        if isinstance(one, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    }
    assert set(index) == weights
    for weight, groups in index.items():
        assert groups.dtype == torch.long
        assert groups.expand_as(model.get_parameter(weight)).shape == model.get_parameter(weight).shape
    seen = torch.cat([groups.flatten() for groups in index.values()]).unique()
    assert seen.tolist() == list(range(-1, graph.num_groups))


@pytest.mark.parametrize("name", WELL_KNOWN)
def test_members_are_the_slices_of_the_index(name: str) -> None:
    _, _, graph = traced(name)
    index = graph.group_index()
    for group in (0, graph.num_groups // 2, graph.num_groups - 1):
        expected = {weight: (one.flatten() == group).nonzero().flatten().tolist() for weight, one in index.items()}
        assert graph.members(group) == {weight: slices for weight, slices in expected.items() if slices}


def test_a_residual_stream_is_one_channel_for_all_that_read_it() -> None:
    graph = trace(resnet20(image_size=8, shortcut="B"), torch.randn(1, 3, 8, 8))
    group = int(graph.group_index()["stages.1.1.conv1.weight"][0, 5])
    assert graph.members(group) == {
        "stages.1.1.conv1.weight": [5],
        "stages.1.2.conv1.weight": [5],
        "stages.2.0.conv1.weight": [5],
        "stages.2.0.shortcut.0.weight": [5],
    }


def test_an_option_a_channel_goes_on_behind_its_padding() -> None:
    graph = trace(resnet20(image_size=8, shortcut="A"), torch.randn(1, 3, 8, 8))
    members = graph.members(int(graph.group_index()["stages.0.0.conv1.weight"][0, 3]))
    assert members["stages.1.1.conv1.weight"] == [3 + 8]
    assert members["linear.weight"] == [3 + 8 + 16]


def test_a_flattened_channel_is_a_block_of_features() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    index = trace(model, torch.randn(1, 3, 4, 4)).group_index()["2.weight"]
    assert index.tolist() == [[0] * 4 + [1] * 4 + [2] * 4 + [3] * 4]


def test_a_depthwise_convolution_passes_channels_on() -> None:
    model = InvertedResidual(4, 4, 1, 2)
    index = trace(model, torch.randn(1, 4, 6, 6)).group_index()
    assert index["body.1.0.weight"].tolist() == [[[[-1]]]]
    assert index["body.2.0.weight"].flatten().tolist() == list(range(8))


def test_concatenated_channels_stay_apart() -> None:
    _, _, graph = traced("densenet")
    members = graph.members(int(graph.group_index()["features.denseblock1.denselayer2.conv1.weight"][0, 9]))
    assert members == {"features.denseblock1.denselayer2.conv1.weight": [9], "features.transition1.2.weight": [9]}


def test_normalisation_groups_go_whole_and_a_layer_norm_keeps_all() -> None:
    grouped = nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(3, 6), nn.Conv2d(6, 2, 1))
    assert trace(grouped, torch.randn(1, 3, 4, 4)).group_index()["2.weight"].flatten().tolist() == [0, 0, 1, 1, 2, 2]
    layered = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    graph = trace(layered, torch.randn(1, 5))
    assert graph.num_groups == 0
    assert "'1' normalises all channels" in next(reason for reason in graph.reasons.values() if "normalises" in reason)


@pytest.mark.parametrize("name", [*WELL_KNOWN, "resnet18"])
def test_multiply_adds_are_those_torch_counts(name: str) -> None:
    make, shape = {**WELL_KNOWN, **LARGE}[name]
    model, x = make().eval(), torch.randn(1, *shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert trace(model, x).dense().macs == counter.get_total_flops() // 2


def test_resnet18_has_the_published_multiply_adds() -> None:
    counts = trace(resnet18(), torch.randn(1, 3, 32, 32)).dense()
    assert counts.parameters == 11_173_962
    assert counts.macs == pytest.approx(555.4e6, rel=1e-4)


@pytest.mark.parametrize("name", WELL_KNOWN)
@few
@given(seed=st.integers(0, 999), share=st.sampled_from([0.2, 0.5, 0.8, 0.9]))
@example(seed=2, share=0.5)  # grouped convolutions that read nothing but supposed zeros make constants
@example(seed=47, share=0.8)
def test_counting_supposed_zeros_equals_counting_real_ones(name: str, seed: int, share: float) -> None:
    model, _, graph = traced(name, seed)
    assert graph.count() == graph.dense()
    zero = torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(seed)) < share
    supposed = graph.count(zero)
    zero_groups(model, graph, zero)
    assert graph.count() == supposed
    assert supposed.channels <= int((~zero).sum())


def disturb(model: nn.Module, graph, live, *, dead: bool) -> None:
    """Put noise into everything that makes channels that go (or stay): weights' rows, biases, normalisations."""
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for step in graph.steps:
            for name, dims in step.tensors.items():
                tensor = model.state_dict()[name]
                made = step.layer.outputs if step.layer is not None and tensor.dim() > 1 else next(iter(dims.items()))
                which = torch.as_tensor(live.kept(made[1]) != dead)
                shape = [1] * tensor.dim()
                shape[made[0]] = -1
                # Positive, as variances must be, and of a size that deep networks carry without overflow.
                fan = tensor.numel() / tensor.shape[made[0]]
                noise = (torch.randn(tensor.shape, generator=source).abs() + 0.5) / fan
                tensor.copy_(torch.where(which.reshape(shape), noise, tensor))


@pytest.mark.parametrize("name", WELL_KNOWN)
@few
@given(seed=st.integers(0, 999), share=st.sampled_from([0.2, 0.4]))
def test_outputs_do_not_depend_on_channels_that_go(name: str, seed: int, share: float) -> None:
    model, x, graph = traced(name, seed)
    zero_groups(model, graph, torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(seed)) < share)
    live = graph.liveness()
    # Where a constant is to be folded its readers' weights are not zero; that is the shrinking tests' matter.
    assume(all((live.nonzero[one] == live.needed[one]).all() for one in live.needed))
    before = model(x)
    disturb(model, graph, live, dead=True)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)


def smooth(model: nn.Module) -> nn.Module:
    """The model without the flat part of ReLU, behind which a change could hide."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU | nn.ReLU6):
                setattr(parent, name, nn.Softplus())
    return model


@pytest.mark.parametrize("name", ["densenet", "splitting", "squeeze-excite", "resnext", "resnet20-pre-A"])
def test_every_group_that_stays_matters(name: str) -> None:
    """The greatest removal: an output changes for each channel that was not removed, one by one."""
    make, shape = WELL_KNOWN[name]
    model, x = smooth(randomised(make(), 3)), torch.randn(2, *shape, generator=torch.Generator().manual_seed(3))
    graph = trace(model, x)
    zero_groups(model, graph, torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(3)) < 0.4)
    live = graph.liveness()
    before = model(x)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for group in range(0, graph.num_groups, 1 + graph.num_groups // 25):
        one = np.flatnonzero(graph._group == group)
        if not live.classes[one].all():
            continue
        only = type(live)(
            np.isin(np.arange(len(live.classes)), one), live.nonzero, live.needed, live.values, live.labels
        )
        disturb(model, graph, only, dead=False)
        changed = bool((model(x) != before).any())
        model.load_state_dict(state)
        assert changed, f"group {group} stays, but no output depends on it"


@few
@given(seed=st.integers(0, 999), share=st.sampled_from([0.5, 0.8, 0.95]))
def test_the_fixpoint_is_plain_reachability(seed: int, share: float) -> None:
    """Ten-line twin: a hidden unit matters if a non-zero weight leads to a unit that matters."""
    model = mlp(in_features=6, widths=(9, 8, 7), num_classes=3, activation="tanh")
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for one in model.modules():
            if isinstance(one, nn.Linear):
                one.weight[torch.rand(one.weight.shape, generator=source) < share] = 0
                one.bias.fill_(0.1)
    weights = [one.weight.detach() for one in model.modules() if isinstance(one, nn.Linear)]
    matters = [torch.ones(3, dtype=torch.bool)]
    for weight in reversed(weights[1:]):
        matters.insert(0, (weight[matters[0]] != 0).any(0))
    # A unit without inputs is a constant, which the next bias takes over.
    constant = torch.zeros(6, dtype=torch.bool)
    alive = []
    for weight, needed in zip(weights[:-1], matters[:-1], strict=True):
        constant = ~((weight != 0) & ~constant).any(1)
        alive.append(needed & ~constant)
    graph = trace(model, torch.randn(1, 6))
    live = graph.liveness()
    found = [live.kept(layer.outputs[1]) for layer in graph.layers[:-1]]
    reached = torch.ones(3, dtype=torch.bool)
    for number in range(len(weights) - 1, 0, -1):
        reached = (weights[number][reached] != 0).any(0) & alive[number - 1]
        assert found[number - 1].tolist() == reached.tolist()


def test_a_filter_that_goes_stops_reading() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 3)).eval()
    graph = trace(model, torch.randn(1, 3, 9, 9))
    with torch.no_grad():
        model[2].weight[1:, 0] = 0  # only filter 0 reads channel 0 ...
        model[4].weight[:, 0] = 0  # ... and nothing reads filter 0
    assert graph.count() == Counts(3 + 4, 3 * 27 + 3 + 4 * 27 + 4 + 2 * 36 + 2, 3 * 27 * 49 + 4 * 27 * 25 + 2 * 36 * 9)


def test_zeros_of_one_layer_alone_leave_the_stream_to_its_other_readers() -> None:
    model = randomised(resnet20(image_size=8), 0)
    graph = trace(model, torch.randn(1, 3, 8, 8))
    with torch.no_grad():
        model.get_parameter("stages.0.1.conv1.weight")[:, 4] = 0
    assert graph.count() == graph.dense()
    zero_inputs_per_layer(model, 0.5, 0)
    zero_filters(model, 0.2, 0)
    assert graph.count().macs < graph.dense().macs


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Cumulative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, 1)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.std(x) * torch.randn_like(x)


class OwnForward(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).flip(1)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


image = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("model", "example", "says"),
    [
        (Branching(), image, r"test_channels.py:\d+ `if x.sum\(\) > 0:`.*grouping='input_channel'"),
        (nn.Sequential(nn.Bilinear(3, 3, 2)), torch.randn(2, 3), "does not run on samples of shape"),
        (nn.Conv2d(3, 4, 1), torch.randn(2, 3, 8, 8, device="meta"), "example is on meta, the model on cpu"),
        (nn.Sequential(nn.Conv2d(3, 4, 1)), torch.randn(2, 5, 8, 8), r"shape \(5, 8, 8\): The module '0'"),
        (nn.Sequential(nn.Conv2d(3, 4, 1)), torch.empty(0, 3, 8, 8), "no batch"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_what_cannot_be_traced_is_named(model: nn.Module, example: Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        trace(model, example)


@pytest.mark.parametrize(
    ("middle", "says"),
    [
        (
            Cumulative(),
            r"'cumsum' at .*test_channels.py:\d+ `return torch.cumsum\(x, 1\)` computes over all of it together",
        ),
        (Noisy(), r"'std' at .*test_channels.py.* reduces over all of them"),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))),
            "reads it by a weight that is computed",
        ),
        (nn.LayerNorm([4, 8, 8]), "normalises all channels by one statistic"),
        (nn.Linear(8, 8), None),
        (OwnForward(4, 4, 1), None),
        (nn.LPPool2d(2, 2), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_what_must_stay_is_pinned_with_its_reason(middle: nn.Module, says: str | None) -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 1), middle, nn.ReLU(), nn.Conv2d(4, 2, 1)), image)
    reasons = "\n".join(graph.reasons.values())
    if says is None:
        assert graph.group_index()["3.weight"].flatten().tolist() != [-1] * 4
    else:
        assert re.search(says, reasons), reasons
        assert (graph.groups_of(graph.layers[0].outputs[1]) == -1).all()


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_an_operation_without_a_rule_pins_its_operands_and_strict_refuses_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Unknown(), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1))
    graph = trace(model, image)
    assert graph.num_groups == 5
    assert any("'special_bessel_j0' at" in reason and "has no rule" in reason for reason in graph.reasons.values())
    (where,) = graph.missing["special_bessel_j0"]
    assert "return torch.special.bessel_j0(x)" in where
    with pytest.raises(
        InputError, match=r"test_channels.py:\d+ `return torch.special.*register_rule\('special_bessel_j0'\)"
    ):
        trace(model, image, strict=True)


def test_a_survey_names_shares_reasons_and_all_operations_without_a_rule() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), Unknown(), nn.Conv2d(4, 6, 1, bias=False), nn.Conv2d(6, 2, 1, bias=False)
    )
    found = survey(model, image)
    weights = 12 + 24 + 12
    assert found.groups == 6
    assert found.parameters == pytest.approx(1 - 12 / weights)  # six channels between the last two layers
    assert [row.outputs for row in found.rows] == [(0, 4), (6, 6), (0, 2)]
    assert "has no rule" in found.rows[0].reason
    assert "No rule for 'special_bessel_j0'" in found.describe()


def test_layers_that_share_a_weight_share_their_channels() -> None:
    assert trace(Twice(), image).num_groups == 0  # its channels are those of the image
    model = nn.Sequential(nn.Linear(5, 4), tied(), nn.Linear(4, 2))
    graph = trace(model, torch.randn(2, 5))
    assert graph.num_groups == 4
    assert graph.members(1) == {"1.0.weight": [1], "2.weight": [1]}


def test_a_wrapped_model_is_refused() -> None:
    with pytest.raises(InputError, match="Pass the model inside"):
        trace(torch.compile(nn.Linear(3, 2), backend="eager"), torch.randn(1, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("mask", [torch.zeros(3, dtype=torch.bool), torch.zeros(4)])
def test_a_mask_that_does_not_fit_is_refused(mask: Tensor) -> None:
    graph = trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(1, 3))
    with pytest.raises(InputError, match=r"shape \(4,\) and is boolean"):
        graph.count(mask)
    with pytest.raises(InputError, match="numbered 0 to 3"):
        graph.members(4)


def test_tracing_changes_neither_modes_nor_state_nor_random_numbers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()).train()
    model[1].eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = torch.random.get_rng_state()
    trace(model, image)
    assert [one.training for one in model.modules()] == [True, True, False, True]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_registered_rule_is_used() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x if x.sum() > 0 else x + x

    register_rule(Doubled)(lambda op: op.x.channels)
    try:
        graph = trace(nn.Sequential(nn.Conv2d(3, 4, 1), Doubled(), nn.Conv2d(4, 2, 1)), image)
    finally:
        del RULES[Doubled]
    assert graph.num_groups == 4


def test_a_class_may_name_its_rule() -> None:
    class Noise(nn.Module):
        channel_rule = "elementwise"

        def forward(self, x: Tensor) -> Tensor:
            return x + 0.1 * torch.std(x) * torch.randn_like(x)

    assert trace(nn.Sequential(nn.Conv2d(3, 4, 1), Noise(), nn.Conv2d(4, 2, 1)), image).num_groups == 4


def test_counting_follows_the_weights_as_they_change() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = trace(model, torch.randn(1, 3))
    assert graph.count().channels == 4
    with torch.no_grad():
        model[2].weight[:, 1] = 0
    assert graph.count() == Counts(3, 9 + 3 + 6 + 2, 15)
