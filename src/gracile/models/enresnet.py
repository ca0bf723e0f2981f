"""EnResNet: an ensemble of noisy residual networks, the Feynman-Kac view of a smoothed transport equation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from gracile.core.errors import InputError
from gracile.models.common import ImageSize
from gracile.models.noise import GaussianNoise, add_noise
from gracile.models.resnet import PreactivationBlock, ResNet


class EnResNet(nn.Module):
    """The mean of the logits of `members`, trained jointly.

    A member is a network of its own, so its channels can be grouped, pruned and removed apart from the others'.

    Args:
        members: pre-activation ResNets of one shape.
        at_once: whether a pass runs all members as one network of grouped convolutions. None does so on GPUs, where one
            large kernel in place of n small ones pays, and takes one after the other on CPUs, where grouped
            convolutions cost 6 to 19 % more. Both compute the same up to rounding, and noise drawn fresh.

    Attributes:
        draws: passes that a prediction in evaluation is the mean of; more than one averages the noise out.
    """

    def __init__(self, members: Sequence[ResNet], *, at_once: bool | None = None, draws: int = 1) -> None:
        super().__init__()
        if draws < 1:
            raise InputError(f"draws is {draws}.", "Pass draws=1 or more.")
        self.members = nn.ModuleList(members)
        self.at_once, self.draws = at_once, draws

    def forward(self, x: Tensor) -> Tensor:
        draws = 1 if self.training else self.draws
        one = self._grouped if self._runs_at_once(x) else self._in_turn
        if draws == 1:
            return one(x)
        return torch.stack([one(x) for _ in range(draws)]).mean(0)

    def _in_turn(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)

    def _runs_at_once(self, x: Tensor) -> bool:
        # A tracer wants the members as they are.
        if isinstance(x, fx.Proxy) or self.at_once is False or len(self.members) < 2:
            return False
        if self.at_once is None and not x.is_cuda:
            return False
        # Members that were pruned apart have no common shape any more.
        shapes = [[parameter.shape for parameter in member.parameters()] for member in self.members]
        return all(other == shapes[0] for other in shapes)

    def _grouped(self, x: Tensor) -> Tensor:
        """All members as one network whose channels lie member after member."""
        members = [cast(ResNet, member) for member in self.members]
        # The members share the image, so the stem alone has no groups.
        out = F.conv2d(x, torch.cat([one.conv.weight for one in members]), padding=members[0].conv.padding)
        for number, stage in enumerate(members[0].stages):
            for index in range(len(cast(nn.Sequential, stage))):
                blocks = [cast(nn.Sequential, one.stages[number])[index] for one in members]
                out = _grouped_block(cast(list[PreactivationBlock], blocks), out)
        out = F.relu(_batch_norm([one.bn for one in members], out)).mean(dim=(2, 3))
        features = out.reshape(len(x), len(members), -1).transpose(0, 1)
        weight = torch.stack([one.linear.weight for one in members])
        bias = torch.stack([one.linear.bias for one in members]).unsqueeze(1)
        return torch.baddbmm(bias, features, weight.transpose(1, 2)).mean(0)


def enresnet(
    n: int = 2,
    depth: int = 20,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: ImageSize = 32,
    noise: float = 0.1,
    scaling: str = "sample",
    width: int = 16,
    draws: int = 1,
    at_once: bool | None = None,
) -> EnResNet:
    """En_n ResNet [@wang2019]: n noisy pre-activation ResNets whose logits are averaged.

    A ResNet steps along the characteristics of a transport equation; a diffusion term makes the solution regular, and
    by Feynman and Kac it is reached by (1) Gaussian noise in every residual mapping and (2) the mean over n networks. n
    times the parameters of one: 544,564 for two ResNet-20, 1,361,410 for five, with ten classes.

    Args:
        n: members, at least 1.
        depth: 6 k + 2 layers, such as 20, 32 or 38.
        num_classes: see `gracile.models.resnet20`.
        in_channels: see `gracile.models.resnet20`.
        image_size: see `gracile.models.resnet20`.
        noise: its level: what the deviation of each residual sum is multiplied with; 0.1 in the authors' code.
        scaling: see `gracile.models.GaussianNoise`; ``batch`` is the authors' code.
        width: channels of the first stage.
        draws: see `EnResNet`.
        at_once: see `EnResNet`.

    Returns:
        A module from (n, in_channels, height, width) to (n, num_classes); `gracile.models.set_noise` changes its noise.

    Raises:
        InputError: no member, a depth that is not 6 k + 2, an image too small, or noise that cannot be.
    """
    blocks, rest = divmod(depth - 2, 6)
    if n < 1 or blocks < 1 or rest or width < 1:
        raise InputError(
            f"There is no EnResNet of {n} members of {depth} layers and {width} channels.",
            "Give at least one member and channel, and a depth of 6 k + 2, such as 20.",
        )
    stream = count()
    make: Callable[[], GaussianNoise] = lambda: GaussianNoise(noise, scaling, next(stream))
    members = [
        ResNet(
            (blocks,) * 3, (width, 2 * width, 4 * width), shortcut=None, preactivation=True, num_classes=num_classes,
            in_channels=in_channels, image_size=image_size, noise=make,
        )
        for _ in range(n)
    ]  # fmt: skip
    return EnResNet(members, at_once=at_once, draws=draws)


def _grouped_block(blocks: list[PreactivationBlock], x: Tensor) -> Tensor:
    activated = F.relu(_batch_norm([one.bn1 for one in blocks], x))
    out = _convolution([one.conv1 for one in blocks], activated)
    out = F.relu(_batch_norm([one.bn2 for one in blocks], out))
    out = _convolution([one.conv2 for one in blocks], out)
    if blocks[0].shortcut is not None:
        x = _convolution([cast(nn.Conv2d, one.shortcut) for one in blocks], activated)
    return add_noise([cast(GaussianNoise, one.noise) for one in blocks], out + x)


def _convolution(layers: list[nn.Conv2d], x: Tensor) -> Tensor:
    weight = torch.cat([one.weight for one in layers])
    return F.conv2d(x, weight, stride=layers[0].stride, padding=layers[0].padding, groups=len(layers))


def _batch_norm(layers: list[nn.BatchNorm2d], x: Tensor) -> Tensor:
    first = layers[0]
    means, variances = (
        [cast(Tensor, getattr(one, name)) for one in layers] for name in ("running_mean", "running_var")
    )
    mean, variance = torch.cat(means), torch.cat(variances)
    weight, bias = torch.cat([one.weight for one in layers]), torch.cat([one.bias for one in layers])
    out = F.batch_norm(x, mean, variance, weight, bias, first.training, cast(float, first.momentum), first.eps)
    if first.training:
        # What the joint layer moved goes back to its owners.
        with torch.no_grad():
            moved = [*mean.chunk(len(layers)), *variance.chunk(len(layers))]
            for kept, now in zip(means + variances, moved, strict=True):
                kept.copy_(now)
            for one in layers:
                cast(Tensor, one.num_batches_tracked).add_(1)
    return out
