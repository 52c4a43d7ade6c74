"""Jobs: tables in files, made while nobody waits."""

import json
import re
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.serving import jobs as jobs_module
from components.serving.keys import ApiKey, hash_key
from difflm_core.api import DiffLM
from difflm_core.client import Client
from difflm_core.data.writers import RecordWriter
from tests.serve.servers import make_service, served, wait_until
from tests.serve.test_requests import problem_of

PART = 2048
KEYS = {"a": "dlm_a", "b": "dlm_b"}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(jobs_module, "PART_ROWS", PART)


@pytest.fixture
def results(server):
    """Folder of the jobs of `server`."""
    return server.results


@pytest.fixture(scope="module")
def server(plain_model, typed_model, tmp_path_factory):
    service = make_service({"plain": plain_model, "typed": typed_model}, waiting_jobs=2)
    results = tmp_path_factory.mktemp("results")
    with served(service, results) as running:
        running.results = results
        yield running
        running.generators.worker.close()


def submit(server, count, model="plain", headers=None, **body):
    body = {"model": model, "count": count, "seed": 7, **body}
    response = server.client.post("/v1/jobs", json=body, headers=headers)
    assert response.status_code == 202, response.text
    assert response.headers["location"] == f"/v1/jobs/{response.json()['id']}"
    return response.json()


def look(server, job, headers=None):
    return server.client.get(f"/v1/jobs/{job['id']}", headers=headers).json()


def finish(server, job, headers=None):
    def found():
        now = look(server, job, headers)
        return now if now["finished_utc"] else None

    return wait_until(found)


def content_of(server, job):
    return [server.client.get(file["url"]) for file in job["files"]]


