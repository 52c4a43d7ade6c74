"""Continuous batching: rows for many callers from shared batches of the language model.

Callers ask for spans (`generator.Span`). A few threads decode batches: the rows of a batch that are
accepted leave it, rejected rows stay for another attempt, and waiting spans enter. Batches begin
and end with the records, which have equally many tokens, so nobody waits for the slowest record;
and a handful of waiting rows does not wait for a large batch to end, but passes between two of its
slots (iteration-level scheduling; Yu et al. 2022, "Orca").

Who has had the fewest rows is served first, so a large table does not hold up small requests, and
no request waits for ever.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import pyarrow as pa
import torch

from difflm_core.generation.document_drawing import DocumentDrawing
from difflm_core.generation.drawing import Drawing, Rejections, Span
from difflm_core.generation.generator import SpanGenerator, require_identifiers

MAX_BATCH_ROWS = 1024
# Fewer rows than this are not spread over several threads.
MIN_BATCH_ROWS = 128
# At most so many waiting rows pass between two slots of a larger batch; more are worth their own.
MAX_PASSING_ROWS = 128
# A caller is put behind newcomers by a second for so many rows that it has had, ...
ROWS_PER_SECOND_OF_PATIENCE = 8192
# ... but never by more than this.
MAX_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True)
class Made:
    """A finished span.

    Attributes:
        records: Its rows, canonical.
        rejections: Rejected tries, by column and reason.
        waited_seconds: Time before its first batch began.
        made_seconds: Time from then on.
        shared_rows: Rows of its first batch.
    """

    records: pa.RecordBatch
    rejections: Rejections
    waited_seconds: float
    made_seconds: float
    shared_rows: int


@dataclass(order=True)
class _Job:
    due: float
    number: int
    generator: SpanGenerator = field(compare=False)
    drawing: Drawing | DocumentDrawing = field(compare=False)
    asked: float = field(compare=False)
    future: Future[Made] = field(compare=False, default_factory=Future[Made])
    begun: float | None = field(compare=False, default=None)
    shared_rows: int = field(compare=False, default=0)

    @property
    def num_rows(self) -> int:
        """Rows that its next batch would draw for it."""
        return self.drawing.next_rows


class BatchingEngine:
    """Makes spans of several generators for many callers.

    Attributes:
        num_threads: Batches decoded at the same time.
    """

    def __init__(self, num_threads: int | None = None) -> None:
        """Start the threads.

        Args:
            num_threads: Batches decoded at the same time; None: one for each thread that torch
                would use here.
        """
        self._torch_threads = torch.get_num_threads()
        self.num_threads = num_threads or self._torch_threads
        self._changed = threading.Condition()
        self._waiting: list[_Job] = []  # a heap
        self._numbers = itertools.count()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"decode-{index}", daemon=True)
            for index in range(self.num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, generator: SpanGenerator, span: Span, *, served_rows: int = 0) -> Future[Made]:
        """Ask for a span.

        Args:
            generator: Makes it.
            span: What is asked for.
            served_rows: Rows that the caller has had already.

        Returns:
            The result, or the `DiffLMError` that says why there is none. When it is cancelled, no
            further batch is decoded for it.

        Raises:
            DataError: an identifier column has fewer identifiers than rows.
            RuntimeError: the engine is closed.
        """
        require_identifiers(generator.codec, span.end)
        now = time.monotonic()
        patience = min(served_rows / ROWS_PER_SECOND_OF_PATIENCE, MAX_PATIENCE_SECONDS)
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            drawing = generator.begin(span)
            job = _Job(now + patience, next(self._numbers), generator, drawing, now)
            heapq.heappush(self._waiting, job)
            self._changed.notify()
        return job.future

    @property
    def num_waiting_rows(self) -> int:
        """Rows to be drawn that no batch has taken up."""
        with self._changed:
            return sum(job.num_rows for job in self._waiting)

    def close(self) -> None:
        """Cancel what waits, finish what was begun, and end the threads."""
        with self._changed:
            self._closed = True
            abandoned = [job for job in self._waiting if job.begun is None]
            self._waiting = [job for job in self._waiting if job.begun is not None]
            heapq.heapify(self._waiting)
            self._changed.notify_all()
        for job in abandoned:
            job.future.cancel()
        for thread in self._threads:
            thread.join()
        torch.set_num_threads(self._torch_threads)

    def _work(self) -> None:
        torch.set_num_threads(1)  # see `difflm_core.threads`
        unfinished: list[_Job] = []
        while batch := self._next_batch(unfinished):
            unfinished = self._decode(batch, self._let_few_pass)
            searching = [job for job in unfinished if job.drawing.span.options.conditions]
            if searching:
                # A search for rare rows takes many batches: others have their turn in between.
                unfinished = [job for job in unfinished if job not in searching]
                self._ask_again(searching)

    def _next_batch(self, unfinished: list[_Job]) -> list[_Job]:
        """The unfinished jobs and waiting ones of the same generator; empty at the end."""
        with self._changed:
            while True:
                while not (unfinished or self._waiting or self._closed):
                    self._changed.wait()
                waiting_rows = sum(job.num_rows for job in self._waiting)
                fair_share = -(-waiting_rows // self.num_threads)
                max_rows = min(MAX_BATCH_ROWS, max(MIN_BATCH_ROWS, fair_share))
                batch = self._take(unfinished, max_rows)
                if batch or self._closed:  # else all that waited was cancelled
                    return batch

    def _take(self, batch: list[_Job], max_rows: int) -> list[_Job]:
        """Add waiting jobs that fit, the one that is due first to an empty batch in any case."""
        batch, left = list(batch), list[_Job]()
        num_rows = sum(job.num_rows for job in batch)
        while self._waiting and num_rows < max_rows:
            job = heapq.heappop(self._waiting)
            fits = num_rows + job.num_rows <= max_rows or not batch
            if not fits or (batch and job.generator is not batch[0].generator):
                left.append(job)
            elif not job.future.cancelled():
                batch.append(job)
                num_rows += job.num_rows
        for job in left:
            heapq.heappush(self._waiting, job)
        return batch

    def _ask_again(self, begun: list[_Job]) -> None:
        """Put jobs back among the waiting ones; a search is behind who comes now."""
        now = time.monotonic()
        with self._changed:
            for job in begun:
                if job.drawing.span.options.conditions:
                    job.due = now
                heapq.heappush(self._waiting, job)
            self._changed.notify()

    def _let_few_pass(self) -> None:
        """Decode a few waiting rows in the middle of a larger batch."""
        with self._changed:
            if not self._waiting or sum(job.num_rows for job in self._waiting) > MAX_PASSING_ROWS:
                return
            batch = self._take([], MAX_PASSING_ROWS)
        if batch:
            self._ask_again(self._decode(batch))

    def _decode(
        self, batch: list[_Job], between_slots: Callable[[], None] | None = None
    ) -> list[_Job]:
        """Decode one batch; give the jobs that lack rows after it."""
        now = time.monotonic()
        num_rows = sum(job.num_rows for job in batch)
        for job in batch:
            if job.begun is None:
                job.begun, job.shared_rows = now, num_rows
        try:
            batch[0].generator.advance([job.drawing for job in batch], between_slots)
        except Exception as error:  # noqa: BLE001 - it is the callers' to handle; the thread goes on
            for job in batch:
                _fail(job, error)
            return []
        return [job for job in batch if not _is_finished(job)]


def _is_finished(job: _Job) -> bool:
    """Deliver the result of a job if there is one, or why there will be none."""
    drawing, begun = job.drawing, job.begun or job.asked
    try:
        if drawing.num_missing:
            drawing.check_attempts()
            return job.future.cancelled()
        records = drawing.records()
    except Exception as error:  # noqa: BLE001 - as above
        _fail(job, error)
        return True
    if not job.future.set_running_or_notify_cancel():
        return True
    job.future.set_result(
        Made(
            records,
            drawing.rejections,
            waited_seconds=begun - job.asked,
            made_seconds=time.monotonic() - begun,
            shared_rows=job.shared_rows,
        )
    )
    return True


def _fail(job: _Job, error: Exception) -> None:
    if job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)
