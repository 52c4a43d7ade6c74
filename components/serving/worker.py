"""What a replica does: load versions of models, and make spans of rows for many callers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from components.serving.formats import encode
from components.serving.registry import VERSION_LENGTH, ModelRef
from components.serving.schemas import Format
from difflm_core.artifacts import GeneratorBundle
from difflm_core.device import choose_compute
from difflm_core.errors import ArtifactError, DiffLMError
from difflm_core.generation.batching import BatchingEngine
from difflm_core.generation.bundle import AnyGenerator, load_generator
from difflm_core.generation.conditions import Conditions
from difflm_core.generation.drawing import SamplingOptions, Span


@dataclass(frozen=True)
class SpanRequest:
    """A span that is asked for.

    Attributes:
        begin: index of its first row in the table of the seed.
        end: index after its last row.
        format: of the answer; None: canonical records, see `formats`.
        served_rows: rows that the caller has had already.
    """

    seed: int
    begin: int
    end: int
    temperature: float = 1.0
    top_p: float = 1.0
    conditions: Conditions = field(default_factory=Conditions)
    format: Format | None = None
    served_rows: int = 0


@dataclass(frozen=True)
class SpanAnswer:
    """A span that was made.

    Attributes:
        piece: its rows, encoded.
        num_rejected: tries that were rejected.
        waited_seconds: time until its first batch began.
        made_seconds: time from then on.
        shared_rows: rows of its first batch.
    """

    piece: bytes
    num_rows: int
    num_rejected: int
    waited_seconds: float
    made_seconds: float
    shared_rows: int


@dataclass(frozen=True)
class Refusal:
    """Why a span cannot be made: a code of `problems.CODES`, and a sentence."""

    code: str
    detail: str


class Generators(Protocol):
    """Whoever makes spans: replicas of Ray Serve."""

    async def make(self, ref: ModelRef, request: SpanRequest, *, patient: bool) -> SpanAnswer:
        """Make a span.

        Args:
            ref: The version of the model.
            request: The span.
            patient: Whether to wait when all queues are full, rather than to fail.

        Raises:
            ServiceError: it cannot be made.
        """
        ...

    async def prepare(self, ref: ModelRef) -> None:
        """Load a version before anybody asks for it."""
        ...

    async def check(self) -> None:
        """Answer if a replica does.

        Raises:
            ServiceError: none does.
        """
        ...


class Worker:
    """Makes spans of loaded models in shared batches."""

    def __init__(self, num_threads: int | None = None) -> None:
        """Start the threads; see `BatchingEngine`."""
        self._engine = BatchingEngine(num_threads)

    def load(self, ref: ModelRef) -> AnyGenerator | Refusal:
        """Load a version of a model."""
        try:
            bundle = GeneratorBundle.open(ref.uri, verify=True)
            found = bundle.manifest.content_hash[:VERSION_LENGTH]
            if found != ref.version:
                return Refusal("unavailable", f"{ref.id} has just been replaced; ask again.")
            with bundle.local() as folder:
                return load_generator(folder, choose_compute())
        except (ArtifactError, OSError):
            return Refusal("unavailable", f"{ref.id} cannot be read at the moment; ask again.")

    async def make(self, generator: AnyGenerator, request: SpanRequest) -> SpanAnswer | Refusal:
        """Make a span; when the caller is gone before it has begun, it is not made."""
        try:
            options = SamplingOptions(
                request.seed, request.temperature, request.top_p, conditions=request.conditions
            )
            span = Span(request.begin, request.end, options)
            made = await asyncio.wrap_future(
                self._engine.submit(generator, span, served_rows=request.served_rows)
            )
        except DiffLMError as error:
            return Refusal("cannot_generate", str(error))
        schema = generator.codec.schema
        piece = await asyncio.to_thread(encode, made.records, schema, request.format)
        return SpanAnswer(
            piece,
            made.records.num_rows,
            made.rejections.total(),
            made.waited_seconds,
            made.made_seconds,
            made.shared_rows,
        )

    def close(self) -> None:
        """Stop the threads."""
        self._engine.close()
