"""Batched sampling of documents: cached keys and values, a grammar, rows that leave when done.

Every row draws its tokens with uniform numbers of its own, a pair for each, so a document depends
on its seed and its place alone, whatever others end earlier or later. Rows that have ended leave
the batch once they are many enough to be worth it.

Shape legend: B batch, R rows at once, T tokens, V vocabulary, W bytes with a bit for each token,
D latent, E width, N positions of one call or blocks of tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache

from difflm_core.codec.constraint import ConstrainedRows
from difflm_core.generation.decode import MIN_TEMPERATURE, nucleus
from difflm_core.vae.attention import TIME_MAJOR, TimeMajorLayer
from difflm_core.vae.document_decoder import DocumentDecoder

# Rows that have ended are carried along until they are this share of the batch.
ENDED_SHARE = 0.25
# Positions that a cache reserves at first, if so many may come; it doubles when they are used up.
# On a CPU, what is reserved takes no memory before it is written.
MOST_RESERVED = 1024
# Scores that are turned into tokens at once on a CPU: a megabyte.
SCORES_AT_ONCE = 2**18
# Tokens whose probabilities are summed before one of them is looked for.
BLOCK_TOKENS = 64


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
    uniform_BT2: Tensor,
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
        uniform_BT2: Numbers in [0, 1) that decide each row's tokens, T at least `max_tokens`; the
            second of a pair decides where the grammar refuses what the first gave.
        sampling: How tokens are drawn.
        rows: What a grammar allows; None: everything.
        prompts: Token ids that each document begins with, as conditions do; they are not in the
            result. Shorter ones are filled up on the left.
        between_steps: Called before each token.

    Returns:
        Token ids of each document; one that ends does so with a token of `end`.
    """
    batch = len(uniform_BT2)
    written: list[list[int]] = [[] for _ in range(batch)]
    state = _Rows(decoder, z_BD, batch, prompts, sampling.max_tokens)
    device = state.inputs_BNE.device
    uniform_BT2 = uniform_BT2.to(device)
    ends = torch.tensor(sampling.end, device=device)
    places_B = torch.arange(batch, device=device)
    ended_B = torch.zeros(batch, dtype=torch.bool, device=device)
    for step in range(sampling.max_tokens):
        if between_steps is not None:
            between_steps()
        logits_BV = decoder.logits(state.advance()).float()
        uniform_B2 = uniform_BT2[places_B, step]
        ids_B = draw_tokens(logits_BV, uniform_B2[:, 0], sampling)
        if rows is not None:
            _redraw_refused(ids_B, ended_B, rows, logits_BV, uniform_B2[:, 1], sampling)
        live = (~ended_B).tolist()
        places, ids = places_B.tolist(), ids_B.tolist()
        for index, place in enumerate(places):
            if live[index]:
                written[place].append(ids[index])
        ended_B = ended_B | torch.isin(ids_B, ends)
        num_ended = int(ended_B.sum())
        if num_ended == len(places):
            break
        if num_ended >= max(1, ENDED_SHARE * len(places)):
            kept_B = (~ended_B).nonzero()[:, 0]
            state.select(kept_B)
            if rows is not None:
                rows.select(kept_B.cpu().numpy())
            ids_B, places_B, ended_B = ids_B[kept_B], places_B[kept_B], ended_B[kept_B]
        state.feed(ids_B)
    return written


def _redraw_refused(
    ids_B: Tensor,
    ended_B: Tensor,
    rows: ConstrainedRows,
    logits_BV: Tensor,
    uniform_B: Tensor,
    sampling: DocumentSampling,
) -> None:
    """Go on with the tokens that the grammar allows, and put others in place of those it refuses.

    A first draw p that is kept where it is allowed, with probability A, and else replaced by one
    among the allowed, p / A, gives p + (1 - A) p / A = p / A: the same as drawing among the allowed
    at once. But all that is allowed need only be known where a draw is refused, which is rare once
    a model has learned the documents; to try a token takes a fifth of the time, or less.
    """
    refused_B = ~rows.try_accept(ids_B.cpu().numpy()) & ~ended_B.cpu().numpy()
    refused_R = np.flatnonzero(refused_B)
    if not len(refused_R):
        return
    index_R = torch.from_numpy(refused_R).to(ids_B.device)
    allowed_RW = torch.from_numpy(rows.allowed(refused_R)).to(ids_B.device)
    drawn_R = draw_tokens(logits_BV[index_R], uniform_B[index_R], sampling, allowed_RW)
    rows.accept(drawn_R.cpu().numpy(), refused_R)
    ids_B[index_R] = drawn_R


