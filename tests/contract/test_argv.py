"""A stage's argv is the same on the command line, as a Ray job, as a RayJob and in Kubeflow."""

import shlex
from types import SimpleNamespace

import pytest
import yaml

from components import steps
from components.cluster_config import ClusterConfig
from components.factory import run_stage
from components.manifests import rayjob
from components.ray_jobs import RayJobs
from components.stage_job import Where
from difflm_core.stages import load_stages
from difflm_core.stages.pipeline import FOLDERS
from pipelines.compile import COMPILED


class Stopped(Exception):
    """Ends a step as soon as its work would begin."""


def expected(stage):
    inputs = {name: f"s3://b/run/{FOLDERS[kind]}" for name, kind in stage.inputs.items()}
    argv = stage.argv("s3://b/run/pipeline.yaml", inputs, f"s3://b/run/{FOLDERS[stage.output]}")
    return inputs, argv


def kubeflow_job(stage, monkeypatch):
    """The job that the component of a stage launches, with the inputs that the pipeline wires."""
    pipeline = next(yaml.safe_load_all((COMPILED / "difflm.yaml").read_text("utf-8")))
    task = pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"][stage.name]
    constants = task["inputs"]["parameters"]
    names = constants["inputs"]["runtimeValue"]["constant"]
    jobs = []

    def launch(job, backend):
        jobs.append(job)
        raise Stopped

    monkeypatch.setattr("components.steps.launch", launch)
    output = SimpleNamespace(uri="", path="", metadata={})
    with pytest.raises(Stopped):
        run_stage.python_func(
            stage=constants["stage"]["runtimeValue"]["constant"],
            config="s3://b/run/pipeline.yaml",
            inputs={name: f"s3://b/run/{name}" for name in names},
            run="s3://b/run",
            where={"backend": "local", "run_id": "r"},
            artifact=output,
            metrics=output,
            page=output,
        )
    return jobs[0]


@pytest.mark.parametrize("stage", load_stages(), ids=lambda stage: stage.name)
def test_one_argv_everywhere(stage, monkeypatch):
    inputs, argv = expected(stage)
    job = kubeflow_job(stage, monkeypatch)
    assert job.argv == argv
    direct = steps.stage_job(stage.name, "s3://b/run/pipeline.yaml", inputs, "s3://b/run", Where())
    assert direct.argv == argv
    command = ["python", "-m", "components.entrypoint", *argv]
    manifest = rayjob(job, ClusterConfig(), num_workers=2)
    assert shlex.split(manifest["spec"]["entrypoint"]) == command
    submitted = []
    client = SimpleNamespace(list_jobs=list, submit_job=lambda **values: submitted.append(values))
    RayJobs("http://127.0.0.1:8265")._submit(client, job)
    assert shlex.split(submitted[0]["entrypoint"]) == command
    assert submitted[0]["submission_id"] == job.name == manifest["metadata"]["name"]


def test_a_name_stays_for_a_retry_and_differs_between_runs(monkeypatch):
    stage = load_stages()[0]
    inputs, _ = expected(stage)

    def name(run_id, folder="s3://b/run"):
        where = Where(run_id=run_id)
        return steps.stage_job(stage.name, "s3://b/run/p.yaml", inputs, folder, where).name

    assert name("1") == name("1")
    assert len({name("1"), name("2"), name("1", "s3://b/other")}) == 3
