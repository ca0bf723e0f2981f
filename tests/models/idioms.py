"""Small networks, each written in a way that people write theirs: functional calls, attention, shuffles, gates, shared tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.prune import ln_structured


class Functional(nn.Module):
    """Parameters of its own in functional layers, a subclass that calls its parent, batch-norm as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 3, 3, 3) * 0.2)
        self.norm = NormAct(8)
        self.conv = Scaled(8, 6, 3)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(self.norm(F.conv2d(x, self.kernel, padding=1)))))


class NormAct(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        x = F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps
        )
        return F.silu(x)


class Scaled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 0.5 * super().forward(input)


class Attention(nn.Module):
    """Queries, keys and values in one layer; heads and a scale kept by the module."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.scale = self.each**-0.5
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (
            self.qkv(self.norm(x)).reshape(batch, tokens, 3, self.heads, self.each).permute(2, 0, 3, 1, 4).unbind(0)
        )
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(-1)
        return x + self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, -1))


class Divided(Attention):
    """The width of a head is computed in the forward, from what is read and the number of heads."""

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return x + self.out(y.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    def __init__(self, width: int = 16, hidden: int = 24, gated: bool = False) -> None:
        super().__init__()
        self.norm, self.gated = nn.LayerNorm(width), gated
        self.up, self.down = nn.Linear(width, 2 * hidden if gated else hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.norm(x))
        if self.gated:
            gate, y = y.chunk(2, dim=-1)
            y = F.silu(gate) * y
        return x + self.down(F.gelu(y))


class Transformer(nn.Module):
    """Patches with a place of their own, a class token, two blocks."""

    def __init__(self, gated: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16) * 0.1)
        self.places = nn.Parameter(torch.randn(1, 17, 16) * 0.1)
        self.body = nn.Sequential(Attention(), Perceptron(gated=gated), Attention(), Perceptron(gated=gated))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head(self.body(x)[:, 0])


class Grouped(nn.Module):
    """Grouped-query attention by torch's own function: four heads of queries, two of keys and values; the scale is given."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (
            nn.Linear(16, 16, bias=False),
            nn.Linear(16, 8, bias=False),
            nn.Linear(16, 8, bias=False),
        )
        self.out = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (one(x).view(*x.shape[:2], -1, 4).transpose(1, 2) for one in (self.q, self.k, self.v))
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5)
        return self.out(y.transpose(1, 2).flatten(2))


class Texts(nn.Module):
    """Words, their head tied to them, and a recurrent layer."""

    def __init__(self, kind: type[nn.Module] = nn.LSTM) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.body = kind(8, 6, batch_first=True)
        self.back = nn.Linear(6, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.words.weight  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.back(self.body(self.words(x))[0])))


class Shuffled(nn.Module):
    """Channels shuffled by a view around a grouped convolution, and pixels out of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.groups = 2
        self.mix = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.up = nn.Sequential(nn.Conv2d(16, 16, 1), nn.PixelShuffle(2), nn.Conv2d(4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        batch, channels, height, width = x.size()
        x = (
            x.view(batch, self.groups, channels // self.groups, height, width)
            .transpose(1, 2)
            .reshape(batch, -1, height, width)
        )
        return self.up(F.relu(self.mix(x)))


class Selected(nn.Module):
    """Slices, strides, an index, `where`, a maximum of two, and sums over space and over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, 12, 3, padding=1), nn.Linear(4, 6)
        self.mix, self.head = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 2, 1)
        self.attend = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        y = self.stem(x)
        y = torch.max(y[:, ::2], torch.where(y[:, 1::2] > 0, y[:, 1::2], 0.1 * y[:, 1::2]))
        y = self.mix(torch.addcmul(y, y, self.side(condition)[:, :, None, None], value=0.5))
        y = F.normalize(y, dim=(2, 3)) * torch.rsqrt(1 + y.square().sum((2, 3), keepdim=True))
        return self.head(y) * torch.sigmoid(self.attend(x.mean(1, keepdim=True)))


class Optional(nn.Module):
    """An argument that may be left out, control flow on shapes, and a dictionary for an output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.side = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> dict[str, object]:
        if x.shape[2] % 2:
            raise ValueError("odd")
        y = F.relu(self.stem(x))
        if mask is not None:
            y = y * mask
        rows = sum(self.head(y[:, :, index : index + 1]) for index in range(y.shape[2]))
        return {"out": rows, "others": [self.side(y)]}


@dataclass
class Answer:
    scores: Tensor
    hidden: Tensor | None = None


class Answering(Optional):
    """A dataclass for an output, of a class that torch knows nothing of."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Answer:  # type: ignore[override]
        return Answer(self.head(F.relu(self.stem(x))))


