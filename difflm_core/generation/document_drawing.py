"""A span of documents on its way: attempts, until each document is accepted.

As `drawing.py`, but in blocks: consecutive documents that are decoded as one batch. An attempt is a
function of the seed, of its block's first document and of its number, so a span gives the same
documents as its blocks do alone.

A document that is rejected (cut off, invalid) is tried again, at most `max_attempts` times: first
with its own latent, so that those which are harder to write, such as long ones, do not become rare;
from the middle on with other latents, since some may be hopeless.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from difflm_core.codec.text import TextCodec
from difflm_core.errors import StageError
from difflm_core.generation.drawing import Rejections, Span
from difflm_core.seeds import numpy_generator, seed_of

# Documents that are decoded as one batch: more take more memory, and are hardly faster on a CPU.
BLOCK_ROWS = 64


@dataclass(frozen=True)
class DocumentAttempt:
    """A try at the documents that a drawing lacks.

    Attributes:
        uniform_BT2: Decides their tokens: a pair of numbers for each.
        noise_seed: Seed of the latents of a block.
        first: Index of the block's first latent.
        rows_B: Of the block's latents, those that are wanted.
    """

    uniform_BT2: Tensor
    noise_seed: int
    first: int
    rows_B: Tensor

    @property
    def num_noises(self) -> int:
        """Latents of the block, up to the last that is wanted."""
        return int(self.rows_B[-1]) + 1


@dataclass
class _Block:
    begin: int
    # Documents of the block that are lacking, by their place in it.
    missing: NDArray[np.int64]
    num_attempts: int = 0
    parts: list[pa.RecordBatch] = field(default_factory=list[pa.RecordBatch])


class DocumentDrawing:
    """A span on its way: attempts until every document is accepted.

    Attributes:
        span: What is drawn.
        rejections: Tries rejected so far, by column and reason.
        num_tried: Documents drawn so far.
        num_tokens: Tokens drawn so far.
    """

    def __init__(self, span: Span, codec: TextCodec) -> None:
        """Begin `span`."""
        self.span = span
        self.rejections: Rejections = Counter()
        self.num_tried = 0
        self.num_tokens = 0
        self._codec = codec
        size = min(BLOCK_ROWS, span.options.batch_rows)
        self._blocks = [
            _Block(begin, np.arange(min(size, span.end - begin)))
            for begin in range(span.begin, span.end, size)
        ]

    @property
    def num_missing(self) -> int:
        """Documents still lacking."""
        return sum(len(block.missing) for block in self._blocks)

    @property
    def next_rows(self) -> int:
        """How many documents the next attempt draws."""
        return len(self._current.missing) if self.num_missing else 0

    @property
    def _current(self) -> _Block:
        return next(block for block in self._blocks if len(block.missing))

    def check_attempts(self) -> None:
        """Check that there may be another attempt.

        Raises:
            StageError: there were `max_attempts` already.
        """
        block = self._current
        if block.num_attempts < self.span.options.max_attempts:
            return
        worst = ", ".join(f"{why} ({n})" for (_, why), n in self.rejections.most_common(3))
        raise StageError(
            f"{len(block.missing)} documents were rejected {block.num_attempts} times each "
            f"({worst}). Train longer, lower the temperature, raise codec.max_document_tokens "
            "if documents are cut off, or raise max_attempts."
        )

    def next_attempt(self) -> DocumentAttempt:
        """What to draw now: a function of the block and of what the attempts before it gave."""
        options, block = self.span.options, self._current
        number = block.num_attempts
        block.num_attempts += 1
        place = (block.begin, number)
        uniform = numpy_generator(options.seed, "documents", *place)
        shape = (len(block.missing), self._codec.max_written, 2)
        own = number < max(1, options.max_attempts // 2)
        return DocumentAttempt(
            uniform_BT2=torch.from_numpy(uniform.random(shape, dtype=np.float32)),
            noise_seed=seed_of(options.seed, "latents", *(() if own else place)),
            first=block.begin if own else 0,
            rows_B=torch.from_numpy(block.missing),
        )

    def take(self, written: list[list[int]]) -> None:
        """Keep what is acceptable of an attempt's tokens."""
        block = self._current
        self.num_tried += len(written)
        self.num_tokens += sum(len(row) for row in written)
        decoded = self._codec.decode(written)
        self.rejections.update(decoded.rejections)
        block.parts.append(decoded.records)
        block.missing = block.missing[~decoded.valid]

    def records(self) -> pa.RecordBatch:
        """All documents of the span, once none is missing."""
        parts = [part for block in self._blocks for part in block.parts]
        return pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
