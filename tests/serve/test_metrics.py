"""What Prometheus and the log are told."""

import json
import logging

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from components.serving.keys import ApiKey, hash_key
from tests.serve.servers import make_service, served, wait_until

KEY = {"X-API-Key": "dlm_key"}


@pytest.fixture
def running(server, plain_model, typed_model, tmp_path):
    """A service whose counters begin at nothing."""
    key = ApiKey(name="analytics", sha256=hash_key(KEY["X-API-Key"]), rows_per_day=2000)
    models = {"plain": plain_model, "typed": typed_model}
    service = make_service(models, [key], server.generators)
    with served(service, tmp_path) as started:
        started.client.headers.update(KEY)
        yield started


def read(running):
    """Samples by name, and values of labels in the order of their names."""
    text = running.client.get("/metrics").text
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_page_is_of_prometheus(running):
    response = running.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert response.text.startswith("# HELP ")


def test_requests_rows_and_refusals_are_counted(running):
    assert running.generate("plain", count=5, seed=1).status_code == 200
    assert running.generate("plain", count=1500, seed=1).status_code == 200
    assert running.generate("typed", count=3, seed=1).status_code == 200
    assert running.generate("plain", count=0).status_code == 422
    assert running.generate("plain", count=1900).status_code == 429
    assert running.client.get("/v1/nothing").status_code == 404
    route = "/v1/models/{model}/generate"
    found = read(running)
    assert found["difflm_requests_total", "POST", route, "200"] == 3
    assert found["difflm_requests_total", "POST", route, "422"] == 1
    assert found["difflm_requests_total", "POST", route, "429"] == 1
    assert found["difflm_requests_total", "GET", "other", "404"] == 1
    assert found["difflm_request_seconds_count", route] == 5
    assert found["difflm_rows_total", "plain"] == 1505
    assert found["difflm_rows_total", "typed"] == 3
    assert found["difflm_rejected_tries_total", "plain"] == 0
    assert found["difflm_refused_total", "invalid"] == 1
    assert found["difflm_refused_total", "rows_exhausted"] == 1
    assert found["difflm_refused_total", "not_found"] == 1
    assert found["difflm_span_seconds_count",] == 4
    assert found["difflm_span_wait_seconds_count",] == 4
    assert found["difflm_batch_rows_count",] == 4
    assert found["difflm_answers_in_flight",] == 0
    versions = {name: m.ref.version for name, m in running.service.registry.models.items()}
    for name, version in versions.items():
        assert found["difflm_model_info", name, version] == 1


def test_jobs_are_counted_by_status(running):
    running.generators.held_from = 0
    body = {"model": "plain", "count": 1}
    made = [running.client.post("/v1/jobs", json=body).json()["id"] for _ in range(3)]
    wait_until(lambda: read(running)["difflm_jobs", "running"] == 2)
    assert read(running)["difflm_jobs", "waiting"] == 1
    running.client.delete(f"/v1/jobs/{made[0]}")
    running.generators.held_from = None
    wait_until(lambda: read(running)["difflm_jobs", "succeeded"] == 2)
    counts = {name[1]: n for name, n in read(running).items() if name[0] == "difflm_jobs"}
    assert counts == {"waiting": 0, "running": 0, "succeeded": 2, "failed": 0, "cancelled": 1}


def test_labels_are_few(running):
    running.client.post("/v1/models/x%22y/generate", json={})
    running.client.get("/secret-path")
    running.client.request("PROPFIND", "/healthz")
    running.client.get("/v1/jobs/0123456789abcdef")
    running.generate("plain", count=3)
    labels = {name[1:] for name in read(running)}
    texts = {label for found in labels for label in found}
    assert not {t for t in texts if "secret" in t or "analytics" in t or "x" == t or '"' in t}
    assert "PROPFIND" not in texts
    assert "0123456789abcdef" not in str(texts)


def test_the_log_has_a_line_for_each_request(running, caplog):
    caplog.set_level(logging.INFO, "difflm.access")
    caplog.clear()
    response = running.generate("plain", count=3, seed=1)
    running.generators.fail_after = 1024
    with pytest.raises(httpx.RemoteProtocolError):
        running.generate("plain", count=1500, seed=1)
    running.generators.fail_after = None
    running.client.get("/x%0D%0Ainjected")

    def lines():
        found = [r for r in caplog.records if r.name == "difflm.access"]
        return [json.loads(r.getMessage()) for r in found] if len(found) == 3 else None

    whole, broken, missing = wait_until(lines)
    assert whole.pop("seconds") >= 0
    assert whole == {
        "request_id": response.headers["x-request-id"],
        "method": "POST",
        "path": "/v1/models/plain/generate",
        "status": 200,
        "complete": True,
        "bytes": len(response.content),
        "key": "analytics",
    }
    assert (broken["status"], broken["complete"]) == (200, False)
    assert (missing["status"], missing["key"]) == (404, None)
    assert all("\n" not in r.getMessage() for r in caplog.records if r.name == "difflm.access")
