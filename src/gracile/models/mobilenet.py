"""MobileNetV2 with the strides of CIFAR: inverted residuals with depthwise convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.models.common import ImageSize, height_width, pooled_classifier

# Of each stage [@sandler2018, table 2]: expansion, channels, blocks, and the stride of the first, where images of 32 pixels
# take 1 in place of the second stage's 2.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM, HEAD = 32, 1280


def _layer(channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the image's size up to its stride, and a batch-norm."""
    convolution = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(width)]


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter each channel by itself, project back without an activation [@sandler2018].

    The input is added where the shape is the same.
    """

    def __init__(self, channels: int, width: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = expansion * channels
        expand = [*_layer(channels, wide, 1), nn.ReLU6()] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand, *_layer(wide, wide, 3, stride, groups=wide), nn.ReLU6(), *_layer(wide, width, 1)
        )
        self.residual = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(x)
        return x + out if self.residual else out


def mobilenet(
    *, num_classes: int = 10, in_channels: int = 3, image_size: ImageSize = 32, width: float = 1.0
) -> nn.Sequential:
    """MobileNetV2 [@sandler2018] for small images: the stem and the second stage keep their size; 2.24 M parameters.

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        image_size: pixels, one number or (height, width); at least 8.
        width: multiplies every layer's number of channels, above 0; that of the last convolution, 1280, only above 1.

    Returns:
        A module from (n, in_channels, height, width) to (n, num_classes).

    Raises:
        InputError: the image is too small, or a layer would have no channel.
    """
    if not 0 < width < 2**6 or round(width * STAGES[0][1]) < 1:
        raise InputError(f"width={width} leaves no channel or asks for too many.", "Choose one near 1, such as 0.5.")
    height_width(image_size, least=8, model="mobilenet")
    channels = round(width * STEM)
    features = [*_layer(in_channels, channels, 3), nn.ReLU6()]
    for expansion, size, blocks, stride in STAGES:
        made = round(width * size)
        for index in range(blocks):
            features.append(InvertedResidual(channels, made, expansion, stride if index == 0 else 1))
            channels = made
    head = round(max(1.0, width) * HEAD)
    features += [*_layer(channels, head, 1), nn.ReLU6()]
    return pooled_classifier(features, head, num_classes)
