"""Residual networks for CIFAR: basic blocks, option A and B shortcuts, plain and pre-activation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from gracile.core.errors import InputError, pick
from gracile.models.common import ImageSize, height_width, initialise


class PaddedShortcut(nn.Module):
    """Option A: every `stride`-th pixel, with `before` and `after` zero channels around the given ones."""

    channel_rule = "padded_channels"  # tells the channel graph, without knowing it, what this does to channels

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.before, self.after, self.stride = before, after, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        return f"before={self.before}, after={self.after}, stride={self.stride}"


def padded(channels: int, width: int, stride: int, *, preactivation: bool) -> nn.Module:
    """The option-A shortcut."""
    before = (width - channels) // 2
    return PaddedShortcut(before, width - channels - before, stride)


def projection(channels: int, width: int, stride: int, *, preactivation: bool) -> nn.Module:
    """The option-B shortcut: a 1x1 convolution, batch-normalised unless the block normalises before it."""
    convolution = nn.Conv2d(channels, width, 1, stride, bias=False)
    return convolution if preactivation else nn.Sequential(convolution, nn.BatchNorm2d(width))


SHORTCUTS = {"A": padded, "B": projection}


class BasicBlock(nn.Module):
    """``relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))`` [@he2016a]."""

    def __init__(self, channels: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else SHORTCUTS[shortcut](channels, width, stride, preactivation=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


class PreactivationBlock(nn.Module):
    """``s + conv(relu(bn(conv(a))))``, ``a = relu(bn(x))``; s is x or a shortcut of a [@he2016b].

    What `noise` makes is applied to the sum.
    """

    def __init__(
        self, channels: int, width: int, stride: int, shortcut: str, noise: Callable[[], nn.Module] = nn.Identity
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        same = stride == 1 and channels == width
        self.shortcut = None if same else SHORTCUTS[shortcut](channels, width, stride, preactivation=True)
        self.noise = noise()

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        return self.noise(out + (x if self.shortcut is None else self.shortcut(activated)))


class ResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks that halve the image from the second on, average pooling and one linear layer.

    Args:
        blocks: blocks in each stage.
        widths: channels of each stage.
        shortcut: ``"A"`` or ``"B"``; None is B for `preactivation` and A otherwise.
        preactivation: normalise and activate before each convolution; the shortcut starts from the activated input.
        num_classes: see `resnet20`.
        in_channels: see `resnet20`.
        image_size: see `resnet20`.
        noise: makes a module for the sum of each block; only with `preactivation`.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        widths: Sequence[int],
        *,
        shortcut: str | None,
        preactivation: bool,
        num_classes: int,
        in_channels: int,
        image_size: ImageSize,
        noise: Callable[[], nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        height_width(image_size, least=2 ** (len(blocks) - 1), model="this ResNet")
        if shortcut is None:
            shortcut = "B" if preactivation else "A"
        pick(SHORTCUTS, shortcut, "shortcut")
        block = partial(PreactivationBlock, noise=noise) if preactivation else BasicBlock
        self.conv = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        # A pre-activation network normalises once more behind its last sum instead of behind the stem.
        self.bn = nn.BatchNorm2d(widths[-1] if preactivation else widths[0])
        self.relu = nn.ReLU()
        stages: list[nn.Module] = []
        channels = widths[0]
        for stage, (number, width) in enumerate(zip(blocks, widths, strict=True)):
            layers: list[nn.Module] = []
            for index in range(number):
                layers.append(block(channels, width, 2 if stage and index == 0 else 1, shortcut))
                channels = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(channels, num_classes)
        self.preactivation = preactivation
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        out = self.relu(self.bn(self.stages(out))) if self.preactivation else self.stages(self.relu(self.bn(out)))
        return self.linear(self.flatten(self.pool(out)))


def resnet18(
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: ImageSize = 32,
    shortcut: str | None = "B",
    preactivation: bool = False,
    width: int = 64,
) -> ResNet:
    """ResNet-18 with CIFAR's stem (3x3, no pooling), two blocks each of 64, 128, 256 and 512 channels; 11.17 M.

    Arguments, result and errors as for `resnet20`, but images of at least 8 pixels, and 64 channels in the first of
    four stages.
    """
    _check_width(width)
    return ResNet(
        (2, 2, 2, 2), (width, 2 * width, 4 * width, 8 * width), shortcut=shortcut, preactivation=preactivation,
        num_classes=num_classes, in_channels=in_channels, image_size=image_size,
    )  # fmt: skip


def resnet20(
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: ImageSize = 32,
    shortcut: str | None = None,
    preactivation: bool = False,
    width: int = 16,
) -> ResNet:
    """CIFAR's ResNet-20 [@he2016a, section 4.2]: three blocks each of 16, 32 and 64 channels.

    269,722 parameters with option A on CIFAR-10; 272,282 with `preactivation`.

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        image_size: pixels, one number or (height, width); at least 4.
        shortcut: where shapes change: ``"A"``, every other pixel padded with zero channels, or ``"B"``, a 1x1
            convolution; None is B for `preactivation` and A otherwise.
        preactivation: normalise and activate before each convolution; the shortcut starts from the activated input.
        width: channels of the first stage; the others have twice and four times as many.

    Returns:
        A module from (n, in_channels, height, width) to (n, num_classes).

    Raises:
        InputError: the image is too small, no such shortcut, or no channel.
    """
    return _cifar(3, num_classes, in_channels, image_size, shortcut, preactivation, width)


def resnet38(
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: ImageSize = 32,
    shortcut: str | None = None,
    preactivation: bool = False,
    width: int = 16,
) -> ResNet:
    """CIFAR's ResNet-38, six blocks per stage; 563,930 parameters with `preactivation`. Arguments as for `resnet20`."""
    return _cifar(6, num_classes, in_channels, image_size, shortcut, preactivation, width)


def resnet56(
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: ImageSize = 32,
    shortcut: str | None = None,
    preactivation: bool = False,
    width: int = 16,
) -> ResNet:
    """CIFAR's ResNet-56, nine blocks per stage; 0.85 M parameters. Arguments as for `resnet20`."""
    return _cifar(9, num_classes, in_channels, image_size, shortcut, preactivation, width)


def _cifar(
    number: int,
    num_classes: int,
    in_channels: int,
    image_size: ImageSize,
    shortcut: str | None,
    preactivation: bool,
    width: int,
) -> ResNet:
    _check_width(width)
    return ResNet(
        (number,) * 3, (width, 2 * width, 4 * width), shortcut=shortcut, preactivation=preactivation,
        num_classes=num_classes, in_channels=in_channels, image_size=image_size,
    )  # fmt: skip


def _check_width(width: int) -> None:
    if width < 1:
        raise InputError(
            f"width is {width}.", "Give at least one channel; the published networks have 16, ResNet-18 64."
        )
