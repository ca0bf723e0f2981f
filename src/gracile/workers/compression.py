"""What a message weighs: compressors with their exact length in bytes, one table.

A message is a row of numbers packed into bytes, so what is counted is what a wire would carry. Sender and receiver
unpack the same bytes; what compression loses is the method's to make good (error feedback in CHOCO).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from gracile.core.errors import InputError, pick


class Compressor(Protocol):
    """Packs a row of n floats into bytes, and back."""

    def length(self, n: int) -> int:
        """Bytes of a message that stands for n numbers."""
        ...

    def pack(self, row: Tensor, generator: torch.Generator) -> Tensor:
        """(n,) floats to (length(n),) bytes as uint8.

        Args:
            row: float32 or float64.
            generator: what random rounding draws from.
        """
        ...

    def unpack(self, message: Tensor, n: int) -> Tensor:
        """(length(n),) uint8 to (n,) float32."""
        ...


def compressor(name: str) -> Compressor:
    """A compressor by name.

    Args:
        name: a row of `COMPRESSORS`; ``top-k:0.01`` names the share that is kept.

    Raises:
        InputError: no such compressor, or a share outside (0, 1].
    """
    name, _, argument = name.partition(":")
    return pick(COMPRESSORS, name, "compressor")(argument)


class Plain:
    """float32 as it stands: 4 n bytes."""

    def __init__(self, argument: str = "") -> None:
        _no_argument("none", argument)

    def length(self, n: int) -> int:
        """4 n."""
        return 4 * n

    def pack(self, row: Tensor, generator: torch.Generator) -> Tensor:
        """See `Compressor`."""
        return row.to(torch.float32).contiguous().view(torch.uint8)

    def unpack(self, message: Tensor, n: int) -> Tensor:
        """See `Compressor`."""
        return message.view(torch.float32)


class Float16:
    """IEEE half precision: 2 n bytes. Beyond its range, at 65504, numbers are cut off there."""

    def __init__(self, argument: str = "") -> None:
        _no_argument("float16", argument)

    def length(self, n: int) -> int:
        """2 n."""
        return 2 * n

    def pack(self, row: Tensor, generator: torch.Generator) -> Tensor:
        """See `Compressor`."""
        return row.clamp(-65504, 65504).to(torch.float16).contiguous().view(torch.uint8)

    def unpack(self, message: Tensor, n: int) -> Tensor:
        """See `Compressor`."""
        return message.view(torch.float16).float()


class Int8:
    """Levels -127 to 127 of the largest magnitude, rounded at random without bias [@alistarh2017]: n + 4 bytes."""

    def __init__(self, argument: str = "") -> None:
        _no_argument("int8", argument)

    def length(self, n: int) -> int:
        """Bytes of n levels and a float32 scale."""
        return n + 4

    def pack(self, row: Tensor, generator: torch.Generator) -> Tensor:
        """See `Compressor`."""
        scale = (row.abs().amax() / 127).float()
        # A row of zeros has the scale 0, and 0 / 0 must not become a level.
        levels = row.float() / scale.clamp(min=torch.finfo(torch.float32).tiny)
        levels = (
            (levels + torch.rand(row.shape, generator=generator, dtype=torch.float32, device=row.device))
            .floor_()
            .clamp_(-127, 127)
        )
        return torch.cat([scale.reshape(1).view(torch.uint8), levels.to(torch.int8).view(torch.uint8)])

    def unpack(self, message: Tensor, n: int) -> Tensor:
        """See `Compressor`."""
        return message[4:].view(torch.int8).float() * message[:4].clone().view(torch.float32)


class TopK:
    """The largest magnitudes, as int32 places and float32 values: 8 bytes for each of round(share n), at least one."""

    def __init__(self, argument: str = "") -> None:
        try:
            self.share = float(argument or 0.01)
        except ValueError:
            self.share = 0.0
        if not 0 < self.share <= 1:
            raise InputError(f"'{argument}' is no share for top-k.", "Write top-k:0.01, with a number in (0, 1].")

    def length(self, n: int) -> int:
        """8 bytes per number kept."""
        return 8 * self._kept(n)

    def _kept(self, n: int) -> int:
        return max(1, round(self.share * n))

    def pack(self, row: Tensor, generator: torch.Generator) -> Tensor:
        """See `Compressor`."""
        places = row.abs().topk(self._kept(len(row)), sorted=False).indices.sort().values
        return torch.cat([places.to(torch.int32).view(torch.uint8), row[places].float().view(torch.uint8)])

    def unpack(self, message: Tensor, n: int) -> Tensor:
        """See `Compressor`."""
        half = len(message) // 2
        row = torch.zeros(n, dtype=torch.float32, device=message.device)
        row[message[:half].view(torch.int32).long()] = message[half:].clone().view(torch.float32)
        return row


class Sign:
    """Signs times the mean magnitude [@bernstein2018; @karimireddy2019]: ceil(n / 8) + 4 bytes.

    Zero counts as positive.
    """

    def __init__(self, argument: str = "") -> None:
        _no_argument("sign", argument)

    def length(self, n: int) -> int:
        """One bit per number, and a float32 scale."""
        return (n + 7) // 8 + 4

    def pack(self, row: Tensor, generator: torch.Generator) -> Tensor:
        """See `Compressor`."""
        bits = torch.zeros((len(row) + 7) // 8 * 8, dtype=torch.uint8, device=row.device)
        bits[: len(row)] = row >= 0
        packed = (bits.view(-1, 8) * _bit_values(row.device)).sum(1, dtype=torch.uint8)
        return torch.cat([row.abs().mean().float().reshape(1).view(torch.uint8), packed])

    def unpack(self, message: Tensor, n: int) -> Tensor:
        """See `Compressor`."""
        bits = (message[4:, None] & _bit_values(message.device)).ne_(0).flatten()[:n]
        return (bits.float() * 2 - 1) * message[:4].clone().view(torch.float32)


def _bit_values(device: torch.device) -> Tensor:
    return torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)


def _no_argument(name: str, argument: str) -> None:
    if argument:
        raise InputError(f"The compressor '{name}' takes no '{argument}'.", f"Write {name}.")


# All machines of one network are taken to have this byte order.
assert sys.byteorder == "little"

# Name to a function from what follows the colon to a compressor.
COMPRESSORS: dict[str, Callable[[str], Compressor]] = {
    "float16": Float16,
    "int8": Int8,
    "none": Plain,
    "sign": Sign,
    "top-k": TopK,
}
