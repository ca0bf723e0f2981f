"""Attention of torch with fewer heads than its width has room for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gracile.channels import register_rule
from gracile.channels.products import multihead_attention


class FewerHeads(nn.Module):
    """What `nn.MultiheadAttention` computes once some of its heads, or parts of each, are gone.

    torch's own module needs heads times their width to be the width of what it reads, so it cannot lose any; this has the same parameters
    under the same names, and takes the same arguments. Scores are divided by the root of the width that heads had at first.

    Args:
        attention: with ``in_proj_weight`` (h d + h d + h v, e) or ``q_proj_weight``, ``k_proj_weight`` (h d, e) and ``v_proj_weight``
            (h v, e), and ``out_proj`` (e, h v), where h is its ``num_heads``.
    """

    in_proj_weight: Tensor | None
    in_proj_bias: Tensor | None

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.head_dim, self.num_heads = attention.embed_dim, attention.head_dim, attention.num_heads
        self.batch_first, self.dropout = attention.batch_first, attention.dropout
        self.out_proj = attention.out_proj
        for name in ("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            self.register_parameter(name, getattr(attention, name))
        self._qkv_same_embed_dim = False  # keeps torch's encoder layer from a kernel that takes the module apart
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`; the weights returned are those of the heads that are left."""
        flat = query.dim() == 2
        if flat:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (one.transpose(0, 1) for one in (query, key, value))
        wide = self.out_proj.weight.shape[1]
        pairs = (len(self.in_proj_weight) - wide) // 2 if self.in_proj_weight is not None else len(self.q_proj_weight)  # type: ignore[arg-type]
        weights = (
            self.in_proj_weight.split([pairs, pairs, wide])
            if self.in_proj_weight is not None
            else (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        )
        biases = self.in_proj_bias.split([pairs, pairs, wide]) if self.in_proj_bias is not None else (None, None, None)
        q, k, v = (
            F.linear(one, weight, bias).unflatten(-1, self._split(len(weight))).transpose(1, 2)  # type: ignore[arg-type]
            for one, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mask = _mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        scores, scale = None, self.head_dim**-0.5
        if need_weights:
            scores = q @ k.transpose(-2, -1) * scale
            scores = (scores if mask is None else scores + mask).softmax(-1)
            mixed = F.dropout(scores, dropout) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if scores is not None and average_attn_weights:
            scores = scores.mean(1)
        if flat:
            return out.squeeze(0), None if scores is None else scores.squeeze(0)
        return (out if self.batch_first else out.transpose(0, 1)), scores

    def _split(self, rows: int) -> tuple[int, int]:
        """Heads and the width of each, where all heads may be gone."""
        return self.num_heads, rows // max(self.num_heads, 1)

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, heads={self.num_heads}, values={self._split(self.out_proj.weight.shape[1])[1]} of {self.head_dim}"


register_rule(FewerHeads)(multihead_attention)


def _mask(attention: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
    """Both masks as one that is added to the scores, broadcastable to (batch, heads, queries, keys)."""
    if attention is not None and attention.dim() == 3:  # (batch * heads, queries, keys), and no head is gone
        attention = attention.unflatten(0, (like.shape[0], -1))
    made = [_added(attention, like)] if attention is not None else []
    if padding is not None:
        made.append(_added(padding, like)[:, None, None])
    return sum(made[1:], made[0]) if made else None


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))


def with_fewer_heads(attention: nn.MultiheadAttention) -> nn.Module:
    """The module itself, or what takes its place where heads, pairs or values were cut from it."""
    queries = attention.q_proj_weight if attention.in_proj_weight is None else attention.in_proj_weight
    rows = attention.embed_dim * (1 if attention.in_proj_weight is None else 3)
    if attention.out_proj.weight.shape[1] == attention.embed_dim and len(queries) == rows:
        return attention
    return FewerHeads(attention)
