"""VGG-16 with batch normalisation, in the shape used on CIFAR."""

from __future__ import annotations

from torch import nn

from gracile.core.errors import InputError
from gracile.models.common import ImageSize, height_width, pooled_classifier

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(
    *, num_classes: int = 10, in_channels: int = 3, image_size: ImageSize = 32, width: float = 1.0
) -> nn.Sequential:
    """VGG-16-BN [@simonyan2015, configuration D] with one linear layer; 14.73 M parameters on CIFAR-10.

    The last max-pooling is left out where an image is too small for it; what remains of a larger one is averaged.

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        image_size: pixels, one number or (height, width); at least 16.
        width: multiplies every layer's number of channels, above 0; 0.25 starts at 16 and ends at 128.

    Returns:
        A module from (n, in_channels, height, width) to (n, num_classes).

    Raises:
        InputError: the image is too small, or a layer would have no channel.
    """
    if not 0 < width * STAGES[0][0] < 2**16 or round(width * STAGES[0][0]) < 1:
        raise InputError(f"width={width} leaves no channel or asks for too many.", "Choose one near 1, such as 0.25.")
    side = min(height_width(image_size, least=16, model="vgg16"))
    features: list[nn.Module] = []
    channels = in_channels
    for stage in STAGES:
        for size in stage:
            made = round(width * size)
            features += [nn.Conv2d(channels, made, 3, padding=1), nn.BatchNorm2d(made), nn.ReLU()]
            channels = made
        if side >= 2:
            features.append(nn.MaxPool2d(2))
            side //= 2
    return pooled_classifier(features, channels, num_classes)
