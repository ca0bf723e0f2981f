"""A small vision transformer whose heads and neurons can be removed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.models.common import ImageSize, height_width, initialise

# Standard deviation of fresh weights and embeddings [@dosovitskiy2021].
SPREAD = 0.02


class Attention(nn.Module):
    """Self-attention of several heads [@vaswani2017, 3.2], (n, tokens, width) to the same.

    Attributes:
        num_heads: whole heads are what `gracile.shrink` removes; it sets this to how many are left.
        head_dim: width of each.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(n, tokens, self.num_heads * self.head_dim))


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``: normalisation comes first [@dosovitskiy2021, eqs. 2 and 3]."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches, embedded with their places, behind a class token; blocks; the class token's classification.

    Arguments as for `vit`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
    ) -> None:
        super().__init__()
        tokens = 1 + (image_size[0] // patch) * (image_size[1] // patch)
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.places = nn.Parameter(torch.empty(1, tokens, width))
        self.blocks = nn.Sequential(*(Block(width, heads, round(mlp_ratio * width)) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)
        initialise(self, initialisation="lecun")
        for one in (self.class_token, self.places):
            nn.init.trunc_normal_(one, std=SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], 1) + self.places
        return self.classifier(self.norm(self.blocks(tokens))[:, 0])


def vit(
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: ImageSize = 32,
    patch: int = 4,
    width: int = 256,
    depth: int = 7,
    heads: int = 4,
    mlp_ratio: float = 2.0,
) -> ViT:
    """A vision transformer [@dosovitskiy2021] of the size of ViT-Lite-7/4 [@hassani2021]; 3.72 M parameters on CIFAR-10.

    It learns by Adam and not by plain gradient descent: ``optimizer = "adamw"`` at a rate near 1e-3.

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        image_size: pixels, one number or (height, width); multiples of `patch`.
        patch: side of the square patches.
        width: of a token; a multiple of `heads`.
        depth: blocks.
        heads: in each block.
        mlp_ratio: hidden neurons of each block, over `width`.

    Returns:
        A module from (n, in_channels, height, width) to (n, num_classes).

    Raises:
        InputError: patches do not fill the image, heads do not fill a token, or there would be no block or neuron.
    """
    if min(patch, width, depth, heads) < 1 or width % heads or round(mlp_ratio * width) < 1:
        raise InputError(
            f"patch={patch}, width={width}, depth={depth}, heads={heads} and mlp_ratio={mlp_ratio} make no transformer.",
            "Choose them above 0, and width a multiple of heads, such as width=128 and heads=4.",
        )
    size = height_width(image_size, least=patch, model="vit")
    if size[0] % patch or size[1] % patch:
        raise InputError(
            f"Patches of {patch}x{patch} pixels do not fill images of {size[0]}x{size[1]}.",
            f"Resize the images to multiples of {patch}, or choose another patch.",
        )
    return ViT(
        num_classes=num_classes, in_channels=in_channels, image_size=size, patch=patch, width=width, depth=depth,
        heads=heads, mlp_ratio=mlp_ratio,
    )  # fmt: skip
