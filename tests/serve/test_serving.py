"""`difflm serve` on an embedded Ray: the same rows everywhere, load, deaths, replacements."""

import collections
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pandas as pd
import pytest

from difflm_core.api import DiffLM
from difflm_core.client import Client
from tests.serve.processes import Serving, connect, request_bytes, serving

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

ROWS = 9_000  # nine spans: enough to be in the middle of


@pytest.fixture(scope="module")
def service(plain_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    with serving(f"plain={plain_run}", "--replicas", 1, folder=folder) as running:
        yield running


@pytest.fixture(scope="module")
def whole(service):
    """The bytes of an undisturbed answer."""
    answer = service.generate("plain", count=ROWS, seed=5, format="ndjson")
    assert answer.status_code == 200
    return answer.content


def test_the_same_seed_gives_the_same_rows_everywhere(service, plain_run, tmp_path):
    path = tmp_path / "cli.jsonl"
    command = [sys.executable, "-m", "difflm_core.cli", "sample", str(plain_run), "-n", "2100"]
    subprocess.run([*command, "-o", str(path), "--seed", "7"], check=True, capture_output=True)
    expected = path.read_bytes()
    made = DiffLM.from_pretrained(str(plain_run / "generator")).sample(2100, seed=7)
    answer = service.generate("plain", count=2100, seed=7, format="ndjson")
    assert answer.content == expected
    with Client(service.url, page_rows=1024) as client:
        pd.testing.assert_frame_equal(client.sample("plain", 2100, seed=7), made)
        client.sample_to(tmp_path / "client.jsonl", "plain", 2100, seed=7)
    assert (tmp_path / "client.jsonl").read_bytes() == expected


def test_a_job_writes_the_rows_of_its_seed(service, tmp_path):
    with Client(service.url) as client:
        job = client.submit("plain", 3000, seed=4, format="jsonl")
        job.wait(timeout_seconds=120)
        (path,) = job.download(tmp_path)
    answer = service.generate("plain", count=3000, seed=4, format="ndjson")
    assert path.read_bytes() == answer.content


def test_the_example_of_the_documentation(service, tmp_path):
    script = Path(__file__).parents[2] / "examples" / "query_serve.py"
    path = tmp_path / "rows.parquet"
    command = [sys.executable, str(script), "--url", service.url, "--rows", "3000"]
    done = subprocess.run(
        [*command, "--output", str(path)], check=True, capture_output=True, text=True
    )
    assert "plain (version" in done.stdout
    assert pd.read_parquet(path).shape[0] == 3000


def test_a_replica_killed_in_the_middle_is_replaced_without_a_wrong_row(service, whole):
    before = service.processes("generator")
    received = bytearray()
    body = {"count": ROWS, "seed": 5, "format": "ndjson"}
    with service.client.stream("POST", "/v1/models/plain/generate", json=body) as answer:
        for chunk in answer.iter_bytes():
            if not received:
                service.kill("generator")
            received += chunk
    assert bytes(received) == whole
    after = service.processes("generator")
    assert after
    assert not set(after) & set(before)


def test_a_front_killed_in_the_middle_breaks_the_answer_and_comes_back(service, whole):
    received = bytearray()
    body = {"count": ROWS, "seed": 5, "format": "ndjson"}
    with (  # noqa: PT012 - the stream has to be open
        pytest.raises(httpx.RemoteProtocolError),
        service.client.stream("POST", "/v1/models/plain/generate", json=body) as answer,
    ):
        for chunk in answer.iter_bytes():
            if not received:
                service.kill("front")
            received += chunk
    assert whole.startswith(bytes(received))
    deadline = time.monotonic() + 90
    while True:
        try:
            if service.client.get("/readyz").status_code == 200:
                break
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert service.generate("plain", count=ROWS, seed=5, format="ndjson").content == whole


def test_the_client_reads_on_over_a_killed_front(service, whole):
    with Client(service.url, page_rows=2048) as client:
        rows = 0
        for batch in client.stream("plain", ROWS, seed=5):
            if rows == 0:
                service.kill("front")
            rows += batch.num_rows
        assert rows == ROWS
        frame = client.sample("plain", ROWS, seed=5)
    assert frame["age"].tolist() == [json.loads(line)["age"] for line in whole.splitlines()]


def test_a_client_that_leaves_ends_the_work(service):
    with connect(service.port) as connection:
        body = json.dumps({"count": 90_000, "format": "ndjson"}).encode()
        connection.sendall(request_bytes("/v1/models/plain/generate", body))
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert service.metric("difflm_answers_in_flight") == 1
    deadline = time.monotonic() + 20
    while service.metric("difflm_answers_in_flight"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    made = service.metric('difflm_rows_total{model="plain"}')
    time.sleep(1)
    assert service.metric('difflm_rows_total{model="plain"}') == made


def test_a_slow_reader_holds_up_nobody(service):
    with connect(service.port) as connection:
        body = json.dumps({"count": 90_000, "format": "ndjson"}).encode()
        connection.sendall(request_bytes("/v1/models/plain/generate", body))
        connection.recv(1000)
        begun = time.monotonic()
        for _ in range(5):
            assert service.generate("plain", count=3).status_code == 200
        assert time.monotonic() - begun < 20


def test_200_clients_get_all_their_rows_or_a_clean_refusal(service):
    found, wrong = collections.Counter(), []

    def call(number):
        count = [1, 7, 100, 1024, 2500][number % 5]
        with httpx.Client(base_url=service.url, timeout=300) as client:
            answer = client.post(
                "/v1/models/plain/generate",
                json={"count": count, "seed": number, "format": "ndjson"},
            )
        found[answer.status_code] += 1
        if answer.status_code == 200:
            if answer.content.count(b"\n") != count:
                wrong.append((count, answer.content.count(b"\n")))
        elif not (
            answer.status_code in (429, 503)
            and answer.headers["Content-Type"] == "application/problem+json"
            and int(answer.headers["Retry-After"]) > 0
        ):
            wrong.append((answer.status_code, answer.text))

    def storm():
        threads = [threading.Thread(target=call, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert not any(thread.is_alive() for thread in threads)

    storm()
    before = service.memory()
    storm()
    assert not wrong
    assert sum(found.values()) == 400
    assert found[200] >= 200
    assert service.memory() < 1.15 * before
    # And then normal service.
    assert service.metric("difflm_answers_in_flight") == 0
    begun = time.monotonic()
    assert service.generate("plain", count=10).status_code == 200
    assert time.monotonic() - begun < 5


def test_a_replaced_model_is_served_without_a_lost_request(plain_run, typed_model, tmp_path):
    """Callers go on while a bundle is replaced in place; then its rows are the new ones."""
    models = tmp_path / "models"
    shutil.copytree(plain_run / "generator", models / "one")
    statuses, versions, stopped = collections.Counter(), set(), threading.Event()

    def call(url):
        with httpx.Client(base_url=url, timeout=120) as client:
            while not stopped.is_set():
                answer = client.post("/v1/models/one/generate", json={"count": 20, "seed": 1})
                statuses[answer.status_code] += 1
                versions.add(answer.headers.get("X-Model-Version"))

    with serving(models, "--watch", folder=tmp_path) as running:
        old = running.client.get("/v1/models/one").json()["version"]
        thread = threading.Thread(target=call, args=(running.url,))
        thread.start()
        shutil.rmtree(models / "one")
        time.sleep(1)
        shutil.copytree(typed_model, models / "one")
        shutil.copytree(plain_run / "generator", models / "two")
        deadline = time.monotonic() + 60
        while len(versions) < 2 and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(1)
        stopped.set()
        thread.join(60)
        names = [model["id"] for model in running.client.get("/v1/models").json()["models"]]
    assert set(statuses) == {200}
    assert len(versions) == 2
    assert old in versions
    assert names == ["one", "two"]


def test_keys_are_asked_for_and_never_logged(plain_run, tmp_path):
    keys = tmp_path / "keys.yaml"
    command = [sys.executable, "-m", "difflm_core.cli", "key", "tester", "--file", str(keys)]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    key = made.stdout.strip()
    with serving(plain_run, "--keys", keys, folder=tmp_path) as running:
        assert running.client.get("/v1/models").status_code == 401
        with Client(running.url, key=key) as client:
            assert [model.id for model in client.models()] == ["run"]
            assert len(client.sample("run", 5)) == 5
        log = running.log.read_text()
    assert key not in log
    assert key not in keys.read_text()


def test_two_replicas_make_the_rows_of_one(plain_run, whole, tmp_path):
    with serving(f"plain={plain_run}", "--replicas", 2, folder=tmp_path) as running:
        assert len(running.processes("generator")) == 2
        answer = running.generate("plain", count=ROWS, seed=5, format="ndjson")
        assert answer.content == whole
        assert running.stop(signal.SIGINT) == 0
    assert re.search(r"Stopping", running.log.read_text())


def test_a_port_that_is_taken_is_named_before_anything_starts(service, plain_run, tmp_path):
    other = Serving(plain_run, folder=tmp_path, port=service.port)
    assert other.process.wait(30) == 2
    text = other.log.read_text()
    assert f"127.0.0.1:{service.port}" in text
    assert "--port" in text
    assert "Traceback" not in text


def test_only_the_loopback_listens(service):
    import psutil

    own = psutil.Process(service.process.pid)
    listening = [
        connection.laddr.ip
        for process in [own, *own.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
