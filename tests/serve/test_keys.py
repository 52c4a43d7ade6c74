"""API keys: who may call, and how much."""

import datetime
import logging

import pytest

from components.serving import keys as keys_module
from components.serving.keys import (
    ApiKey,
    TokenBucket,
    hash_key,
    new_key,
)
from components.serving.problems import ServiceError
from tests.serve.servers import make_service, served
from tests.serve.test_requests import problem_of

KEYS = {name: new_key() for name in ("free", "one", "slow", "few", "old", "last")}
TODAY = datetime.datetime.now(datetime.UTC).date()
DAY = datetime.timedelta(days=1)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def bearer(name):
    return {"Authorization": f"Bearer {KEYS[name]}"}


@pytest.fixture(scope="module")
def clock():
    return Clock()


@pytest.fixture(scope="module")
def server(plain_model, typed_model, tmp_path_factory, clock):
    limits = {
        "one": {"models": ("typed",)},
        "slow": {"requests_per_minute": 3},
        "few": {"rows_per_day": 100},
        "old": {"expires": TODAY - DAY},
        "last": {"expires": TODAY},
    }
    keys = [ApiKey(name=n, sha256=hash_key(k), **limits.get(n, {})) for n, k in KEYS.items()]
    models = {"plain": plain_model, "typed": typed_model}
    with served(make_service(models, keys, clock=clock), tmp_path_factory.mktemp("r")) as running:
        yield running
        running.generators.worker.close()


def generate(server, key, model="plain", **body):
    return server.client.post(f"/v1/models/{model}/generate", json=body, headers=bearer(key))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/plain"),
        ("GET", "/v1/models/plain/distributions"),
        ("POST", "/v1/models/plain/generate"),
        ("GET", "/v1/jobs"),
        ("POST", "/v1/jobs"),
        ("GET", "/v1/jobs/0123456789abcdef"),
        ("DELETE", "/v1/jobs/0123456789abcdef"),
        ("GET", "/v1/jobs/0123456789abcdef/files/part-00000.csv"),
    ],
)
def test_every_route_of_models_and_jobs_needs_a_key(server, method, path):
    body = {"json": {"model": "plain", "count": 1}} if path.endswith("jobs") else {"json": {}}
    response = server.client.request(method, path, **(body if method == "POST" else {}))
    found = problem_of(response, 401, "key_missing")
    assert response.headers["www-authenticate"] == 'Bearer realm="difflm"'
    assert found["detail"] == (
        "An API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY."
    )


def test_what_needs_no_key(server):
    for path in ("/healthz", "/readyz", "/metrics", "/v1/limits", "/openapi.json"):
        assert server.client.get(path).status_code == 200
    assert server.client.get("/v1/limits").json()["keys_required"] is True


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Authorization": "Bearer"}, "key_missing"),
        ({"Authorization": KEYS["free"]}, "key_missing"),
        ({"Authorization": f"Basic {KEYS['free']}"}, "key_missing"),
        ({"Authorization": f"Bearer {KEYS['free']}x"}, "key_unknown"),
        ({"Authorization": f"Bearer {hash_key(KEYS['free'])}"}, "key_unknown"),
        ({"Authorization": f"Bearer {KEYS['free'].upper()}"}, "key_unknown"),
        ({"Authorization": "Bearer \xff\xfe"}, "key_unknown"),
        ({"X-API-Key": "dlm_other"}, "key_unknown"),
    ],
)
def test_a_key_that_is_none(server, headers, code):
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    response = server.client.get("/v1/models", headers=headers)
    found = problem_of(response, 401, code)
    if code == "key_unknown":
        assert found["detail"] == "This API key is not known here."


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"bearer {KEYS['free']}"},
        {"Authorization": f"Bearer  {KEYS['free']}"},
        {"X-API-Key": KEYS["free"]},
        {"Authorization": "Basic eDp5", "X-API-Key": KEYS["free"]},
    ],
)
def test_ways_to_send_a_key(server, headers):
    assert server.client.get("/v1/models", headers=headers).status_code == 200


def test_a_key_is_good_until_its_last_day(server, monkeypatch):
    found = problem_of(server.client.get("/v1/models", headers=bearer("old")), 401, "key_unknown")
    assert found["detail"] == "The API key old has expired."
    assert server.client.get("/v1/models", headers=bearer("last")).status_code == 200
    monkeypatch.setattr(keys_module, "_today", lambda: TODAY + DAY)
    assert server.client.get("/v1/models", headers=bearer("last")).status_code == 401