def draw_tokens(
    logits_BV: Tensor,
    uniform_B: Tensor,
    sampling: DocumentSampling,
    allowed_BW: Tensor | None = None,
) -> Tensor:
    """One token of each row, by inversion of its cumulative distribution; shape [B].

    Args:
        logits_BV: Scores; those of forbidden tokens are overwritten.
        uniform_B: Numbers in [0, 1).
        sampling: How tokens are drawn.
        allowed_BW: Bits of the tokens that may be drawn, as `ConstrainedRows.allowed` gives them;
            a model may score more tokens than there are. None: all.
    """
    num_rows = len(logits_BV)
    if logits_BV.device.type == "cpu":
        # A few rows at a time: what lies between stays in the processor's cache.
        num_rows = max(1, SCORES_AT_ONCE // logits_BV.shape[1])
    drawn: list[Tensor] = []
    for begin in range(0, len(logits_BV), num_rows):
        part = slice(begin, begin + num_rows)
        logits_RV = logits_BV[part]
        if allowed_BW is not None:
            forbid_(logits_RV, allowed_BW[part])
        if sampling.temperature != 1:
            logits_RV = logits_RV / max(sampling.temperature, MIN_TEMPERATURE)
        probabilities_RV = torch.softmax(logits_RV, dim=1)
        if sampling.top_p < 1:
            top_p_R1 = torch.full_like(probabilities_RV[:, :1], sampling.top_p)
            probabilities_RV = nucleus(probabilities_RV, top_p_R1)
        drawn.append(_invert(probabilities_RV, uniform_B[part]))
    return torch.cat(drawn)


def forbid_(logits_BV: Tensor, allowed_BW: Tensor) -> None:
    """Set to minus infinity, in place, the scores of tokens without a bit.

    Each byte of bits is looked up as eight numbers to add, which needs no branch for a score.
    """
    num_known = min(logits_BV.shape[1], 8 * allowed_BW.shape[1])
    penalty_BV = F.embedding(allowed_BW.int(), _penalties(logits_BV.device)).flatten(1)
    logits_BV[:, :num_known] += penalty_BV[:, :num_known]
    logits_BV[:, num_known:] = -torch.inf


@functools.cache
def _penalties(device: torch.device) -> Tensor:
    """For each byte, 0 where a bit is set and minus infinity elsewhere; shape [256, 8]."""
    bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
    return torch.zeros(256, 8, device=device).masked_fill(bits == 0, -torch.inf)


def _invert(probabilities_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The first tokens up to which there is more than a share of all probability; shape [B].

    Blocks of tokens are summed first, and only one block is looked through.
    """
    padded_BV = F.pad(probabilities_BV, (0, -probabilities_BV.shape[1] % BLOCK_TOKENS))
    blocks_BNS = padded_BV.unflatten(1, (-1, BLOCK_TOKENS))
    block_B, share_B = _pick(blocks_BNS.sum(dim=2), uniform_B)
    rows_B = torch.arange(len(block_B), device=block_B.device)
    token_B, _ = _pick(blocks_BNS[rows_B, block_B], share_B)
    return block_B * BLOCK_TOKENS + token_B


def _pick(masses_BN: Tensor, share_B: Tensor) -> tuple[Tensor, Tensor]:
    """Where the sum of masses passes a share of the whole, and the share of that mass it leaves."""
    reached_BN = masses_BN.cumsum(dim=1)
    # A little below the whole, so that rounding never reaches a mass of zero.
    target_B1 = share_B[:, None].clamp(0, 1 - 1e-6) * reached_BN[:, -1:]
    index_B1 = torch.searchsorted(reached_BN, target_B1, right=True)
    mass_B1 = masses_BN.gather(1, index_B1)
    before_B1 = reached_BN.gather(1, index_B1) - mass_B1
    return index_B1[:, 0], ((target_B1 - before_B1) / mass_B1)[:, 0]


class _Rows:
    """The rows of a batch that are still written: their next inputs, keys and values."""

    def __init__(
        self,
        decoder: DocumentDecoder,
        z_BD: Tensor | None,
        batch: int,
        prompts: Sequence[Sequence[int]] | None,
        max_tokens: int,
    ) -> None:
        longest = max((len(prompt) for prompt in prompts or ()), default=0)
        positions = decoder.num_before + longest + max_tokens
        self._decoder = decoder
        device = decoder.injector.null_prompts.device
        self._z_BD = None if z_BD is None else z_BD.to(device)
        self._cache = _start_cache(decoder, self._z_BD, batch, positions)
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


def _start_cache(
    decoder: DocumentDecoder, z_BD: Tensor | None, batch: int, positions: int
) -> Cache:
    config: Any = decoder.language_model.config
    num_layers = config.get_text_config().num_hidden_layers
    cache: Cache
    if config._attn_implementation == TIME_MAJOR:
        length = min(decoder.injector.num_memories + positions, MOST_RESERVED)
        cache = Cache(layers=[TimeMajorLayer(length) for _ in range(num_layers)])
    else:
        cache = DynamicCache(config=config)
    for index, (keys, values) in enumerate(decoder.injector.memories(z_BD, batch)):
        cache.update(keys, values, index)
    return cache
