"""What the service answers to requests that are right, wrong and malicious."""

import json
import re
import socket
import time

import pytest

from components.serving import app as app_module
from tests.serve.servers import (
    is_closed,
    make_service,
    post_head,
    read_answer,
    served,
)

GENERATE = "/v1/models/plain/generate"
SAFE_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}


def problem_of(response, status, code):
    """The problem of an answer, checked as far as all are alike."""
    assert (response.status_code, response.headers["content-type"]) == (
        status,
        "application/problem+json",
    )
    found = response.json()
    assert set(found) == {
        *("type", "title", "status", "code", "detail", "request_id"),
        *("retry_after_seconds", "errors"),
    }
    assert (found["type"], found["status"], found["code"]) == ("about:blank", status, code)
    assert found["request_id"] == response.headers["x-request-id"]
    assert response.headers["cache-control"] == "no-store"
    assert SAFE_HEADERS.items() <= dict(response.headers).items()
    waits = found["retry_after_seconds"]
    assert response.headers.get("retry-after") == (None if waits is None else str(waits))
    return found


def test_every_answer_has_an_id_and_safe_headers(server):
    response = server.client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok", "detail": None})
    assert SAFE_HEADERS.items() <= dict(response.headers).items()
    assert "default-src 'self'" in response.headers["content-security-policy"]
    assert re.fullmatch("[0-9a-f]{16}", response.headers["x-request-id"])
    other = server.client.get("/healthz").headers["x-request-id"]
    assert other != response.headers["x-request-id"]


def test_ready_means_a_model_and_a_replica(server):
    assert server.client.get("/readyz").json() == {"status": "ok", "detail": None}
    server.generators.full = True
    found = problem_of(server.client.get("/readyz"), 503, "unavailable")
    assert (found["detail"], found["retry_after_seconds"]) == ("No replica answers.", 3)


def test_without_a_model_it_is_not_ready():
    with served(make_service({})) as running:
        found = problem_of(running.client.get("/readyz"), 503, "unavailable")
        assert (found["detail"], found["retry_after_seconds"]) == ("There is no model yet.", 5)
        found = problem_of(running.generate("plain"), 404, "not_found")
        assert found["detail"] == "There is no model 'plain' here. Models: none yet."
        running.generators.worker.close()


def test_limits(server):
    assert server.client.get("/v1/limits").json() == {
        "keys_required": False,
        "rows_per_request": 100_000,
        "rows_per_job": 1_000_000_000,
        "formats": ["json", "ndjson", "csv", "parquet", "arrow"],
        "job_formats": ["parquet", "csv", "jsonl"],
    }


def test_models(server):
    models = server.client.get("/v1/models").json()["models"]
    assert [(m["id"], m["num_columns"], m["target"]) for m in models] == [
        ("plain", 7, "label"),
        ("typed", 6, None),
    ]
    details = server.client.get("/v1/models/plain").json()
    assert models[0].items() <= details.items()
    assert details["card"].startswith("# ")
    assert server.client.get("/v1/models/plain/distributions").status_code == 200


def test_rows_with_their_headers(server):
    response = server.generate("plain", count=3, seed=1)
    assert response.status_code == 200
    headers = response.headers
    version = server.service.registry.models["plain"].ref.version
    assert (headers["x-seed"], headers["x-rows"], headers["x-model-version"]) == ("1", "3", version)
    assert (headers["content-type"], headers["cache-control"]) == ("application/json", "no-store")
    assert "content-disposition" not in headers
    assert SAFE_HEADERS.items() <= dict(headers).items()
    body = response.json()
    assert {k: body[k] for k in ("model", "version", "seed")} == {
        "model": "plain",
        "version": version,
        "seed": 1,
    }
    assert len(body["rows"]) == 3


@pytest.mark.parametrize(
    ("format", "media_type", "suffix"),
    [
        ("ndjson", "application/x-ndjson", ".jsonl"),
        ("csv", "text/csv; charset=utf-8", ".csv"),
        ("parquet", "application/vnd.apache.parquet", ".parquet"),
        ("arrow", "application/vnd.apache.arrow.stream", ".arrows"),
    ],
)
def test_files_have_a_type_and_a_name(server, format, media_type, suffix):
    headers = server.generate("plain", count=1, seed=9, format=format).headers
    assert headers["content-type"] == media_type
    assert headers["content-disposition"] == f'attachment; filename="synthetic-9{suffix}"'


