"""A small network of strided convolutions, as robustness on MNIST is usually studied on."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from gracile.core.errors import InputError
from gracile.models.common import ImageSize, height_width


def cnn(*, num_classes: int = 10, in_channels: int = 1, image_size: ImageSize = 28, width: int = 16) -> nn.Sequential:
    """Two convolutions of 3x3 with stride 2, `width` and twice as many channels, and a layer of four times as many units.

    The shape of the networks in @wong2018 on MNIST; 105,866 parameters on 28x28 pixels. A pass costs about as many
    multiply-adds as one of LeNet-5 and, without pooling and with channels in multiples of 16, a fraction of its time on a CPU.

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        image_size: pixels, one number or (height, width); at least 4.
        width: channels of the first convolution.

    Returns:
        A module from (n, in_channels, height, width) to (n, num_classes).

    Raises:
        InputError: the image is too small, or there would be no channel.
    """
    height, width_in = height_width(image_size, least=4, model="cnn")
    if width < 1:
        raise InputError(f"width={width} leaves no channel.", "Choose one of at least 1, such as 16.")
    features = 2 * width * _halved(height) * _halved(width_in)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, width, 3, stride=2, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            linear1=nn.Linear(features, 4 * width),
            relu3=nn.ReLU(),
            linear2=nn.Linear(4 * width, num_classes),
        )
    )


def _halved(side: int) -> int:
    """A side's length after both convolutions."""
    return (side + 3) // 4
