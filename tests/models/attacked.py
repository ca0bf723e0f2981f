"""Networks to attack: affine ones whose nearest adversarial is known, random ones, broken ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Every objective of adversarial training, with few steps.
OBJECTIVES = {"pgd": {"steps": 2}, "mart": {"steps": 2}, "trades": {"steps": 2}, "fgsm": {}, "free": {"replays": 2}}


def affine(features: int = 20, classes: int = 4, seed: int = 0) -> nn.Linear:
    """An affine classifier in float64."""
    random = torch.Generator().manual_seed(seed)
    network = nn.Linear(features, classes).double()
    with torch.no_grad():
        network.weight.copy_(torch.randn(classes, features, generator=random))
        network.bias.copy_(torch.randn(classes, generator=random) / 4)
    return network.eval()


def distances(network: nn.Linear, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """How far each sample is from the nearest point of another class, without the box: (n,).

    The boundary to class j is a hyperplane with normal w_j - w_y; its distance is the logits' gap over the normal's dual norm.
    """
    logits, weight = network(x).detach(), network.weight.detach()
    normals = weight[None] - weight[y][:, None]
    lengths = normals.norm(dim=2, p={"linf": 1.0, "l2": 2.0, "l1": float("inf")}[norm])
    gaps = logits.gather(1, y[:, None]) - logits
    return (gaps / lengths).scatter(1, y[:, None], float("inf")).amin(dim=1)


def convolutional(seed: int = 0, classes: int = 5) -> nn.Sequential:
    """A small network with batch norm and dropout, on (n, 2, 6, 6)."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(216, classes)
    )  # fmt: skip


class Noisy(nn.Module):
    """A network that adds noise to its input in every pass, in evaluation too."""

    def __init__(self, network: nn.Module, sigma: float = 0.1) -> None:
        super().__init__()
        self.network, self.sigma = network, sigma

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + self.sigma * torch.randn_like(x))


class Rounded(nn.Module):
    """A network behind rounding, through which no gradient passes: masked, not robust."""

    def __init__(self, network: nn.Module, levels: int = 40) -> None:
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * self.levels).round() / self.levels)
