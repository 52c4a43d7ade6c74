"""Batched sampling of documents: cached keys and values, masked tokens, rows that leave when done.

Every row draws its tokens with uniform numbers of its own, so a document depends on its seed and
its place alone, whatever others end earlier or later. Rows that have ended leave the batch once
they are many enough to be worth it.

Shape legend: B batch, T tokens, V vocabulary, D latent, E width, N positions of one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache

from difflm_core.codec.constraint import ConstrainedRows
from difflm_core.generation.decode import MIN_TEMPERATURE, nucleus
from difflm_core.vae.attention import TIME_MAJOR, TimeMajorLayer
from difflm_core.vae.document_decoder import DocumentDecoder

# Rows that have ended are carried along until they are this share of the batch.
ENDED_SHARE = 0.25
# Positions that a cache reserves at first; it doubles when they are used up.
FIRST_POSITIONS = 64


@dataclass(frozen=True)
class DocumentSampling:
    """How tokens are drawn.

    Attributes:
        max_tokens: Most tokens of a document, its end included.
        end: Token ids that end it.
        temperature: Softmax temperature; 1 is the learned distribution.
        top_p: Only the most probable tokens of at least this mass are kept; 1 keeps all.
    """

    max_tokens: int
    end: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0


@torch.inference_mode()
def decode_documents(
    decoder: DocumentDecoder,
    z_BD: Tensor | None,
    uniform_BT: Tensor,
    sampling: DocumentSampling,
    *,
    rows: ConstrainedRows | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
    between_steps: Callable[[], None] | None = None,
) -> list[list[int]]:
    """Sample documents token by token.

    Args:
        decoder: The language model; in eval mode.
        z_BD: Latents; None samples the language model alone.
        uniform_BT: Numbers in [0, 1) that decide each row's tokens, T at least `max_tokens`.
        sampling: How tokens are drawn.
        rows: What a grammar allows; None: everything.
        prompts: Token ids that each document begins with, as conditions do; they are not in the
            result. Shorter ones are filled up on the left.
        between_steps: Called before each token.

    Returns:
        Token ids of each document; one that ends does so with a token of `end`.
    """
    batch = len(uniform_BT)
    written: list[list[int]] = [[] for _ in range(batch)]
    state = _Rows(decoder, z_BD, batch, prompts)
    device = state.inputs_BNE.device
    uniform_BT = uniform_BT.to(device)
    ends = torch.tensor(sampling.end, device=device)
    places_B = torch.arange(batch, device=device)
    ended_B = torch.zeros(batch, dtype=torch.bool, device=device)
    for step in range(sampling.max_tokens):
        if between_steps is not None:
            between_steps()
        logits_BV = decoder.logits(state.advance()).float()
        if rows is not None:
            logits_BV = forbid(logits_BV, rows.allowed())
        ids_B = draw_tokens(logits_BV, uniform_BT[places_B, step], sampling)
        live = (~ended_B).tolist()
        places, ids = places_B.tolist(), ids_B.tolist()
        for index, place in enumerate(places):
            if live[index]:
                written[place].append(ids[index])
        ended_B = ended_B | torch.isin(ids_B, ends)
        num_ended = int(ended_B.sum())
        if num_ended == len(places):
            break
        if rows is not None:
            rows.accept(ids_B.cpu().numpy())
        if num_ended >= max(1, ENDED_SHARE * len(places)):
            kept_B = (~ended_B).nonzero()[:, 0]
            state.select(kept_B)
            if rows is not None:
                rows.select(kept_B.cpu().numpy())
            ids_B, places_B, ended_B = ids_B[kept_B], places_B[kept_B], ended_B[kept_B]
        state.feed(ids_B)
    return written


def forbid(logits_BV: Tensor, allowed_BV: npt.NDArray[np.bool_]) -> Tensor:
    """Minus infinity where a token is not allowed; a model may score more tokens than there are."""
    allowed = torch.from_numpy(allowed_BV).to(logits_BV.device)
    missing = logits_BV.shape[1] - allowed.shape[1]
    if missing:
        allowed = torch.nn.functional.pad(allowed, (0, missing), value=False)
    return logits_BV.masked_fill(~allowed, float("-inf"))


def draw_tokens(logits_BV: Tensor, uniform_B: Tensor, sampling: DocumentSampling) -> Tensor:
    """One token of each row, by inversion of its cumulative distribution; shape [B]."""
    temperature = max(sampling.temperature, MIN_TEMPERATURE)
    probabilities_BV = torch.softmax(logits_BV / temperature, dim=1)
    if sampling.top_p < 1:
        top_p_B1 = torch.full_like(probabilities_BV[:, :1], sampling.top_p)
        probabilities_BV = nucleus(probabilities_BV, top_p_B1)
    cumulative_BV = probabilities_BV.cumsum(dim=1)
    # A little below the sum, so that rounding never reaches tokens of probability zero.
    target_B1 = (uniform_B[:, None] * cumulative_BV[:, -1:]).clamp(max=1 - 1e-6)
    target_B1 = torch.minimum(target_B1, cumulative_BV[:, -1:] * (1 - 1e-6))
    return torch.searchsorted(cumulative_BV, target_B1, right=True)[:, 0]


class _Rows:
    """The rows of a batch that are still written: their next inputs, keys and values."""

    def __init__(
        self,
        decoder: DocumentDecoder,
        z_BD: Tensor | None,
        batch: int,
        prompts: Sequence[Sequence[int]] | None,
    ) -> None:
        self._decoder = decoder
        device = decoder.injector.null_prompts.device
        self._z_BD = None if z_BD is None else z_BD.to(device)
        self._cache = _start_cache(decoder, self._z_BD, batch)
        self._position = 0
        self._mask_BN: Tensor | None = None
        self.inputs_BNE = decoder.start(self._z_BD, batch)
        if prompts is not None and any(prompts):
            self._begin_with(prompts, device)

    def _begin_with(self, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        """Put prompts behind what stands before a document.

        Rows with shorter prompts are filled up on the left of everything, so that all go on at the
        same position; what is filled up is masked.
        """
        lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
        longest = int(lengths_B.max())
        ids_BN = torch.tensor(
            [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=device
        )
        tokens_BNE = self._decoder.embed(ids_BN, self._z_BD)
        inputs_BNE = torch.cat([self.inputs_BNE, tokens_BNE], dim=1)
        missing_B1 = (longest - lengths_B)[:, None]
        if bool((missing_B1 > 0).any()):
            place_BN = torch.arange(inputs_BNE.shape[1], device=device) - missing_B1
            index_BNE = place_BN.clamp(min=0)[..., None].expand_as(inputs_BNE)
            inputs_BNE = inputs_BNE.gather(1, index_BNE)
            memories = self._decoder.injector.num_memories
            self._mask_BN = torch.nn.functional.pad(place_BN >= 0, (memories, 0), value=True)
        self.inputs_BNE = inputs_BNE

    def advance(self) -> Tensor:
        """States [B, E] that predict the next token."""
        hidden_BNE = self._decoder.transform(
            self.inputs_BNE, self._cache, self._position, self._mask_BN
        )
        self._position += self.inputs_BNE.shape[1]
        return hidden_BNE[:, -1]

    def feed(self, ids_B: Tensor) -> None:
        """Go on with these tokens."""
        self.inputs_BNE = self._decoder.embed(ids_B[:, None], self._z_BD)
        if self._mask_BN is not None:
            self._mask_BN = torch.nn.functional.pad(self._mask_BN, (0, 1), value=True)

    def select(self, index_B: Tensor) -> None:
        """Only keep these rows."""
        self._cache.batch_select_indices(index_B)
        if self._z_BD is not None:
            self._z_BD = self._z_BD[index_B]
        if self._mask_BN is not None:
            self._mask_BN = self._mask_BN[index_B]


def _start_cache(decoder: DocumentDecoder, z_BD: Tensor | None, batch: int) -> Cache:
    config: Any = decoder.language_model.config
    num_layers = config.get_text_config().num_hidden_layers
    cache: Cache
    if config._attn_implementation == TIME_MAJOR:
        cache = Cache(layers=[TimeMajorLayer(FIRST_POSITIONS) for _ in range(num_layers)])
    else:
        cache = DynamicCache(config=config)
    for index, (keys, values) in enumerate(decoder.injector.memories(z_BD, batch)):
        cache.update(keys, values, index)
    return cache
