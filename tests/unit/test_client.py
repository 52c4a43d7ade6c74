"""The client: exactly the rows that were asked for, whatever the network does."""

import email.utils
import gc
import io
import json
import pickle
import socket
import threading
import time
import tracemalloc
import types
import weakref

import fastapi
import httpx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

from difflm_core.client import Client, Column, JobFile, ServiceError
from difflm_core.data.schema import Schema
from difflm_core.data.source_form import from_canonical, stream_schema, to_dataframe
from difflm_core.errors import ConfigError, StageError

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


# -------------------------------------------------------------------------------------- rows


def test_pages_equal_one_large_answer():
    service = Service()
    with service.client(page_rows=2048) as client:
        paged = client.sample_table("adult", 5000, seed=7)
    assert service.pages == [(0, 2048, 7), (2048, 2048, 7), (4096, 904, 7)]
    with service.client() as client:
        whole = client.sample_table("adult", 5000, seed=7)
    assert service.pages[3:] == [(0, 5000, 7)]
    assert paged.equals(whole)
    assert whole.equals(rows_of(0, 5000, 7))


def test_a_page_is_no_larger_than_the_service_allows():
    service = Service(LIMITS | {"rows_per_request": 2500})
    with service.client() as client:
        assert row_numbers(client.sample_table("adult", 4000, seed=1)) == list(range(4000))
        # As many as the service allows are asked for at once.
        client.sample_table("adult", 2500, seed=1)
    assert service.pages == [(0, 2048, 1), (2048, 1952, 1), (0, 2500, 1)]


def test_a_service_without_room_for_a_page():
    service = Service(LIMITS | {"rows_per_request": 1000})
    with service.client() as client, pytest.raises(ConfigError) as caught:
        client.sample_table("adult", 4000)
    assert str(caught.value) == (
        "4,000 rows cannot be read in pages: the service gives 1,000 rows at once, a page has "
        "1,024 or more. Ask for up to 1,000 rows, or use Client.submit."
    )


def test_without_a_seed_all_pages_have_that_of_the_first():
    service = Service()
    with service.client(page_rows=1024) as client:
        table = client.sample_table("adult", 3000)
    assert [page[2] for page in service.pages] == [None, 99, 99]
    assert set(table.column("seed").to_pylist()) == {99}


def test_a_seed_is_kept_where_the_first_page_breaks_before_its_rows():
    service = Service()

    def dies(body):
        service.new_seed = 100
        return service.answer(body | {"seed": 99}, cut=0.0)

    service.next = [dies]
    with service.client() as client:
        client.sample_table("adult", 10)
    assert [page[2] for page in service.pages] == [None, 99]


@pytest.mark.parametrize("error", [httpx.RemoteProtocolError, httpx.ReadError, httpx.ReadTimeout])
def test_a_page_that_breaks_off_goes_on_at_its_row(error):
    service = Service()
    service.next = [None, service.cut(0.6, error=error), service.cut(0.3, error=error)]
    with service.client(page_rows=1024) as client:
        table = client.sample_table("adult", 3000, seed=3)
    assert table.equals(rows_of(0, 3000, 3))
    assert [page[0] for page in service.pages] == [0, 1024, 1024, 1024, 2048]
    assert len(service.clock.waits) == 2
    assert min(service.clock.waits) >= 0
    assert max(service.clock.waits) <= 1.0


