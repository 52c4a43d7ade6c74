"""A service as the client meets it, which breaks off as it is told."""

import io
import json

import httpx
import pyarrow as pa

from difflm_core.client import Client

KEY = "sk-test-0123456789"
LIMITS = {
    "keys_required": True,
    "rows_per_request": 100_000,
    "rows_per_job": 10**9,
    "formats": ["json", "ndjson", "csv", "parquet", "arrow"],
    "job_formats": ["parquet", "csv", "jsonl"],
}


def column(name, nullable=False):
    return {
        "name": name,
        "kind": "integer",
        "nullable": nullable,
        "is_target": False,
        "categories": None,
        "minimum": None,
        "maximum": None,
        "conditional": True,
    }


DETAILS = {
    "id": "adult",
    "version": "v1",
    "num_columns": 2,
    "num_training_rows": None,
    "target": None,
    "headline": None,
    "columns": [column("row"), column("seed", nullable=True)],
    "card": "# Adult",
    "quality": None,
}


class Clock:
    """Time that passes only by waiting."""

    def __init__(self):
        self.now = 0.0
        self.waits = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += seconds


def rows_of(first, count, seed):
    return pa.table(
        {
            "row": pa.array(range(first, first + count), pa.int64()),
            "seed": pa.array([seed] * count, pa.int64()),
            "text": pa.array(
                [f'{i} "quoted",\nline' for i in range(first, first + count)], pa.string()
            ),
        }
    )


def arrow_bytes(table, batch_rows=256):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=batch_rows):
            writer.write_batch(batch)
    return sink.getvalue()


def encoded(table, kind, batch_rows=256):
    if kind == "arrow":
        return arrow_bytes(table, batch_rows)
    rows = table.to_pylist()
    if kind == "ndjson":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    lines = ['row,seed,"te""x\nt"']
    for row in rows:
        doubled = row["text"].replace('"', '""')
        lines.append(f'{row["row"]},{row["seed"]},"{doubled}"')
    return "".join(line + "\n" for line in lines).encode()


class Broken(httpx.SyncByteStream):
    """A body in chunks that may break off."""

    def __init__(self, data, cut=None, chunk=1000, error=httpx.RemoteProtocolError):
        self.data, self.cut, self.chunk, self.error = data, cut, chunk, error

    def __iter__(self):
        end = len(self.data) if self.cut is None else self.cut
        for start in range(0, end, self.chunk):
            yield self.data[start : min(end, start + self.chunk)]
        if self.cut is not None:
            raise self.error("peer closed connection")


class Service:
    """Answers as the service does, after what the test has put in front.

    Every entry of `next` meets one request for rows: a response, an error, or a function that
    takes the body and gives one; None lets it be answered.
    """

    def __init__(self, limits=LIMITS, batch_rows=256):
        self.requests, self.pages, self.next = [], [], []
        self.limits, self.batch_rows = limits, batch_rows
        self.version, self.new_seed = "v1", 99
        self.clock = Clock()

    def client(self, url="http://127.0.0.1:8000", **options):
        options.setdefault("key", KEY)
        return Client(
            url,
            transport=httpx.MockTransport(self.handle),
            sleep=self.clock.sleep,
            clock=self.clock,
            **options,
        )

    def handle(self, request):
        self.requests.append(request)
        path = request.url.path
        if path == "/v1/limits":
            return httpx.Response(200, json=self.limits)
        if path == "/v1/models/adult":
            return httpx.Response(200, json=DETAILS)
        if path == "/v1/models":
            summary = {k: v for k, v in DETAILS.items() if k not in ("columns", "card", "quality")}
            return httpx.Response(200, json={"models": [summary | {"new_key": 1}]})
        body = json.loads(request.content)
        self.pages.append((body.get("first"), body.get("count"), body.get("seed")))
        action = self.next.pop(0) if self.next else None
        if isinstance(action, Exception):
            raise action
        if isinstance(action, httpx.Response):
            return action
        return action(body) if action else self.answer(body)

    def answer(self, body, cut=None, headers=None, count=None, chunk=1000, **broken):
        seed = body.get("seed", self.new_seed)
        table = rows_of(body["first"], body["count"] if count is None else count, seed)
        said = {
            "X-Seed": str(seed),
            "X-Rows": str(body["count"]),
            "X-Model-Version": self.version,
            "X-Request-Id": "r1",
        }
        data = encoded(table, body["format"], self.batch_rows)
        stream = Broken(data, None if cut is None else int(len(data) * cut), chunk, **broken)
        return httpx.Response(200, headers=said | (headers or {}), stream=stream)

    def cut(self, share, **options):
        return lambda body: self.answer(body, cut=share, **options)


def problem(status, code="rate_limited", detail="Too many.", headers=None, **more):
    body = {
        "type": "about:blank",
        "title": "T",
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": "abc",
        "retry_after_seconds": None,
        "errors": [],
    }
    return httpx.Response(status, headers=headers, json=body | more)


def row_numbers(table):
    return table.column("row").to_pylist()