def stored(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def saved(results, job):
    return json.loads((results / job["id"] / "job.json").read_text())


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_a_job_from_its_beginning_to_its_files(server, results, plain_model, tmp_path, format):
    server.generators.held_from = 2 * PART
    job = submit(server, 5000, format=format)
    assert re.fullmatch("[0-9a-f]{16}", job["id"])
    assert (job["count"], job["seed"], job["format"]) == (5000, 7, format)
    assert job["version"] == server.service.registry.models["plain"].ref.version
    wait_until(lambda: len(look(server, job)["files"]) == 2)
    half = look(server, job)
    assert (half["status"], half["num_done"], half["error"]) == ("running", 2 * PART, None)
    assert half["finished_utc"] is None
    names = [f"part-0000{index}.{format}" for index in range(3)]
    assert [file["name"] for file in half["files"]] == names[:2]
    server.generators.held_from = None
    done = finish(server, job)
    assert (done["status"], done["num_done"], done["error"]) == ("succeeded", 5000, None)
    assert done["result_uri"] == str(results / job["id"])
    assert stored(results / job["id"]) == ["job.json", *names]
    assert [(file["name"], file["rows"]) for file in done["files"]] == [
        (names[0], PART),
        (names[1], PART),
        (names[2], 904),
    ]
    answers = content_of(server, done)
    for file, answer in zip(done["files"], answers, strict=True):
        assert answer.headers["content-length"] == str(len(answer.content)) == str(file["bytes"])
        assert answer.headers["content-disposition"] == f'attachment; filename="{file["name"]}"'
        assert answer.content == (results / job["id"] / file["name"]).read_bytes()
    model = DiffLM.from_pretrained(plain_model)
    if format == "parquet":
        tables = [pq.read_table(pa.BufferReader(answer.content)) for answer in answers]
        model.sample_to(tmp_path / "all.parquet", 5000, seed=7)
        assert pa.concat_tables(tables) == pq.read_table(tmp_path / "all.parquet")
    else:
        texts = [answer.content for answer in answers]
        if format == "csv":
            header = texts[0].partition(b"\n")[0] + b"\n"
            texts = [texts[0], *(text.removeprefix(header) for text in texts[1:])]
        model.sample_to(tmp_path / f"all.{format}", 5000, seed=7)
        assert b"".join(texts) == (tmp_path / f"all.{format}").read_bytes()


def test_a_job_without_a_seed_tells_its_own(server):
    first, second = (submit(server, 1, seed=None) for _ in range(2))
    assert first["seed"] != second["seed"]
    answer = content_of(server, finish(server, submit(server, 3, format="csv", seed=9)))[0]
    again = server.generate("plain", count=3, seed=9, format="csv")
    assert answer.content == again.content


def test_the_list_has_the_newest_first(server):
    made = [submit(server, 1)["id"] for _ in range(4)]
    for job_id in made:
        finish(server, {"id": job_id})
    found = [job["id"] for job in server.client.get("/v1/jobs").json()["jobs"]]
    assert found[:4] == made[::-1]


def test_the_client_writes_a_jobs_table(server, plain_model, tmp_path):
    with Client(server.url) as client:
        job = client.submit("plain", 5000, seed=7, format="csv")
        job.wait()
        job.download(tmp_path / "files")
    parts = sorted((tmp_path / "files").rglob("part-*.csv"))
    assert len(parts) == 3
    assert sum(len(part.read_text().splitlines()) - 1 for part in parts) == 5000


def test_cancelled_while_it_runs(server, results):
    server.generators.held_from = PART
    job = submit(server, 3 * PART, format="csv")
    wait_until(lambda: look(server, job)["files"])
    asked = len(server.generators.requests)
    cancelled = server.client.delete(f"/v1/jobs/{job['id']}").json()
    assert (cancelled["status"], cancelled["files"]) == ("cancelled", [])
    assert cancelled["finished_utc"] is not None
    assert look(server, job) == cancelled
    assert stored(results / job["id"]) == ["job.json"]
    assert saved(results, job)["status"] == "cancelled"
    wait_until(lambda: server.generators.num_running == 0)  # though they are held
    server.generators.held_from = None
    time.sleep(0.1)
    assert len(server.generators.requests) == asked
    assert stored(results / job["id"]) == ["job.json"]
    # Again is as good as once.
    assert server.client.delete(f"/v1/jobs/{job['id']}").json() == cancelled


@pytest.mark.parametrize("step", ["__enter__", "write", "__exit__"])
def test_nothing_is_written_after_a_job_is_cancelled(server, results, monkeypatch, step):
    begun, ended = threading.Event(), threading.Event()

    class SlowWriter(RecordWriter):
        pass

    def slowly(self, *args):
        begun.set()
        time.sleep(0.2)
        try:
            return getattr(RecordWriter, step)(self, *args)
        finally:
            ended.set()

    setattr(SlowWriter, step, slowly)
    monkeypatch.setattr(jobs_module, "RecordWriter", SlowWriter)
    job = submit(server, 5, format="csv")
    assert begun.wait(20)
    cancelled = server.client.delete(f"/v1/jobs/{job['id']}").json()
    assert ended.is_set()
    assert (cancelled["status"], cancelled["files"]) == ("cancelled", [])
    assert stored(results / job["id"]) == ["job.json"]
    assert saved(results, job)["status"] == "cancelled"


def test_cancelled_while_it_waits_and_too_many_waiting(server, results):
    server.generators.held_from = 0
    running = [submit(server, 5) for _ in range(server.service.limits.concurrent_jobs)]
    wait_until(lambda: all(look(server, job)["status"] == "running" for job in running))
    waiting = [submit(server, 5) for _ in range(2)]
    assert [look(server, job)["status"] for job in waiting] == ["waiting"] * 2
    body = {"model": "plain", "count": 5}
    found = problem_of(server.client.post("/v1/jobs", json=body), 503, "busy")
    assert (found["detail"], found["retry_after_seconds"]) == ("Too many jobs wait already.", 60)
    cancelled = server.client.delete(f"/v1/jobs/{waiting[0]['id']}").json()
    assert (cancelled["status"], cancelled["num_done"]) == ("cancelled", 0)
    third = submit(server, 5)
    server.generators.held_from = None
    for job in (*running, waiting[1], third):
        assert finish(server, job)["status"] == "succeeded"
    assert look(server, waiting[0])["status"] == "cancelled"
    assert stored(results / waiting[0]["id"]) == ["job.json"]


def test_a_finished_job_that_is_removed_keeps_its_status(server, results):
    job = finish(server, submit(server, 5))
    removed = server.client.delete(f"/v1/jobs/{job['id']}").json()
    assert (removed["status"], removed["files"]) == ("succeeded", [])
    assert stored(results / job["id"]) == ["job.json"]
    problem_of(server.client.get(job["files"][0]["url"]), 404, "not_found")


def test_a_job_that_fails_says_why(server, results):
    server.generators.fail_after = PART
    job = finish(server, submit(server, 2 * PART, format="csv"))
    assert (job["status"], job["error"]) == ("failed", "The replica is gone.")
    assert [file["name"] for file in job["files"]] == ["part-00000.csv"]
    assert stored(results / job["id"]) == ["job.json", "part-00000.csv"]


def test_a_defect_is_not_told(server, caplog):
    server.generators.fail_after, before = 0, server.generators.failure
    server.generators.failure = ZeroDivisionError("secret")
    try:
        job = finish(server, submit(server, 5))
    finally:
        server.generators.failure = before
    assert (job["status"], job["error"]) == ("failed", "The service failed; its log says more.")
    assert f"job {job['id']} failed" in caplog.messages


def test_wrong_jobs(server):
    def refuse(status, code, **body):
        response = server.client.post("/v1/jobs", json=body)
        return problem_of(response, status, code)["detail"]

    assert refuse(422, "invalid", count=1) == "model: field required."
    assert refuse(404, "not_found", model="other", count=1).startswith("There is no model 'other'")
    assert refuse(422, "invalid", model="plain", count=1, first=1024) == (
        "first: there is no such key."
    )
    assert refuse(422, "invalid", model="plain", count=1, format="arrow").startswith("format: ")
    assert refuse(422, "invalid", model="typed", count=10**9 + 1) == (
        "count: 1,000,000,001 rows were asked for; a job has 1,000,000,000 at most."
    )
    assert "99699" in refuse(422, "cannot_generate", model="plain", count=10**8)


@pytest.mark.parametrize(
    "path",
    [
        *("0123456789abcdef", "..", "%2e%2e", "../../etc", "x" * 500, "%00", "job.json"),
        *("JOB/files/job.json", "JOB/files/part-00001.csv", "JOB/files/..%2fjob.json"),
        *("JOB/files/%2e%2e", "JOB/files/..%2f..%2f..%2fetc%2fpasswd", "JOB/files/"),
        *("JOB%2ffiles", "JOB/../JOB/files/job.json"),
    ],
)
def test_nobody_leaves_the_folder_of_a_job(server, path):
    job = finish(server, submit(server, 1, format="csv"))
    raw = f"GET /v1/jobs/{path.replace('JOB', job['id'])} HTTP/1.1\r\nHost: h\r\n\r\n"
    status, headers, body = server.ask_raw(raw.encode())
    assert (status, headers["content-type"]) == (404, "application/problem+json")
    assert json.loads(body)["code"] == "not_found"


def test_a_file_that_somebody_removed(server, results):
    job = finish(server, submit(server, 5, format="csv"))
    (results / job["id"] / "part-00000.csv").unlink()
    found = problem_of(server.client.get(job["files"][0]["url"]), 404, "not_found")
    assert found["detail"] == "part-00000.csv was removed from the storage."


def test_without_a_folder_there_are_no_jobs(server):
    with served(make_service({}, generators=server.generators)) as running:
        for method, path in (
            ("GET", "/v1/jobs"),
            ("POST", "/v1/jobs"),
            ("DELETE", "/v1/jobs/0123456789abcdef"),
            ("GET", "/v1/jobs/0123456789abcdef/files/part-00000.csv"),
        ):
            body = {"model": "plain", "count": 1} if method == "POST" else None
            found = problem_of(running.client.request(method, path, json=body), 404, "not_found")
            assert found["detail"] == "This service keeps no results, and so no jobs."


def test_the_jobs_of_others_are_not_there(server, plain_model, tmp_path):
    keys = [ApiKey(name=name, sha256=hash_key(key)) for name, key in KEYS.items()]
    service = make_service({"plain": plain_model}, keys, server.generators)
    mine, other = ({"X-API-Key": key} for key in KEYS.values())
    with served(service, tmp_path) as running:
        job = finish(running, submit(running, 5, headers=mine, format="csv"), mine)
        assert running.client.get("/v1/jobs", headers=other).json() == {"jobs": []}
        url = f"/v1/jobs/{job['id']}"
        for method, path in (("GET", url), ("DELETE", url), ("GET", job["files"][0]["url"])):
            response = running.client.request(method, path, headers=other)
            found = problem_of(response, 404, "not_found")
            assert found["detail"] == "You have no job of that id."
        assert running.client.get(job["files"][0]["url"], headers=mine).status_code == 200


def test_a_new_service_goes_on_with_the_missing_part(server, plain_model, tmp_path):
    def start():
        return served(make_service({"plain": plain_model}, generators=server.generators), tmp_path)

    server.generators.held_from = PART + 1024
    with start() as first:
        job = submit(first, 3 * PART, format="csv")
        idle = submit(first, 10, format="csv")
        wait_until(lambda: look(first, job)["num_done"] == PART + 1024)
    assert saved(tmp_path, job)["status"] == "running"
    assert stored(tmp_path / job["id"]) == ["job.json", "part-00000.csv"]
    kept = (tmp_path / job["id"] / "part-00000.csv").stat().st_mtime_ns
    before = len(server.generators.requests)
    server.generators.held_from = None
    with start() as second:
        done = finish(second, job)
        assert finish(second, idle)["status"] == "succeeded"
        assert (done["status"], done["num_done"], len(done["files"])) == ("succeeded", 3 * PART, 3)
        joined = b"".join(answer.content.partition(b"\n")[2] for answer in content_of(second, done))
        whole = second.generate("plain", count=3 * PART, seed=7, format="csv").content
        assert joined == whole.partition(b"\n")[2]
        assert done["created_utc"] == job["created_utc"]
    begins = {r.begin for r in server.generators.requests[before:] if r.format is None}
    assert begins - {0} == {PART, PART + 1024, 2 * PART, 2 * PART + 1024}
    assert (tmp_path / job["id"] / "part-00000.csv").stat().st_mtime_ns == kept


def test_a_model_that_was_replaced_ends_its_jobs(server, plain_model, typed_model, tmp_path):
    server.generators.held_from = 0
    with served(make_service({"m": plain_model}, generators=server.generators), tmp_path) as first:
        job = submit(first, 10, "m")
        gone = submit(first, 10, "m")
        wait_until(lambda: look(first, gone)["status"] == "running")
    server.generators.held_from = None
    with served(make_service({"m": typed_model}, generators=server.generators), tmp_path) as second:
        done = finish(second, job)
        assert (done["status"], done["error"]) == (
            "failed",
            "The model was replaced before the job was done; submit it again.",
        )
    with served(make_service({}, generators=server.generators), tmp_path) as third:
        assert look(third, gone)["status"] == "failed"


def test_old_jobs_go_and_damaged_ones_are_left(server, plain_model, tmp_path, caplog):
    def start(**options):
        service = make_service({"plain": plain_model}, generators=server.generators)
        return served(service, tmp_path, **options)

    with start() as first:
        old, new = (finish(first, submit(first, 1)) for _ in range(2))
    path = tmp_path / old["id"] / "job.json"
    state = json.loads(path.read_text()) | {"finished_utc": "2020-01-01T00:00:00.000+00:00"}
    path.write_text(json.dumps(state))
    damaged = {
        "00000000000000a0": b'{"id": ',
        "00000000000000a1": b"\xff\xfe",
        "00000000000000a2": json.dumps(state).encode(),  # of another folder
        "notes": b"{}",
    }
    for name, content in damaged.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.json").write_bytes(content)
    with start(refresh_seconds=0.05) as second:
        wait_until(lambda: not (tmp_path / old["id"]).exists())
        found = second.client.get("/v1/jobs").json()["jobs"]
        assert [job["id"] for job in found] == [new["id"]]
        problem_of(second.client.get(f"/v1/jobs/{old['id']}"), 404, "not_found")
    for name, content in damaged.items():
        assert (tmp_path / name / "job.json").read_bytes() == content
    warned = [m for m in caplog.messages if m.endswith("cannot be read; it is left alone")]
    assert [m.split()[1] for m in warned] == [f"{n}:" for n in damaged if n != "notes"]


def test_a_folder_that_cannot_be_written_to(server, plain_model, tmp_path):
    keys = [ApiKey(name="a", sha256=hash_key(KEYS["a"]), rows_per_day=10)]
    service = make_service({"plain": plain_model}, keys, server.generators)
    (tmp_path / "results").write_text("a file")
    with served(service, tmp_path / "results") as running:
        mine = {"X-API-Key": KEYS["a"]}
        body = {"model": "plain", "count": 10}
        for _ in range(2):  # rows that are not made are not charged
            response = running.client.post("/v1/jobs", json=body, headers=mine)
            problem_of(response, 500, "internal")
        assert running.client.get("/v1/jobs", headers=mine).json() == {"jobs": []}