@pytest.mark.parametrize("count", [0, 1, 512, 999])
def test_an_answer_that_ends_early_without_a_sign_goes_on(count):
    service = Service()
    service.next = [lambda body: service.answer(body, count=count)]
    with service.client() as client:
        assert row_numbers(client.sample_table("adult", 1000, seed=3)) == list(range(1000))
    assert len(service.pages) == 2


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 5000),
    pages=st.integers(1, 4),
    batch_rows=st.integers(1, 1500),
    chunk=st.integers(50, 20_000),
    breaks=st.lists(st.none() | st.floats(0, 1), max_size=8),
    wire=st.sampled_from(["arrow", "csv", "ndjson"]),
)
def test_whatever_breaks_every_row_comes_once(
    tmp_path_factory, count, pages, batch_rows, chunk, breaks, wire
):
    service = Service(batch_rows=batch_rows)
    service.next = [None if share is None else service.cut(share, chunk=chunk) for share in breaks]
    with service.client(page_rows=1024 * pages, max_retries=10) as client:
        if wire == "arrow":
            batches = list(client.stream("adult", count, seed=5))
            assert pa.Table.from_batches(batches).equals(rows_of(0, count, 5))
        else:
            name = "rows.csv" if wire == "csv" else "rows.jsonl"
            path = tmp_path_factory.mktemp("rows") / name
            client.sample_to(path, "adult", count, seed=5)
            assert path.read_bytes() == encoded(rows_of(0, count, 5), wire)


@pytest.mark.parametrize(
    ("answer", "code", "tries", "message"),
    [
        ({"count": 1001}, "wrong_rows", 1, "asked for 1,000 rows, the answer says 1,000 and "),
        ({"count": 990}, "wrong_rows", 6, "the answer says 1,000 and holds 990. Report it"),
        ({"headers": {"X-Rows": "999"}}, "wrong_rows", 1, "1,000 rows, the answer says 999. Rep"),
        ({"headers": {"X-Rows": ""}}, "unexpected", 1, "the answer lacks one of X-Seed, X-Rows"),
        ({"headers": {"X-Seed": "8"}}, "unexpected", 1, "asked for seed 7, the answer has seed 8"),
    ],
)
def test_an_answer_with_other_rows_is_refused(answer, code, tries, message):
    service = Service()
    service.next = [lambda body: service.answer(body, **answer)] * 20
    with service.client() as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 1000, seed=7)
    assert (caught.value.code, len(service.pages)) == (code, tries)
    assert message in str(caught.value)
    assert caught.value.request_id == "r1"


def test_no_row_is_given_beyond_those_asked_for():
    service = Service(batch_rows=100)
    service.next = [lambda body: service.answer(body, count=1050)]
    seen = []
    with service.client() as client:
        batches = (seen.append(batch.num_rows) for batch in client.stream("adult", 1000, seed=7))
        with pytest.raises(ServiceError, match="and holds 1,050"):
            list(batches)
    assert sum(seen) == 1000


def test_a_model_that_is_replaced_meanwhile():
    service = Service()

    def replaced(body):
        service.version = "v2"
        return service.answer(body)

    service.next = [None, replaced]
    with service.client(page_rows=1024) as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 3000, seed=7)
    assert caught.value.code == "model_replaced"
    assert str(caught.value) == (
        "POST /v1/models/adult/generate: the model was replaced while it was read (version v1, "
        "now v2). Start again: the rows of two models do not belong together. Request r1."
    )
    assert len(service.pages) == 2


def test_other_columns_in_a_later_page():
    service = Service()

    def other(body):
        answer = service.answer(body)
        return httpx.Response(
            200, headers=answer.headers, content=arrow_bytes(pa.table({"row": [1.5] * 1024}))
        )

    service.next = [None, other]
    with service.client(page_rows=1024) as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 2048, seed=7)
    assert "the columns are not those of the page before" in str(caught.value)


def test_memory_does_not_grow_with_the_rows():
    # One answer serves all pages: only what the client keeps is measured.
    data = arrow_bytes(rows_of(0, 4096, 1), 512)

    def handle(request):
        if request.url.path == "/v1/limits":
            return httpx.Response(200, json=LIMITS)
        headers = {"X-Seed": "1", "X-Rows": "4096", "X-Model-Version": "v1"}
        return httpx.Response(200, headers=headers, stream=Broken(data))

    peaks, most_alive = [], 0
    for num_pages in (3, 60):
        with Client(
            "http://localhost", page_rows=4096, transport=httpx.MockTransport(handle)
        ) as client:
            before, alive = pa.total_allocated_bytes(), []
            tracemalloc.start()
            for batch in client.stream("adult", 4096 * num_pages, seed=1):
                alive.append(weakref.ref(batch))
                most_alive = max(most_alive, sum(ref() is not None for ref in alive))
            alive.clear()
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            del batch
            gc.collect()
            assert pa.total_allocated_bytes() - before < 1 << 20
    assert most_alive <= 3
    assert peaks[1] < peaks[0] + len(data)


