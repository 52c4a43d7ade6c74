"""The routes."""

# FastAPI reads annotations where Ray has unpickled them: no `from __future__ import annotations`.

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import IO, Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from components.serving.catalogue import details_of, distributions_of
from components.serving.formats import KINDS
from components.serving.gate import Gate, key_name_of
from components.serving.jobs import Jobs
from components.serving.keys import Caller
from components.serving.metrics import CONTENT_TYPE
from components.serving.problems import (
    ServiceError,
    describe_problems,
    install_handlers,
    responses,
)
from components.serving.schemas import (
    ROWS_HEADER,
    SEED_HEADER,
    VERSION_HEADER,
    Distributions,
    GenerateRequest,
    Health,
    Job,
    JobList,
    JobRequest,
    LimitsInfo,
    ModelDetails,
    ModelList,
    Rows,
)
from components.serving.service import Answer, Service
from difflm_core import storage

_LOGGER = logging.getLogger("difflm.serve")
PAGE = Path(__file__).with_name("page")
REFRESH_SECONDS = 10.0
_GRACE_SECONDS = 1.0
_FILE_CHUNK_BYTES = 1 << 20
_DESCRIPTION = """Synthetic rows on request.

A key, if one is needed, goes into `Authorization: Bearer KEY`. Errors are
`application/problem+json`; 429 and 503 say in `Retry-After` when to come back. The same model
version, seed and request give the same rows. An answer that cannot be finished breaks its
connection: it never ends early as if it were complete."""


