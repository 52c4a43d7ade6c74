"""The backend rayjob against a Kubernetes API over HTTP: made, watched, failed, tried again."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from components.rayjob import RayJobResources, delete_unfinished
from components.stage_job import Where
from components.submit import launch
from difflm_core.errors import ConfigError, StageError
from tests.kfp.fake_kubernetes import connection, fake_kubernetes, play, run_entrypoint
from tests.kfp.jobs import generate_job

ROOT = Path(__file__).parents[2]
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
FAILED = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"}


@pytest.fixture
def backend():
    def make(api):
        return RayJobResources(api, Where(backend="rayjob", run_id="run-1"), poll_seconds=0.05)

    return make


@pytest.fixture
def interruptible():
    """Shells start what runs in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_stage_runs_to_its_end_and_its_log_is_shown(backend, people_run, tmp_path, capsys):
    job = generate_job(people_run, tmp_path)
    with fake_kubernetes(run_entrypoint) as (cluster, api):
        artifact = launch(job, backend(api))
    assert artifact.manifest.summary["num_rows"] == 60
    shown = capsys.readouterr().out
    assert "generate: writes" in shown
    assert shown.count("generate: writes") == 1
    resource = cluster.of("rayjobs")[job.name]
    assert resource["metadata"]["labels"]["difflm.io/run"] == "run-1"


def test_a_failed_stage_ends_with_its_own_message(backend, people_run, tmp_path):
    job = generate_job(people_run, tmp_path, max_attempts=1)
    with fake_kubernetes(run_entrypoint) as (_, api), pytest.raises(StageError) as caught:
        launch(job, backend(api))
    assert "records were rejected 1 times each" in str(caught.value)
    assert job.name in str(caught.value)


def test_without_a_log_the_operator_says_why(backend, people_run, tmp_path):
    job = generate_job(people_run, tmp_path)
    status = {
        "jobDeploymentStatus": "Failed",
        "reason": "DeadlineExceeded",
        "message": "The RayJob has passed the activeDeadlineSeconds.",
    }
    with (
        fake_kubernetes(play(status)) as (_, api),
        pytest.raises(StageError, match="DeadlineExceeded: The RayJob has passed"),
    ):
        launch(job, backend(api))


def test_a_job_that_says_it_is_done_without_a_manifest_fails(backend, people_run, tmp_path):
    job = generate_job(people_run, tmp_path)
    with (
        fake_kubernetes(play(DONE)) as (_, api),
        pytest.raises(StageError, match="ended without an error, but its output is not valid"),
    ):
        launch(job, backend(api))


def test_a_step_tried_again_attaches_to_its_job(backend, people_run, tmp_path, capsys):
    job = generate_job(people_run, tmp_path)
    with fake_kubernetes(run_entrypoint) as (cluster, api):
        api.create("rayjobs", backend(api).manifest(job))
        launch(job, backend(api))
        assert len(cluster.of("rayjobs")) == 1
        assert cluster.count("DELETE") == 0
    assert "generate: writes" in capsys.readouterr().out


def test_a_failed_job_makes_place_for_the_next_try(backend, people_run, tmp_path):
    job = generate_job(people_run, tmp_path)
    with fake_kubernetes(play(FAILED, log="Error: no luck\n")) as (cluster, api):
        with pytest.raises(StageError, match="no luck"):
            launch(job, backend(api))
        cluster.operator = run_entrypoint
        cluster.deleting = 3  # its pods take a while to go
        artifact = launch(job, backend(api))
        assert cluster.count("DELETE") == 1
    assert artifact.manifest.summary["num_rows"] == 60


def test_a_finished_job_is_not_run_twice(backend, people_run, tmp_path):
    job = generate_job(people_run, tmp_path)
    with fake_kubernetes(run_entrypoint) as (cluster, api):
        first = launch(job, backend(api))
        again = launch(job, backend(api))
        assert len(cluster.pods) == 1
    assert again.manifest == first.manifest


def test_a_job_that_somebody_deletes_is_a_clear_error(backend, people_run, tmp_path):
    job = generate_job(people_run, tmp_path)

    def operator(cluster, plural, name):
        cluster.set_status(plural, name, jobDeploymentStatus="Initializing")
        time.sleep(0.3)
        cluster.remove(plural, name)

    with (
        fake_kubernetes(operator) as (_, api),
        pytest.raises(StageError, match="was deleted before it was done"),
    ):
        launch(job, backend(api))


def test_an_outage_of_the_api_is_waited_out(backend, people_run, tmp_path, caplog):
    job = generate_job(people_run, tmp_path)

    def operator(cluster, plural, name):
        cluster.down, cluster.broken = 2, 2
        run_entrypoint(cluster, plural, name)

    with fake_kubernetes(operator) as (cluster, api):
        cluster.down = 1
        artifact = launch(job, backend(api))
        assert cluster.down == cluster.broken == 0
    assert artifact.manifest.summary["num_rows"] == 60
    assert "The Kubernetes API does not answer" in caplog.text