def test_a_consumer_that_stops_closes_the_answer():
    service = Service()
    closed = []

    class Watched(Broken):
        def close(self):
            closed.append(True)

    def watched(body):
        answer = service.answer(body)
        return httpx.Response(200, headers=answer.headers, stream=Watched(answer.stream.data))

    service.next = [watched]
    with service.client() as client:
        batches = client.stream("adult", 1000, seed=1)
        next(batches)
        assert not closed
        batches.close()
        assert closed


# ----------------------------------------------------------------------------------- frames


def test_a_frame_has_the_dtypes_of_the_library(monkeypatch):
    schema = Schema.model_validate_json(
        json.dumps(
            {
                "columns": [
                    {"name": "n", "kind": "integer", "nullable": True, "storage": "int32"},
                    {"name": "m", "kind": "integer", "nullable": False, "storage": "int64"},
                    {"name": "b", "kind": "boolean", "nullable": True, "storage": "bool"},
                    {"name": "t", "kind": "text", "nullable": True, "storage": "large_string"},
                    {
                        "name": "c",
                        "kind": "categorical",
                        "nullable": True,
                        "storage": "dictionary<string>",
                    },
                ]
            }
        )
    )
    canonical = pa.table(
        {
            "n": pa.array([1, None, 3], pa.int64()),
            "m": pa.array([1, 2, 3], pa.int64()),
            "b": [True, None, False],
            "t": ["x", None, "z"],
            "c": ["q", "p", None],
        }
    ).cast(schema.arrow_schema)
    expected = to_dataframe(canonical, schema)
    assert [str(dtype) for dtype in expected.dtypes] == [
        *("Int32", "int64", "boolean", "string", "category")
    ]
    wire = from_canonical(canonical, schema).cast(stream_schema(schema))
    service = Service()
    monkeypatch.setitem(globals(), "rows_of", lambda first, count, seed: wire)
    with service.client() as client:
        frame = client.sample("adult", 3, seed=1)
    pd.testing.assert_frame_equal(frame, expected)


def test_categories_are_in_the_order_in_which_they_came(monkeypatch):
    values = ["b", "a", "b", "c", "a", "d"] * 3
    whole = pa.table({"c": pa.array(values).dictionary_encode()})

    def pieces(table, kind, batch_rows):
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, whole.schema) as writer:
            for start in range(0, 18, 3):  # a dictionary for each batch
                part = pa.array(values[start : start + 3]).dictionary_encode()
                writer.write_batch(pa.record_batch({"c": part}))
        return sink.getvalue()

    monkeypatch.setitem(globals(), "encoded", pieces)
    service = Service()
    service.next = [service.cut(0.5)]
    with service.client() as client:
        frame = client.sample("adult", 18, seed=1)
    pd.testing.assert_frame_equal(frame, whole.to_pandas())


# ------------------------------------------------------------------------------------ files


def test_a_parquet_file_has_the_rows_of_the_stream(tmp_path):
    path = tmp_path / "new" / "rows.parquet"
    service = Service()
    service.next = [None, service.cut(0.5)]
    with service.client(page_rows=40_960) as client:
        client.sample_to(path, "adult", 70_000, seed=2)
    assert pq.read_table(path).equals(rows_of(0, 70_000, 2))
    groups = pq.ParquetFile(path).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [65_536, 4_464]
    assert [entry.name for entry in path.parent.iterdir()] == ["rows.parquet"]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.jsonl"])
def test_a_failure_leaves_what_was_there(tmp_path, name):
    path = tmp_path / name
    path.write_text("old")
    service = Service()
    service.next = [None, problem(403, "forbidden", "Not this model.")]
    with service.client(page_rows=1024) as client, pytest.raises(ServiceError):
        client.sample_to(path, "adult", 3000, seed=2)
    assert len(service.pages) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert path.read_text() == "old"


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with Service().client() as client, pytest.raises(StageError) as caught:
        client.sample_to(tmp_path / "file" / "rows.csv", "adult", 10)
    assert "writing failed: " in str(caught.value)


