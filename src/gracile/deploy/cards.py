"""A row for each network: what stands under attack, and what it costs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tabulate import tabulate
from torch import Tensor, nn

from gracile.attacks import Card, Cost, Robustness, save_examples
from gracile.channels import trace
from gracile.core.console import told
from gracile.core.errors import GracileError, StorageError
from gracile.core.files import write_json


def cost(model: nn.Module, example: Tensor) -> Cost:
    """What a network costs, as far as it can be counted without a file of it.

    Zeros are a share of its weights; biases and what normalises do not count. Multiply-adds are None where the network cannot be
    traced.

    Args:
        model: on the device of `example`; not changed.
        example: (n, ...) inputs.
    """
    weights = [one.detach() for one in model.parameters() if one.ndim > 1]
    total = sum(one.numel() for one in weights)
    try:
        multiply_adds = trace(model, example).dense().macs
    except GracileError:
        multiply_adds = None
    return Cost(
        zeros=100 * sum(int((one == 0).sum()) for one in weights) / total if total else None,
        parameters=parameters(model),
        multiply_adds=multiply_adds,
    )


def parameters(model: nn.Module) -> int:
    """How many parameters a network stores."""
    return sum(one.numel() for one in model.parameters())


def architecture(model: nn.Module) -> str:
    """The class of a network, behind its normalisation where it has one."""
    inner = getattr(model, "network", None)
    return type(inner if isinstance(inner, nn.Module) else model).__name__


def one_row_each(cards: Iterable[Card]) -> str:
    """A table with a row for each card; columns in which nothing was measured are left out."""
    rows = [card.row() for card in cards]
    kept = [head for head in rows[0] if any(row[head] for row in rows)] if rows else []
    return tabulate(
        [[row[head] for head in kept] for row in rows], headers=kept, tablefmt="github", disable_numparse=True
    )


def write_cards(folder: Path, cards: Mapping[str, Card], found: Mapping[str, Robustness], x: Tensor, y: Tensor) -> None:
    """Leave, in place of those of an earlier call, ``NAME.card.json`` and ``NAME.examples.safetensors`` of each network.

    Args:
        folder: where they go.
        cards: by the network's name.
        found: what the cards were made of.
        x: (n, c, h, w), the samples attacked.
        y: int64 (n,), their labels.

    Raises:
        StorageError: a file cannot be written.
    """
    forget_cards(folder)
    for name, card in cards.items():
        stem = re.sub(r"[^\w.-]+", "-", name)
        write_json(folder / f"{stem}.card.json", card.to_json())
        save_examples(found[name], x, y, folder / f"{stem}.examples.safetensors")


@contextlib.contextmanager
def shown_if_lost(result: object) -> Iterator[None]:
    """Show what was measured where it cannot be written after all: it may have taken hours."""
    try:
        yield
    except StorageError:
        told.warning("What was measured is not written:\n%s", result)
        raise


def forget_cards(folder: Path) -> None:
    """Remove what `write_cards` left in a folder: it belongs to other weights."""
    for pattern in ("*.card.json", "*.examples.safetensors"):
        for file in folder.glob(pattern):
            file.unlink()
