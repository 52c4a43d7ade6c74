"""Exactly the rows that were asked for, whatever the network does."""

import gc
import tracemalloc
import weakref

import httpx
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difflm_core.client import Client, ServiceError
from difflm_core.errors import ConfigError
from tests.unit.client.answering import (
    LIMITS,
    Broken,
    Service,
    arrow_bytes,
    encoded,
    row_numbers,
    rows_of,
)


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