def test_a_file_of_another_kind():
    with Service().client() as client, pytest.raises(ConfigError) as caught:
        client.sample_to("rows.xlsx", "adult", 10)
    assert str(caught.value) == (
        "rows.xlsx: found ending '.xlsx', expected one of .parquet, .csv, .jsonl; rename it"
    )


def test_lines_are_counted(tmp_path):
    service = Service()
    service.next = [lambda body: service.answer(body, count=9)] * 2 + [
        lambda body: service.answer(body, count=11)
    ]
    with service.client() as client, pytest.raises(ServiceError, match="10 and holds 11"):
        client.sample_to(tmp_path / "rows.csv", "adult", 10)
    assert len(service.pages) == 3
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------- retries


def test_a_busy_service_is_asked_again_when_it_says():
    service = Service()
    service.next = [
        problem(503, "busy", headers={"Retry-After": "7"}),
        problem(429, retry_after_seconds=3),
        httpx.Response(503, headers={"Retry-After": "soon"}),
    ]
    with service.client() as client:
        assert client.sample_table("adult", 10).num_rows == 10
    assert service.clock.waits[:2] == [7.0, 3]
    assert 0 <= service.clock.waits[2] <= 2.0


def test_retry_after_may_be_a_date():
    now = time.time()
    headers = {
        "Date": email.utils.formatdate(now - 5000, usegmt=True),
        "Retry-After": email.utils.formatdate(now - 5000 + 11, usegmt=True),
    }
    service = Service()
    service.next = [problem(503, headers=headers)]
    with service.client() as client:
        client.sample_table("adult", 10)
    assert service.clock.waits == [11.0]


def test_waits_grow_and_are_by_chance(monkeypatch):
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    service = Service()
    service.next = [httpx.ConnectError("refused") for _ in range(9)]
    with service.client(max_retries=9) as client:
        client.sample_table("adult", 10)
    assert service.clock.waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_it_gives_up_with_the_last_error():
    service = Service()
    service.next = [httpx.ConnectError("refused"), problem(503, "busy", "All replicas are busy.")]
    with service.client(max_retries=1) as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 10)
    error = caught.value
    assert str(error) == (
        "POST /v1/models/adult/generate: the service answered 503 (busy): All replicas are busy. "
        "Ask again later. Request abc. Tried 2 times."
    )
    assert (error.status, error.code, error.detail) == (503, "busy", "All replicas are busy")
    assert (error.request_id, error.retry_after, error.temporary) == ("abc", None, True)


def test_new_rows_start_the_count_afresh():
    service = Service(batch_rows=100)
    service.next = [service.cut(share / 10) for share in range(1, 10)]
    with service.client(max_retries=1) as client:
        assert row_numbers(client.sample_table("adult", 1000, seed=1)) == list(range(1000))
    service.next = [service.cut(0.5)] * 3
    with service.client(max_retries=1) as client, pytest.raises(ServiceError, match="broke off"):
        client.sample_table("adult", 1000, seed=1)


def test_a_wait_beyond_the_deadline_is_not_begun():
    service = Service()
    service.next = [problem(503, headers={"Retry-After": "40"})] * 9
    with service.client(deadline_seconds=100) as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 10)
    assert service.clock.waits == [40.0, 40.0]
    assert caught.value.retry_after == 40


def test_an_answer_that_drips_without_news_ends_at_the_deadline():
    service = Service()

    class Drip(Broken):
        def __iter__(self):
            for position in range(len(self.data)):
                service.clock.now += 10
                yield self.data[position : position + 1]

    def drip(body):
        answer = service.answer(body)
        return httpx.Response(200, headers=answer.headers, stream=Drip(answer.stream.data))

    service.next = [service.cut(0.9), drip]
    with service.client(deadline_seconds=60) as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 1000, seed=1)
    assert caught.value.code == "too_slow"
    assert service.clock.now < 75


