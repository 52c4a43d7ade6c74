"""Answers on their way: ahead of their end, broken, given up, slow, and many at once."""

import concurrent.futures
import gc
import json
import socket
import struct
import time

import httpx
import pyarrow as pa
import pytest

from difflm_core.api import DiffLM
from tests.serve.servers import make_service, post_head, served, wait_until

GENERATE = "/v1/models/plain/generate"
SPAN = 1024


def open_answer(server, model="plain", connection=None, **body):
    """A connection whose request is sent."""
    content = json.dumps(body).encode()
    connection = connection or server.connect()
    path = f"/v1/models/{model}/generate"
    connection.sendall(post_head(path, f"Content-Length: {len(content)}") + content)
    return connection


def reset(connection):
    """Close a connection as a program that was killed does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.fixture
def asked(server):
    """How many spans have been asked for since the test began."""
    before = len(server.generators.requests)
    return lambda: len(server.generators.requests) - before


@pytest.mark.parametrize("format", ["json", "ndjson", "csv", "arrow"])
def test_the_first_rows_come_before_the_last_are_made(server, format):
    server.generators.held_from = 2 * SPAN
    body = {"count": 3 * SPAN, "seed": 1, "format": format}
    with server.client.stream("POST", GENERATE, json=body) as response:
        chunks = response.iter_raw()
        data = b""
        while len(data) < 20_000:  # more than a span is behind
            data += next(chunks)
        assert server.in_flight() == 1
        server.generators.held_from = None
        data += b"".join(chunks)
    assert data == server.client.post(GENERATE, json=body).content
    wait_until(lambda: server.in_flight() == 0)


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
def test_a_client_that_leaves_in_the_middle_ends_the_work(server, asked, leave):
    server.generators.held_from = 3 * SPAN
    connection = open_answer(server, count=50 * SPAN, seed=1, format="csv")
    assert connection.recv(2000).startswith(b"HTTP/1.1 200")
    leave(connection)
    wait_until(lambda: server.in_flight() == 0)
    wait_until(lambda: server.generators.num_running == 0)  # though they are held
    server.generators.held_from = None
    time.sleep(0.2)
    # Those that were sent, and those ahead.
    assert asked() <= 3 + server.service.limits.spans_ahead


def test_a_client_that_leaves_before_the_first_row_ends_the_work(server, asked):
    server.generators.held_from = 0
    connection = open_answer(server, count=50 * SPAN, seed=1)
    wait_until(lambda: asked() == server.service.limits.spans_ahead)
    assert server.in_flight() == 1
    connection.close()
    wait_until(lambda: server.in_flight() == 0)
    wait_until(lambda: server.generators.num_running == 0)
    server.generators.held_from = None
    time.sleep(0.1)
    assert asked() == server.service.limits.spans_ahead


def test_an_answer_that_cannot_begin_has_a_status(server):
    server.generators.fail_after = 0
    response = server.generate("plain", count=5)
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert (response.json()["detail"], response.headers["retry-after"]) == (
        "The replica is gone.",
        "1",
    )
    assert server.in_flight() == 0


@pytest.mark.parametrize("format", ["json", "ndjson", "csv", "parquet", "arrow"])
def test_an_answer_that_cannot_go_on_breaks_its_connection(server, format, caplog):
    server.generators.fail_after = 2 * SPAN
    body = {"count": 4 * SPAN, "seed": 1, "format": format}
    with (
        server.client.stream("POST", GENERATE, json=body) as response,
        pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"),
    ):
        response.read()
    assert response.status_code == 200
    request_id = response.headers["x-request-id"]
    wait_until(lambda: f"the answer to request {request_id} broke off" in caplog.messages)
    assert server.in_flight() == 0
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_broken_answer_has_no_last_chunk(server):
    server.generators.fail_after = SPAN
    connection = open_answer(server, count=2 * SPAN, seed=1, format="csv")
    data = b""
    while chunk := connection.recv(65_536):
        data += chunk
    connection.close()
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"transfer-encoding: chunked" in data.lower()
    assert data.count(b"\n") > SPAN
    assert not data.endswith(b"0\r\n\r\n")


@pytest.fixture
def hasty(server):
    """A service with little time, on the generators of the other."""
    models = {name: model.ref.uri for name, model in server.service.registry.models.items()}
    service = make_service(models, generators=server.generators, request_seconds=0.5)
    with served(service, sent_ahead=4096) as running:
        yield running


def test_a_deadline_before_the_first_row_is_a_status(hasty):
    hasty.generators.held_from = 0
    response = hasty.generate("plain", count=5)
    assert (response.status_code, response.json()["code"]) == (503, "deadline")
    assert response.json()["detail"] == (
        "The answer was not ready within 0.5 s. Ask for fewer rows, or submit a job "
        "(POST /v1/jobs)."
    )
    assert response.headers["retry-after"] == "2"
    assert hasty.in_flight() == 0


def test_a_deadline_after_the_first_row_breaks_the_connection(hasty):
    hasty.generators.held_from = SPAN
    with pytest.raises(httpx.RemoteProtocolError):
        hasty.generate("plain", count=2 * SPAN, format="csv")
    wait_until(lambda: hasty.in_flight() == 0)


def test_a_client_that_stops_reading_loses_its_place(hasty):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", hasty.port))
        open_answer(hasty, "typed", connection, count=250_000, format="ndjson")
        wait_until(lambda: hasty.in_flight() == 1)
        wait_until(lambda: hasty.in_flight() == 0, 10)


def test_when_all_places_are_taken_others_come_back_later(server):
    uri = server.service.registry.models["plain"].ref.uri
    service = make_service({"plain": uri}, generators=server.generators, concurrent_requests=2)
    with served(service) as running, concurrent.futures.ThreadPoolExecutor(2) as pool:
        running.generators.held_from = 0
        first = [pool.submit(running.generate, "plain", count=2, seed=s) for s in (1, 2)]
        wait_until(lambda: running.in_flight() == 2)
        response = running.generate("plain", count=2)
        assert (response.status_code, response.json()["code"]) == (503, "busy")
        assert response.json()["detail"] == "All places are taken."
        assert response.headers["retry-after"] == "2"
        running.generators.held_from = None
        assert [f.result().status_code for f in first] == [200, 200]
        assert running.generate("plain", count=2).status_code == 200


def test_full_queues_refuse_what_has_not_begun(server):
    server.generators.full = True
    response = server.generate("plain", count=2)
    assert (response.status_code, response.json()["code"]) == (503, "busy")
    assert response.headers["retry-after"] == "3"


def test_a_slow_reader_holds_up_nobody(server):
    with open_answer(server, "typed", count=100_000, seed=1, format="ndjson") as connection:
        assert connection.recv(1000)
        begun = time.monotonic()
        for seed in range(5):
            assert len(server.generate("plain", count=2, seed=seed).json()["rows"]) == 2
        assert time.monotonic() - begun < 5
        assert server.in_flight() == 1
    wait_until(lambda: server.in_flight() == 0)


def test_many_small_callers_beside_a_large_one(server, plain_model):
    model = DiffLM.from_pretrained(plain_model)

    def ask(seed):
        response = server.generate("plain", count=1 + seed % 3, seed=seed, format="ndjson")
        return [json.loads(line)["age"] for line in response.text.splitlines()]

    large = {"count": 20 * SPAN, "seed": 99, "format": "arrow"}
    with concurrent.futures.ThreadPoolExecutor(51) as pool:
        table = pool.submit(server.client.post, GENERATE, json=large)
        found = list(pool.map(ask, range(50)))
        rows = pa.ipc.open_stream(table.result().content).read_all()
    assert found == [model.sample(1 + s % 3, seed=s)["age"].tolist() for s in range(50)]
    assert rows["age"].to_pylist() == model.sample(20 * SPAN, seed=99)["age"].tolist()