def test_an_api_that_stays_away_is_given_up(backend, people_run, tmp_path):
    job = generate_job(people_run, tmp_path)
    api = connection("http://127.0.0.1:1", patience_seconds=0.5)
    with pytest.raises(StageError, match=r"has not answered for 0 s.*it finds its job"):
        launch(job, backend(api))


def test_a_missing_right_names_the_role(backend, people_run, tmp_path):
    job = generate_job(people_run, tmp_path)
    with fake_kubernetes() as (cluster, api):
        cluster.forbidden = {"POST"}
        with pytest.raises(ConfigError, match=r"may not create rayjobs.*difflm-pipeline"):
            launch(job, backend(api))


def test_settings_of_the_namespace_decide_the_sizes(backend, people_run, tmp_path):
    job = generate_job(people_run, tmp_path)
    settings = "image: difflm:9\nstages: {generate: {worker: {cpu: 3, gpu: 1}}}"
    with fake_kubernetes() as (cluster, api):
        cluster.config_maps["difflm-stages"] = {"stages.yaml": settings}
        spec = backend(api).manifest(job)["spec"]["rayClusterSpec"]
        container = spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
        assert container["image"] == "difflm:9"
        assert container["resources"]["limits"]["cpu"] == "3"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        cluster.config_maps["difflm-stages"] = {"stages.yaml": "stages: {generat: {}}"}
        with pytest.raises(ConfigError, match=r"ConfigMap difflm-stages.*no stage 'generat'"):
            backend(api).manifest(job)


def test_the_workflow_owns_the_job(backend, people_run, tmp_path, monkeypatch):
    job = generate_job(people_run, tmp_path)
    (tmp_path / "namespace").write_text("team")
    monkeypatch.setattr("components.kubernetes_api._NAMESPACE_FILE", tmp_path / "namespace")
    monkeypatch.setenv("HOSTNAME", "step-1")
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}
    with fake_kubernetes() as (cluster, api):
        cluster.of("pods")["step-1"] = {
            "metadata": {"name": "step-1", "ownerReferences": [{**owner, "controller": True}]}
        }
        assert backend(api).manifest(job)["metadata"]["ownerReferences"] == [owner]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("interruptible")
def test_cancelling_a_step_deletes_its_job(backend, people_run, tmp_path, number):
    job = generate_job(people_run, tmp_path)

    def operator(cluster, plural, name):
        cluster.set_status(plural, name, jobDeploymentStatus="Running", jobStatus="RUNNING")
        threading.Timer(0.3, os.kill, (os.getpid(), number)).start()

    with fake_kubernetes(operator) as (cluster, api):
        with pytest.raises(KeyboardInterrupt):
            launch(job, backend(api))
        assert cluster.of("rayjobs") == {}
        assert cluster.count("DELETE", job.name) == 1


def test_a_killed_step_leaves_its_job_to_the_next_try(people_run, tmp_path):
    job = generate_job(people_run, tmp_path)
    script = (
        "import sys; from pathlib import Path; from tests.kfp.fake_kubernetes import connection; "
        "from components.rayjob import RayJobResources; from components.submit import launch; "
        "from components.stage_job import StageJob, Where, find_stage; "
        "job = StageJob(find_stage('generate'), sys.argv[2], {'generator': sys.argv[3]}, "
        "sys.argv[4], 'run-1'); print(job.name, flush=True); "
        "launch(job, RayJobResources(connection(sys.argv[1]), Where(backend='rayjob')))"
    )
    started = threading.Event()

    def operator(cluster, plural, name):
        cluster.set_status(plural, name, jobDeploymentStatus="Running", jobStatus="RUNNING")
        started.set()

    with fake_kubernetes(operator) as (cluster, api):
        url = api._core.api_client.configuration.host
        arguments = [url, job.config, job.inputs["generator"], job.output]
        step = subprocess.Popen(
            [sys.executable, "-c", script, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert started.wait(60)
        step.send_signal(signal.SIGKILL)
        assert step.communicate()[0].strip() == job.name
        # The job goes on without it, and the step that Kubeflow starts next finds it.
        threading.Thread(target=run_entrypoint, args=(cluster, "rayjobs", job.name)).start()
        backend = RayJobResources(api, Where(backend="rayjob"), poll_seconds=0.05)
        artifact = launch(job, backend)
        assert cluster.count("POST", "rayjobs") == 2
        assert len(cluster.pods) == 1
    assert artifact.manifest.summary["num_rows"] == 60


def test_what_a_run_leaves_unfinished_is_deleted(backend, people_run, tmp_path):
    first = generate_job(people_run, tmp_path)
    with fake_kubernetes() as (cluster, api):
        for run_id, status in [("run-1", {}), ("run-1", DONE), ("run-2", {})]:
            job = generate_job(people_run, tmp_path, run_id)
            name = f"{job.name}-{len(cluster.of('rayjobs'))}"
            manifest = backend(api).manifest(job)
            manifest["metadata"]["name"] = name
            api.create("rayjobs", manifest)
            cluster.set_status("rayjobs", name, **status)
        assert delete_unfinished(api, "run-1") == [f"{first.name}-0"]
        assert len(cluster.of("rayjobs")) == 2
