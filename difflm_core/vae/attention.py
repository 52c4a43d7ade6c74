"""Attention for decoding one token at a time on a CPU.

The library's fused kernel works through batch and heads one by one, which is slow for a single
query. With keys and values laid out time-major, [t, B, H, K], the same sums run over contiguous
memory: about three times faster at the sizes of a record. From some positions on, as in documents,
the fused kernel is the faster one again, also on that layout. A cache hands keys and values over
with a leading dimension of one ([1, t, B, H, K]); anything else goes to the fused kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

TIME_MAJOR = "time_major"
# Positions from which the fused kernel is faster: 365 us instead of 565 at 32 positions of 64 rows,
# 4 heads and 64 dimensions, 1,135 instead of 2,517 at 136; at 4 positions, 170 instead of 35.
FUSED_POSITIONS = 32


class TimeMajorLayer(DynamicLayer):
    """Keys and values of one layer in buffers that are written in place, and grow if they must."""

    def __init__(self, length: int) -> None:
        """Reserve `length` positions, allocated when the first keys arrive."""
        super().__init__()
        self.length = length
        self.used = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values of shape [B, H, n, K]; return all so far, [1, t, B, H, K]."""
        if self.keys is None or self.values is None:
            self.lazy_initialization(key_states, value_states)
            batch, heads, _, width = key_states.shape
            # One type for both, which the fused kernel asks for; keys that were rotated are wider.
            shared = torch.promote_types(key_states.dtype, value_states.dtype)
            shape = (self.length, batch, heads, width)
            self.keys = key_states.new_empty(shape, dtype=shared)
            self.values = value_states.new_empty(shape, dtype=shared)
        end = self.used + key_states.shape[2]
        if end > self.length:
            self._grow(max(end, 2 * self.length))
        self.keys[self.used : end] = key_states.permute(2, 0, 1, 3)
        self.values[self.used : end] = value_states.permute(2, 0, 1, 3)
        self.used = end
        return self.keys[None, :end], self.values[None, :end]

    def _grow(self, length: int) -> None:
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(length, *old.shape[1:])
            new[: self.used] = old[: self.used]
            setattr(self, name, new)
        self.length = length

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only keep the `indices` of the batch."""
        if self.keys is None or self.values is None:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(self.length, len(indices), *old.shape[2:])
            torch.index_select(old[: self.used], 1, indices, out=new[: self.used])
            setattr(self, name, new)

    def get_seq_length(self) -> int:
        """Positions written."""
        return self.used


def time_major_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention of queries [B, H, n, K], the last n positions of a time-major cache.

    Several query heads may share a head of keys and values. A mask [B, 1, n, t] is only looked at
    where rows are padded.

    Returns:
        Output of shape [B, n, H, K]; no attention weights.
    """
    if key.dim() == 4:
        if query.device.type == "cpu":
            # The fused kernel's bfloat16 gradient is many times slower than its float32 one. Models
            # that rotate queries and keys have these in float32 anyway.
            query, key, value = query.float(), key.float(), value.float()
        with torch.autocast(query.device.type, enabled=False):
            return sdpa_attention_forward(
                module,
                query,
                key,
                value,
                attention_mask,
                dropout=dropout,
                scaling=scaling,
                **kwargs,
            )
    keys, values = key[0], value[0]
    length, num_queries = keys.shape[0], query.shape[2]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if num_queries == 1 and length >= FUSED_POSITIONS and query.dtype == keys.dtype:
        with torch.autocast(query.device.type, enabled=False):
            seen_BH1K = torch.nn.functional.scaled_dot_product_attention(
                query,
                keys.permute(1, 2, 0, 3),
                values.permute(1, 2, 0, 3),
                attn_mask=None if attention_mask is None else attention_mask[..., :length],
                scale=scale,
                enable_gqa=query.shape[1] != keys.shape[2],
            )
        return seen_BH1K.transpose(1, 2), None
    outputs: list[Tensor] = []
    for n in range(num_queries):
        visible = length - num_queries + n + 1
        hidden_tB = None
        if attention_mask is not None and attention_mask.dtype == torch.bool:
            hidden_tB = ~attention_mask[:, 0, n, :visible].T
        outputs.append(_attend(query[:, :, n] * scale, keys[:visible], values[:visible], hidden_tB))
    return torch.stack(outputs, dim=1), None


def _attend(
    query_BHK: Tensor, keys_tBHK: Tensor, values_tBHK: Tensor, hidden_tB: Tensor | None
) -> Tensor:
    """What one query of each row and head sees, shape [B, H, K]."""
    batch, num_heads, width = query_BHK.shape
    shared = num_heads // keys_tBHK.shape[2]
    if shared > 1:  # grouped queries: heads of keys by queries of each
        query_BHK = query_BHK.view(batch, -1, shared, width)
        keys_tBHK, values_tBHK = keys_tBHK[:, :, :, None], values_tBHK[:, :, :, None]
    scores = torch.linalg.vecdot(keys_tBHK, query_BHK[None])
    if hidden_tB is not None:
        shape = (*hidden_tB.shape, *[1] * (scores.dim() - 2))
        # What is filled up sees nothing, and is seen by nothing: a finite score keeps it a number.
        scores = scores.masked_fill(hidden_tB.view(shape), torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=0)
    seen = (weights[..., None] * values_tBHK).sum(dim=0)
    return seen.reshape(batch, num_heads, width)


AttentionInterface.register(TIME_MAJOR, time_major_attention)
AttentionMaskInterface.register(TIME_MAJOR, sdpa_mask)
