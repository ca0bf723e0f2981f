"""DenseNet (Huang et al. 2017); `densenet121()` has the published 7,978,856 parameters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DenseLayer(nn.Module):
    """Batch-norm, ReLU, 1x1 to four times the growth, batch-norm, ReLU, 3x3, over all features before it."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(4 * growth), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        joined = torch.cat(features, 1)
        return self.conv2(self.relu2(self.norm2(self.conv1(self.relu1(self.norm1(joined))))))


class DenseBlock(nn.ModuleDict):
    """Layers that each read everything made so far."""

    def __init__(self, layers: int, channels: int, growth: int) -> None:
        super().__init__()
        for index in range(layers):
            self.add_module(f"denselayer{index + 1}", DenseLayer(channels + index * growth, growth))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """A stem, dense blocks with halving transitions between them, and a linear layer."""

    def __init__(self, blocks: Sequence[int], growth: int, stem: int, num_classes: int, small: bool = False) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if small:
            layers["conv0"] = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        else:
            layers["conv0"] = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
            layers["norm0"], layers["relu0"] = nn.BatchNorm2d(stem), nn.ReLU(inplace=True)
            layers["pool0"] = nn.MaxPool2d(3, 2, 1)
        channels = stem
        for index, number in enumerate(blocks):
            layers[f"denseblock{index + 1}"] = DenseBlock(number, channels, growth)
            channels += number * growth
            if index < len(blocks) - 1:
                layers[f"transition{index + 1}"] = nn.Sequential(
                    nn.BatchNorm2d(channels),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(channels, channels // 2, 1, bias=False),
                    nn.AvgPool2d(2),
                )
                channels //= 2
        layers["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.features(x), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(out, (1, 1)), 1))


def densenet121(num_classes: int = 1000) -> DenseNet:
    return DenseNet((6, 12, 24, 16), growth=32, stem=64, num_classes=num_classes)