def test_time_of_the_caller_is_not_that_of_the_service():
    service = Service()
    service.next = [service.cut(0.5)]
    with service.client(deadline_seconds=60) as client:
        for _ in client.stream("adult", 1000, seed=1):
            service.clock.now += 1000
    assert len(service.pages) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 500, 307])
def test_what_will_not_pass_is_not_asked_again(status):
    service = Service()
    service.next = [problem(status, "some_code")]
    with service.client() as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 10)
    assert (caught.value.status, len(service.pages)) == (status, 1)
    assert service.clock.waits == []


# ----------------------------------------------------------------------------------- errors


def test_a_wrong_key_of_a_request_is_named():
    service = Service()
    errors = [{"field": "count", "message": "expected at least 1"}]
    service.next = [problem(422, "invalid", "The request is wrong.", errors=errors)]
    with service.client() as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 10)
    assert str(caught.value) == (
        "POST /v1/models/adult/generate: the service answered 422 (invalid): The request is "
        "wrong.; count: expected at least 1. Correct the request. Request abc."
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(500, html="<h1>Oops</h1>"), "Internal Server Error"),
        (httpx.Response(500, text="upstream\nis down"), "upstream is down"),
        (httpx.Response(500, json=[1]), "Internal Server Error"),
        (httpx.Response(599, content=b"\xff"), "no reason given"),
    ],
)
def test_an_error_that_is_not_the_service_s(answer, said):
    service = Service()
    service.next = [answer]
    with service.client() as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 10)
    assert str(caught.value) == (
        f"POST /v1/models/adult/generate: the service answered {answer.status_code} "
        f"(unexpected): {said}. Look at the service's log."
    )


def test_an_answer_that_is_not_the_service_s():
    transport = httpx.MockTransport(lambda request: httpx.Response(200, html="<html>Hello"))
    with Client("http://localhost", transport=transport) as client:
        with pytest.raises(ServiceError) as caught:
            client.models()
    assert str(caught.value) == (
        "GET /v1/models: the answer is not a ModelList of this service. Check that the URL is that "
        "of the service, and that it is not older than this client."
    )


def test_errors_travel_between_processes():
    error = ServiceError("Message.", status=429, code="rate_limited", retry_after=2.0)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.status, again.retry_after) == ("Message.", 429, 2.0)


def test_models_are_typed():
    with Service().client() as client:
        (model,) = client.models()
        assert (model.id, model.version, model.num_columns) == ("adult", "v1", 2)
        details = client.model("adult")
        assert details.columns[1] == Column(**column("seed", nullable=True))
        assert client.limits().rows_per_request == 100_000
        with pytest.raises(AttributeError):
            details.version = "v2"


def test_names_stay_in_their_place_of_the_url():
    paths = []

    def handle(request):
        paths.append(request.url.raw_path)
        return httpx.Response(200, json=DETAILS)

    with Client("https://host/prefix/", transport=httpx.MockTransport(handle)) as client:
        client.model("a/b? c")
        assert paths == [b"/prefix/v1/models/a%2Fb%3F%20c"]
        with pytest.raises(ConfigError, match=r"'\.\.' is not the name of a model"):
            client.model("..")


@pytest.mark.parametrize("wrong", [{"page_rows": 1000}, {"page_rows": 0}, {"key": "a b"}])
def test_wrong_arguments(wrong):
    with pytest.raises(ConfigError) as caught:
        Service().client(**wrong)
    assert "a b" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://h?a=b"])
def test_wrong_urls(url):
    with pytest.raises(ConfigError, match="is not the URL of a service"):
        Client(url)


def test_no_rows_are_an_error():
    with Service().client() as client, pytest.raises(ConfigError, match="num_rows is 0"):
        client.stream("adult", 0)


def test_conditions_of_other_libraries_are_plain():
    service = Service()
    conditions = {
        "day": {"min": pd.Timestamp("2024-01-02"), "max": None},
        "age": pd.Series([3]).iloc[0],
        "job": ("cook", "nurse"),
    }
    with service.client() as client:
        client.sample_table("adult", 1, conditions=conditions, temperature=0.5)
    body = json.loads(service.requests[-1].content)
    assert body["conditions"] == {
        "day": {"min": "2024-01-02T00:00:00", "max": None},
        "age": 3,
        "job": ["cook", "nurse"],
    }
    assert (body["temperature"], body["top_p"], body["format"]) == (0.5, 1.0, "arrow")


