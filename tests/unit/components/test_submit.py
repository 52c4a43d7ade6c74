"""Launching a stage: the output decides, and wrong parameters are named."""

import json

import pytest

from components.patience import Patience
from components.stage_job import StageJob, find_stage, read_where
from components.submit import InProcess, launch, open_backend, verified_output
from difflm_core.errors import ConfigError, StageError
from tests.people import people_config


class Nothing:
    """A backend that says it is done."""

    def run(self, job):
        pass


def job_of(people_run, output):
    return StageJob(
        find_stage("evaluate"),
        "run.yaml",
        {"corpus": str(people_run / "corpus"), "synthetic": str(people_run / "synthetic")},
        str(output),
    )


def test_a_finished_output_is_accepted(people_run):
    artifact = launch(job_of(people_run, people_run / "report"), Nothing())
    assert artifact.uri == str(people_run / "report")


def test_no_manifest_is_a_failure(people_run, tmp_path):
    with pytest.raises(StageError, match=r"its output is not valid: .*there is nothing here"):
        launch(job_of(people_run, tmp_path / "none"), Nothing())


@pytest.mark.parametrize("damage", ["file", "manifest", "kind", "inputs"])
def test_a_damaged_output_is_a_failure(people_run, tmp_path, damage):
    import shutil

    output = tmp_path / "report"
    shutil.copytree(people_run / "report", output)
    assert verified_output(job_of(people_run, output))
    manifest = json.loads((output / "manifest.json").read_text())
    if damage == "file":
        (output / "report.html").write_text("")
    elif damage == "manifest":
        (output / "manifest.json").write_text("{}")
    elif damage == "kind":
        shutil.rmtree(output)
        shutil.copytree(people_run / "synthetic", output)
    else:
        manifest["inputs"]["synthetic"]["content_hash"] = "0" * 64
        (output / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StageError, match="evaluate has ended without an error, but"):
        verified_output(job_of(people_run, output))


def test_in_process_the_command_line_runs(people_run, tmp_path):
    people_config(tmp_path, evaluation={"max_rows": 100})
    job = job_of(people_run, tmp_path / "report")
    job = StageJob(job.stage, str(tmp_path / "run.yaml"), job.inputs, job.output)
    assert launch(job, InProcess()).manifest.stage == "evaluate"
    wrong = StageJob(job.stage, str(tmp_path / "none.yaml"), job.inputs, job.output)
    with pytest.raises(StageError, match="evaluate ended with exit code 2"):
        launch(wrong, InProcess())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backend": "cloud"}, "backend 'cloud': expected one of local, jobs, rayjob"),
        ({"backend": "jobs"}, "backend 'jobs' needs address"),
        ({"backnd": "local"}, "backnd: Extra inputs"),
    ],
)
def test_where_is_checked(values, message):
    with pytest.raises(ConfigError, match=message):
        read_where(values)


def test_rayjobs_need_a_cluster(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="needs a Kubernetes cluster"):
        open_backend(read_where({"backend": "rayjob"}))


def test_an_unknown_stage_is_named():
    with pytest.raises(ConfigError, match=r"train: there is no such stage. Expected one of serial"):
        find_stage("train")


def test_patience_ends():
    calls = []

    def fail():
        calls.append(1)
        raise OSError("refused")

    patience = Patience("The API", lambda error: isinstance(error, OSError), 0.2, 0.05)
    with pytest.raises(StageError, match="The API has not answered for 0 s: refused"):
        patience.call(fail)
    assert len(calls) == 3
    with pytest.raises(ValueError, match="mine"):
        patience.call(lambda: int("mine"))