class TwiceRead(nn.Module):
    """One scale, read by its module and by name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.stem(x)))
        return self.head(y * self.norm.weight.view(1, -1, 1, 1))


class Counted(nn.Module):
    """The number of channels is used as a number."""

    def __init__(self, power: bool) -> None:
        super().__init__()
        self.stem, self.head, self.power = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), power

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.head(y * y.shape[1] ** -0.5 if self.power else y / y.size(1))


class InPlace(nn.Module):
    """What works in place on parts of a tensor changes the tensor; an average by a divisor of its own changes constants."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        first, _second = y.chunk(2, 1)
        first.add_(1)
        return self.head(F.avg_pool2d(y, 2, divisor_override=3))


class Unpooled(nn.Module):
    """Positions of the largest entries, put back later."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y, places = self.pool(F.relu(self.stem(x)))
        return self.head(self.unpool(y, places))


class Axes(nn.Module):
    """Layers on any axis: tokens first, batch-norm over features of a sequence, a mixer across positions, einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(6, 10), nn.BatchNorm1d(10)
        self.across = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 5))
        self.matrix = nn.Parameter(torch.randn(10, 9) * 0.3)
        self.head = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, features = x.shape
        y = F.relu(self.stem(x.view(batch * frames, features)).view(batch, frames, -1))
        y = self.norm(y.transpose(1, 2))
        y = y + self.across(y)
        return self.head(F.relu(torch.einsum("bcf,cd->bfd", y, self.matrix)))


def hooked() -> nn.Module:
    """A hook that scales channels, and another that writes into the pass."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    scale = torch.arange(1.0, 9.0)[None, :, None, None]
    model[0].register_forward_hook(lambda _module, _inputs, output: output * scale)
    return model


def reparametrized(how: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    """Each layer's weight computed from others, by a hook or a parametrization."""

    def make() -> nn.Module:
        return nn.Sequential(how(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))

    return make


def pruned() -> nn.Module:
    """By torch's own pruning, which keeps a mask beside each weight."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))
    ln_structured(model[0], "weight", 0.5, n=2, dim=0)
    return model


def grouped_transposed() -> nn.Module:
    up = nn.ConvTranspose2d(8, 12, 2, 2, groups=4)
    return nn.Sequential(nn.Conv2d(3, 8, 1), up, nn.ReLU(), nn.Conv2d(12, 2, 1))


def within_groups() -> nn.Module:
    grouped = nn.Conv2d(16, 16, 3, groups=2)
    return nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), grouped, nn.ReLU(), nn.Conv2d(16, 2, 1))


IMAGE = (3, 8, 8)
# Name to (factory, shapes of one sample of each input, whether something can be removed).
IDIOMS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...], bool]] = {
    "functional": (Functional, (IMAGE,), True),
    "vision transformer": (Transformer, ((3, 16, 16),), True),
    "gated transformer": (lambda: Transformer(gated=True), ((3, 16, 16),), True),
    "divided width": (lambda: nn.Sequential(nn.Linear(6, 16), Divided(), Divided(), nn.Linear(16, 3)), ((5, 6),), True),
    "encoder layer": (
        lambda: nn.Sequential(nn.Linear(6, 16), nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), nn.Linear(16, 3)), ((5, 6),), True,
    ),
    "grouped queries": (Grouped, ((5, 16),), True),
    "shuffled": (Shuffled, (IMAGE,), True),
    "selected": (Selected, (IMAGE, (4,)), True),
    "optional": (Optional, (IMAGE,), True),
    "dataclass": (Answering, (IMAGE,), True),
    "read twice": (TwiceRead, (IMAGE,), True),
    "number as a value": (lambda: Counted(False), (IMAGE,), False),
    "power of a number": (lambda: Counted(True), (IMAGE,), False),
    "in place": (InPlace, (IMAGE,), True),
    "unpooled": (Unpooled, (IMAGE,), True),
    "axes": (Axes, ((5, 6),), True),
    "hooked": (hooked, (IMAGE,), False),
    "weight norm": (reparametrized(nn.utils.parametrizations.weight_norm), (IMAGE,), True),
    "spectral norm": (reparametrized(nn.utils.parametrizations.spectral_norm), (IMAGE,), True),
    "spectral norm by hook": (reparametrized(nn.utils.spectral_norm), (IMAGE,), True),
    "torch prune": (pruned, (IMAGE,), True),
    "grouped transposed": (grouped_transposed, (IMAGE,), True),
    "within groups": (within_groups, (IMAGE,), True),
}  # fmt: skip