def test_a_key_for_some_models(server):
    models = server.client.get("/v1/models", headers=bearer("one")).json()["models"]
    assert [model["id"] for model in models] == ["typed"]
    assert generate(server, "one", "typed", count=1).status_code == 200
    found = problem_of(generate(server, "one", count=1), 403, "not_allowed")
    assert found["detail"] == "The key one is not for model 'plain'."
    # What there is besides is not told.
    problem_of(generate(server, "one", "nothing", count=1), 403, "not_allowed")
    for path in ("/v1/models/plain", "/v1/models/plain/distributions"):
        problem_of(server.client.get(path, headers=bearer("one")), 403, "not_allowed")
    job = {"model": "plain", "count": 1}
    response = server.client.post("/v1/jobs", json=job, headers=bearer("one"))
    problem_of(response, 403, "not_allowed")


def test_requests_per_minute(server, clock):
    def ask():
        return server.client.get("/v1/models", headers=bearer("slow"))

    assert [ask().status_code for _ in range(3)] == [200] * 3
    found = problem_of(ask(), 429, "rate_limited")
    assert (found["detail"], found["retry_after_seconds"]) == (
        "Too many requests with the key slow.",
        20,
    )
    clock.now += 19
    assert problem_of(ask(), 429, "rate_limited")["retry_after_seconds"] == 1
    clock.now += 1
    assert ask().status_code == 200
    assert problem_of(ask(), 429, "rate_limited")["retry_after_seconds"] == 20
    assert server.client.get("/v1/models", headers=bearer("free")).status_code == 200
    clock.now += 3600  # at most a minute's worth
    assert [ask().status_code for _ in range(4)] == [200] * 3 + [429]


def test_rows_per_day(server, clock):
    found = problem_of(generate(server, "few", count=101), 403, "not_allowed")
    assert found["detail"] == "The key few allows 100 rows a day; 101 were asked for."
    assert generate(server, "few", count=99).status_code == 200
    found = problem_of(generate(server, "few", count=2), 429, "rows_exhausted")
    assert found["detail"] == "The key few allows 100 rows a day, and they are used up."
    assert found["retry_after_seconds"] == 864
    job = {"model": "plain", "count": 2}
    response = server.client.post("/v1/jobs", json=job, headers=bearer("few"))
    problem_of(response, 429, "rows_exhausted")
    assert generate(server, "few", count=1).status_code == 200
    clock.now += 86_400
    # Nothing is charged for what is refused, or not made.
    assert generate(server, "few", count=0).status_code == 422
    server.generators.fail_after = 0
    assert generate(server, "few", count=100).status_code == 503
    server.generators.fail_after = None
    assert generate(server, "few", count=100).status_code == 200
    assert generate(server, "few", count=1).status_code == 429
    clock.now += 86_400


def test_rows_of_a_job_that_fails_are_given_back(server):
    server.generators.fail_after = 0
    job = {"model": "plain", "count": 100}
    made = server.client.post("/v1/jobs", json=job, headers=bearer("few")).json()
    path = f"/v1/jobs/{made['id']}"
    while (found := server.client.get(path, headers=bearer("few")).json())["finished_utc"] is None:
        pass
    assert (found["status"], found["error"]) == ("failed", "The replica is gone.")
    server.generators.fail_after = None
    assert generate(server, "few", count=100).status_code == 200


def test_no_key_is_in_a_log_or_an_answer(server, caplog):
    caplog.set_level(logging.DEBUG)
    texts = [server.client.get("/metrics").text]
    for name in KEYS:
        response = generate(server, name, count=1)
        texts.append(response.text + str(response.headers))
    texts += caplog.messages
    assert any('"key": "free"' in text for text in caplog.messages)
    secrets = [*KEYS.values(), *map(hash_key, KEYS.values())]
    assert not [s for s in secrets for text in texts if s in text]
    assert "free" not in texts[0]


def test_a_bucket():
    clock = Clock()
    bucket = TokenBucket(10, 100, clock)
    assert bucket.take(10) == 0
    assert bucket.take(3) == 30
    clock.now += 30
    assert bucket.take(3) == 0
    bucket.give_back(50)
    assert bucket.take(11) == 10
    assert bucket.take(10) == 0


def test_nobody_is_charged_without_keys():
    ring = keys_module.KeyRing([])
    assert ring.required is False
    caller = ring.caller({"authorization": "Bearer x"})
    caller.charge_request()
    caller.charge_rows(10**12)
    caller.give_back_rows(1)
    assert (caller.name, caller.may_use("any")) == (None, True)
    with pytest.raises(ServiceError):
        keys_module.KeyRing([ApiKey(name="a", sha256=hash_key("k"))]).caller({})
