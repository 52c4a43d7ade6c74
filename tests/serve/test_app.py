"""The application of a RayService, deployed on a local head by its own configuration."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from components.cluster_config import ClusterConfig
from components.manifests import rayservice
from difflm_core.api import DiffLM
from tests.ray.heads import free_port, local_head

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

SERVE = str(Path(sys.executable).with_name("serve"))


def ask(url, body=None):
    """Status and JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def url(people_run, tmp_path_factory):
    manifest = rayservice(str(people_run / "generator"), ClusterConfig())
    config = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    port = free_port()
    # In a pod it answers the Service; here nobody else.
    config["http_options"].update(host="127.0.0.1", port=port)
    config["applications"][0]["args"].update(num_replicas=1, cpus_per_replica=1)
    path = tmp_path_factory.mktemp("serve") / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    with local_head() as head:
        subprocess.run(
            [SERVE, "deploy", str(path), "-a", head.dashboard], env=head.environment, check=True
        )
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while True:
            try:
                if ask(f"{address}/readyz")[0] == 200:
                    break
            except (OSError, ValueError):  # nobody yet, or the proxy without an application
                pass
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield address


def test_a_pipelines_service_answers_with_rows_of_its_generator(url, people_run, tmp_path):
    (model,) = ask(f"{url}/v1/models")[1]["models"]
    assert model["id"] == "difflm"
    status, described = ask(f"{url}/v1/models/difflm")
    assert status == 200
    kinds = {column["name"]: column["kind"] for column in described["columns"]}
    assert kinds["job"] == "categorical"
    assert described["quality"]["headline"]  # of the run that made the generator
    status, made = ask(f"{url}/v1/models/difflm/generate", {"count": 5, "seed": 3})
    assert status == 200
    assert made["seed"] == 3
    path = tmp_path / "rows.jsonl"
    DiffLM.from_pretrained(str(people_run / "generator")).sample_to(path, 5, seed=3)
    assert made["rows"] == [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_it_has_no_jobs_where_it_has_no_place_for_results(url):
    status, answer = ask(f"{url}/v1/jobs", {"model": "difflm", "count": 5})
    assert (status, answer["code"]) == (404, "not_found")


def test_wrong_requests_are_named(url):
    status, answer = ask(f"{url}/v1/models/other/generate", {})
    assert (status, answer["code"]) == (404, "not_found")
    for body in ({"count": 0}, {"count": 10**9}, {"cuont": 1}, {"top_p": 2}):
        assert ask(f"{url}/v1/models/difflm/generate", body)[0] == 422
