"""Networks with the wiring of well-known ones, small enough to be tested by the hundred."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gracile.models import (
    L1BatchNorm1d,
    L1BatchNorm2d,
    SquaredExponential,
    lenet,
    mlp,
    normalized,
    resnet18,
    resnet20,
    resnet56,
    vgg16,
)
from tests.models.densenet import DenseNet


def conv_bn(
    channels: int, width: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width),
    ]
    return nn.Sequential(*layers, *([nn.ReLU6(inplace=True)] if act else []))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand, depthwise, project."""

    def __init__(self, channels: int, width: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = channels * expand
        self.body = nn.Sequential(
            conv_bn(channels, hidden, 1),
            conv_bn(hidden, hidden, 3, stride, hidden),
            conv_bn(hidden, width, 1, act=False),
        )
        self.residual = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8, 3, 2), InvertedResidual(8, 8, 1, 2), InvertedResidual(8, 12, 2, 3),
        InvertedResidual(12, 12, 1, 3), conv_bn(12, 24, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(24, 5),
    )  # fmt: skip


class ResNeXtBlock(nn.Module):
    """1x1, grouped 3x3, 1x1 beside a projection."""

    def __init__(self, channels: int, width: int, out: int, groups: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(channels, width, 1), conv_bn(width, width, 3, stride, groups), conv_bn(width, out, 1, act=False)
        )
        self.shortcut = (
            nn.Identity() if channels == out and stride == 1 else conv_bn(channels, out, 1, stride, act=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnext() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8), ResNeXtBlock(8, 12, 16, 4, 1), ResNeXtBlock(16, 12, 16, 3, 1), ResNeXtBlock(16, 16, 24, 4, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


class Inception(nn.Module):
    """Four branches, concatenated."""

    def __init__(self, channels: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        one, three, five, pool = widths
        self.one = conv_bn(channels, one, 1)
        self.three = nn.Sequential(conv_bn(channels, three // 2, 1), conv_bn(three // 2, three, 3))
        self.five = nn.Sequential(conv_bn(channels, five // 2, 1), conv_bn(five // 2, five, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(channels, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)


def googlenet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8), Inception(8, (4, 6, 4, 4)), nn.MaxPool2d(2), Inception(18, (6, 8, 6, 4)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


class LambdaShortcutNet(nn.Module):
    """Option A written into forward, as most published CIFAR code has it, and a view that names its size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 12, 3, 2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.conv3 = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(12)
        self.linear = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(x))
        out += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3), "constant", 0)
        out = F.relu(out)
        out = F.relu(self.bn3(self.conv3(out)) + out)
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(F.dropout(out.view(-1, 12), 0.1, self.training))


class SqueezeExcite(nn.Module):
    """Channels weighted by what two linear layers make of their means; a channel-wise scale as a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 10, 3, padding=1)
        self.down, self.up = nn.Linear(10, 4), nn.Linear(4, 10)
        self.scale = nn.Parameter(torch.rand(1, 10, 1, 1))
        self.conv2 = nn.Conv2d(10, 8, 3)
        self.norm = nn.GroupNorm(4, 8)
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv1(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        x = x * gate.view(x.size(0), -1, 1, 1) * self.scale
        return self.linear(F.gelu(self.norm(self.conv2(x))).mean((-2, -1)))


class Splitting(nn.Module):
    """Channels split, treated apart and joined; a transposed convolution; a two-dimensional output of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.left, self.right = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.prelu = nn.PReLU(10)
        self.up = nn.ConvTranspose2d(10, 6, 2, 2)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.stem(x).relu().chunk(2, dim=1)
        return self.head(F.relu(self.up(self.prelu(torch.cat((self.left(one), self.right(two)), 1)))))


class Signals(nn.Module):
    """One-dimensional convolutions and a flatten over remaining positions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(3, 8, 5, padding=2), nn.BatchNorm1d(8), nn.Tanh(), nn.AvgPool1d(4, padding=1), nn.Conv1d(8, 6, 3),
            nn.LeakyReLU(), nn.Flatten(), nn.Linear(6 * 6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 5),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def l1_normed() -> nn.Module:
    """l1 batch-norm of images and of features, activations that are 1 at 0, and units without biases."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), L1BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=4), SquaredExponential(0.5),
        nn.Flatten(), nn.Linear(8 * 16, 12, bias=False), L1BatchNorm1d(12), nn.SELU(), nn.Linear(12, 5),
    )  # fmt: skip


IMAGE = (3, 16, 16)

# Name to (factory, shape of one sample).
WELL_KNOWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet": (lambda: lenet(in_channels=3, image_size=16), IMAGE),
    "mlp": (lambda: normalized(mlp(in_features=20, widths=(16, 12)), [0.1] * 20, [0.5] * 20), (20,)),
    "resnet20-A": (lambda: normalized(resnet20(image_size=16), [0.5] * 3, [0.25] * 3), IMAGE),
    "resnet20-B": (lambda: resnet20(image_size=16, shortcut="B"), IMAGE),
    "resnet20-pre": (lambda: resnet20(image_size=16, preactivation=True), IMAGE),
    "resnet20-pre-A": (lambda: resnet20(image_size=16, preactivation=True, shortcut="A"), IMAGE),
    "densenet": (lambda: DenseNet((2, 2), growth=4, stem=8, num_classes=5, small=True), IMAGE),
    "mobilenet": (mobilenet, IMAGE),
    "resnext": (resnext, IMAGE),
    "googlenet": (googlenet, IMAGE),
    "lambda-shortcut": (LambdaShortcutNet, IMAGE),
    "squeeze-excite": (SqueezeExcite, IMAGE),
    "splitting": (Splitting, IMAGE),
    "signals": (Signals, (3, 32)),
    "l1-normed": (l1_normed, IMAGE),
}

# As they are used; too large for hundreds of draws.
LARGE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vgg16": (vgg16, (3, 32, 32)),
    "resnet18": (resnet18, (3, 32, 32)),
    "resnet56-A": (resnet56, (3, 32, 32)),
    "resnet56-B": (lambda: resnet56(shortcut="B"), (3, 32, 32)),
}


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """The model in evaluation with random weights, biases and batch-norm state; nothing is zero by accident."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm | L1BatchNorm1d | L1BatchNorm2d):
                assert module.weight is not None
                assert module.bias is not None
                module.weight.uniform_(0.5, 1.5, generator=source)
                module.bias.normal_(0, 0.3, generator=source)
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.3, generator=source)
                module.running_var.uniform_(0.5, 1.5, generator=source)
            elif isinstance(module, L1BatchNorm1d | L1BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_dev is not None
                module.running_mean.normal_(0, 0.3, generator=source)
                module.running_dev.uniform_(0.5, 1.5, generator=source)
            elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, generator=source)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1, generator=source)
    return model.eval()
