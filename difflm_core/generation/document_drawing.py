"""A span of documents on its way: attempts, until each document is accepted.

As `drawing.py`: an attempt is a function of the seed, of the span's first document and of its
number. A document that is rejected (cut off, invalid, written before) is tried again with another
latent, at most `max_attempts` times.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from difflm_core.codec.text import TextCodec
from difflm_core.errors import StageError
from difflm_core.generation.drawing import Rejections, Span
from difflm_core.seeds import numpy_generator, seed_of


@dataclass(frozen=True)
class DocumentAttempt:
    """A try at the documents that a drawing lacks.

    Attributes:
        num_rows: How many.
        uniform_BT: Decides their tokens.
        noise_seed: Seed of their latents.
        first: Index of the first document's latent.
    """

    num_rows: int
    uniform_BT: Tensor
    noise_seed: int
    first: int


class DocumentDrawing:
    """A span on its way: attempts until every document is accepted.

    Attributes:
        span: What is drawn.
        num_missing: Documents still lacking.
        rejections: Tries rejected so far, by column and reason.
        num_tried: Documents drawn so far.
        num_tokens: Tokens drawn so far.
    """

    def __init__(self, span: Span, codec: TextCodec) -> None:
        """Begin `span`."""
        self.span = span
        self.num_missing = span.num_rows
        self.rejections: Rejections = Counter()
        self.num_tried = 0
        self.num_tokens = 0
        self._codec = codec
        self._parts: list[pa.RecordBatch] = []
        self._num_attempts = 0

    @property
    def next_rows(self) -> int:
        """How many documents the next attempt draws."""
        return self.num_missing

    def check_attempts(self) -> None:
        """Check that there may be another attempt.

        Raises:
            StageError: there were `max_attempts` already.
        """
        if self._num_attempts < self.span.options.max_attempts:
            return
        worst = ", ".join(f"{why} ({n})" for (_, why), n in self.rejections.most_common(3))
        raise StageError(
            f"{self.num_missing} documents were rejected {self._num_attempts} times each "
            f"({worst}). Train longer, lower the temperature, raise codec.max_document_tokens "
            "if documents are cut off, or raise max_attempts."
        )

    def next_attempt(self) -> DocumentAttempt:
        """What to draw now: a function of the span and of what the attempts before it gave."""
        options, number = self.span.options, self._num_attempts
        self._num_attempts += 1
        place = (self.span.begin, number)
        uniform = numpy_generator(options.seed, "documents", *place)
        shape = (self.num_missing, self._codec.options.max_tokens)
        # A first attempt takes the corpus's latents; what was rejected, others.
        latent = () if number == 0 else place
        return DocumentAttempt(
            num_rows=self.num_missing,
            uniform_BT=torch.from_numpy(uniform.random(shape, dtype=np.float32)),
            noise_seed=seed_of(options.seed, "latents", *latent),
            first=self.span.begin if number == 0 else 0,
        )

    def take(self, written: list[list[int]]) -> None:
        """Keep what is acceptable of an attempt's tokens."""
        self.num_tried += len(written)
        self.num_tokens += sum(len(row) for row in written)
        decoded = self._codec.decode(written)
        self.rejections.update(decoded.rejections)
        self._parts.append(decoded.records)
        self.num_missing -= decoded.records.num_rows

    def records(self) -> pa.RecordBatch:
        """All documents of the span, once none is missing."""
        return pa.Table.from_batches(self._parts).combine_chunks().to_batches()[0]
