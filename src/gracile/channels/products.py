"""Rules of products that sum: linear layers, matrix products, einsum, attention.

A dimension that is summed over holds channels that a weight reads, where one factor is a parameter: they can go where its slice is
zero. A sum over channels of two computed factors needs all of them.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from gracile.channels.layers import affine
from gracile.channels.op import Op
from gracile.channels.records import Block, Dims, Layer, Var
from gracile.channels.rectangles import multiplied
from gracile.channels.sizes import Labels
from gracile.channels.table import register_rule


def contract(op: Op, factors: Sequence[tuple[Var, str]], result: str, bias: Var | None = None) -> Dims:
    """The product of tensors whose dimensions bear letters, summed over those that the result does not bear."""
    made: dict[str, Labels | None] = {}
    for letter in dict.fromkeys("".join(letters for _, letters in factors)):
        found = [(one, letters.index(letter)) for one, letters in factors if letter in letters]
        size = max(one.shape[axis] for one, axis in found)
        full = [one.dims[axis] for one, axis in found if one.shape[axis] == size]
        labels = full[0]
        for other in full[1:]:
            labels = op.join(labels, other, _reason(op, found))
        made[letter] = labels
        if letter in result and len(found) > 1 and labels is not None and all(one.varies for one, _ in found):
            op.ledger.heads.append(labels)
    summed = [letter for letter in made if letter not in result]
    _sums(op, factors, summed, result)
    layer = op.record.layer
    dims = Dims(
        layer.outputs[1]
        if made[letter] is None and layer is not None and op.shape[axis] == 1 and axis == len(result) - 1
        else made[letter]
        for axis, letter in enumerate(result)
    )
    if bias is not None and len(bias.shape) and bias.shape[-1] == op.shape[-1]:
        op.join(dims[-1], bias.dims[-1])
    return dims


def _reason(op: Op, found: list[tuple[Var, int]]) -> str:
    if any(one.node is not None and one.node.op == "placeholder" for one, _ in found):
        return "it is an input of the network"
    return f"{op.said} joins it with a dimension of fixed size"


def _sums(op: Op, factors: Sequence[tuple[Var, str]], summed: list[str], result: str) -> None:
    """One weight that reads along one dimension is a layer; any other sum over channels needs all of them."""
    weights = [(one, letters) for one, letters in factors if one.param is not None and not one.varies]
    if len(factors) == 2 and len(weights) >= 1 and len(summed) == 1:
        weight, letters = weights[-1]
        source, others = (
            next((one, names) for one, names in factors if one is not weight) if len(weights) < 2 else factors[0]
        )
        outputs = [letter for letter in letters if letter in result and letter not in others]
        if len(letters) == 2 and len(outputs) == 1 and weight is not source:
            number = int(np.prod([source.shape[others.index(letter)] for letter in others if letter not in summed]))
            last = others[-1] == summed[0] and result[-1] == outputs[0]
            bias = op.operands[2] if op.key == "linear" and len(op.operands) > 2 else None
            op.reads(
                weight,
                source,
                outputs=letters.index(outputs[0]),
                inputs=letters.index(summed[0]),
                positions=op.positions(source, number),
                along=[source.dims[others.index(letter)] for letter in others if letter not in summed],
                folds=op.key == "linear",
                bias=bias,
            )
            if op.key == "linear" and last:
                op.constants(lambda inputs: affine(op, inputs, len(op.shape) - 1, 0, 1, False))
            return
    if len(factors) == 2 and len(summed) == 1:
        (first, mine), (second, theirs) = factors
        axes = mine.find(summed[0]), theirs.find(summed[0])
        reason = f"{op.said} sums over it, and no weight reads it there"
        by_heads = _by_heads(first, mine, theirs, result) and _by_heads(second, theirs, mine, result)
        if by_heads and multiplied(op, first, second, axes, shared=False, reason=reason):
            return
        _carry(op, factors, result)
    for letter in summed:
        for one, letters in factors:
            if letter in letters:
                op.pin(one.dims[letters.index(letter)], f"{op.said} sums over it, and no weight reads it there")


def _by_heads(one: Var, mine: str, theirs: str, result: str) -> bool:
    """Whether the entries of a factor are told apart by a dimension of the batch, and by the one that is summed over."""
    if one.cells is None or not one.varies:
        return False
    letters = [mine[axis] for axis in one.cells.axes]
    batch = [letter for letter in letters if letter in result]
    return len(letters) == 2 and len(batch) == 1 and batch[0] in theirs


def _carry(op: Op, factors: Sequence[tuple[Var, str]], result: str) -> None:
    """Hand on the entries of a factor all of whose dimensions pass through, the last of them as its own."""
    for index, (one, letters) in enumerate(factors):
        other, others = factors[1 - index]
        if one.cells is None or other.cells is not None:
            continue
        names = [letters[axis] for axis in one.cells.axes]
        if all(name in result for name in names) and names[-1] not in others:
            op.carried = one.cells.placed([result.index(name) for name in names])
            op.followed.append(one)


@register_rule("linear")
def linear(op: Op) -> Dims:
    """Reads the features along the last dimension and makes new ones."""
    x, weight = op.operands[:2]
    bias = op.operands[2] if len(op.operands) > 2 else None
    front = string.ascii_letters[: len(x.shape) - 1]
    if len(weight.shape) == 1:
        return contract(op, [(x, front + "Z"), (weight, "Z")], front, None)
    return contract(op, [(x, front + "Z"), (weight, "YZ")], front + "Y", bias)


@register_rule("matmul", "mm", "bmm", "mv", "dot", "rmatmul", "inner_product", "vdot")
def matmul(op: Op) -> Dims:
    """Rows times columns, batch dimensions aligned from the last one."""
    first, second = op.operands[:2]
    if op.key == "rmatmul":
        first, second = second, first
    return _matmul(op, first, second, None)


def _matmul(op: Op, first: Var, second: Var, bias: Var | None) -> Dims:
    rank = max(len(first.shape), len(second.shape))
    batch = string.ascii_lowercase[: max(rank - 2, 0)]
    left = "Z" if len(first.shape) == 1 else batch[len(batch) - len(first.shape) + 2 :] + "XZ"
    right = "Z" if len(second.shape) == 1 else batch[len(batch) - len(second.shape) + 2 :] + "ZY"
    result = batch + ("X" if len(first.shape) > 1 else "") + ("Y" if len(second.shape) > 1 else "")
    return contract(op, [(first, left), (second, right)], result, bias)


@register_rule("addmm", "baddbmm", "addmv", "addbmm")
def addmm(op: Op) -> Dims:
    """A bias and a product."""
    bias, first, second = op.operands[:3]
    return _matmul(op, first, second, bias)


@register_rule("einsum")
def einsum(op: Op) -> Dims:
    """Any product, by its equation."""
    equation = op.args[0].replace(" ", "")
    terms, arrow, result = equation.partition("->")
    names = terms.split(",")
    if not arrow:
        letters = terms.replace(",", "").replace(".", "")
        result = ("..." if "..." in terms else "") + "".join(
            sorted(one for one in set(letters) if letters.count(one) == 1)
        )
    free = [one for one in string.ascii_letters if one not in equation]
    longest = max(len(one.shape) - len(name.replace("...", "")) for one, name in zip(op.operands, names, strict=True))
    dots = "".join(free[:longest])
    filled = []
    for one, name in zip(op.operands, names, strict=True):
        number = len(one.shape) - len(name.replace("...", ""))
        filled.append((one, name.replace("...", dots[longest - number :])))
    if any(len(set(name)) != len(name) for _, name in filled):
        op.pin_all(f"{op.said} takes a diagonal")
        return Dims([None] * len(op.shape))
    return contract(op, filled, result.replace("...", dots))


@register_rule(
    "scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention",
)  # fmt: skip
def attention(op: Op) -> Dims | list[Dims]:
    """Heads and the values' channels pass through; keys and queries share their channels, positions are fixed."""
    query, key, value = op.operands[:3]
    reason = f"{op.said} weighs positions against each other"
    for one in (query, key, value):
        op.pin(one.dims[-2], reason)
    scale = op.kwargs.get("scale")
    ends = len(query.shape) - 1, len(key.shape) - 1
    summed = f"{op.said} sums over it"
    if scale is not None and multiplied(op, query, key, ends, shared=True, reason=summed):
        op.join(query.dims[-1], key.dims[-1])
    else:
        for one in (query, key):
            op.pin(one.dims[-1], summed + ("" if scale is not None else ", and divides by its number"))
    if value.cells is not None and len(value.shape) == len(op.shape):
        cells = value.cells
        for axis in cells.axes:
            if (
                value.shape[axis] != op.shape[axis]
                and op.shape[axis] % value.shape[axis] == 0
                and axis < len(op.shape) - 2
            ):
                each = op.shape[axis] // value.shape[axis]
                cells = cells.chosen(axis, np.repeat(np.arange(value.shape[axis]), each))
        op.carried = cells
        op.followed.append(value)
    dims: list[Labels | None] = []
    for back in range(len(op.shape), 2, -1):
        labels = query.dims[-back] if len(query.shape) >= back else None
        for one in (key, value):
            if len(one.shape) < back or one.shape[-back] == 1 != op.shape[-back]:
                continue
            other = one.dims[-back]
            if one.shape[-back] != query.shape[-back]:  # grouped-query attention: so many queries for a key
                labels = _shared(op, labels, other, query.shape[-back] // one.shape[-back])
            else:
                labels = op.join(labels, other)
        if labels is not None:
            op.ledger.heads.append(labels)
        dims.append(labels)
    mask = next((one for one in op.operands[3:4]), None)
    if mask is not None:
        for back in range(min(len(mask.shape), len(op.shape)), 2, -1):
            if mask.shape[-back] == op.shape[-back]:
                op.join(dims[len(op.shape) - back], mask.dims[-back])
        for labels in mask.dims[-2:]:
            op.pin(labels, reason)
    made = Dims((*dims, None, value.dims[-1]))
    return made if len(op.results) == 1 else [made, *[Dims([None] * len(one)) for one in op.results[1:]]]


def _shared(op: Op, queries: Labels | None, keys: Labels | None, each: int) -> Labels | None:
    return op.join(queries, None if keys is None else np.repeat(keys, each))


@register_rule(nn.MultiheadAttention)
def multihead_attention(op: Op) -> list[Dims]:
    """Heads, pairs of a key's and a query's channels, and channels of values: the rows that make them, and the columns that read them."""
    module: Any = op.module
    heads, joint = module.num_heads, module.in_proj_weight is not None
    inputs = [op.argument(index, name) for index, name in enumerate(("query", "key", "value"))]
    wide = module.out_proj.weight.shape[1]
    rows = (len(module.in_proj_weight) - wide) // 2 if joint else len(module.q_proj_weight)
    head, pairs, values, out = op.fresh(heads), op.fresh(rows), op.fresh(wide), op.fresh(len(module.out_proj.weight))
    if getattr(module, "bias_k", None) is not None or getattr(module, "add_zero_attn", False):
        for labels in (head, pairs, values):
            op.pin(labels, f"'{op.name}' adds a key of its own")
    mask = op.argument(5, "attn_mask")
    if isinstance(mask, Var) and len(mask.shape) == 3:
        op.pin(head, f"'{op.name}' reads a mask for each head")
    made, layers = (pairs, pairs, values), []
    bias = "in_proj_bias" if module.in_proj_bias is not None else None
    read = op.fresh(inputs[0].shape[-1])
    for index, x in enumerate(inputs):
        columns = read if joint else op.fresh(x.shape[-1])
        op.join(x.dims[-1], columns)
        if index == 0 or not joint:
            weight = "in_proj_weight" if joint else f"{'qkv'[index]}_proj_weight"
            labels = np.concatenate(made) if joint else made[index]
            op.tensor(weight, {0: labels, 1: columns})
            layers.append(_attention_layer(op, weight, labels, columns, x, bias if joint else None))
    op.tensor("in_proj_bias", {0: np.concatenate(made)})
    op.step.tensors[f"{op.name}.out_proj.weight"] = {0: out, 1: values}
    biased = module.out_proj.bias is not None
    if biased:
        op.step.tensors[f"{op.name}.out_proj.bias"] = {0: out}
    _attention_layer(op, "out_proj.weight", out, values, inputs[0], "out_proj.bias" if biased else None)
    queries = layers[0], slice(0, rows), bias and f"{op.name}.{bias}"
    keys = (layers[0], slice(rows, 2 * rows)) if joint else (layers[1], slice(0, rows))
    op.step.blocks.append(Block(head, _by_head(pairs, heads), paired=_paired(op, queries, keys)))
    op.step.blocks.append(Block(head, _by_head(values, heads)))
    op.size("num_heads", head)
    for one in (one for one in op.operands if all(one is not x for x in inputs)):
        for labels in one.dims:
            op.pin(labels, f"'{op.name}' reads it as a mask")
    results = [Dims((*inputs[0].dims[:-1], out))]
    if len(op.results) > 1:
        results.append(Dims([None] * len(op.results[1])))
        op.holding = (head, f"'{op.name}' returns weights averaged over its heads, which the model uses")
    return results


def _by_head(members: np.ndarray, heads: int) -> np.ndarray:
    """(h, d), also where no head is left."""
    return members.reshape(heads, len(members) // max(heads, 1))


def _paired(op: Op, queries: tuple[Layer, slice, str | None], keys: tuple[Layer, slice]) -> Callable[..., np.ndarray]:
    """Which products of a key's and a query's channel bear on the result.

    What a key's constant channel adds to a query's scores is the same for all keys, so that softmax takes no notice of it.
    """
    layer, rows, bias = queries
    module: Any = op.module
    heads = module.num_heads

    def paired(_labels: object, nonzero: Mapping[Layer, np.ndarray], _values: object) -> np.ndarray:
        found = np.any(nonzero[layer], axis=1)[rows]
        if bias is not None:
            found = found | module.in_proj_bias.detach().ne(0).cpu().numpy()[rows]
        return _by_head(found & np.any(nonzero[keys[0]], axis=1)[keys[1]], heads)

    return paired


def _attention_layer(op: Op, weight: str, outputs: Labels, inputs: Labels, x: Var, bias: str | None) -> Layer:
    owner, _, leaf = f"{op.name}.{weight}".rpartition(".")
    made = Layer(
        owner if leaf == "weight" else f"{op.name}.{weight}",
        f"{op.name}.{weight}",
        (0, outputs),
        (1, inputs),
        op.positions(x, int(np.prod(x.shape[:-1]))),
        False,
        bias and f"{op.name}.{bias}",
        Var(op.step.node, x.shape, Dims((*x.dims[:-1], inputs)), True),
        None,
        op.step.node,
        module=False,
    )
    op.step.layers.append(made)
    return made
