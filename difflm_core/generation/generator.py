"""The generator: seeds to records, exactly as many as asked for.

The unit of work is a *span*: up to `batch_rows` consecutive rows of a table. It is a function of
the run's seed and of its first row's global index, computed by one thread; so neither the number
of threads, nor that of workers, nor who shares a batch with it (`batching.py`) changes a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from difflm_core.codec.records import RecordCodec
from difflm_core.codec.text import TextCodec
from difflm_core.diffusion.model import LatentDiffusion, SamplerOptions
from difflm_core.generation.decode import MIN_PRODUCT_ROWS, decode_tokens
from difflm_core.generation.document_drawing import DocumentDrawing
from difflm_core.generation.drawing import Drawing, Rejections, SamplingOptions, Span, spans
from difflm_core.generation.even import even_normals
from difflm_core.threads import map_in_order
from difflm_core.vae.model import RecordVae


class LatentSource(Protocol):
    """Where latents come from."""

    def noise(self, count: int, *, seed: int, first: int) -> Tensor:
        """Noise [B, D] of the rows `first .. first + count - 1` of the table of `seed`."""
        ...

    def latents(self, noise_BD: Tensor) -> Tensor | None:
        """Latents [B, D] from noise, row by row; None decodes without latents."""
        ...


class SpanGenerator(ABC):
    """Makes new records, span by span: a table's rows, or documents.

    Attributes:
        codec: Turns tokens into records; a `RecordCodec` or a `TextCodec`.
        max_batch_rows: Most records of a batch, whatever a caller asks for; None: any number.
    """

    codec: Any
    max_batch_rows: int | None = None

    @abstractmethod
    def begin(self, span: Span) -> Drawing | DocumentDrawing:
        """Begin a span: nothing is drawn yet."""

    @abstractmethod
    def advance(
        self, drawings: Sequence[Any], between_slots: Callable[[], None] | None = None
    ) -> None:
        """Decode the records that `drawings` lack.

        A drawing gets the same records whatever others are beside it.

        Args:
            drawings: Each lacks at least one record.
            between_slots: Called before each token of the language model.
        """

    def batches(
        self,
        num_rows: int,
        options: SamplingOptions,
        *,
        start: int = 0,
        num_threads: int | None = None,
        rejections: Rejections | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Generate records `start .. start + num_rows - 1` in order.

        Args:
            num_rows: How many.
            options: How freely.
            start: Global index of the first record; see `spans`.
            num_threads: Batches computed at the same time (None: one per core); at most twice as
                many are in memory.
            rejections: Collects what was rejected, by column and reason.

        Yields:
            Canonical record batches of `batch_rows` rows (the last may be shorter).

        Raises:
            StageError: a record was rejected `max_attempts` times, or hardly any row meets the
                conditions.
            DataError: an identifier column has fewer identifiers than rows.
        """
        require_identifiers(self.codec, start + num_rows)
        if self.max_batch_rows is not None:
            options = replace(options, batch_rows=min(options.batch_rows, self.max_batch_rows))
        todo = spans(num_rows, options, start=start)
        for drawing in map_in_order(partial(draw_alone, self), todo, num_threads):
            if rejections is not None:
                rejections.update(drawing.rejections)
            yield drawing.records()


def draw_alone(generator: SpanGenerator, span: Span) -> Drawing | DocumentDrawing:
    """Make a span in batches of its own."""
    drawing = generator.begin(span)
    while drawing.num_missing:
        drawing.check_attempts()
        generator.advance([drawing])
    return drawing


class Generator(SpanGenerator):
    """Makes new records of a table: noise, latent diffusion, language model, codec."""

    codec: RecordCodec

    def __init__(
        self,
        vae: RecordVae,
        codec: RecordCodec,
        latents: LatentSource,
        bias_V: Tensor | None = None,
    ) -> None:
        """Join the trained parts.

        Args:
            vae: Its decoder writes the records.
            codec: Turns tokens into records.
            latents: Where latents come from.
            bias_V: Calibration of every token's logit (`calibration.py`), shape [V]; None: none.
        """
        self.vae = vae.eval()
        self.codec = codec
        self.latents = latents
        self._slot_bias: list[Tensor] | None = None
        if bias_V is not None:
            slots, device = codec.grammar.slots, next(vae.parameters()).device
            self._slot_bias = [bias_V[slot.start : slot.stop].to(device) for slot in slots]

    def begin(self, span: Span) -> Drawing:
        """Begin a span: nothing is drawn yet."""
        return Drawing(span, self.codec)

    def advance(
        self, drawings: Sequence[Drawing], between_slots: Callable[[], None] | None = None
    ) -> None:
        """Decode the rows that `drawings` lack, all in one batch."""
        attempts = [drawing.next_attempt() for drawing in drawings]
        noises = [
            self.latents.noise(attempt.draw.num_rows, seed=attempt.noise_seed, first=attempt.first)
            for attempt in attempts
        ]
        parts = decode_tokens(
            self.vae.decoder,
            self.latents.latents(torch.cat(noises)),
            [attempt.draw for attempt in attempts],
            adjust=self._adjust if self._slot_bias else None,
            between_slots=between_slots,
        )
        for drawing, attempt, drawn in zip(drawings, attempts, parts, strict=True):
            drawing.take(drawn, attempt)

    def _adjust(self, slot: int, logits_BS: Tensor, live_B: Tensor) -> Tensor:
        del live_B
        return logits_BS if self._slot_bias is None else logits_BS + self._slot_bias[slot]


def require_identifiers(codec: RecordCodec | TextCodec, num_rows: int) -> None:
    """Check, before any work, that every row of a table can have its identifiers.

    Raises:
        DataError: an identifier column has fewer identifiers than rows.
    """
    for pattern in codec.identifiers.values():
        pattern.generate(num_rows - 1, 1)


@dataclass(frozen=True)
class DiffusionLatents:
    """Latents from the diffusion: the generator's usual source."""

    diffusion: LatentDiffusion
    options: SamplerOptions

    def noise(self, count: int, *, seed: int, first: int) -> Tensor:
        """Evenly spread standard normal noise."""
        return even_normals(count, self.diffusion.size.latent_dim, seed=seed, first=first)

    def latents(self, noise_BD: Tensor) -> Tensor:
        """The samples that the noise decides."""
        missing = max(0, MIN_PRODUCT_ROWS - len(noise_BD))
        padded_BD = F.pad(noise_BD, (0, 0, 0, missing)).to(self.diffusion.mean.device)
        return self.diffusion.sample(padded_BD, self.options)[: len(noise_BD)]


@dataclass(frozen=True)
class PriorLatents:
    """Latents from the Gaussian prior, as a plain VAE samples; for ablation."""

    latent_dim: int

    def noise(self, count: int, *, seed: int, first: int) -> Tensor:
        """Evenly spread standard normal noise."""
        return even_normals(count, self.latent_dim, seed=seed, first=first)

    def latents(self, noise_BD: Tensor) -> Tensor:
        """The noise itself."""
        return noise_BD


@dataclass(frozen=True)
class NoLatents:
    """No latents: the language model alone; for ablation."""

    def noise(self, count: int, *, seed: int, first: int) -> Tensor:
        """Noise of no dimensions."""
        del seed, first
        return torch.empty(count, 0)

    def latents(self, noise_BD: Tensor) -> None:
        """None."""
        del noise_BD