# -------------------------------------------------------------------------------------- key


def test_the_key_is_sent_and_never_shown(monkeypatch, caplog):
    caplog.set_level(0)
    monkeypatch.setenv("DIFFLM_API_KEY", KEY + "\n")
    service = Service()
    service.next = [
        httpx.ConnectError(f"refused Bearer {KEY}"),
        problem(401, f"bad-{KEY}", f"The key {KEY} is not known.", request_id=KEY),
    ]
    with service.client(key=None) as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 10)
    assert service.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    error = caught.value
    assert "The key *** is not known" in str(error)
    shown = [str(error), repr(error), str(vars(error)), repr(client), caplog.text]
    assert not [text for text in shown if KEY in text]
    assert repr(client) == "Client('http://127.0.0.1:8000')"


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv("DIFFLM_API_KEY", raising=False)
    service = Service()
    with service.client(key=None) as client:
        client.models()
    assert "authorization" not in service.requests[0].headers


def test_a_key_does_not_travel_readably_to_another_machine():
    with pytest.raises(ConfigError) as caught:
        Client("http://example.org:8000", key=KEY)
    assert str(caught.value) == (
        "http://example.org:8000: a key would travel readably over http to another machine. Use "
        "https, or give insecure=True if the network is trusted."
    )
    for url in ("http://localhost:1", "http://127.1.2.3", "http://[::1]:80", "https://example.org"):
        Client(url, key=KEY).close()
    Client("http://example.org", key=KEY, insecure=True).close()
    Client("http://example.org", key="").close()
    for url in ("http://127.0.0.1.example.org", "http://localhost.example.org", "http://0.0.0.0"):
        with pytest.raises(ConfigError):
            Client(url, key=KEY)
    with pytest.raises(ConfigError) as caught:
        Client("https://me:secret@example.org")
    assert "secret" not in str(caught.value)


def test_no_proxy_sees_what_stays_on_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example.org:3128")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Client("http://localhost:8000", key=KEY) as client:
        assert client._connection._http._mounts == {}


# ------------------------------------------------------------------------------------- jobs


class JobService:
    """One job that advances by a state for each look."""

    def __init__(self, states, files=None):
        self.states, self.requests, self.posts, self.clock = states, [], [], Clock()
        self.files = files or {}
        self.answers = {}

    def client(self, **options):
        return Client(
            "http://localhost",
            transport=httpx.MockTransport(self.handle),
            sleep=self.clock.sleep,
            clock=self.clock,
            **options,
        )

    def state(self, status, num_done, error=None):
        files = [
            {"name": name, "bytes": len(data), "rows": 50, "url": f"https://evil.example/{name}"}
            for name, data in self.files.items()
        ]
        return {
            "id": "j1",
            "model": "adult",
            "version": "v1",
            "status": status,
            "count": 100,
            "num_done": num_done,
            "seed": 7,
            "format": "parquet",
            "created_utc": "2026-01-01T00:00:00Z",
            "finished_utc": None,
            "result_uri": "s3://bucket/j1",
            "files": files if status == "succeeded" else [],
            "error": error,
        }

    def handle(self, request):
        self.requests.append((request.method, request.url.path))
        if request.method == "POST":
            action = self.posts.pop(0) if self.posts else None
            if isinstance(action, Exception):
                raise action
            return action or httpx.Response(202, json=self.state("waiting", 0))
        if request.method == "DELETE":
            return httpx.Response(200, json=self.state("cancelled", 10))
        if request.url.path == "/v1/jobs":
            return httpx.Response(200, json={"jobs": [self.state("running", 1)]})
        if request.url.path == "/v1/jobs/j1":
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            return httpx.Response(200, json=self.state(*state))
        name = request.url.path.removeprefix("/v1/jobs/j1/files/")
        waiting = self.answers.get(name)
        return waiting.pop(0) if waiting else httpx.Response(200, content=self.files[name])


