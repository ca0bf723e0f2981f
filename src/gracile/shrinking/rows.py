"""Rows of embeddings and of the last layer: a vocabulary or classes that are not needed, removed with a map of what was kept."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError

Kind = TypeVar("Kind", bound=nn.Module)


class RenumberedEmbedding(nn.Module):
    """An embedding with fewer rows that is asked by the old ids.

    Args:
        embedding: with the rows that were kept.
        rows: (old number of ids,) int64, the row of each old id.
    """

    rows: Tensor

    def __init__(self, embedding: nn.Embedding, rows: Tensor) -> None:
        super().__init__()
        self.embedding = embedding
        self.register_buffer("rows", rows)

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors of old ids, of any shape."""
        return self.embedding(self.rows[ids])


def shrink_vocabulary(
    model: nn.Module, name: str, *, kept: Sequence[int] | Tensor | None = None
) -> tuple[nn.Module, Tensor]:
    """Remove rows of an embedding: those that are zero, or all but the ids that will be asked for.

    All rows of zeros become one, so that without `kept` the outputs are the same for every id. Train for it with
    ``RGSM(model, grouping="input_channel", layers=[name])``, whose groups are the rows; or name the ids that the corpus at hand has.

    Args:
        model: not changed.
        name: of an `nn.Embedding` in it.
        kept: old ids that stay; the others all get the row of the first dropped one, set to zero. By default those with a row that is
            not zero, and `padding_idx`.

    Returns:
        A deep copy with a `RenumberedEmbedding` in place of the embedding, and ``rows: (old number of ids,)`` of int64: the new
        number of each old id, for a tokenizer that asks `model.NAME.embedding` itself.

    Raises:
        InputError: no such embedding, ids that it does not have, nothing to remove, or a weight that other layers share.
    """
    embedding = _module(model, name, nn.Embedding)
    weight = embedding.weight
    if sum(parameter is weight for _, parameter in model.named_parameters(remove_duplicate=False)) > 1:
        raise InputError(
            f"The weight of '{name}' is shared with another layer, which reads its rows as classes.",
            "Untie them first: give the other layer a copy of its own.",
        )
    if embedding.max_norm is not None or embedding.scale_grad_by_freq:
        raise InputError(
            f"'{name}' renormalises its rows while it is asked.", "Build it without max_norm and scale_grad_by_freq."
        )
    stays = torch.zeros(len(weight), dtype=torch.bool)
    if kept is None:
        stays |= (weight.detach() != 0).any(1).cpu()
    else:
        stays[_ids(kept, len(weight), f"'{name}'")] = True
    if embedding.padding_idx is not None:
        stays[embedding.padding_idx] = True
    dropped = (~stays).nonzero().flatten()
    if not len(dropped):
        raise InputError(
            f"Every row of '{name}' is needed.",
            "Train with RGSM(model, grouping='input_channel', layers=[...]), or give kept=.",
        )
    # One row of zeros stands for all that went.
    stays[dropped[0]] = True
    rows = torch.where(stays, stays.cumsum(0) - 1, (stays.cumsum(0) - 1)[dropped[0]])
    lean = copy.deepcopy(model)
    with torch.no_grad():
        values = weight.detach().clone()
        values[dropped] = 0
        padding = None if embedding.padding_idx is None else int(rows[embedding.padding_idx])
        smaller = nn.Embedding.from_pretrained(
            values[stays.to(weight.device)],
            freeze=not weight.requires_grad,
            padding_idx=padding,
            sparse=embedding.sparse,
        )
    _replace(lean, name, RenumberedEmbedding(smaller, rows.to(weight.device)).train(embedding.training))
    return lean, rows


def shrink_classes(model: nn.Module, name: str, kept: Sequence[int] | Tensor) -> nn.Module:
    """Remove classes: the rows of the last linear layer that make them.

    Args:
        model: not changed.
        name: of the `nn.Linear` whose outputs are the model's logits.
        kept: the classes that stay, in the order that the new logits have.

    Returns:
        A deep copy whose logits are those of ``kept``; what led to the other classes alone can then go by `gracile.shrink`.

    Raises:
        InputError: no such layer, or classes that it does not have.
    """
    layer = _module(model, name, nn.Linear)
    chosen = _ids(kept, layer.out_features, f"'{name}'").to(layer.weight.device)
    lean = copy.deepcopy(model)
    smaller = nn.Linear(
        layer.in_features, len(chosen), layer.bias is not None, device=layer.weight.device, dtype=layer.weight.dtype
    )
    with torch.no_grad():
        smaller.weight.copy_(layer.weight[chosen])
        if layer.bias is not None:
            smaller.bias.copy_(layer.bias[chosen])
    for ours, theirs in zip(smaller.parameters(), layer.parameters(), strict=True):
        ours.requires_grad_(theirs.requires_grad)
    _replace(lean, name, smaller.train(layer.training))
    return lean


def _module(model: nn.Module, name: str, kind: type[Kind]) -> Kind:
    modules = dict(model.named_modules())
    found = modules.get(name)
    if not isinstance(found, kind) or not name:
        known = [one for one, module in modules.items() if isinstance(module, kind) and one]
        raise InputError(
            f"The model has no {kind.__name__} named '{name}'.",
            f"It has: {', '.join(known)}." if known else "It has none.",
        )
    return found


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)


def _ids(kept: Sequence[int] | Tensor, count: int, what: str) -> Tensor:
    chosen = torch.as_tensor(kept, dtype=torch.long).flatten().cpu()
    if not len(chosen) or int(chosen.min()) < 0 or int(chosen.max()) >= count or len(chosen.unique()) < len(chosen):
        raise InputError(
            f"What is kept of {what} is not a choice of its {count} rows.",
            f"Give numbers from 0 to {count - 1}, each once.",
        )
    return chosen