def make_app(
    service: Service,
    results: str | None,
    *,
    allowed_hosts: tuple[str, ...] | None = None,
    refresh_seconds: float = REFRESH_SECONDS,
) -> FastAPI:
    """The application.

    Args:
        service: What stands behind the routes.
        results: Folder of the jobs; None: there are none.
        allowed_hosts: See `Gate`.
        refresh_seconds: How often to look for new models.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        await service.refresh()
        jobs = app.state.jobs = Jobs(service, results) if results else None
        if jobs:
            await jobs.resume()
        task = asyncio.create_task(_housekeeping(service, jobs, refresh_seconds))
        yield
        task.cancel()
        if jobs:
            await jobs.close()

    app = FastAPI(
        title="DiffLM",
        version="1",
        description=_DESCRIPTION,
        docs_url=None,  # both load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.add_middleware(
        Gate, limits=service.limits, metrics=service.metrics, allowed_hosts=allowed_hosts
    )
    install_handlers(app, lambda code: service.metrics.refused.labels(code).inc())
    describe_problems(app, keys_required=service.keys.required)
    _add_operations(app, service)
    _add_models(app, service)
    _add_jobs(app)
    _add_page(app)
    return app


async def _housekeeping(service: Service, jobs: Jobs | None, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await service.refresh()
            if jobs:
                await jobs.remove_old()
        except Exception:
            _LOGGER.exception("looking for new models failed; it is tried again")


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["operations"])
    async def healthz() -> Health:
        """Whether the front works."""
        return Health(status="ok")

    @app.get("/readyz", tags=["operations"], responses=responses("unavailable"))
    async def readyz() -> Health:
        """Whether rows can be had: there is a model, and a replica answers."""
        if not service.registry.models:
            raise ServiceError("unavailable", "There is no model yet.", 5)
        await service.generators.check()
        return Health(status="ok")

    @app.get("/metrics", tags=["operations"], response_class=Response)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/limits", tags=["operations"])
    async def limits() -> LimitsInfo:
        """What the service allows."""
        return LimitsInfo(
            keys_required=service.keys.required,
            rows_per_request=service.limits.rows_per_request,
            rows_per_job=service.limits.rows_per_job,
            formats=list(KINDS),
            job_formats=["parquet", "csv", "jsonl"],
        )


async def _caller(request: Request) -> Caller:
    """Who makes a request."""
    service: Service = request.app.state.service
    found = service.keys.caller(request.headers)
    key_name_of(request, found.name)
    found.charge_request()
    return found


_Caller = Annotated[Caller, Depends(_caller)]


def _add_models(app: FastAPI, service: Service) -> None:
    refused = responses("key_missing", "not_allowed", "rate_limited")
    refused_model = refused | responses("not_found")

    @app.get("/v1/models", tags=["models"], responses=refused)
    async def list_models(caller: _Caller) -> ModelList:
        """The models."""
        models = service.registry.models.values()
        return ModelList(models=[m.summary for m in models if caller.may_use(m.ref.id)])

    @app.get("/v1/models/{model}", tags=["models"], responses=refused_model)
    async def describe(model: str, caller: _Caller) -> ModelDetails:
        """Columns, card and quality of a model."""
        return details_of(service.model_for(caller, model))

    @app.get("/v1/models/{model}/distributions", tags=["models"], responses=refused_model)
    async def distributions(model: str, caller: _Caller) -> Distributions:
        """Distributions of the training values, as the model knows them."""
        return distributions_of(service.model_for(caller, model))

    others = {
        kind.media_type.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}}
        for name, kind in KINDS.items()
        if name != "json"
    }
    headers = {
        SEED_HEADER: {"description": "The seed.", "schema": {"type": "integer"}},
        ROWS_HEADER: {"description": "Rows of the answer.", "schema": {"type": "integer"}},
        VERSION_HEADER: {"description": "Version of the model.", "schema": {"type": "string"}},
    }
    made = {200: {"model": Rows, "content": others, "headers": headers}}

    @app.post(
        "/v1/models/{model}/generate",
        tags=["models"],
        response_class=StreamingResponse,
        responses=made
        | refused_model
        | responses("bad_request", "too_large", "request_timeout", "rows_exhausted"),
    )
    async def generate(
        model: str, request: GenerateRequest, caller: _Caller, connection: Request
    ) -> StreamingResponse:
        """Make rows; the answer is streamed."""
        begun = service.generate(caller, model, request)
        return _Streamed(await _unless_gone(connection, begun), request)


async def _unless_gone(request: Request, begun: Coroutine[Any, Any, Answer]) -> Answer:
    """Await the beginning of an answer, as long as the caller does."""

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    making, leaving = asyncio.ensure_future(begun), asyncio.ensure_future(leave())
    try:
        await asyncio.wait({making, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not making.done():
            raise ServiceError("bad_request", "The caller is gone.")
        return await making
    finally:
        making.cancel()
        leaving.cancel()


class _Streamed(StreamingResponse):
    """An answer that ends its work when nobody listens any more."""

    def __init__(self, answer: Answer, request: GenerateRequest) -> None:
        order, kind = answer.order, KINDS[request.format]
        headers = {
            SEED_HEADER: str(order.sampling.seed),
            ROWS_HEADER: str(order.count),
            VERSION_HEADER: order.model.ref.version,
            "Cache-Control": "no-store",
        }
        if kind.suffix:
            name = f"synthetic-{order.sampling.seed}{kind.suffix}"
            headers["Content-Disposition"] = f'attachment; filename="{name}"'
        super().__init__(answer.chunks, headers=headers, media_type=kind.media_type)
        self._chunks = answer.chunks
        self._deadline = answer.deadline + _GRACE_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # Whoever stops reading must not keep one of the places.
            async with asyncio.timeout_at(self._deadline):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            raise ServiceError("deadline", "The answer was not read in time.") from None
        finally:
            await self._chunks.aclose()


def _add_jobs(app: FastAPI) -> None:
    refused = responses("key_missing", "rate_limited")
    refused_job = refused | responses("not_found")

    def jobs() -> Jobs:
        if app.state.jobs is None:
            raise ServiceError("not_found", "This service keeps no results, and so no jobs.")
        return app.state.jobs

    @app.post(
        "/v1/jobs",
        tags=["jobs"],
        status_code=202,
        responses=refused_job
        | responses("bad_request", "not_allowed", "too_large", "request_timeout", "rows_exhausted"),
    )
    async def submit(request: JobRequest, caller: _Caller, response: Response) -> Job:
        """Have rows written to files."""
        job = await jobs().submit(caller, request)
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return job

    @app.get("/v1/jobs", tags=["jobs"], responses=refused)
    async def list_jobs(caller: _Caller) -> JobList:
        """Your jobs."""
        return JobList(jobs=jobs().list(caller))

    @app.get("/v1/jobs/{job_id}", tags=["jobs"], responses=refused_job)
    async def get_job(job_id: str, caller: _Caller) -> Job:
        """How far a job is."""
        return jobs().get(caller, job_id)

    @app.delete("/v1/jobs/{job_id}", tags=["jobs"], responses=refused_job)
    async def cancel(job_id: str, caller: _Caller) -> Job:
        """Stop a job, and remove its files."""
        return await jobs().cancel(caller, job_id)

    binary = {200: {"content": {"application/octet-stream": {}}}}

    @app.get(
        "/v1/jobs/{job_id}/files/{name}",
        tags=["jobs"],
        response_class=StreamingResponse,
        responses=binary | refused_job,
    )
    async def download(job_id: str, name: str, caller: _Caller) -> StreamingResponse:
        """A file of a job."""
        uri, size = jobs().file(caller, job_id, name)
        try:
            file = await asyncio.to_thread(storage.open_file, uri)
        except FileNotFoundError:
            raise ServiceError("not_found", f"{name} was removed from the storage.") from None
        headers = {
            "Content-Length": str(size),
            "Content-Disposition": f'attachment; filename="{name}"',
        }
        return StreamingResponse(
            _read(file), headers=headers, media_type="application/octet-stream"
        )


async def _read(file: IO[bytes]) -> AsyncGenerator[bytes]:
    with file:
        while chunk := await asyncio.to_thread(file.read, _FILE_CHUNK_BYTES):
            yield chunk


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/assets", StaticFiles(directory=PAGE, check_dir=False), name="assets")
