"""Jobs: tables too large for an answer, written to files while nobody waits.

    RESULTS/<id>/job.json              what was asked for, by whom, and how far it is
    RESULTS/<id>/part-00000.parquet    rows, in files of PART_ROWS

A file appears when it is complete, and a file is a function of the job alone; so a service that
was stopped goes on with the first file that is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import re
import secrets
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from components.serving.formats import decode_canonical
from components.serving.keys import Caller
from components.serving.problems import ServiceError
from components.serving.schemas import Job, JobFile, JobRequest, JobStatus
from components.serving.service import SPAN_ROWS, Order, Service
from difflm_core import storage
from difflm_core.data.writers import RecordWriter
from difflm_core.errors import DiffLMError

_LOGGER = logging.getLogger("difflm.serve")
PART_ROWS = 256 * SPAN_ROWS
STATE_NAME = "job.json"
_ID = re.compile(r"[0-9a-f]{16}")
_FILE_NAME = re.compile(r"part-\d{5}\.(parquet|csv|jsonl)")
_BUSY_RETRY_SECONDS = 60
_T = TypeVar("_T")


class _State(BaseModel):
    """What is kept of a job."""

    model_config = ConfigDict(extra="forbid")

    id: str
    owner: str | None
    request: JobRequest
    version: str
    status: JobStatus = "waiting"
    num_done: int = 0
    created_utc: str
    finished_utc: str | None = None
    files: list[JobFile] = []
    error: str | None = None


@dataclass
class _Running:
    state: _State
    caller: Caller | None = None  # None: it was charged by an earlier service
    task: asyncio.Task[None] | None = None


class Jobs:
    """The jobs of a service."""

    def __init__(self, service: Service, results: str) -> None:
        """Keep jobs under the folder `results`."""
        self._service = service
        self._results = results
        self._jobs: dict[str, _Running] = {}
        self._places = asyncio.Semaphore(service.limits.concurrent_jobs)

    async def resume(self) -> None:
        """Read the jobs of an earlier service, and go on with the unfinished ones."""
        for state in await asyncio.to_thread(self._read_states):
            self._jobs[state.id] = _Running(state)
            if state.status in ("waiting", "running"):
                state.status = "waiting"
                self._start(self._jobs[state.id])

    def _read_states(self) -> list[_State]:
        states: list[_State] = []
        for info in storage.list_files(self._results):
            folder, _, name = info.path.partition("/")
            if name == STATE_NAME and _ID.fullmatch(folder):
                try:
                    text = storage.read_text(self._path(folder, STATE_NAME))
                    state = _State.model_validate_json(text)
                except ValueError:
                    state = None
                if state is None or state.id != folder:
                    _LOGGER.warning("job %s: its state cannot be read; it is left alone", folder)
                else:
                    states.append(state)
        return states

    async def submit(self, caller: Caller, request: JobRequest) -> Job:
        """Take a job.

        Raises:
            ServiceError: it cannot be done, or not now.
        """
        model = self._service.model_for(caller, request.model)
        limits = self._service.limits
        if request.count > limits.rows_per_job:
            raise ServiceError(
                "invalid",
                f"count: {request.count:,} rows were asked for; a job has "
                f"{limits.rows_per_job:,} at most.",
            )
        order = self._service.order(model, request, first=0, count=request.count, format=None)
        if sum(job.state.status == "waiting" for job in self._jobs.values()) >= limits.waiting_jobs:
            raise ServiceError("busy", "Too many jobs wait already.", _BUSY_RETRY_SECONDS)
        caller.charge_rows(request.count)
        state = _State(
            id=secrets.token_hex(8),
            owner=caller.name,
            request=request.model_copy(update={"seed": order.sampling.seed}),
            version=model.ref.version,
            created_utc=_now(),
        )
        job = self._jobs[state.id] = _Running(state, caller)  # others see it before it is saved
        try:
            await self._save(state)
        except BaseException:
            del self._jobs[state.id]
            caller.give_back_rows(request.count)
            raise
        self._start(job)
        return self._shown(state)

    def list(self, caller: Caller) -> list[Job]:
        """The caller's jobs, the newest first."""
        jobs = reversed(self._jobs.values())
        states = [job.state for job in jobs if job.state.owner == caller.name]
        states.sort(key=lambda state: state.created_utc, reverse=True)
        return [self._shown(state) for state in states]

    def get(self, caller: Caller, job_id: str) -> Job:
        """A job of the caller.

        Raises:
            ServiceError: there is none.
        """
        return self._shown(self._find(caller, job_id).state)

    async def cancel(self, caller: Caller, job_id: str) -> Job:
        """Stop a job and remove its files; a finished one keeps its status.

        Raises:
            ServiceError: there is none.
        """
        job = self._find(caller, job_id)
        if job.task is not None and not job.task.done():
            job.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await job.task
        if job.state.status in ("waiting", "running"):
            job.state.status, job.state.finished_utc = "cancelled", _now()
            _give_back(job)
        await asyncio.to_thread(self._remove_files, job.state)
        await self._save(job.state)
        self._count()
        return self._shown(job.state)

    def file(self, caller: Caller, job_id: str, name: str) -> tuple[str, int]:
        """URI and size of a file of a job.

        Raises:
            ServiceError: there is none.
        """
        state = self._find(caller, job_id).state
        for known in state.files:
            if known.name == name:
                return self._path(state.id, name), known.bytes
        raise ServiceError("not_found", f"The job {job_id} has no file of that name.")

    async def remove_old(self) -> None:
        """Remove jobs that finished long ago."""
        now = datetime.datetime.now(datetime.UTC)
        for job_id, job in [*self._jobs.items()]:
            finished = job.state.finished_utc
            if finished is None:
                continue
            age = now - datetime.datetime.fromisoformat(finished)
            if age > datetime.timedelta(days=self._service.limits.job_days):
                del self._jobs[job_id]
                await asyncio.to_thread(storage.remove_tree, self._path(job_id))

    async def close(self) -> None:
        """Stop; unfinished jobs are gone on with by `resume`."""
        tasks = [job.task for job in self._jobs.values() if job.task and not job.task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _find(self, caller: Caller, job_id: str) -> _Running:
        job = self._jobs.get(job_id)
        if job is None or job.state.owner != caller.name:
            raise ServiceError("not_found", "You have no job of that id.")
        return job

    def _start(self, job: _Running) -> None:
        job.task = asyncio.get_running_loop().create_task(self._run(job))
        self._count()

    async def _run(self, job: _Running) -> None:
        state = job.state
        async with self._places:
            state.status = "running"
            self._count()
            try:
                await self._write_parts(state)
                await self._finish(state, "succeeded")
            except (ServiceError, DiffLMError) as error:
                _give_back(job)
                detail = error.detail if isinstance(error, ServiceError) else str(error)
                await self._finish(state, "failed", detail)
            except Exception:
                _LOGGER.exception("job %s failed", state.id)
                _give_back(job)
                await self._finish(state, "failed", "The service failed; its log says more.")

    async def _finish(
        self, state: _State, status: Literal["succeeded", "failed"], error: str | None = None
    ) -> None:
        end = {"status": status, "error": error, "finished_utc": _now()}
        # Stored before it is told: what a caller has seen is never taken back by a restart.
        await self._save(state.model_copy(update=end))
        state.status, state.error, state.finished_utc = status, error, end["finished_utc"]
        self._count()

    async def _write_parts(self, state: _State) -> None:
        model = self._service.registry.get(state.request.model)
        if model.ref.version != state.version:
            raise ServiceError(
                "conflict", "The model was replaced before the job was done; submit it again."
            )
        await self._save(state)
        for index, first in enumerate(range(0, state.request.count, PART_ROWS)):
            if index < len(state.files):
                continue
            count = min(PART_ROWS, state.request.count - first)
            state.num_done = first
            order = self._service.order(model, state.request, first=first, count=count, format=None)
            await self._write_part(state, order, f"part-{index:05d}.{state.request.format}")

    async def _write_part(self, state: _State, order: Order, name: str) -> None:
        uri, schema = self._path(state.id, name), order.model.schema
        writer = RecordWriter(uri, schema, state.request.format)

        def write(piece: bytes) -> None:
            writer.write(decode_canonical(piece, schema))

        async with (
            contextlib.aclosing(self._service.made(order, patient=True)) as spans,
            _open(writer),
        ):
            async for span in spans:
                await _in_thread(write, span.piece)
                state.num_done += span.num_rows
        size = await asyncio.to_thread(storage.size, uri)
        url = f"/v1/jobs/{state.id}/files/{name}"
        state.files.append(JobFile(name=name, bytes=size, rows=order.count, url=url))
        await self._save(state)

    def _remove_files(self, state: _State) -> None:
        for info in storage.list_files(self._path(state.id)):
            if info.path != STATE_NAME:
                storage.remove(self._path(state.id, info.path))
        state.files = []

    async def _save(self, state: _State) -> None:
        uri = self._path(state.id, STATE_NAME)
        await _in_thread(storage.write_text, uri, state.model_dump_json(indent=1) + "\n")

    def _path(self, *parts: str) -> str:
        return storage.join(self._results, *parts)

    def _count(self) -> None:
        counts: dict[str, int] = {}
        for job in self._jobs.values():
            counts[job.state.status] = counts.get(job.state.status, 0) + 1
        for status in ("waiting", "running", "succeeded", "failed", "cancelled"):
            self._service.metrics.jobs.labels(status).set(counts.get(status, 0))

    def _shown(self, state: _State) -> Job:
        return Job(
            id=state.id,
            model=state.request.model,
            version=state.version,
            status=state.status,
            count=state.request.count,
            num_done=state.num_done,
            seed=state.request.seed or 0,
            format=state.request.format,
            created_utc=state.created_utc,
            finished_utc=state.finished_utc,
            result_uri=self._path(state.id),
            files=state.files,
            error=state.error,
        )


@contextlib.asynccontextmanager
async def _open(writer: RecordWriter) -> AsyncGenerator[None]:
    """Open and close a file off the event loop: closing one may be an upload."""
    try:
        await _in_thread(writer.__enter__)
        yield
    except BaseException as error:
        await _in_thread(writer.__exit__, type(error), error, error.__traceback__)
        raise
    await _in_thread(writer.__exit__, None, None, None)


async def _in_thread(function: Callable[..., _T], *args: object) -> _T:
    """Call in a thread; whoever is cancelled waits for its end, and nothing is written later."""
    call = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait({call})
        raise


def _give_back(job: _Running) -> None:
    """Give the caller the rows back that are not made."""
    if job.caller is not None:
        job.caller.give_back_rows(job.state.request.count - job.state.num_done)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
