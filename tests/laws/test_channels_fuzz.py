"""Networks drawn at random out of all that the rules know: whatever is zeroed and removed, the outputs stay.

A few hundred by default; ``make fuzz`` draws 2,000.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gracile.channels import trace
from gracile.shrinking import plan, shrink
from gracile.shrinking.parity import largest_difference
from tests.models.idioms import Attention, Perceptron
from tests.models.well_known import randomised
from tests.models.zeros import zero_filters, zero_groups, zero_inside_heads

NETWORKS = int(os.environ.get("GRACILE_FUZZ", "200"))
AT_ONCE = 20

Make = Callable[[random.Random, int], tuple[nn.Module, int]]


class Sum(nn.Module):
    def __init__(self, *branches: nn.Module, product: bool = False) -> None:
        super().__init__()
        self.branches, self.product = nn.ModuleList(branches), product

    def forward(self, x: Tensor) -> Tensor:
        first, *others = (branch(x) for branch in self.branches)
        for other in others:
            first = first * torch.sigmoid(other) if self.product else first + other
        return first


class Joined(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Chunked(nn.Module):
    """Parts of the channels, treated apart or multiplied with each other."""

    def __init__(self, kind: str, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.kind, self.inner = kind, inner

    def forward(self, x: Tensor) -> Tensor:
        first, second = (x[:, ::2], x[:, 1::2]) if self.kind == "stride" else x.chunk(2, 1)
        if self.inner is not None:
            return torch.cat([self.inner(first), second], 1)
        return F.gelu(first) * second


class Shuffle(nn.Module):
    def __init__(self, groups: int, named: bool) -> None:
        super().__init__()
        self.groups, self.named = groups, named

    def forward(self, x: Tensor) -> Tensor:
        if self.named:
            return F.channel_shuffle(x, self.groups)
        batch, channels, height, width = x.shape
        return x.view(batch, self.groups, channels // self.groups, height, width).transpose(1, 2).flatten(1, 2)


class Tokens(nn.Module):
    """Pixels as tokens, and back."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        y = self.body(x.flatten(2).transpose(1, 2)).transpose(1, 2)
        return y.reshape(y.shape[0], -1, height, width)


class Gate(nn.Module):
    """Squeeze and excite, by linear layers or by convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, 4), nn.Linear(4, width)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))[..., None, None]


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(width) + 0.5), nn.Parameter(torch.randn(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale[:, None, None])


class Queries(nn.Module):
    """Attention by torch's own function with projections apart; keys and values may be shared by several heads of queries."""

    def __init__(self, width: int, heads: int, shared: int, scale: float | None) -> None:
        super().__init__()
        self.heads, self.shared, self.scale = heads, shared, scale
        self.q = nn.Linear(width, heads * 3)
        self.k, self.v = (nn.Linear(width, heads // shared * 3) for _ in range(2))
        self.out = nn.Linear(heads * 3, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (one(x).unflatten(-1, (-1, 3)).transpose(1, 2) for one in (self.q, self.k, self.v))
        if self.shared > 1:
            k, v = k.repeat_interleave(self.shared, 1), v.repeat_interleave(self.shared, 1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2).flatten(2))


class Written(nn.Module):
    """Attention written by hand, in the forms that it has in people's code."""

    def __init__(self, kind: str, width: int, heads: int, each: int) -> None:
        super().__init__()
        self.kind, self.heads, self.each, self.scale = kind, heads, each, each**-0.5
        self.qkv, self.out = nn.Linear(width, 3 * heads * each, bias=kind != "einsum"), nn.Linear(heads * each, width)
        self.heat = nn.Parameter(torch.rand(heads, 1, 1) + 0.5) if kind == "heat" else None

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        match self.kind:
            case "chunk":
                parts = [one.view(batch, tokens, self.heads, -1).transpose(1, 2) for one in self.qkv(x).chunk(3, -1)]
                q, k, v = parts
            case "last":  # heads first, what they are made of behind
                q, k, v = self.qkv(x).view(batch, tokens, self.heads, 3, self.each).permute(3, 0, 2, 1, 4)
            case _:
                qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.each).permute(2, 0, 3, 1, 4)
                q, k, v = qkv[0], qkv[1], qkv[2]
        if self.kind == "einsum":
            weights = (torch.einsum("bhid,bhjd->bhij", q, k) * self.scale).softmax(-1)
            return x + self.out(
                torch.einsum("bhij,bhjd->bihd", weights, v).reshape(batch, tokens, self.heads * self.each)
            )
        if self.kind == "bmm":
            q, k, v = (one.reshape(batch * self.heads, tokens, -1) for one in (q, k, v))
            y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).mul(self.scale).softmax(-1), v)
            y = y.view(batch, self.heads, tokens, -1)
        elif self.kind == "heat":
            y = ((q * self.heat) @ k.mT / 2).softmax(-1) @ v
        elif self.kind == "turned":  # a rotary term knows the places in a head
            turn = torch.arange(self.each, device=x.device, dtype=x.dtype)
            y = F.scaled_dot_product_attention(q * turn.cos(), k * turn.cos(), v, scale=self.scale)
        elif self.kind == "bent":  # zero stays zero for the query, and not for the key
            y = (F.relu(q) @ torch.exp(0.1 * k).mT).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return x + self.out(y.transpose(1, 2).flatten(2))


