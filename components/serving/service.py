"""The service behind the routes: answers made of spans, within limits."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Iterator
from dataclasses import dataclass
from itertools import islice

from components.serving.formats import make_joiner, piece_format
from components.serving.keys import Caller, KeyRing
from components.serving.limits import Limits
from components.serving.metrics import Metrics
from components.serving.problems import ServiceError
from components.serving.registry import Model, Registry
from components.serving.schemas import (
    MAX_SEED,
    FieldProblem,
    Format,
    GenerateRequest,
    Sampling,
)
from components.serving.worker import Generators, SpanAnswer, SpanRequest
from difflm_core.errors import ConfigError, DataError
from difflm_core.generation.conditions import Conditions
from difflm_core.generation.drawing import SamplingOptions
from difflm_core.generation.generator import require_identifiers

SPAN_ROWS = SamplingOptions().batch_rows
_BUSY_RETRY_SECONDS = 2


@dataclass(frozen=True)
class Order:
    """Rows that were asked for and may be made.

    Attributes:
        model: at which version.
        sampling: how; its seed is set.
        conditions: what every row must meet.
        first: index of the first row.
        count: how many.
        format: of the pieces; None: canonical records.
    """

    model: Model
    sampling: Sampling
    conditions: Conditions
    first: int
    count: int
    format: Format | None

    def spans(self) -> Iterator[SpanRequest]:
        """The spans of the rows, in order."""
        stop = self.first + self.count
        for begin in range(self.first, stop, SPAN_ROWS):
            yield SpanRequest(
                seed=self.sampling.seed or 0,
                begin=begin,
                end=min(begin + SPAN_ROWS, stop),
                temperature=self.sampling.temperature,
                top_p=self.sampling.top_p,
                conditions=self.conditions,
                format=self.format,
                served_rows=begin - self.first,
            )


@dataclass(frozen=True)
class Answer:
    """An answer that has begun: its first span is made.

    Attributes:
        order: what was asked for.
        chunks: the bytes. Closing it ends the work.
        deadline: when it is to end, by the clock of the event loop.
    """

    order: Order
    chunks: AsyncGenerator[bytes]
    deadline: float


class Service:
    """Makes answers."""

    def __init__(
        self, registry: Registry, generators: Generators, keys: KeyRing, limits: Limits
    ) -> None:
        """Join the parts; see each."""
        self.registry = registry
        self.generators = generators
        self.keys = keys
        self.limits = limits
        self.metrics = Metrics()
        self._in_flight = 0

    async def refresh(self) -> None:
        """Look for new models, and have them loaded before they are asked for."""
        for model in await asyncio.to_thread(self.registry.refresh):
            with contextlib.suppress(ServiceError):  # whoever asks for it is told
                await self.generators.prepare(model.ref)
        self.metrics.models.clear()
        for model in self.registry.models.values():
            self.metrics.models.labels(model.ref.id, model.ref.version).set(1)

    def model_for(self, caller: Caller, name: str) -> Model:
        """A model that the caller may use.

        Raises:
            ServiceError: there is none, or it is not for this key.
        """
        if not caller.may_use(name):
            raise ServiceError("not_allowed", f"The key {caller.name} is not for model {name!r}.")
        return self.registry.get(name)

    def order(
        self, model: Model, sampling: Sampling, *, first: int, count: int, format: Format | None
    ) -> Order:
        """Check what is asked for, as far as it can be without making it.

        Raises:
            ServiceError: the model cannot make it.
        """
        try:
            require_identifiers(model.codec, first + count)
        except DataError as error:
            raise ServiceError("cannot_generate", str(error)) from None
        wanted = sampling.model_dump(exclude_none=False)["conditions"]
        try:
            conditions = Conditions.parse(wanted, model.codec)
        except ConfigError as error:
            found = FieldProblem(field="conditions", message=str(error))
            raise ServiceError("invalid", str(error), errors=[found]) from None
        if sampling.seed is None:
            seed = secrets.randbelow(MAX_SEED + 1)
            sampling = sampling.model_copy(update={"seed": seed})
        return Order(model, sampling, conditions, first, count, format)

    async def generate(self, caller: Caller, name: str, request: GenerateRequest) -> Answer:
        """Begin an answer.

        Raises:
            ServiceError: it cannot be made, or not now.
        """
        model = self.model_for(caller, name)
        most = self.limits.rows_per_request
        if request.count > most:
            raise ServiceError(
                "invalid",
                f"count: {request.count:,} rows were asked for; an answer has {most:,} at most. "
                "Read the table in pages (`first`), or submit a job (POST /v1/jobs).",
            )
        format = request.format
        order = self.order(
            model,
            request,
            first=request.first,
            count=request.count,
            format=piece_format(format),
        )
        if self._in_flight >= self.limits.concurrent_requests:
            raise ServiceError("busy", "All places are taken.", _BUSY_RETRY_SECONDS)
        caller.charge_rows(request.count)
        deadline = time.monotonic() + self.limits.request_seconds
        chunks = self._chunks(order, caller, format, deadline)
        await anext(chunks)  # errors of the first span become the status of the answer
        return Answer(order, chunks, deadline)

    async def _chunks(
        self, order: Order, caller: Caller, format: Format, deadline: float
    ) -> AsyncGenerator[bytes]:
        """Nothing once the first span is made, then the bytes of the answer."""
        facts = {
            "model": order.model.ref.id,
            "version": order.model.ref.version,
            "seed": order.sampling.seed,
        }
        joiner = make_joiner(format, order.model.schema, facts)
        num_rows, started = 0, False
        self._in_flight += 1
        self.metrics.in_flight.set(self._in_flight)
        try:
            async with contextlib.aclosing(self.made(order, patient=False)) as spans:
                while span := await _before(deadline, anext(spans, None)):
                    if not started:
                        started = True
                        yield b""
                        yield joiner.begin()
                    num_rows += span.num_rows
                    if format == "parquet":  # compresses
                        chunk = await asyncio.to_thread(joiner.add, span.piece)
                    else:
                        chunk = joiner.add(span.piece)
                    if chunk:
                        yield chunk
                yield joiner.end()
        except TimeoutError:
            raise ServiceError(
                "deadline",
                f"The answer was not ready within {self.limits.request_seconds:g} s. Ask for fewer "
                "rows, or submit a job (POST /v1/jobs).",
                _BUSY_RETRY_SECONDS,
            ) from None
        finally:
            self._in_flight -= 1
            self.metrics.in_flight.set(self._in_flight)
            caller.give_back_rows(order.count - num_rows)

    async def made(self, order: Order, *, patient: bool) -> AsyncGenerator[SpanAnswer]:
        """The spans of an order, a few ahead; closing it ends the work.

        Args:
            order: What to make.
            patient: Whether to wait, rather than to fail, when the first span finds all queues
                full. The others always wait.

        Raises:
            ServiceError: a span cannot be made.
        """
        todo = order.spans()
        pending: deque[asyncio.Task[SpanAnswer]] = deque()

        def begin(count: int) -> None:
            for span in islice(todo, count):
                patiently = patient or span.served_rows > 0
                made = self.generators.make(order.model.ref, span, patient=patiently)
                task = asyncio.ensure_future(made)
                # Nobody asks for the errors of spans after one that failed.
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
                pending.append(task)

        try:
            begin(self.limits.spans_ahead)
            while pending:
                answer = await pending.popleft()
                begin(1)
                self.metrics.observe(order.model.ref.id, answer)
                yield answer
        finally:
            for task in pending:
                task.cancel()


async def _before(deadline: float, result: Awaitable[SpanAnswer | None]) -> SpanAnswer | None:
    """Await a result no longer than until `deadline`."""
    return await asyncio.wait_for(result, deadline - time.monotonic())
