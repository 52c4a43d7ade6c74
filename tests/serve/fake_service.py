"""A service as the page sees it: the messages of schemas.py, and tables that are drawn, not made.

    python -m tests.serve.fake_service 8000

`Fake` has switches for what goes wrong, and keeps what it was asked.
"""

import asyncio
import contextlib
import io
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

import components.serving
from components.serving import schemas
from tests.serve.fake_tables import (
    Refusal,
    Table,
    adult,
    visits,
)

PAGE = Path(components.serving.__file__).parent / "page"
POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'"
KEY = "a-key"
MEDIA = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
    "ndjson": "application/x-ndjson",
}


class Fake:
    """The state of the service: switches, and a record of requests."""

    def __init__(self):
        self.tables = {table.name: table for table in (adult(), visits())}
        self.reset()

    def reset(self) -> None:
        self.models = list(self.tables)
        self.key_required = False
        self.forbidden: set[str] = set()
        self.refusals: list[Refusal] = []  # of the next calls of generate
        self.break_after: int | None = None
        self.delay = 0.0  # seconds after every 50 rows
        self.rows_per_request = 100_000
        self.job_speed = 1e9  # rows a second
        self.requests: list[tuple[str, str, Any]] = []
        self.num_left = 0  # streams that the page left
        self.jobs: dict[str, tuple[float, schemas.Job]] = {}

    def bodies(self, path: str) -> list[Any]:
        return [body for method, asked, body in self.requests if (method, asked) == ("POST", path)]

    def table(self, name: str) -> Table:
        if name in self.forbidden:
            raise Refusal(403, "This key does not open it.")
        if name not in self.models:
            raise Refusal(404, f"There is no model '{name}' here.")
        return self.tables[name]

    def job(self, name: str) -> schemas.Job:
        if name not in self.jobs:
            raise Refusal(404, "There is no such job.")
        begun, job = self.jobs[name]
        if job.status not in ("waiting", "running"):
            return job
        job.num_done = min(job.count, int((time.monotonic() - begun) * self.job_speed))
        job.status = "succeeded" if job.num_done == job.count else "running"
        if job.status == "succeeded":
            job.files = [
                schemas.JobFile(
                    name=f"part-00000.{job.format}",
                    bytes=1_234_567,
                    rows=job.count,
                    url=f"/v1/jobs/{job.id}/files/part-00000.{job.format}",
                )
            ]
        return job


def lines_of(frame: pd.DataFrame):
    # The JSON of pandas has null for what is missing.
    for start in range(0, len(frame), 50):
        yield frame.iloc[start : start + 50].to_json(orient="records", lines=True)


def packed(frame: pd.DataFrame, form: str) -> bytes:
    if form == "csv":
        return frame.to_csv(index=False).encode()
    table, sink = pa.Table.from_pandas(frame, preserve_index=False), io.BytesIO()
    if form == "parquet":
        pq.write_table(table, sink)
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


