"""API keys: who may call, how much, and where keys are kept."""

import datetime
import logging
import stat

import pytest
import yaml

from components.serving import keys as keys_module
from components.serving.keys import (
    ApiKey,
    TokenBucket,
    add_key,
    hash_key,
    make_entry,
    new_key,
    read_keys,
)
from components.serving.problems import ServiceError
from difflm_core.errors import ConfigError
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


def entry(name="a", key="k", **values):
    return {"name": name, "sha256": hash_key(key), **values}


def write(path, content):
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def test_a_file_of_keys(tmp_path):
    text = f"""
keys:
  - name: analytics
    sha256: {hash_key("secret")}
    models: [adult]
    requests_per_minute: 60
    rows_per_day: 1000000
    expires: 2027-01-31
  - name: other
    sha256: {hash_key("more")}
"""
    path = write(tmp_path / "keys.yaml", text)
    assert read_keys(path, {}) == [
        ApiKey(
            name="analytics",
            sha256=hash_key("secret"),
            models=("adult",),
            requests_per_minute=60,
            rows_per_day=1_000_000,
            expires=datetime.date(2027, 1, 31),
        ),
        ApiKey(name="other", sha256=hash_key("more")),
    ]


SHAPE = "; expected `keys:` with a list of name, sha256 and limits"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", f"content: Input should be a valid dictionary or instance of _KeyFile{SHAPE}"),
        ({"keys": []}, "keys: Tuple should have at least 1 item after validation, not 0" + SHAPE),
        ({"kyes": []}, f"keys: Field required{SHAPE}"),
        ({"keys": [{"name": "a"}]}, f"keys.0.sha256: Field required{SHAPE}"),
        (
            {"keys": [entry(), entry("b c")]},
            "keys.1.name: String should match pattern '^[A-Za-z0-9._-]{1,64}$'" + SHAPE,
        ),
        (
            {"keys": [{"name": "a", "sha256": "dlm_secret"}]},
            f"keys.0.sha256: String should match pattern '^[0-9a-f]{{64}}$'{SHAPE}",
        ),
        (
            {"keys": [entry(rows_per_day=0)]},
            f"keys.0.rows_per_day: Input should be greater than or equal to 1{SHAPE}",
        ),
        ({"keys": [entry(row=1)]}, f"keys.0.row: Extra inputs are not permitted{SHAPE}"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, content, message):
    path = write(tmp_path / "keys.yaml", content)
    with pytest.raises(ConfigError) as caught:
        read_keys(path, {})
    assert str(caught.value) == f"{path}: {message}"


def test_a_file_that_cannot_be_read(tmp_path):
    missing = str(tmp_path / "keys.yaml")
    with pytest.raises(ConfigError) as caught:
        read_keys(missing, {})
    assert str(caught.value) == (
        f"{missing}: there is no such file; expected API keys. Make one: difflm key NAME --file "
        f"{missing}"
    )
    with pytest.raises(ConfigError) as caught:
        read_keys(str(tmp_path), {})
    assert str(caught.value) == (
        f"{tmp_path}: cannot be read (Is a directory); expected a file of API keys"
    )
    for content in (b"keys: [", b"\xff\xfe\x00"):
        path = tmp_path / "bad.yaml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.yaml: not readable as YAML: "):
            read_keys(str(path), {})


def test_names_and_keys_are_there_once(tmp_path):
    path = write(tmp_path / "keys.yaml", {"keys": [entry("a", "1")]})
    with pytest.raises(ConfigError) as caught:
        read_keys(path, {"DIFFLM_API_KEYS": f"a:{hash_key('2')}"})
    assert str(caught.value) == "API keys: the name 'a' is there twice; rename one"
    with pytest.raises(ConfigError) as caught:
        read_keys(path, {"DIFFLM_API_KEYS": f"b:{hash_key('1')}"})
    assert str(caught.value) == "API keys: 'a' and 'b' are the same key; make another one"


def test_keys_in_the_environment():
    text = f"a:{hash_key('1')}, b:{hash_key('2')}\nc:{hash_key('3')},"
    assert [key.name for key in read_keys(None, {"DIFFLM_API_KEYS": text})] == ["a", "b", "c"]
    assert read_keys(None, {}) == []
    for wrong in ("a", "a:b", f"a b:{hash_key('1')}", f":{hash_key('1')}"):
        with pytest.raises(ConfigError) as caught:
            read_keys(None, {"DIFFLM_API_KEYS": wrong})
        assert str(caught.value) == (
            "DIFFLM_API_KEYS: an entry is not name:sha256 (64 hexadecimal digits); expected such "
            "entries separated by commas"
        )


def test_the_command_makes_a_key(difflm, tmp_path):
    path = tmp_path / "keys.yaml"
    options = ("--model", "adult", "--requests-per-minute", "6", "--rows-per-day", "9")
    code, out, err = difflm(
        "key", "first", "--file", str(path), *options, "--expires", "2030-01-31"
    )
    secret = out.strip()
    assert (code, out.count("\n"), secret[:4]) == (0, 1, "dlm_")
    assert len(secret) >= 40
    assert err == f"Added first to {path}. The key, shown this once:\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_text()
    assert secret not in content
    assert yaml.safe_load(content) == {
        "keys": [
            {
                "name": "first",
                "sha256": hash_key(secret),
                "models": ["adult"],
                "requests_per_minute": 6,
                "rows_per_day": 9,
                "expires": "2030-01-31",
            }
        ]
    }
    code, other, _ = difflm("key", "second", "--file", str(path))
    assert (code, other != out) == (0, True)
    assert [key.name for key in read_keys(str(path), {})] == ["first", "second"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["keys.yaml"]


def test_the_command_refuses(difflm, tmp_path):
    path = tmp_path / "keys.yaml"
    assert difflm("key", "a", "--file", str(path))[0] == 0
    before = path.read_bytes()
    code, out, err = difflm("key", "a", "--file", str(path))
    assert (code, out) == (2, "")
    assert "there is a key 'a' already; remove it first" in " ".join(err.split())
    for wrong in (("b c",), ("b", "--expires", "soon"), ("b", "--rows-per-day", "0")):
        assert difflm("key", *wrong, "--file", str(path))[0] == 2
    assert path.read_bytes() == before


def test_without_a_file_the_entry_is_shown(difflm):
    code, out, err = difflm("key", "a")
    assert code == 0
    assert yaml.safe_load(err) == {"keys": [{"name": "a", "sha256": hash_key(out.strip())}]}


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path):
    path = tmp_path / "keys.yaml"
    write(path, {"keys": [entry()]})
    path.chmod(0o644)
    stale = tmp_path / ".keys.yaml.new"
    stale.write_text("")
    stale.chmod(0o644)
    add_key(path, make_entry("b", "2"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nobody_is_charged_without_keys():
    ring = keys_module.KeyRing([])
    assert ring.required is False
    caller = ring.caller({"authorization": "Bearer x"})
    caller.charge_request()
    caller.charge_rows(10**12)
    caller.give_back_rows(1)
    assert (caller.name, caller.may_use("any")) == (None, True)
    with pytest.raises(ServiceError):
        keys_module.KeyRing([ApiKey(**entry())]).caller({})
