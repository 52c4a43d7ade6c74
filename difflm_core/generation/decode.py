"""Batched decoding of records from latents: cached keys and values, only allowed tokens scored.

The rows of one batch may belong to several *draws*, which share the language model's products and
nothing else: a draw's tokens are the same, bit for bit, whoever it shares a batch with. What makes
it so: operations work row by row, and matrix products are kept at sizes at which the library's
sums do not depend on how many rows there are (docs/adr/0022).

Shape legend: B batch, R rows of a draw that are left, T slots, S tokens of a slot, D latent,
E width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
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


class Sieve(Protocol):
    """Drops rows of a draw while they are decoded."""

    @property
    def slots(self) -> Collection[int]:
        """After which slots it drops rows."""
        ...

    def keeps(
        self, slot: int, ids_RT: npt.NDArray[np.int64], rows_R: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.bool_]:
        """Which of the rows that are left, R, go on after `slot`.

        Args:
            slot: One of `slots`, the last one that is filled in.
            ids_RT: Their token ids.
            rows_R: Their places in the draw.
        """
        ...


@dataclass(frozen=True)
class TokenDraw:
    """Consecutive rows of a batch whose tokens are drawn together.

    Attributes:
        num_rows: How many.
        generator: Draws the tokens (CPU).
        temperature: Softmax temperature; 1 is the learned distribution.
        top_p: Only the most probable tokens of at least this mass are kept; 1 keeps all.
        sieve: Drops rows on the way; None: none.
    """

    num_rows: int
    generator: torch.Generator
    temperature: float = 1.0
    top_p: float = 1.0
    sieve: Sieve | None = None


@dataclass(frozen=True)
class DrawnTokens:
    """The rows of a draw that no sieve has dropped.

    Attributes:
        ids_RT: Their token ids of the grammar.
        rows_R: Their places in the draw, ascending.
    """

    ids_RT: npt.NDArray[np.int64]
    rows_R: npt.NDArray[np.intp]


@torch.inference_mode()
def decode_tokens(
    decoder: RecordDecoder,
    z_BD: Tensor | None,
    draws: Sequence[TokenDraw],
    *,
    adjust: Adjustment | None = None,
    between_slots: Callable[[], None] | None = None,
) -> list[DrawnTokens]:
    """Sample records token by token.

    Args:
        decoder: The language model; in eval mode.
        z_BD: Latents; None samples the language model alone.
        draws: How the rows are drawn; B rows together.
        adjust: Changes the logits before sampling.
        between_slots: Called before each slot.

    Returns:
        Tokens of each draw.
    """
    slots = decoder.slots
    weights = F.pad(decoder.embeddings.weight, (0, 0, 0, MIN_PRODUCT_COLUMNS))
    start, size, idle = slots.start.tolist(), slots.size.tolist(), slots.idle.tolist()
    rows = _Rows(decoder, z_BD, draws, weights.device)
    inputs = decoder.injector.prompts(rows.z_BD, len(rows.ids_BT))
    position = 0
    for t in range(len(start)):
        if between_slots is not None:
            between_slots()
        hidden_BNE = decoder.transform(inputs, rows.cache, position)
        position += inputs.shape[1]
        real_BT = rows.ids_BT[: rows.num_rows]
        live_B = torch.ones(rows.num_rows, dtype=torch.bool, device=weights.device)
        if idle[t] >= 0:
            before_B = real_BT[:, t - 1]
            live_B = (before_B >= slots.gate_start[t]) & (before_B < slots.gate_stop[t])
        if size[t] == 1:
            chosen_B = torch.full((rows.num_rows,), start[t], device=weights.device)
        else:
            table_SE = weights[start[t] : start[t] + max(size[t], MIN_PRODUCT_COLUMNS)]
            logits_BS = (hidden_BNE[:, -1] @ table_SE.T)[: rows.num_rows, : size[t]]
            if adjust is not None:
                logits_BS = adjust(t, logits_BS, live_B)
            chosen_B = start[t] + rows.sampler.draw(logits_BS, live_B)
        if idle[t] >= 0:
            chosen_B = torch.where(live_B, chosen_B, idle[t])
        real_BT[:, t] = chosen_B
        rows.sift(t)
        if not rows.num_rows:
            break
        inputs = weights[rows.ids_BT[:, t]][:, None]
        if rows.shift is not None:
            inputs = inputs + rows.shift
    return rows.drawn()


class _Rows:
    """The rows of a batch that are still decoded.

    Attributes:
        z_BD: Latents of all rows, B, among them some that fill up the batch.
        num_rows: Rows that are not filling.
        ids_BT: Token ids.
        cache: Keys and values.
        shift: What is added to the embeddings, or None.
        sampler: Draws the tokens.
    """

    def __init__(
        self,
        decoder: RecordDecoder,
        z_BD: Tensor | None,
        draws: Sequence[TokenDraw],
        device: torch.device,
    ) -> None:
        self._draws = draws
        self._places = [np.arange(draw.num_rows) for draw in draws]
        sieves = [draw.sieve for draw in draws if draw.sieve is not None]
        self._sifted = {slot for sieve in sieves for slot in sieve.slots}
        self._tile = _row_tile(decoder.injector.num_heads)
        self.num_rows = sum(draw.num_rows for draw in draws)
        batch = self.num_rows + -self.num_rows % self._tile
        if z_BD is not None:
            z_BD = F.pad(z_BD, (0, 0, 0, batch - self.num_rows)).to(device)
        self.z_BD = z_BD
        self.sampler = _Sampler(draws, [draw.num_rows for draw in draws], device)
        self.cache = _start_cache(decoder, z_BD, batch)
        self.shift = decoder.injector.token_shift(z_BD)
        num_slots = len(decoder.slots.start)
        self.ids_BT = torch.zeros(batch, num_slots, dtype=torch.int64, device=device)

    def sift(self, slot: int) -> None:
        """Let the sieves drop rows after `slot`.

        What is left is drawn on as if it had been the whole batch: no later token is drawn for, or
        evened out with, a dropped row.
        """
        if slot not in self._sifted:
            return
        keeps: list[npt.NDArray[np.bool_]] = []
        for draw, places, ids_RT in zip(self._draws, self._places, self._split(), strict=True):
            kept = np.ones(len(places), dtype=np.bool_)
            if len(places) and draw.sieve is not None and slot in draw.sieve.slots:
                kept = draw.sieve.keeps(slot, ids_RT, places)
            keeps.append(kept)
        kept_B = np.flatnonzero(np.concatenate(keeps))
        if len(kept_B) == self.num_rows:
            return
        self._places = [places[kept] for places, kept in zip(self._places, keeps, strict=True)]
        self.num_rows = len(kept_B)
        filling = np.resize(kept_B, -self.num_rows % self._tile) if self.num_rows else kept_B
        device = self.ids_BT.device
        index_B = torch.from_numpy(np.concatenate([kept_B, filling])).to(device)
        self.ids_BT = self.ids_BT[index_B]
        if self.num_rows:
            self.cache.batch_select_indices(index_B)
            self.shift = None if self.shift is None else self.shift[index_B]
            self.sampler = _Sampler(self._draws, [len(p) for p in self._places], device)

    def _split(self) -> list[npt.NDArray[np.int64]]:
        """Token ids of each draw."""
        ids_BT = self.ids_BT[: self.num_rows].cpu().numpy()
        return np.split(ids_BT, np.cumsum([len(places) for places in self._places])[:-1])

    def drawn(self) -> list[DrawnTokens]:
        """What is left of each draw."""
        return [DrawnTokens(*part) for part in zip(self._split(), self._places, strict=True)]


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

    def __init__(
        self, draws: Sequence[TokenDraw], sizes: Sequence[int], device: torch.device
    ) -> None:
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
            probabilities_BS = nucleus(probabilities_BS, self.top_p_B1)
        return even_tokens(probabilities_BS, live_B, self.draws)


def nucleus(probabilities_BS: Tensor, top_p_B1: Tensor) -> Tensor:
    """Zero all but the most probable tokens whose mass reaches top_p (Holtzman et al. 2020)."""
    ordered, order = probabilities_BS.sort(dim=1, descending=True, stable=True)
    outside = (ordered.cumsum(dim=1) - ordered >= top_p_B1) & (top_p_B1 < 1)
    outside[:, 0] = False  # the smallest shares are 0 in single precision
    return probabilities_BS.scatter(1, order, ordered.masked_fill(outside, 0.0))