def test_unknown_routes_and_models(server):
    found = problem_of(server.client.get("/v2/models"), 404, "not_found")
    assert found["detail"] == "There is nothing at /v2/models; /openapi.json lists what is."
    for path in ("/v1/models/other", "/v1/models/other/distributions"):
        found = problem_of(server.client.get(path), 404, "not_found")
        assert found["detail"] == "There is no model 'other' here. Models: plain, typed."
    for path in ("/v1/models/..%2f..%2fetc/generate", "/v1/models/%00/generate"):
        assert server.client.post(path, json={}).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/healthz", "GET"),
        ("GET", GENERATE, "POST"),
        ("OPTIONS", GENERATE, "POST"),
        ("PUT", "/v1/jobs", "GET, POST"),
        ("PATCH", "/v1/jobs/0123", "DELETE, GET"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(server, method, path, allowed):
    response = server.client.request(method, path)
    found = problem_of(response, 405, "method_not_allowed")
    assert found["detail"] == f"{method} does not go with {path}."
    assert response.headers["allow"] == allowed


def test_head_has_no_body(server):
    response = server.client.head("/nowhere")
    assert (response.status_code, response.content) == (404, b"")
    assert int(response.headers["content-length"]) > 100


@pytest.mark.parametrize(
    "content",
    [
        *(b"{", b"count=3", b"\xff\xfe{}", b'{"count": 1,}', b"[" * 20_000, b'{"a":' * 9000),
        b'{"count": ' + b"9" * 5000 + b"}",
    ],
    ids=["open", "form", "utf16", "comma", "arrays", "objects", "digits"],
)
def test_what_is_not_json(server, content):
    response = server.client.post(
        GENERATE, content=content, headers={"Content-Type": "application/json"}
    )
    found = problem_of(response, 400, "bad_request")
    assert found["detail"].startswith("The body is not JSON")
    assert found["errors"] == []


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"cuont": 1}, "cuont", "there is no such key"),
        ({"count": 0}, "count", "input should be greater than or equal to 1"),
        ({"count": 2.5}, "count", "input should be a valid integer"),
        ({"count": "5"}, "count", "input should be a valid integer"),
        ({"count": True}, "count", "input should be a valid integer"),
        ({"count": None}, "count", "input should be a valid integer"),
        ({"seed": -1}, "seed", "input should be greater than or equal to 0"),
        ({"seed": 2**31}, "seed", "input should be less than or equal to 2147483647"),
        ({"seed": 10**400}, "seed", "input should be less than or equal to 2147483647"),
        ({"first": 5}, "first", "input should be a multiple of 1024"),
        ({"first": 1024 * 10**30}, "first", "input should be less than or equal to"),
        ({"temperature": 0}, "temperature", "input should be greater than 0"),
        ({"temperature": float("nan")}, "temperature", "input should be a finite number"),
        ({"temperature": float("inf")}, "temperature", "input should be a finite number"),
        ({"temperature": "1"}, "temperature", "input should be a valid number"),
        ({"top_p": 1.5}, "top_p", "input should be less than or equal to 1"),
        ({"format": "xml"}, "format", "input should be 'json', 'ndjson', 'csv', 'parquet' or"),
        ({"conditions": 3}, "conditions", "input should be a valid dictionary"),
        ({"conditions": {"age": float("nan")}}, "conditions.age", "finite number"),
        ({"conditions": {"age": {"min": float("-inf")}}}, "conditions.age", "finite number"),
        ([], "", "input should be a valid dictionary"),
        ("text", "", "input should be a valid dictionary"),
        (None, "", "input should be a valid dictionary"),
    ],
)
def test_a_wrong_request_is_named_without_its_values(server, body, field, message):
    response = server.client.post(
        GENERATE, content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    found = problem_of(response, 422, "invalid")
    assert any(e["field"].startswith(field) and message in e["message"] for e in found["errors"])
    assert found["errors"][0]["message"] in found["detail"]


def test_whole_numbers_may_have_a_point(server):
    response = server.generate("plain", count=3.0, seed=1.0, first=0.0, temperature=1, top_p=1)
    assert response.content == server.generate("plain", count=3, seed=1).content
    assert response.headers["x-seed"] == "1"


def test_an_empty_body_and_another_content_type(server):
    found = problem_of(server.client.post(GENERATE), 422, "invalid")
    assert found["detail"] == "body: field required."
    response = server.client.post(
        GENERATE, content=b'{"count": 1}', headers={"Content-Type": "text/plain"}
    )
    found = problem_of(response, 422, "invalid")
    assert found["detail"].startswith("body: input should be a valid dictionary")


def test_many_wrong_keys_are_counted(server):
    found = problem_of(server.generate("plain", a=1, b=2, c=3, d=4, e=5), 422, "invalid")
    assert found["detail"] == (
        "a: there is no such key; b: there is no such key; c: there is no such key; and 2 more."
    )
    assert len(found["errors"]) == 5


def test_more_rows_than_an_answer_has(server):
    found = problem_of(server.generate("plain", count=100_001), 422, "invalid")
    assert found["detail"] == (
        "count: 100,001 rows were asked for; an answer has 100,000 at most. Read the table in "
        "pages (`first`), or submit a job (POST /v1/jobs)."
    )


def test_too_large_by_its_announcement(server):
    with server.connect() as connection:
        connection.sendall(post_head(GENERATE, "Content-Length: 65537"))
        status, headers, body = read_answer(connection)  # before any of the body is sent
        assert (status, headers["connection"]) == (413, "close")
        assert json.loads(body)["detail"] == "The body is larger than 65,536 bytes."
        assert is_closed(connection)


def test_too_large_in_chunks(server):
    with server.connect() as connection:
        connection.sendall(post_head(GENERATE, "Transfer-Encoding: chunked"))
        for _ in range(9):
            connection.sendall(b"2000\r\n" + b"x" * 8192 + b"\r\n")
        status, headers, body = read_answer(connection)
        assert (status, headers["connection"]) == (413, "close")
        assert json.loads(body)["code"] == "too_large"


def test_chunks_within_the_limit_are_joined(server):
    chunks = b'4\r\n{"co\r\n8\r\nunt": 1}\r\n0\r\n\r\n'
    head = post_head(GENERATE, "Transfer-Encoding: chunked", "Connection: close")
    assert server.ask_raw(head + chunks)[0] == 200


def test_a_body_that_never_arrives(server):
    with server.connect() as connection:
        connection.sendall(post_head(GENERATE, "Content-Length: 20") + b'{"count"')
        begun = time.monotonic()
        status, headers, body = read_answer(connection)
        assert (status, headers["connection"]) == (408, "close")
        assert time.monotonic() - begun >= 0.9
        assert json.loads(body)["detail"] == "The body did not arrive within 1 s."
        assert is_closed(connection)


def test_a_body_that_ends_early(server):
    made = len(server.generators.requests)
    with server.connect() as connection:
        connection.sendall(post_head(GENERATE, "Content-Length: 20") + b'{"count": 1}')
        connection.shutdown(socket.SHUT_WR)
        assert b"200" not in connection.recv(100)[:15]
    assert server.client.get("/healthz").status_code == 200
    assert len(server.generators.requests) == made


def test_a_connection_is_kept_after_an_error(server):
    with server.connect() as connection:
        for content, expected in ((b'{"count": 0}', 422), (b"{", 400), (b'{"count": 1}', 200)):
            connection.sendall(post_head(GENERATE, f"Content-Length: {len(content)}") + content)
            status, headers, _ = read_answer(connection)
            assert (status, headers.get("connection")) == (expected, None)


def test_an_id_of_the_caller_is_kept_if_it_is_harmless(server):
    for given in ("abc-1.2_3", "x" * 64):
        response = server.client.get("/nope", headers={"X-Request-Id": given})
        assert problem_of(response, 404, "not_found")["request_id"] == given
    for given in ("", "x" * 65, "a b", 'a"b', "ü", "a\tb", "<script>"):
        response = server.client.get("/healthz", headers={"X-Request-Id": given.encode("latin-1")})
        assert re.fullmatch("[0-9a-f]{16}", response.headers["x-request-id"])


def test_no_header_can_be_injected(server):
    for given in (b"a\r\nSet-Cookie: x=1", b"a\rSet-Cookie: x=1", b"a\nSet-Cookie: x=1"):
        head = b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-Request-Id: " + given + b"\r\n\r\n"
        status, headers, _ = server.ask_raw(head)
        assert status in (200, 400)
        assert "set-cookie" not in headers
        assert "Set-Cookie" not in headers.get("x-request-id", "")


def test_nobody_leaves_the_folder_of_the_page(server, tmp_path, monkeypatch):
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("<h1>page</h1>")
    (page / "page.js").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.setattr(app_module, "PAGE", page)
    with served(make_service({}, generators=server.generators)) as running:
        assert running.client.get("/").text == "<h1>page</h1>"
        assert running.client.get("/assets/page.js").text == "1"
        for path in ("../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "//etc/passwd"):
            head = f"GET /assets/{path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
            status, headers, body = running.ask_raw(head)
            assert (status, headers["content-type"]) == (404, "application/problem+json")
            assert b"secret." not in body or b"nothing at" in body


def test_only_names_that_it_goes_by(server):
    with served(
        make_service({}, generators=server.generators),
        allowed_hosts=("localhost", "127.0.0.1", "[::1]"),
    ) as running:
        for name in ("localhost", "LOCALHOST:8000", "[::1]:80", f"127.0.0.1:{running.port}"):
            response = running.client.get("/healthz", headers={"Host": name})
            assert response.status_code == 200
        for name in ("evil.example", "localhost.evil.example", "localhost:80:80", ""):
            response = running.client.get("/healthz", headers={"Host": name})
            found = problem_of(response, 403, "host_not_allowed")
            assert found["detail"] == (
                "This service does not go by that name. Expected: localhost, 127.0.0.1, [::1]."
            )


def test_a_defect_is_told_as_one(server, caplog):
    server.generators.fail_after, before = 0, server.generators.failure
    server.generators.failure = ZeroDivisionError("row 5 of Alice")
    try:
        response = server.generate("plain")
    finally:
        server.generators.failure = before
    found = problem_of(response, 500, "internal")
    assert found["detail"] == (
        f"The service failed; its log says more about request {found['request_id']}."
    )
    named = [r for r in caplog.records if r.getMessage() == f"request {found['request_id']} failed"]
    assert len(named) == 1
    assert named[0].exc_info[0] is ZeroDivisionError
    assert server.in_flight() == 0
