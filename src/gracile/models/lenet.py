"""LeNet-5 with max-pooling and ReLU."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from gracile.models.common import ImageSize, height_width


def lenet(*, num_classes: int = 10, in_channels: int = 1, image_size: ImageSize = 28) -> nn.Sequential:
    """LeNet-5 [@lecun1998]: 6 and 16 channels of 5x5, then 120, 84 and `num_classes` units; 61,706 parameters.

    The first convolution pads by 2, so that 28x28 images meet the 32x32 the network was drawn for.

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        image_size: pixels, one number or (height, width); at least 12.

    Returns:
        A module from (n, in_channels, height, width) to (n, num_classes).

    Raises:
        InputError: the image is too small.
    """
    height, width = height_width(image_size, least=12, model="lenet")
    features = 16 * _after(height) * _after(width)
    # torch's own initialisation stands: He's, at the papers' learning rate of 0.1, leaves the network at chance.
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, 6, 5, padding=2),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            linear1=nn.Linear(features, 120),
            relu3=nn.ReLU(),
            linear2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            linear3=nn.Linear(84, num_classes),
        )
    )


def _after(side: int) -> int:
    """A side's length after both convolutions and pools."""
    return (side // 2 - 4) // 2
