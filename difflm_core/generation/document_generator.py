"""The generator of documents: noise, latent diffusion, language model, grammar, check."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from difflm_core.codec.text import TextCodec
from difflm_core.generation.document_decode import DocumentSampling, decode_documents
from difflm_core.generation.document_drawing import BLOCK_ROWS, DocumentDrawing
from difflm_core.generation.drawing import Span
from difflm_core.generation.generator import LatentSource, SpanGenerator
from difflm_core.vae.document_model import DocumentVae


class DocumentGenerator(SpanGenerator):
    """Makes new documents."""

    codec: TextCodec
    max_batch_rows = BLOCK_ROWS

    def __init__(self, vae: DocumentVae, codec: TextCodec, latents: LatentSource) -> None:
        """Join the trained parts.

        Args:
            vae: Its decoder writes the documents.
            codec: Turns tokens into documents.
            latents: Where latents come from.
        """
        self.vae = vae.eval()
        self.vae.decoder.lay_out_for_decoding()
        self.codec = codec
        self.latents = latents

    def begin(self, span: Span) -> DocumentDrawing:
        """Begin a span: nothing is drawn yet."""
        return DocumentDrawing(span, self.codec)

    def advance(
        self,
        drawings: Sequence[DocumentDrawing],
        between_slots: Callable[[], None] | None = None,
    ) -> None:
        """Decode the documents that `drawings` lack.

        A block of each drawing is decoded, as a batch of its own, so that its documents are the
        same bit for bit whoever asks beside it.
        """
        constraint = self.codec.constraint
        for drawing in drawings:
            attempt = drawing.next_attempt()
            noise_BD = self.latents.noise(
                attempt.num_noises, seed=attempt.noise_seed, first=attempt.first
            )[attempt.rows_B]
            options = drawing.span.options
            sampling = DocumentSampling(
                max_tokens=self.codec.max_written,
                end=(self.codec.end,),
                temperature=options.temperature,
                top_p=options.top_p,
            )
            written = decode_documents(
                self.vae.decoder,
                self.latents.latents(noise_BD),
                attempt.uniform_BT2,
                sampling,
                rows=constraint.start(len(attempt.rows_B)) if constraint else None,
                between_steps=between_slots,
            )
            drawing.take(written)
