"""Batched decoding of records from latents: cached keys and values, only allowed tokens scored.

The rows of one batch may belong to several *draws*, which share the language model's products and
nothing else: a draw's tokens are the same, bit for bit, whoever it shares a batch with. What makes
it so: operations work row by row, and matrix products are kept at sizes at which the library's
sums do not depend on how many rows there are (docs/adr/0022).

Shape legend: B batch, T slots, S tokens of a slot, D latent, E width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache

from difflm_core.generation.even import Draws, even_tokens
from difflm_core.vae.attention import TimeMajorLayer
from difflm_core.vae.decoder import RecordDecoder

# Changes the logits [B, S] of a slot, given its index and which rows [B] reach it.
Adjustment = Callable[[int, Tensor, Tensor], Tensor]
# Matrix products with fewer rows or columns use other kernels, which add up in another order.
MIN_PRODUCT_ROWS = 8
MIN_PRODUCT_COLUMNS = 16
# Numbers in the widest vector register (bfloat16, 512 bits). The last ones of a buffer of another
# size are computed one by one, and rounded differently.
VECTOR_SIZE = 32
# Colder is no different, and logits divided by less leave single precision.
MIN_TEMPERATURE = 1e-6


@dataclass(frozen=True)
class TokenDraw:
    """Consecutive rows of a batch whose tokens are drawn together.

    Attributes:
        num_rows: How many.
        generator: Draws the tokens (CPU).
        temperature: Softmax temperature; 1 is the learned distribution.
        top_p: Only the most probable tokens of at least this mass are kept; 1 keeps all.
    """

    num_rows: int
    generator: torch.Generator
    temperature: float = 1.0
    top_p: float = 1.0


@torch.inference_mode()
def decode_tokens(
    decoder: RecordDecoder,
    z_BD: Tensor | None,
    draws: Sequence[TokenDraw],
    *,
    adjust: Adjustment | None = None,
    between_slots: Callable[[], None] | None = None,
) -> Tensor:
    """Sample records token by token.

    Args:
        decoder: The language model; in eval mode.
        z_BD: Latents; None samples the language model alone.
        draws: How the rows are drawn; B rows together.
        adjust: Changes the logits before sampling.
        between_slots: Called before each slot.

    Returns:
        Token ids of the grammar, shape [B, T], int64.
    """
    slots = decoder.slots
    weights = F.pad(decoder.embeddings.weight, (0, 0, 0, MIN_PRODUCT_COLUMNS))
    start, size, idle = slots.start.tolist(), slots.size.tolist(), slots.idle.tolist()
    num_rows = sum(draw.num_rows for draw in draws)
    batch = num_rows + -num_rows % _row_tile(decoder.injector.num_heads)
    if z_BD is not None:
        z_BD = F.pad(z_BD, (0, 0, 0, batch - num_rows)).to(weights.device)
    sampler = _Sampler(draws, weights.device)
    cache = _start_cache(decoder, z_BD, batch)
    shift = decoder.injector.token_shift(z_BD)
    inputs = decoder.injector.prompts(z_BD, batch)
    ids_BT = torch.zeros(batch, len(start), dtype=torch.int64, device=weights.device)
    real_BT = ids_BT[:num_rows]
    position = 0
    for t in range(len(start)):
        if between_slots is not None:
            between_slots()
        hidden_BNE = decoder.transform(inputs, cache, position)
        position += inputs.shape[1]
        live_B = torch.ones(num_rows, dtype=torch.bool, device=weights.device)
        if idle[t] >= 0:
            before_B = real_BT[:, t - 1]
            live_B = (before_B >= slots.gate_start[t]) & (before_B < slots.gate_stop[t])
        if size[t] == 1:
            chosen_B = torch.full((num_rows,), start[t], device=weights.device)
        else:
            table_SE = weights[start[t] : start[t] + max(size[t], MIN_PRODUCT_COLUMNS)]
            logits_BS = (hidden_BNE[:, -1] @ table_SE.T)[:num_rows, : size[t]]
            if adjust is not None:
                logits_BS = adjust(t, logits_BS, live_B)
            chosen_B = start[t] + sampler.draw(logits_BS, live_B)
        if idle[t] >= 0:
            chosen_B = torch.where(live_B, chosen_B, idle[t])
        real_BT[:, t] = chosen_B
        inputs = weights[ids_BT[:, t]][:, None]
        if shift is not None:
            inputs = inputs + shift
    return real_BT


def _row_tile(num_heads: int) -> int:
    """Rows whose attention weights, one for each head, fill whole vector registers."""
    return max(MIN_PRODUCT_ROWS, VECTOR_SIZE // math.gcd(VECTOR_SIZE, num_heads))


def _start_cache(decoder: RecordDecoder, z_BD: Tensor | None, batch: int) -> Cache:
    injector = decoder.injector
    length = injector.num_memories + injector.num_prompts + len(decoder.slots.start)
    cache = Cache(layers=[TimeMajorLayer(length) for _ in range(injector.num_layers)])
    for index, (keys, values) in enumerate(injector.memories(z_BD, batch)):
        cache.update(keys, values, index)
    return cache


class _Sampler:
    """Draws the tokens of a slot, each row by the rules of its draw."""

    def __init__(self, draws: Sequence[TokenDraw], device: torch.device) -> None:
        sizes = [draw.num_rows for draw in draws]
        self.draws = Draws(sizes, [draw.generator for draw in draws], device)
        temperatures = [max(draw.temperature, MIN_TEMPERATURE) for draw in draws]
        self.temperature_B1 = self._by_row(temperatures)
        self.top_p_B1 = None
        if any(draw.top_p < 1 for draw in draws):
            self.top_p_B1 = self._by_row([draw.top_p for draw in draws])

    def _by_row(self, values: list[float]) -> Tensor:
        device = self.draws.index_B.device
        return torch.tensor(values, dtype=torch.float32, device=device)[self.draws.index_B][:, None]

    def draw(self, logits_BS: Tensor, live_B: Tensor) -> Tensor:
        """One token per row."""
        probabilities_BS = torch.softmax(logits_BS.float() / self.temperature_B1, dim=1)
        if self.top_p_B1 is not None:
            probabilities_BS = _nucleus(probabilities_BS, self.top_p_B1)
        return even_tokens(probabilities_BS, live_B, self.draws)


def _nucleus(probabilities_BS: Tensor, top_p_B1: Tensor) -> Tensor:
    """Zero all but the most probable tokens whose mass reaches top_p (Holtzman et al. 2020)."""
    ordered, order = probabilities_BS.sort(dim=1, descending=True, stable=True)
    outside = (ordered.cumsum(dim=1) - ordered >= top_p_B1) & (top_p_B1 < 1)
    outside[:, 0] = False  # the smallest shares are 0 in single precision
    return probabilities_BS.scatter(1, order, ordered.masked_fill(outside, 0.0))
