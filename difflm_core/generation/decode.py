"""Batched decoding of records from latents: cached keys and values, only allowed tokens scored.

Shape legend: B batch, T slots, S tokens of a slot, D latent, E width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from difflm_core.generation.even import even_tokens
from difflm_core.vae.attention import TimeMajorLayer
from difflm_core.vae.decoder import RecordDecoder

# Changes the logits [B, S] of a slot, given its index and which rows [B] reach it.
Adjustment = Callable[[int, Tensor, Tensor], Tensor]


@torch.inference_mode()
def decode_tokens(
    decoder: RecordDecoder,
    z_BD: Tensor | None,
    batch: int,
    generator: torch.Generator,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    adjust: Adjustment | None = None,
) -> Tensor:
    """Sample records token by token.

    Args:
        decoder: The language model; in eval mode.
        z_BD: Latents; None samples the language model alone.
        batch: Number of records, B.
        generator: Draws the tokens (CPU).
        temperature: Softmax temperature; 1 is the learned distribution.
        top_p: Only the most probable tokens of at least this mass are kept; 1 keeps all.
        adjust: Changes the logits before sampling.

    Returns:
        Token ids of the grammar, shape [B, T], int64.
    """
    slots = decoder.slots
    num_slots = slots.start.shape[0]
    embeddings = decoder.embeddings.weight
    start, size, idle = slots.start.tolist(), slots.size.tolist(), slots.idle.tolist()
    cache = _start_cache(decoder, z_BD, batch)
    shift = decoder.injector.token_shift(z_BD)
    inputs = decoder.injector.prompts(z_BD, batch)
    device = embeddings.device
    ids_BT = torch.empty(batch, num_slots, dtype=torch.int64, device=device)
    position = 0
    for t in range(num_slots):
        hidden_BNE = decoder.transform(inputs, cache, position)
        position += inputs.shape[1]
        live_B = torch.ones(batch, dtype=torch.bool, device=device)
        if idle[t] >= 0:
            before_B = ids_BT[:, t - 1]
            live_B = (before_B >= slots.gate_start[t]) & (before_B < slots.gate_stop[t])
        if size[t] == 1:
            chosen_B = torch.full((batch,), start[t], device=device)
        else:
            logits_BS = hidden_BNE[:, -1] @ embeddings[start[t] : start[t] + size[t]].T
            if adjust is not None:
                logits_BS = adjust(t, logits_BS, live_B)
            chosen_B = start[t] + _sample(logits_BS, live_B, generator, temperature, top_p)
        if idle[t] >= 0:
            chosen_B = torch.where(live_B, chosen_B, idle[t])
        ids_BT[:, t] = chosen_B
        inputs = embeddings[chosen_B][:, None]
        if shift is not None:
            inputs = inputs + shift
    return ids_BT


def _start_cache(decoder: RecordDecoder, z_BD: Tensor | None, batch: int) -> Cache:
    injector = decoder.injector
    length = injector.num_memories + injector.num_prompts + len(decoder.slots.start)
    cache = Cache(layers=[TimeMajorLayer(length) for _ in range(injector.num_layers)])
    for index, (keys, values) in enumerate(injector.memories(z_BD, batch)):
        cache.update(keys, values, index)
    return cache


def _sample(
    logits_BS: Tensor,
    live_B: Tensor,
    generator: torch.Generator,
    temperature: float,
    top_p: float,
) -> Tensor:
    """Draw one token per row."""
    probabilities_BS = torch.softmax(logits_BS.float() / temperature, dim=1)
    if top_p < 1.0:
        probabilities_BS = _nucleus(probabilities_BS, top_p)
    return even_tokens(probabilities_BS, live_B, generator)


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero all but the most probable tokens whose mass reaches `top_p` (Holtzman et al. 2020)."""
    ordered, order = probabilities.sort(dim=1, descending=True)
    outside = ordered.cumsum(dim=1) - ordered >= top_p
    return probabilities.scatter(1, order, ordered.masked_fill(outside, 0.0))
