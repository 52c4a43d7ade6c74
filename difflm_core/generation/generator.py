"""The generator: seeds to records, exactly as many as asked for.

The unit of work is a *span*: up to `batch_rows` consecutive rows of a table. It is a function of
the run's seed and of its first row's global index, computed by one thread; so neither the number
of threads, nor that of workers, nor who shares a batch with it (`batching.py`) changes a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc_module
import torch
import torch.nn.functional as F
from torch import Tensor

from difflm_core.codec.records import RecordCodec
from difflm_core.data.canonical import spells_missing
from difflm_core.data.schema import ColumnKind, Schema
from difflm_core.diffusion.model import LatentDiffusion, SamplerOptions
from difflm_core.errors import StageError
from difflm_core.generation.decode import MIN_PRODUCT_ROWS, TokenDraw, decode_tokens
from difflm_core.generation.even import even_normals
from difflm_core.seeds import numpy_generator, seed_of
from difflm_core.threads import map_in_order
from difflm_core.vae.model import TextVae

pc: Any = pc_module

# Reasons to reject a text: in a file it would mean "missing", or make the file look binary.
BLANK = "blank, or a spelling of missing"
ZERO_BYTE = "holds a zero byte"
Rejections = Counter[tuple[str, str]]


class LatentSource(Protocol):
    """Where latents come from."""

    def noise(self, count: int, *, seed: int, first: int) -> Tensor | None:
        """Noise [B, D] of the rows `first .. first + count - 1` of the table of `seed`.

        None decodes without latents.
        """
        ...

    def latents(self, noise_BD: Tensor) -> Tensor:
        """Latents [B, D] from noise, row by row."""
        ...


@dataclass(frozen=True)
class SamplingOptions:
    """How freely records are drawn.

    Attributes:
        seed: Seed of the run.
        temperature: Softmax temperature of every token.
        top_p: Probability mass kept at every token.
        batch_rows: Records decoded at once.
        max_attempts: Most tries for a record that the codec rejects.
    """

    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    batch_rows: int = 1024
    max_attempts: int = 16


@dataclass(frozen=True)
class Span:
    """Rows `begin .. end - 1` of the table of a seed, drawn together.

    Attributes:
        begin: Index of the first row; a multiple of `options.batch_rows`.
        end: Index after the last row; at most `options.batch_rows` after `begin`.
        options: How freely.
    """

    begin: int
    end: int
    options: SamplingOptions

    @property
    def num_rows(self) -> int:
        """How many."""
        return self.end - self.begin


def spans(num_rows: int, options: SamplingOptions, *, start: int = 0) -> Iterator[Span]:
    """Cut the rows `start .. start + num_rows - 1` of a table into spans.

    Args:
        num_rows: How many.
        options: How freely.
        start: Index of the first row; a multiple of `batch_rows`, so that the spans are those of
            the whole table.
    """
    stop = start + num_rows
    for begin in range(start, stop, options.batch_rows):
        yield Span(begin, min(begin + options.batch_rows, stop), options)


class Generator:
    """Makes new records: noise, latent diffusion, language model, codec."""

    def __init__(
        self,
        vae: TextVae,
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
            StageError: a record was rejected `max_attempts` times.
            DataError: an identifier column has fewer identifiers than rows.
        """
        require_identifiers(self.codec, start + num_rows)
        todo = spans(num_rows, options, start=start)
        for drawing in map_in_order(self._draw_alone, todo, num_threads):
            if rejections is not None:
                rejections.update(drawing.rejections)
            yield drawing.records()

    def _draw_alone(self, span: Span) -> Drawing:
        drawing = Drawing(span, self.codec)
        while drawing.num_missing:
            drawing.check_attempts()
            self.advance([drawing])
        return drawing

    def advance(
        self, drawings: Sequence[Drawing], between_slots: Callable[[], None] | None = None
    ) -> None:
        """Decode the rows that `drawings` lack, all in one batch.

        A drawing gets the same rows whatever others are beside it.

        Args:
            drawings: Each lacks at least one row.
            between_slots: Called before each slot of the language model.
        """
        attempts = [drawing.next_attempt() for drawing in drawings]
        noises = [
            self.latents.noise(attempt.draw.num_rows, seed=attempt.noise_seed, first=attempt.first)
            for attempt in attempts
        ]
        known = [noise_BD for noise_BD in noises if noise_BD is not None]
        ids_BT = decode_tokens(
            self.vae.decoder,
            self.latents.latents(torch.cat(known)) if known else None,
            [attempt.draw for attempt in attempts],
            adjust=self._adjust if self._slot_bias else None,
            between_slots=between_slots,
        )
        parts = ids_BT.cpu().split([attempt.draw.num_rows for attempt in attempts])
        for drawing, attempt, ids_AT in zip(drawings, attempts, parts, strict=True):
            drawing.take(ids_AT.numpy(), attempt)

    def _adjust(self, slot: int, logits_BS: Tensor, live_B: Tensor) -> Tensor:
        del live_B
        return logits_BS if self._slot_bias is None else logits_BS + self._slot_bias[slot]


