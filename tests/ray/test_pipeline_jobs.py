"""The pipeline with the backend jobs: its stages on the job API of a local head."""

import subprocess
import sys

import pytest

from components.ray_jobs import RayJobs
from components.stage_job import StageJob, find_stage
from components.submit import launch
from difflm_core.errors import StageError
from tests.people import content_hashes, people_config
from tests.ray.heads import local_head

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


PIPELINE = [sys.executable, "-m", "difflm_core.cli", "pipeline", "run-local", "run.yaml"]


@pytest.fixture(scope="module")
def head():
    with local_head() as head:
        yield head


@pytest.fixture
def cluster(head, monkeypatch):
    """The head, with its token in this process's environment."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, head.environment[name])
    return head


def generate_job(people_run, folder, run_id, **changes):
    people_config(folder, generation={"num_rows": 60, **changes}, runtime={"threads": 1})
    generator = {"generator": str(people_run / "generator")}
    return StageJob(
        find_stage("generate"), str(folder / "run.yaml"), generator, str(folder / "out"), run_id
    )


def test_the_whole_pipeline_as_jobs_of_a_cluster(head, people_run, tmp_path):
    people_config(tmp_path, runtime={"threads": 1})
    arguments = ["--output", str(tmp_path / "run"), "-p", "backend=jobs"]
    done = subprocess.run(
        [*PIPELINE, *arguments, "-p", f"address={head.dashboard}"],
        env=head.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # The logs of the jobs arrive in the steps.
    assert "train-vae: submitted the job difflm-train-vae-" in done.stdout
    assert "Training the text-VAE" in done.stdout
    assert "Quality gate: refused" in done.stdout
    assert content_hashes(tmp_path / "run") == content_hashes(people_run)


def test_a_failed_job_has_its_own_message_and_makes_place(cluster, people_run, tmp_path):
    job = generate_job(people_run, tmp_path, "again", max_attempts=1)
    backend = RayJobs(cluster.dashboard)
    with pytest.raises(StageError, match="records were rejected 1 times each"):
        launch(job, backend)
    job = generate_job(people_run, tmp_path, "again")
    assert launch(job, backend).manifest.summary["num_rows"] == 60
    # A third time, it is done: the job that succeeded is attached to.
    assert launch(job, backend).manifest.summary["num_rows"] == 60


def test_a_wrong_token_is_a_clear_error(head):
    # Ray reads a token once for each process.
    script = "import sys; from components.ray_jobs import RayJobs; RayJobs(sys.argv[1]).run(None)"
    done = subprocess.run(
        [sys.executable, "-c", script, head.dashboard],
        env={**head.environment, "RAY_AUTH_TOKEN": "0" * 64},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert f"ConfigError: {head.dashboard}: this job API refuses to talk" in last
    assert "RAY_AUTH_TOKEN" in last