def test_a_job_is_waited_for(tmp_path):
    states = [("waiting", 0), ("running", 40), ("running", 40), ("succeeded", 100)]
    service = JobService(states, {"a.parquet": b"a" * 5000, "b.parquet": b"b"})
    seen = []
    with service.client() as client:
        job = client.submit("adult", 100, seed=7)
        assert repr(job) == "Job('j1', waiting, 0 of 100 rows)"
        state = job.wait(on_progress=seen.append)
        assert (state.num_done, state.files[0]) == (100, JobFile("a.parquet", 5000, 50))
        assert [(s.status, s.num_done) for s in seen] == [
            ("waiting", 0),
            ("running", 40),
            ("succeeded", 100),
        ]
        assert service.clock.waits == [0.5, 0.75, 1.125]
        # A file that breaks off, or is short, is asked for again.
        service.answers["a.parquet"] = [
            httpx.Response(200, stream=Broken(b"a" * 5000, cut=2500)),
            httpx.Response(200, content=b"x" * 4000),
        ]
        paths = job.download(tmp_path / "new")
        assert [path.read_bytes() for path in paths] == [b"a" * 5000, b"b"]
        assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.parquet", "b.parquet"]
        assert [job.id for job in client.jobs()] == ["j1"]
        assert client.job("j1").state.status == "succeeded"
    assert service.requests.count(("GET", "/v1/jobs/j1/files/a.parquet")) == 3


def test_a_file_that_comes_further_each_time_is_not_given_up(tmp_path):
    service = JobService([("succeeded", 100)], {"a": b"a" * 5000, "b": b"b"})
    service.answers["a"] = [
        httpx.Response(200, stream=Broken(b"a" * 5000, cut=cut)) for cut in range(500, 5000, 500)
    ]
    with service.client(max_retries=1) as client:
        paths = client.job("j1").download(tmp_path)
    assert paths[0].read_bytes() == b"a" * 5000


@pytest.mark.parametrize(("size", "tries"), [(5001, 1), (4999, 6)])
def test_a_file_of_another_size_is_not_kept(tmp_path, size, tries):
    files = {"a.parquet": b"a" * 5000, "b.parquet": b"b"}
    service = JobService([("succeeded", 100)], files)
    service.answers["a.parquet"] = [httpx.Response(200, content=b"a" * size) for _ in range(9)]
    with service.client() as client, pytest.raises(ServiceError) as caught:
        client.job("j1").download(tmp_path)
    assert f"the file has {size:,} bytes, expected 5,000" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert service.requests.count(("GET", "/v1/jobs/j1/files/a.parquet")) == tries


