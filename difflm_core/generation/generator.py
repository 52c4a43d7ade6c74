"""The generator: seeds to records, exactly as many as asked for.

A batch is a function of the run's seed and of its first row's global index, and is computed by
one thread; so neither the number of threads nor that of workers changes a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc_module
import torch
from torch import Tensor

from difflm_core.codec.records import RecordCodec
from difflm_core.data.canonical import spells_missing
from difflm_core.data.schema import ColumnKind, Schema
from difflm_core.diffusion.model import LatentDiffusion, SamplerOptions
from difflm_core.errors import StageError
from difflm_core.generation.decode import decode_tokens
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

    def __call__(self, count: int, *, seed: int, first: int) -> Tensor | None:
        """Latents [B, D] of the rows `first .. first + count - 1` of the table of `seed`.

        None decodes without latents.
        """
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
            start: Global index of the first record; a multiple of `batch_rows`, so that the
                batches are those of the whole run.
            num_threads: Batches computed at the same time (None: one per core); at most twice as
                many are in memory.
            rejections: Collects what was rejected, by column and reason.

        Yields:
            Canonical record batches of `batch_rows` rows (the last may be shorter).

        Raises:
            StageError: a record was rejected `max_attempts` times.
            DataError: an identifier column has fewer identifiers than rows.
        """
        stop = start + num_rows
        require_identifiers(self.codec, stop)
        spans = (
            (begin, min(begin + options.batch_rows, stop))
            for begin in range(start, stop, options.batch_rows)
        )
        for records, rejected in map_in_order(
            lambda span: self._batch(*span, options), spans, num_threads
        ):
            if rejections is not None:
                rejections.update(rejected)
            yield records

    def _adjust(self, slot: int, logits_BS: Tensor, live_B: Tensor) -> Tensor:
        del live_B
        return logits_BS if self._slot_bias is None else logits_BS + self._slot_bias[slot]

    def _batch(
        self, begin: int, end: int, options: SamplingOptions
    ) -> tuple[pa.RecordBatch, Rejections]:
        rejections: Rejections = Counter()
        parts: list[pa.RecordBatch] = []
        missing = end - begin
        for attempt in range(options.max_attempts):
            draw = (begin, attempt)
            torch_generator = torch.Generator().manual_seed(seed_of(options.seed, "rows", *draw))
            if attempt == 0:
                z_BD = self.latents(missing, seed=seed_of(options.seed, "latents"), first=begin)
            else:  # other latents for what was rejected
                z_BD = self.latents(missing, seed=seed_of(options.seed, "latents", *draw), first=0)
            ids_BT = decode_tokens(
                self.vae.decoder,
                z_BD,
                missing,
                torch_generator,
                temperature=options.temperature,
                top_p=options.top_p,
                adjust=self._adjust if self._slot_bias else None,
            )
            residuals = numpy_generator(options.seed, "residuals", *draw).random(
                (missing, self.codec.num_residuals)
            )
            decoded = self.codec.decode(ids_BT.cpu().numpy(), residuals)
            rejections.update(decoded.rejections)
            records = without_unwritable_texts(decoded.records, self.codec.schema, rejections)
            parts.append(records)
            missing -= records.num_rows
            if not missing:
                break
        else:
            worst = ", ".join(
                f"{name!r}: {why} ({n})" for (name, why), n in rejections.most_common(3)
            )
            raise StageError(
                f"{missing} records were rejected {options.max_attempts} times each ({worst}). "
                "Train longer, lower the temperature, or raise max_attempts."
            )
        records = pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
        return self.codec.with_identifiers(records, start=begin, seed=options.seed), rejections


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


def diffusion_latents(diffusion: LatentDiffusion, options: SamplerOptions) -> LatentSource:
    """Latents from the diffusion: the generator's usual source."""

    def latents(count: int, *, seed: int, first: int) -> Tensor:
        noise_BD = even_normals(count, diffusion.size.latent_dim, seed=seed, first=first)
        return diffusion.sample(noise_BD.to(diffusion.mean.device), options)

    return latents


def prior_latents(latent_dim: int) -> LatentSource:
    """Latents from the Gaussian prior, as a plain VAE samples; for ablation."""

    def latents(count: int, *, seed: int, first: int) -> Tensor:
        return even_normals(count, latent_dim, seed=seed, first=first)

    return latents


def no_latents() -> LatentSource:
    """No latents: the language model alone; for ablation."""

    def latents(count: int, *, seed: int, first: int) -> None:
        del count, seed, first

    return latents
