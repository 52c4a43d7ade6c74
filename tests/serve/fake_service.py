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
import zlib
from pathlib import Path
from typing import Any

import numpy as np
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

PAGE = Path(components.serving.__file__).parent / "page"
ADULT = Path(__file__).parents[2] / "examples/data/adult_train.parquet"
POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'"
KEY = "a-key"
MEDIA = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
    "ndjson": "application/x-ndjson",
}
HOSTILE = ["<script>alert(1)</script>", "<img src=x onerror=alert(2)>", 'it\'s "quoted" & plain']


class Refusal(Exception):
    """An answer that is a problem."""

    def __init__(self, status: int, detail: str, retry_after: int | None = None, errors=()):
        self.problem = schemas.Problem(
            title=f"Status {status}",
            status=status,
            code=f"status_{status}",
            detail=detail,
            request_id="0123456789abcdef",
            retry_after_seconds=retry_after,
            errors=list(errors),
        )


class Table:
    """A model: a table whose rows are drawn, and what the service says about it."""

    def __init__(self, name: str, frame: pd.DataFrame, kinds: dict[str, str], target, quality):
        self.name, self.frame, self.kinds = name, frame, kinds
        self.target, self.quality = target, quality
        self.version = f"{zlib.crc32(name.encode()):08x}"

    def draw(self, sampling: schemas.Sampling, count: int, seed: int) -> pd.DataFrame:
        rows = self.frame[self.matches(sampling.conditions)]
        return rows.iloc[np.random.default_rng(seed).integers(len(rows), size=count)]

    def matches(self, conditions: dict[str, Any]) -> np.ndarray:
        keep = np.ones(len(self.frame), bool)
        for name, wanted in conditions.items():
            values = self.frame[name]
            if isinstance(wanted, schemas.Range):
                if None not in (wanted.min, wanted.max) and wanted.min > wanted.max:
                    problem = schemas.FieldProblem(
                        field=f"conditions.{name}", message="min is above max."
                    )
                    raise Refusal(422, "The request has 1 wrong value.", errors=[problem])
                keep &= (values >= wanted.min) if wanted.min is not None else True
                keep &= (values <= wanted.max) if wanted.max is not None else True
            else:
                keep &= values.isin(wanted if isinstance(wanted, list) else [wanted])
        return keep

    def summary(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "version": self.version,
            "num_columns": len(self.kinds),
            "num_training_rows": len(self.frame),
            "target": self.target,
            "headline": self.quality and self.quality.headline,
        }

    def details(self) -> schemas.ModelDetails:
        columns = [self.column(name, kind) for name, kind in self.kinds.items()]
        return schemas.ModelDetails(
            **self.summary(), columns=columns, card=CARD, quality=self.quality
        )

    def column(self, name: str, kind: str) -> schemas.ColumnInfo:
        values = self.frame[name].dropna()
        listed = kind in ("categorical", "boolean")
        ordered = kind in ("integer", "float", "datetime", "date", "time")
        return schemas.ColumnInfo(
            name=name,
            kind=kind,
            nullable=bool(self.frame[name].isna().any()),
            is_target=name == self.target,
            categories=list(values.unique().tolist()) if listed else None,
            minimum=values.min().item()
            if kind in ("integer", "float")
            else (values.min() if ordered else None),
            maximum=values.max().item()
            if kind in ("integer", "float")
            else (values.max() if ordered else None),
            conditional=listed or ordered,
        )

    def distributions(self) -> schemas.Distributions:
        shown = [n for n, kind in self.kinds.items() if kind not in ("text", "identifier")]
        return schemas.Distributions(columns=[self.distribution(name) for name in shown])

    def distribution(self, name: str) -> schemas.Distribution:
        values, missing = self.frame[name].dropna(), float(self.frame[name].isna().mean())
        if self.kinds[name] in ("categorical", "boolean") or values.nunique() <= 16:
            shares = values.value_counts(normalize=True)
            if self.kinds[name] in ("integer", "float"):
                shares = shares.sort_index()
            labels = shares.index.tolist()
            return schemas.Distribution(
                name=name, labels=labels, edges=None, shares=shares.tolist(), missing=missing
            )
        dates = self.kinds[name] not in ("integer", "float")
        numbers = pd.to_datetime(values, format="mixed").astype("int64") if dates else values
        counts, edges = np.histogram(numbers, bins=24)
        bounds = [form(self.kinds[name], edge) if dates else float(edge) for edge in edges]
        shares = (counts / counts.sum()).tolist()
        return schemas.Distribution(
            name=name, labels=None, edges=bounds, shares=shares, missing=missing
        )


