"""`difflm pipeline submit` and `status` against a Kubeflow server over HTTP."""

import pytest

from pipelines.compile import compile_text
from tests.kfp.fake_kubeflow import TASKS, fake_kubeflow
from tests.people import people_config

RUNNING = ("RUNNING", TASKS[:1], None)
SUCCEEDED = ("SUCCEEDED", TASKS, None)


@pytest.fixture
def call(difflm, tmp_path, monkeypatch):
    people_config(tmp_path)
    for name in ("KFP_ENDPOINT", "KFP_NAMESPACE", "KFP_EXISTING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pipelines.client.PipelineClient.wait.__defaults__", (0.01,))

    def call(*arguments):
        return difflm("pipeline", *arguments)

    return call


def test_a_run_is_uploaded_submitted_and_followed(call):
    with fake_kubeflow(states=[RUNNING, RUNNING, SUCCEEDED]) as (server, url):
        code, out, err = call(
            *("submit", "run.yaml", "--endpoint", url, "--output", "s3://b/run", "--wait"),
            *("-p", "rows=500", "-p", "shape_error_percent=2", "-p", "replace_changed=true"),
            *("--service-account", "difflm-pipeline", "--experiment", "mine", "--name", "first"),
        )
    assert code == 0, err
    assert out == "run-0\n"
    assert "serialize: succeeded" in err
    (run,) = server.runs.values()
    assert run["display_name"] == "first"
    assert run["service_account"] == "difflm-pipeline"
    assert run["experiment_id"] == "e0"
    assert server.experiments[0]["display_name"] == "mine"
    assert run["pipeline_version_reference"] == {"pipeline_id": "p0", "pipeline_version_id": "v0"}
    parameters = run["runtime_config"]["parameters"]
    assert parameters["run"] == "s3://b/run"
    assert parameters["rows"] == 500
    assert parameters["shape_error_percent"] == 2.0
    assert parameters["replace_changed"] is True
    # The text of the file, which the server could not read.
    assert '"source"' in parameters["config"]
    assert all(compile_text("difflm").strip() in upload for upload in server.uploads)


def test_the_same_pipeline_is_uploaded_once(call):
    with fake_kubeflow(states=[SUCCEEDED]) as (server, url):
        server.versions.append({"display_name": "an older one", "pipeline_version_id": "old"})
        for _ in range(2):
            code, _, err = call("submit", "run.yaml", "--endpoint", url)
            assert code == 0, err
        assert len(server.runs) == 2
        assert len(server.pipelines) == 1
        assert [version["display_name"] for version in server.versions[1:]] == [
            server.versions[1]["display_name"]
        ]
        assert len(server.experiments) == 1


def test_a_failed_run_shows_its_steps_and_their_messages(call):
    tasks = [*TASKS, ("train-vae", "FAILED", "data.source: there is no such column")]
    states = [RUNNING, ("FAILED", tasks, "one step failed")]
    with fake_kubeflow(states=states) as (_, url):
        code, _, err = call("submit", "run.yaml", "--endpoint", url, "--wait")
        assert code == 2
        assert "The run run-0 has ended as FAILED" in err
        assert "one step failed" in err
        assert "train-vae: data.source: there is no such column" in err
        assert "Traceback" not in err
        code, out, err = call("status", "run-0", "--endpoint", url)
    assert code == 0, err
    assert out.splitlines()[0] == "FAILED"
    assert "FAILED     train-vae  data.source: there is no such column" in out


def test_a_run_that_takes_too_long_goes_on(call):
    with fake_kubeflow(states=[RUNNING]) as (_, url):
        arguments = ("submit", "run.yaml", "--endpoint", url, "--wait", "--timeout", "0.1")
        code, out, err = call(*arguments)
    assert code == 2
    assert out == "run-0\n"
    assert "difflm pipeline status run-0" in err


def test_the_token_comes_from_the_environment(call, monkeypatch):
    with fake_kubeflow(token="secret-token", states=[SUCCEEDED]) as (_, url):
        monkeypatch.setenv("KFP_ENDPOINT", url)
        code, out, err = call("submit", "run.yaml")
        assert code == 2
        assert "KFP_EXISTING_TOKEN" in err
        monkeypatch.setenv("KFP_EXISTING_TOKEN", "secret-token")
        code, out, err = call("submit", "run.yaml", "--wait")
    assert code == 0, err
    assert "secret-token" not in out + err


def test_servers_that_do_not_serve_are_named(call):
    code, _, err = call("submit", "run.yaml", "--endpoint", "http://127.0.0.1:1")
    assert code == 2
    assert "http://127.0.0.1:1: no Kubeflow answers here" in err
    with fake_kubeflow(failing=True) as (_, url):
        code, _, err = call("submit", "run.yaml", "--endpoint", url)
        assert code == 2
        assert "the database is full" in err
    with fake_kubeflow() as (_, url):
        code, _, err = call("status", "nothing", "--endpoint", url)
    assert code == 2
    assert "run nothing not found" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "row=5"], "the pipeline difflm has no such parameter.*Did you mean rows?"),
        (["-p", "rows"], "expected name=value"),
        (["-p", "rows=many"], "expected a value of type Integer, found 'many'"),
        (["-p", "rows=true"], "expected a value of type Integer, found 'true'"),
        (["--pipeline", "other"], "--pipeline other: expected one of difflm, sweep"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_sent(call, arguments, message):
    import re

    with fake_kubeflow() as (server, url):
        code, _, err = call("submit", "run.yaml", "--endpoint", url, *arguments)
        assert code == 2
        assert re.search(message, " ".join(err.split()))
        assert not server.uploads
        assert not server.runs


def test_a_wrong_configuration_is_refused_before_anything_is_sent(call, tmp_path):
    (tmp_path / "run.yaml").write_text("vae: {widht: 3}")
    with fake_kubeflow() as (server, url):
        code, _, err = call("submit", "run.yaml", "--endpoint", url)
        assert code == 2
        assert "widht" in err
        assert not server.uploads