def application(fake: Fake, prefix: str = "") -> FastAPI:
    """The routes of the service that the page uses."""
    app = FastAPI()
    app.mount(f"{prefix}/assets", StaticFiles(directory=PAGE))

    @app.middleware("http")
    async def guard(request: Request, call_next):
        path = request.url.path.removeprefix(prefix)
        body = await request.body()
        fake.requests.append((request.method, path, json.loads(body) if body else None))
        closed = path.startswith("/v1/") and path != "/v1/limits"
        if closed and fake.key_required and request.headers.get("Authorization") != f"Bearer {KEY}":
            answer = refuse(request, Refusal(401, "This key is not known."))
        else:
            answer = await call_next(request)
        answer.headers["Content-Security-Policy"] = POLICY
        return answer

    @app.exception_handler(Refusal)
    def refuse(request: Request, refusal: Refusal):
        problem = refusal.problem
        headers = {}
        if problem.retry_after_seconds is not None:
            headers["Retry-After"] = str(problem.retry_after_seconds)
        return JSONResponse(
            problem.model_dump(), problem.status, headers, "application/problem+json"
        )

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError):
        errors = [
            schemas.FieldProblem(field=".".join(map(str, each["loc"][1:])), message=each["msg"])
            for each in error.errors()
        ]
        detail = f"The request has {len(errors)} wrong value{'s' if len(errors) > 1 else ''}."
        return refuse(request, Refusal(422, detail, errors=errors))

    @app.get(f"{prefix}/")
    def page():
        return FileResponse(PAGE / "index.html")

    @app.get(f"{prefix}/v1/limits")
    def limits() -> schemas.LimitsInfo:
        return schemas.LimitsInfo(
            keys_required=fake.key_required,
            rows_per_request=fake.rows_per_request,
            rows_per_job=10_000_000,
            formats=["json", "ndjson", "csv", "parquet", "arrow"],
            job_formats=["parquet", "csv", "jsonl"],
        )

    @app.get(f"{prefix}/v1/models")
    def models() -> schemas.ModelList:
        shown = [schemas.ModelSummary(**fake.tables[name].summary()) for name in fake.models]
        return schemas.ModelList(models=shown)

    @app.get(f"{prefix}/v1/models/{{name}}")
    def model(name: str) -> schemas.ModelDetails:
        return fake.table(name).details()

    @app.get(f"{prefix}/v1/models/{{name}}/distributions")
    def distributions(name: str) -> schemas.Distributions:
        return fake.table(name).distributions()

    @app.post(f"{prefix}/v1/models/{{name}}/generate")
    def generate(name: str, asked: schemas.GenerateRequest):
        if fake.refusals:
            raise fake.refusals.pop(0)
        table = fake.table(name)
        seed = 4711 if asked.seed is None else asked.seed
        frame = table.draw(asked, asked.count, seed)
        headers = {
            schemas.SEED_HEADER: str(seed),
            schemas.ROWS_HEADER: str(len(frame)),
            schemas.VERSION_HEADER: table.version,
        }
        # Only what the page streams is slow; a file comes at once.
        stream = slowly(frame) if asked.format == "ndjson" else iter([packed(frame, asked.format)])
        return StreamingResponse(stream, headers=headers, media_type=MEDIA[asked.format])

    async def slowly(frame: pd.DataFrame):
        try:
            for index, piece in enumerate(lines_of(frame)):
                if fake.break_after is not None and 50 * index >= fake.break_after:
                    raise ConnectionError("broken by the test")
                yield piece
                await asyncio.sleep(fake.delay)
        except (asyncio.CancelledError, GeneratorExit):
            fake.num_left += 1
            raise

    @app.post(f"{prefix}/v1/jobs", status_code=202)
    def start_job(asked: schemas.JobRequest) -> schemas.Job:
        table = fake.table(asked.model)
        name = f"job-{len(fake.jobs)}"
        job = schemas.Job(
            id=name,
            version=table.version,
            status="waiting",
            num_done=0,
            created_utc="2026-01-01T00:00:00Z",
            finished_utc=None,
            result_uri=f"s3://bucket/{name}",
            files=[],
            error=None,
            **asked.model_dump(include={"model", "count", "format"}),
            seed=asked.seed or 4711,
        )
        fake.jobs[name] = (time.monotonic(), job)
        return job

    @app.get(f"{prefix}/v1/jobs")
    def list_jobs() -> schemas.JobList:
        return schemas.JobList(jobs=[fake.job(name) for name in reversed(fake.jobs)])

    @app.get(f"{prefix}/v1/jobs/{{name}}")
    def get_job(name: str) -> schemas.Job:
        return fake.job(name)

    @app.delete(f"{prefix}/v1/jobs/{{name}}")
    def cancel_job(name: str) -> schemas.Job:
        fake.job(name).status = "cancelled"
        return fake.job(name)

    @app.get(f"{prefix}/v1/jobs/{{name}}/files/{{file}}")
    def job_file(name: str, file: str):
        return Response(f"{name}/{file}", media_type="application/octet-stream")

    return app


@contextlib.contextmanager
def serving(app: FastAPI, port: int = 0):
    """Serve on the loopback; gives the address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


if __name__ == "__main__":
    state = Fake()
    state.delay = 0.05
    with serving(application(state), int(sys.argv[1])) as address:
        sys.stdout.write(f"{address}\n")
        threading.Event().wait()