class Recurrent(nn.Module):
    """Tokens through a recurrent layer, every step of it read."""

    def __init__(self, kind: type[nn.RNNBase], width: int, hidden: int) -> None:
        super().__init__()
        self.body, self.out = kind(width, hidden, batch_first=True), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x)[0])


class Inlined(nn.Module):
    """Layers as functions, and a product by its equation."""

    def __init__(self, width: int, made: int, kind: str) -> None:
        super().__init__()
        self.kernel, self.shift = nn.Parameter(torch.randn(made, width, 1, 1)), nn.Parameter(torch.randn(made))
        self.kind = kind
        self.register_buffer("mean", torch.randn(made))
        self.register_buffer("variance", torch.rand(made) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "einsum":
            y = torch.einsum("bchw,oc->bohw", x, self.kernel.flatten(1)) + self.shift[:, None, None]
        else:
            y = F.conv2d(x, self.kernel, self.shift)
        if self.kind == "norm":
            return F.batch_norm(y, self.mean, self.variance, self.shift, None)
        if self.kind == "length":
            return F.normalize(y, dim=1)
        return F.glu(torch.cat([y, y.flip(1)], 1), 1) if self.kind == "glu" else F.leaky_relu(y, 0.1)


class Parts(nn.Module):
    """Channels split unevenly, chosen between, or stacked and reduced."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind, self.first = kind, max(width // 3, 1)
        self.other = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.other(x)
        match self.kind:
            case "split":
                one, two = x.split([self.first, x.shape[1] - self.first], 1)
                return torch.cat([torch.sigmoid(two), one], 1) + y
            case "where":
                return torch.where(y > 0, x, 0.5 * y)
            case "maximum":
                return torch.maximum(x, y).clamp(max=3)
            case "stack":
                return torch.stack([x, y], 2).amax(2)
            case _:
                return x - y.mean((2, 3), keepdim=True) * x.std(1, keepdim=True)


class Pixels(nn.Module):
    """Pixels to channels and back."""

    def __init__(self, width: int, made: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4 * width, 4 * made, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(F.relu(self.inner(F.pixel_unshuffle(x, 2))), 2)


class Normed(nn.Module):
    """A norm over channels that come last."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def conv(draw: random.Random, width: int) -> tuple[nn.Module, int]:
    made = draw.choice([6, 8, 12])
    kernel = draw.choice([1, 3])
    return nn.Conv2d(width, made, kernel, padding=kernel // 2, bias=draw.random() < 0.7), made


def grouped(draw: random.Random, width: int) -> tuple[nn.Module, int]:
    groups = draw.choice([one for one in range(1, width + 1) if width % one == 0])
    made = groups * draw.choice([1, 2, 3])
    kind = draw.choice([nn.Conv2d, nn.ConvTranspose2d])
    return kind(width, made, 3, padding=1, groups=groups), made


def pointwise(draw: random.Random, width: int) -> tuple[nn.Module, int]:
    kinds: list[Callable[[], nn.Module]] = [
        nn.ReLU, nn.SiLU, nn.Hardswish, lambda: nn.PReLU(width), lambda: nn.BatchNorm2d(width), lambda: Gate(width), lambda: Scale(width),
        lambda: nn.GroupNorm(draw.choice([one for one in range(1, width + 1) if width % one == 0]), width), lambda: nn.Dropout(0.3),
        lambda: nn.InstanceNorm2d(width, affine=True), lambda: nn.AvgPool2d(3, 1, 1), lambda: nn.MaxPool2d(3, 1, 1),
        lambda: nn.ZeroPad2d((1, -1, 0, 0)),
    ]  # fmt: skip
    return draw.choice(kinds)(), width


def residual(draw: random.Random, width: int) -> tuple[nn.Module, int]:
    body, made = chain(draw, width, 2)
    return Sum(nn.Sequential(body, nn.Conv2d(made, width, 1)), nn.Identity(), product=draw.random() < 0.3), width


def joined(draw: random.Random, width: int) -> tuple[nn.Module, int]:
    (one, first), (two, second) = chain(draw, width, 1), chain(draw, width, 2)
    return Joined(one, two), first + second


def chunked(draw: random.Random, width: int) -> tuple[nn.Module, int]:
    if width % 2:
        return conv(draw, width)
    if draw.random() < 0.5:
        return Chunked(draw.choice(["stride", "chunk"])), width // 2
    inner, made = conv(draw, width // 2)
    return Chunked(draw.choice(["stride", "chunk"]), inner), width // 2 + made


def shuffled(draw: random.Random, width: int) -> tuple[nn.Module, int]:
    groups = draw.choice([one for one in (2, 3, 4) if width % one == 0] or [1])
    return Shuffle(groups, draw.random() < 0.5), width


def attention(draw: random.Random, width: int) -> tuple[nn.Module, int]:
    heads = draw.choice([one for one in (1, 2, 3, 4) if width % one == 0])
    kinds: list[Callable[[], nn.Module]] = [
        lambda: Attention(width, heads), lambda: Perceptron(width, 10, gated=draw.random() < 0.5),
        lambda: nn.TransformerEncoderLayer(width, heads, 10, batch_first=True, norm_first=draw.random() < 0.5),
        lambda: Queries(width, 4, draw.choice([1, 2, 4]), draw.choice([None, 0.5])),
        lambda: Written(draw.choice(["chunk", "last", "einsum", "bmm", "heat", "turned", "bent", "plain"]), width, draw.choice([2, 3]), 4),
        lambda: Recurrent(draw.choice([nn.LSTM, nn.GRU, nn.RNN]), width, 5),
    ]  # fmt: skip
    return Tokens(draw.choice(kinds)()), width


def shared(draw: random.Random, width: int) -> tuple[nn.Module, int]:
    """One module called twice."""
    body = nn.Conv2d(width, width, 3, padding=1)
    return nn.Sequential(body, nn.Tanh(), body), width


def inlined(draw: random.Random, width: int) -> tuple[nn.Module, int]:
    made = draw.choice([6, 9])
    return Inlined(width, made, draw.choice(["einsum", "norm", "length", "glu", "plain"])), made


def parts(draw: random.Random, width: int) -> tuple[nn.Module, int]:
    if width < 2:
        return conv(draw, width)
    return Parts(width, draw.choice(["split", "where", "maximum", "stack", "spread"])), width


def pixels(draw: random.Random, width: int) -> tuple[nn.Module, int]:
    made = draw.choice([4, 6])
    return Pixels(width, made), made


def normed(draw: random.Random, width: int) -> tuple[nn.Module, int]:
    return Normed(draw.choice([nn.LayerNorm, nn.RMSNorm])(width)), width


def parametrised(draw: random.Random, width: int) -> tuple[nn.Module, int]:
    """A kernel that is computed from its direction and length."""
    layer, made = conv(draw, width)
    return nn.utils.parametrizations.weight_norm(layer), made


BLOCKS: tuple[Make, ...] = (
    conv, conv, grouped, pointwise, pointwise, residual, joined, chunked, shuffled, attention, attention, shared, inlined, parts, pixels,
    normed, parametrised,
)  # fmt: skip


def chain(draw: random.Random, width: int, depth: int) -> tuple[nn.Module, int]:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layer, width = draw.choice(BLOCKS)(draw, width)
        layers.append(layer)
    return nn.Sequential(*layers), width


def network(seed: int) -> nn.Module:
    """A stem, a few blocks, and a head that averages, flattens, or keeps pixels."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    body, width = chain(draw, 8, draw.choice([2, 3, 4]))
    heads: list[list[nn.Module]] = [
        [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)],
        [nn.Flatten(), nn.Linear(width * 16, 3)],
        [nn.Conv2d(width, 2, 1)],
    ]
    return randomised(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), body, *draw.choice(heads)), seed).double()


def zeroed(model: nn.Module, x: Tensor, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    share = (0.2, 0.5, 0.8)[seed % 3]
    graph = trace(model, x)
    zero_groups(model, graph, torch.rand(graph.num_groups, generator=source) < share)
    if seed % 2:
        zero_filters(model, 0.2, seed)
    if seed % 5 < 3:
        zero_inside_heads(model, graph, 1 + seed % 2, seed)


@pytest.mark.parametrize("start", range(0, NETWORKS, AT_ONCE))
def test_any_network_shrinks_to_the_same_function_of_the_planned_size(start: int) -> None:
    for seed in range(start, start + AT_ONCE):
        model, x = (
            network(seed),
            torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),
        )
        zeroed(model, x, seed)
        lean, made = shrink(model, x, dead="fold"), plan(model, x, dead="fold")
        difference = largest_difference(model, lean, torch.randn(3, 3, 4, 4, dtype=torch.float64))
        assert difference < 1e-9, f"network {seed} differs by {difference:.1e}"
        assert sum(one.numel() for one in lean.parameters()) == made.after.parameters, f"network {seed}"
