"""The generator of documents: noise, latent diffusion, language model, grammar, check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from difflm_core.codec.text import TextCodec
from difflm_core.generation.document_decode import DocumentSampling, decode_documents
from difflm_core.generation.document_drawing import BLOCK_ROWS, DocumentDrawing
from difflm_core.generation.drawing import SamplingOptions, Span
from difflm_core.generation.generator import LatentSource, generate_batches
from difflm_core.vae.document_model import DocumentVae


class DocumentGenerator:
    """Makes new documents."""

    def __init__(self, vae: DocumentVae, codec: TextCodec, latents: LatentSource) -> None:
        """Join the trained parts.

        Args:
            vae: Its decoder writes the documents.
            codec: Turns tokens into documents.
            latents: Where latents come from.
        """
        self.vae = vae.eval()
        self.codec = codec
        self.latents = latents

    def batches(
        self, num_rows: int, options: SamplingOptions, **settings: Any
    ) -> Iterator[pa.RecordBatch]:
        """Generate documents in order, block by block; see `generate_batches`."""
        size = min(options.batch_rows, BLOCK_ROWS)
        return generate_batches(self, num_rows, replace(options, batch_rows=size), **settings)

    def begin(self, span: Span) -> DocumentDrawing:
        """Begin a span: nothing is drawn yet."""
        return DocumentDrawing(span, self.codec)

    def advance(
        self,
        drawings: Sequence[DocumentDrawing],
        between_slots: Callable[[], None] | None = None,
    ) -> None:
        """Decode the documents that `drawings` lack; see `SpanGenerator`.

        A block of each drawing is decoded, as a batch of its own, so that its documents are the
        same bit for bit whoever asks beside it.
        """
        constraint = self.codec.constraint
        for drawing in drawings:
            attempt = drawing.next_attempt()
            noise = self.latents.noise(
                attempt.num_rows, seed=attempt.noise_seed, first=attempt.first
            )
            options = drawing.span.options
            sampling = DocumentSampling(
                max_tokens=self.codec.options.max_tokens,
                end=(self.codec.end,),
                temperature=options.temperature,
                top_p=options.top_p,
            )
            written = decode_documents(
                self.vae.decoder,
                self.latents.latents(noise),
                attempt.uniform_BT,
                sampling,
                rows=constraint.start(attempt.num_rows) if constraint else None,
                between_steps=between_slots,
            )
            drawing.take(written)