@dataclass(frozen=True)
class Attempt:
    """A try at the rows that a drawing lacks.

    Attributes:
        draw: Draws their tokens.
        noise_seed: Seed of their latents.
        first: Index of the first row's latent.
        residuals: Draws positions inside cells.
    """

    draw: TokenDraw
    noise_seed: int
    first: int
    residuals: np.random.Generator


class Drawing:
    """A span on its way: attempts until every row is accepted.

    Attributes:
        span: What is drawn.
        num_missing: Rows still lacking.
        rejections: Tries rejected so far, by column and reason.
    """

    def __init__(self, span: Span, codec: RecordCodec) -> None:
        """Begin `span`."""
        self.span = span
        self.num_missing = span.num_rows
        self.rejections: Rejections = Counter()
        self._codec = codec
        self._parts: list[pa.RecordBatch] = []
        self._num_attempts = 0

    def check_attempts(self) -> None:
        """Check that there may be another attempt.

        Raises:
            StageError: there were `max_attempts` already.
        """
        if self._num_attempts < self.span.options.max_attempts:
            return
        worst = ", ".join(
            f"{name!r}: {why} ({n})" for (name, why), n in self.rejections.most_common(3)
        )
        raise StageError(
            f"{self.num_missing} records were rejected {self._num_attempts} times each ({worst}). "
            "Train longer, lower the temperature, or raise max_attempts."
        )

    def next_attempt(self) -> Attempt:
        """What to draw now: a function of the span and of how many attempts there were."""
        options = self.span.options
        number = self._num_attempts
        self._num_attempts += 1
        place = (self.span.begin, number)
        generator = torch.Generator().manual_seed(seed_of(options.seed, "rows", *place))
        # A first attempt takes the table's latents; what was rejected, others.
        latent = () if number == 0 else place
        return Attempt(
            TokenDraw(self.num_missing, generator, options.temperature, options.top_p),
            noise_seed=seed_of(options.seed, "latents", *latent),
            first=self.span.begin if number == 0 else 0,
            residuals=numpy_generator(options.seed, "residuals", *place),
        )

    def take(self, ids_AT: npt.NDArray[np.int64], attempt: Attempt) -> None:
        """Keep what is acceptable of an attempt's tokens."""
        residuals = attempt.residuals.random((len(ids_AT), self._codec.num_residuals))
        decoded = self._codec.decode(ids_AT, residuals)
        self.rejections.update(decoded.rejections)
        records = without_unwritable_texts(decoded.records, self._codec.schema, self.rejections)
        self._parts.append(records)
        self.num_missing -= records.num_rows

    def records(self) -> pa.RecordBatch:
        """All rows of the span, once none is missing."""
        records = pa.Table.from_batches(self._parts).combine_chunks().to_batches()[0]
        seed = self.span.options.seed
        return self._codec.with_identifiers(records, start=self.span.begin, seed=seed)


def require_identifiers(codec: RecordCodec, num_rows: int) -> None:
    """Check, before any work, that every row of a table can have its identifiers.

    Raises:
        DataError: an identifier column has fewer identifiers than rows.
    """
    for pattern in codec.identifiers.values():
        pattern.generate(num_rows - 1, 1)


def without_unwritable_texts(
    records: pa.RecordBatch, schema: Schema, rejections: Rejections
) -> pa.RecordBatch:
    """Leave out records whose free text would not be read back as it is; count them."""
    for column in schema.columns:
        if column.kind is not ColumnKind.TEXT:
            continue
        for reason in (BLANK, ZERO_BYTE):
            texts = records.column(column.name)
            if reason == BLANK:
                mask = spells_missing(pc.utf8_trim_whitespace(texts), column)
            else:
                mask = pc.match_substring(texts, "\0")
            bad = pc.fill_null(mask, False)
            if count := pc.sum(bad).as_py():
                rejections[column.name, reason] += count
                records = records.filter(pc.invert(bad))
    return records


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

    def noise(self, count: int, *, seed: int, first: int) -> None:
        """None."""
        del count, seed, first

    def latents(self, noise_BD: Tensor) -> Tensor:
        """Never asked for."""
        raise NotImplementedError
