"""The models: shapes, published sizes, errors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gracile.core.errors import InputError
from gracile.models import MODELS, Normalize, build, initialise, lenet, mlp, normalized, resnet20, vgg16


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "settings", "parameters"),
    [
        ("lenet", {}, 61_706),
        ("vgg16", {}, 14_728_266),
        ("mobilenet", {}, 2_236_682),
        ("vit", {}, 3_716_874),
        ("resnet18", {}, 11_173_962),
        ("resnet18", {"width": 16}, 701_466),
        ("resnet20", {}, 269_722),
        ("resnet56", {}, 853_018),
        ("resnet20", {"preactivation": True}, 272_282),
        ("resnet38", {"preactivation": True}, 563_930),
        ("mlp", {}, 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10),
        ("mlp", {"in_features": 16, "widths": (), "num_classes": 26}, 17 * 26),
    ],
)
def test_sizes_are_the_published_ones(name: str, settings: dict, parameters: int) -> None:
    assert size(build(name, **settings)) == parameters


def test_input_channels_of_the_robust_networks_are_counted_as_published() -> None:
    def count(model: nn.Module) -> int:
        return sum(one.in_channels for one in model.modules() if isinstance(one, nn.Conv2d))

    assert count(build("resnet20", preactivation=True)) == 675
    assert count(build("enresnet", n=2)) == 1350
    assert [round(100 * zero / 675, 2) for zero in (171, 30)] == [25.33, 4.44]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("image_size", [16, (20, 32)])
def test_every_model_takes_any_channels_classes_and_image(name: str, image_size: int | tuple[int, int]) -> None:
    model = build(name, num_classes=7, in_channels=2, image_size=image_size).eval()
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    assert model(torch.rand(2, 2, height, width)).shape == (2, 7)


@pytest.mark.parametrize(("image_size", "pools"), [(16, 4), (28, 4), (32, 5), (64, 5)])
def test_vgg_leaves_out_the_pool_that_a_small_image_cannot_take(image_size: int, pools: int) -> None:
    model = vgg16(image_size=image_size)
    assert sum(isinstance(module, nn.MaxPool2d) for module in model.modules()) == pools


@pytest.mark.parametrize(("image_size", "side"), [(16, 2), (32, 4)])
def test_mobilenet_halves_a_small_image_three_times(image_size: int, side: int) -> None:
    model = build("mobilenet", width=0.25, image_size=image_size).eval()
    assert model.features(torch.zeros(1, 3, image_size, image_size)).shape == (1, 1280, side, side)  # type: ignore[operator]


def test_a_block_of_the_vit_is_torchs_own_encoder_layer() -> None:
    from gracile.models.vit import Block

    torch.manual_seed(0)
    ours = Block(12, 3, 20).double()
    theirs = nn.TransformerEncoderLayer(12, 3, 20, 0.0, "gelu", batch_first=True, norm_first=True).double()
    nn.init.zeros_(theirs.self_attn.in_proj_bias)
    named = {
        "self_attn.in_proj_weight": ours.attention.qkv.weight, "self_attn.out_proj.weight": ours.attention.proj.weight,
        "self_attn.out_proj.bias": ours.attention.proj.bias, "linear1.weight": ours.mlp[0].weight,
        "linear1.bias": ours.mlp[0].bias, "linear2.weight": ours.mlp[2].weight, "linear2.bias": ours.mlp[2].bias,
    }  # fmt: skip
    theirs.load_state_dict(named, strict=False)
    x = torch.randn(2, 5, 12).double()
    torch.testing.assert_close(ours(x), theirs(x))


def test_option_a_is_every_other_pixel_between_zero_channels() -> None:
    from gracile.models.resnet import PaddedShortcut

    x = torch.rand(1, 2, 4, 4)
    out = PaddedShortcut(1, 2, 2)(x)
    assert out.shape == (1, 5, 2, 2)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3, 4]].any()


def test_preactivation_shortcut_starts_from_the_activated_input() -> None:
    from gracile.models.resnet import PreactivationBlock

    torch.manual_seed(0)
    block = PreactivationBlock(2, 4, 2, "B").eval()
    nn.init.zeros_(block.conv2.weight)
    x = -torch.rand(1, 2, 4, 4)  # ReLU of it is zero, so a shortcut of x itself would not be
    assert not block(x).any()


def test_initialisation_has_the_variance_of_he_and_depends_on_the_generator_only() -> None:
    model = mlp(in_features=400, widths=(500,))
    first = initialise(copy.deepcopy(model), torch.Generator().manual_seed(3))
    torch.rand(5)
    again = initialise(copy.deepcopy(model), torch.Generator().manual_seed(3))
    assert torch.equal(first.linear1.weight, again.linear1.weight)  # type: ignore[union-attr, arg-type]
    assert first.linear1.weight.var().item() == pytest.approx(2 / 400, rel=0.02)  # type: ignore[union-attr, operator]


def test_normalize_is_affine_by_channel_and_by_feature() -> None:
    mean, std = [0.5, 0.25], [2.0, 4.0]
    x = torch.rand(3, 2, 4, 5)
    expected = torch.stack([(x[:, 0] - 0.5) / 2, (x[:, 1] - 0.25) / 4], 1)
    torch.testing.assert_close(Normalize(mean, std)(x), expected)
    torch.testing.assert_close(Normalize(mean, std)(x[:, :, 0, 0]), expected[:, :, 0, 0])


def test_normalized_names_its_children_and_saves_its_buffers() -> None:
    model = normalized(lenet(), 0.1, 0.3)
    assert [name for name, _ in model.named_children()] == ["normalize", "network"]
    assert {"normalize.mean", "normalize.std", "network.conv1.weight"} <= set(model.state_dict())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: lenet(image_size=11), "at least 12"),
        (lambda: vgg16(image_size=(15, 40)), "15x40"),
        (lambda: resnet20(image_size=3), "too small"),
        (lambda: build("mobilenet", image_size=7), "too small"),
        (lambda: build("mobilenet", width=0.01), "leaves no channel"),
        (lambda: build("vit", image_size=30), "do not fill images of 30x30"),
        (lambda: build("vit", heads=3), "a multiple of heads"),
        (lambda: resnet20(shortcut="C"), "no shortcut named 'C'"),
        (lambda: mlp(activation="rleu"), "Did you mean 'relu'"),
        (lambda: mlp(widths=(0,)), "at least one"),
        (lambda: build("resnet21"), "Did you mean 'resnet20'"),
        (lambda: build("lenet", classes=3), "Did you mean 'num_classes'"),
        (lambda: Normalize([0.0], [1.0, 2.0]), "1 means and 2"),
        (lambda: Normalize([0.0], [-1.0]), "negative"),
        (lambda: Normalize([0.0], [float("nan")]), "not a number"),
    ],
)
def test_mistakes_are_named(make, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()