@pytest.mark.parametrize("name", ["../a.parquet", "..", "c:\\a", "/etc/passwd"])
def test_a_file_stays_in_its_folder(tmp_path, name):
    service = JobService([("succeeded", 100)], {name: b"", "b": b""})
    with service.client() as client, pytest.raises(ServiceError, match="nothing was downloaded"):
        client.job("j1").download(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_without_all_rows_are_not_downloaded(tmp_path):
    service = JobService([("succeeded", 100)], {"a": b"a"})
    with service.client() as client, pytest.raises(ServiceError, match="100 rows and lists files"):
        client.job("j1").download(tmp_path)


def test_a_job_that_fails(tmp_path):
    service = JobService([("running", 1), ("failed", 30, "No space is left.")])
    with service.client() as client:
        job = client.submit("adult", 100)
        with pytest.raises(ServiceError) as caught:
            job.wait()
        assert str(caught.value) == "Job j1 (adult): failed: No space is left. Submit it again."
        assert caught.value.code == "job_failed"
        with pytest.raises(ServiceError, match="failed"):
            job.download(tmp_path)


def test_a_job_that_is_cancelled():
    service = JobService([("cancelled", 10)])
    with service.client() as client:
        job = client.submit("adult", 100)
        assert job.cancel().status == "cancelled"
        with pytest.raises(ServiceError) as caught:
            job.wait()
    assert caught.value.code == "job_cancelled"


def test_a_job_that_is_not_finished_in_time(tmp_path):
    service = JobService([("running", 10)])
    with service.client() as client:
        job = client.job("j1")
        with pytest.raises(TimeoutError) as caught:
            job.wait(timeout_seconds=60)
        assert str(caught.value) == "Job j1 is running after 60 s (10 of 100 rows); it goes on."
        assert sum(service.clock.waits) == 60
        with pytest.raises(ServiceError, match=r"10 of 100 rows are done. Call wait\(\) first"):
            job.download(tmp_path)


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        problem(429, headers={"Retry-After": "1"}),
        problem(503, headers={"Retry-After": "1"}),
    ],
)
def test_a_job_that_was_not_taken_is_submitted_again(failure):
    service = JobService([("waiting", 0)])
    service.posts = [failure]
    with service.client() as client:
        client.submit("adult", 100)
    assert service.requests == [("POST", "/v1/jobs")] * 2


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("closed"),
        httpx.WriteError("closed"),
        httpx.Response(502),
        httpx.Response(504),
        httpx.Response(202, stream=Broken(b"{" * 500, cut=100)),
    ],
)
def test_a_job_that_may_have_been_taken_is_not_submitted_twice(failure):
    service = JobService([("waiting", 0)])
    service.posts = [failure]
    with service.client() as client, pytest.raises(ServiceError) as caught:
        client.submit("adult", 100)
    assert service.requests == [("POST", "/v1/jobs")]
    if not isinstance(failure, httpx.Response):
        assert "look at Client.jobs() before asking again" in str(caught.value)


# --------------------------------------------------------------------------- a real service


@pytest.fixture
def server():
    """A service on a port of this machine that breaks off where the test says."""
    app = fastapi.FastAPI()
    made = types.SimpleNamespace(cuts=[], pages=[], keys=set(), url="")

    @app.get("/v1/limits")
    def limits():
        return LIMITS

    @app.post("/v1/models/adult/generate")
    async def generate(request: fastapi.Request):
        body = await request.json()
        made.keys.add(request.headers["authorization"])
        made.pages.append(body["first"])
        cut = made.cuts.pop(0) if made.cuts else None
        if cut == "busy":
            return fastapi.responses.JSONResponse({}, 503, {"Retry-After": "1"})
        data = arrow_bytes(rows_of(body["first"], body["count"], 1))

        async def chunks():
            end = len(data) if cut is None else int(len(data) * cut)
            for start in range(0, end, 5000):
                yield data[start : min(end, start + 5000)]
            if cut is not None:
                raise RuntimeError("the replica died")

        headers = {"X-Seed": "1", "X-Rows": str(body["count"]), "X-Model-Version": "v1"}
        return fastapi.responses.StreamingResponse(chunks(), headers=headers)

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    made.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    running = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield made
    running.should_exit = True
    thread.join()
    listening.close()


def test_against_a_server_that_breaks_off(server):
    server.cuts = [None, 0.7, "busy", 0.2, None, 0.0]
    clock = Clock()
    with Client(server.url, key=KEY, page_rows=1024, sleep=clock.sleep) as client:
        table = client.sample_table("adult", 5000)
    assert table.equals(rows_of(0, 5000, 1))
    assert server.pages == [0, 1024, 1024, 1024, 1024, 2048, 2048, 3072, 4096]
    assert server.keys == {f"Bearer {KEY}"}
    assert 1.0 in clock.waits
    assert len(clock.waits) == 4


def test_against_nothing():
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{free.getsockname()[1]}"  # bound, but nobody listens
    clock = Clock()
    with (
        Client(url, max_retries=2, sleep=clock.sleep) as client,
        pytest.raises(ServiceError) as caught,
    ):
        client.models()
    free.close()
    assert len(clock.waits) == 2
    assert str(caught.value).startswith(f"GET /v1/models: no answer from {url}: ")
    assert str(caught.value).endswith("Check the URL, and that the service runs. Tried 3 times.")
    assert (caught.value.status, caught.value.code) == (None, "unreachable")
