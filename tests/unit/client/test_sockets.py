"""The client against servers on the loopback."""

import socket
import threading
import time
import types

import fastapi
import pytest
import uvicorn

from difflm_core.client import Client, ServiceError
from tests.unit.client.answering import (
    KEY,
    LIMITS,
    Clock,
    arrow_bytes,
    rows_of,
)


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
