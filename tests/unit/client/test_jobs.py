"""Jobs: waited for, cancelled, downloaded."""

import httpx
import pytest

from difflm_core.client import Client, JobFile, ServiceError
from tests.unit.client.answering import (
    Broken,
    Clock,
    problem,
)


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