def form(kind: str, stamp: float) -> str:
    """An edge as ISO 8601."""
    moment = pd.Timestamp(int(stamp), unit="us" if abs(stamp) < 1e17 else "ns")
    return {"date": moment.date, "time": moment.time, "datetime": lambda: moment}[
        kind
    ]().isoformat()


def adult() -> Table:
    frame = pq.read_table(ADULT).to_pandas().replace("?", None)
    kinds = {n: "integer" if frame[n].dtype.kind == "i" else "categorical" for n in frame}
    findings = [
        ("Usefulness for a model", "-0.5 %", "good", USEFUL),
        ("Telling it from real rows", "0.496", "good", "A model ranks them right this often."),
        ("Columns (shape error)", "0.18 %", "good", "Mean difference of each column."),
        ("Relations (trend error)", "3.93 %", "fair", "Mean difference of each pair of columns."),
        ("Invalid rows", "0", "good", "Rows with a value of a wrong type, or outside its range."),
        ("Exact copies", "0.00 %", "good", "Share of rows that equal a training row."),
        ("Closer to training than to holdout", "56.0 %", "bad", CLOSER),
        ("Membership attack", "–", "unknown", "Not computed: the test table is too small."),
    ]
    quality = schemas.Quality(
        light="fair",
        headline="The synthetic table resembles the real one, with differences a model can find, "
        "but shows no sign of copying its training rows.",
        findings=[
            schemas.Finding(title=title, value=value, light=light, sentence=sentence)
            for title, value, light, sentence in findings
        ],
    )
    return Table("adult", frame, kinds, "income", quality)


def visits() -> Table:
    """Every kind of column, and values that look like markup."""
    draw, size = np.random.default_rng(1), 2000
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(draw.integers(0, 366, size), unit="D")
    seconds = pd.to_timedelta(draw.normal(12 * 3600, 7000, size).clip(0, 86399).astype(int), "s")
    frame = pd.DataFrame(
        {
            "visit id": [f"V-{n:06d}" for n in range(size)],
            "reason": draw.choice([*HOSTILE, "check-up"], size, p=[0.4, 0.3, 0.2, 0.1]),
            "arrived": [moment.isoformat() for moment in days + seconds],
            "day": [moment.date().isoformat() for moment in days],
            "hour": [moment.time().isoformat() for moment in days + seconds],
            "paid": draw.choice([True, False], size, p=[0.7, 0.3]).astype(object),
            "cost": draw.gamma(2, 40, size).round(2),
            "<b>note</b>": draw.choice([HOSTILE[1], "came back with a cough " * 4, "well"], size),
        }
    )
    frame.loc[draw.random(size) < 0.1, "cost"] = np.nan
    kinds = dict(
        zip(
            frame,
            "identifier categorical datetime date time boolean float text".split(),
            strict=True,
        )
    )
    return Table("visits", frame, kinds, None, None)


USEFUL = (
    "XGBoost trained on synthetic rows reaches ROC AUC 0.9228 on real test rows; trained on the "
    "real rows, 0.9274."
)
CLOSER = (
    "Share of synthetic rows whose closest real row is a training row rather than one of as many "
    "unseen rows."
)
CARD = """# Model card: generator of synthetic records

A **DiffLM** model with `code`, *emphasis*, [a link](https://example.org/) and <b>no markup</b>.

## Trained on

| column | kind | may be missing |
|-|-|-|
| capital\\_gain | integer | no |
| a \\| b | categorical | yes |

- seed: 0
- vae: depth 4,
  width 256

    difflm sample <this folder> -n 1000

[never](javascript:alert(3))
"""


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
