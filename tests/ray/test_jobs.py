"""Single stages by `ray job submit` on a head of this machine."""

import json
import sys
from pathlib import Path

import pytest

from difflm_core.stages import load_stages
from tests.people import content_hashes, people_config
from tests.ray.heads import local_head

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "Corpus": "corpus",
    "VaeCheckpoint": "vae",
    "Latents": "latents",
    "GeneratorBundle": "generator",
    "SyntheticData": "synthetic",
    "EvaluationReport": "report",
}


@pytest.fixture(scope="module")
def head():
    with local_head() as head:
        yield head


def submit(head, argv, *options):
    """Submit a stage and wait; give Ray's exit code and all that was printed."""
    entry = [sys.executable, "-m", "components.entrypoint", *argv]
    done = head.ray("job", "submit", "--address", head.dashboard, *options, "--", *entry)
    return done.returncode, done.stdout + done.stderr


def argv_of(stage, folder):
    inputs = {name: str(folder / FOLDERS[kind.kind()]) for name, kind in stage.inputs.items()}
    output = str(folder / FOLDERS[stage.output.kind()])
    return stage.argv(str(folder.parent / "run.yaml"), inputs, output)


def test_every_stage_as_a_job_makes_the_artifacts_of_one_process(head, people_run, tmp_path):
    people_config(tmp_path, runtime={"threads": 1})
    run = tmp_path / "run"
    for stage in load_stages():
        code, output = submit(head, argv_of(stage, run))
        assert code == 0, output
        # The logs of the job arrive where it was submitted.
        assert f"{stage.name}: writes {run}/" in output
        assert "succeeded" in output
    assert content_hashes(run) == content_hashes(people_run)


def test_a_failed_job_shows_the_message_of_the_stage(head, people_run, tmp_path):
    people_config(tmp_path, generation={"max_attempts": 1})
    stage = {stage.name: stage for stage in load_stages()}["generate"]
    inputs = {"generator": str(people_run / "generator")}
    argv = stage.argv(str(tmp_path / "run.yaml"), inputs, str(tmp_path / "out"))
    code, output = submit(head, argv, "--submission-id", "refused")
    assert code != 0
    # In the logs as they come, and again in Ray's last words about the job.
    message = {line for line in output.splitlines() if line.startswith("Error: ")}
    assert len(message) == 1
    assert "records were rejected 1 times each" in message.pop()
    assert "Traceback" not in output
    assert driver_code(head, "refused") == 2


def test_a_job_submitted_again_reuses_or_continues(head, people_run, tmp_path):
    people_config(tmp_path, runtime={"threads": 1})
    stage = {stage.name: stage for stage in load_stages()}["generate"]
    inputs = {"generator": str(people_run / "generator")}
    argv = stage.argv(str(tmp_path / "run.yaml"), inputs, str(tmp_path / "out"))
    assert submit(head, argv)[0] == 0
    manifest = (tmp_path / "out" / "manifest.json").read_bytes()
    code, output = submit(head, argv)
    assert code == 0
    assert "finished before, reused from" in output
    assert (tmp_path / "out" / "manifest.json").read_bytes() == manifest


def test_a_running_job_is_not_submitted_twice_but_attached_to(head, people_run, tmp_path):
    people_config(tmp_path, runtime={"threads": 1})
    stage = {stage.name: stage for stage in load_stages()}["train-vae"]
    inputs = {"corpus": str(people_run / "corpus")}
    argv = stage.argv(str(tmp_path / "run.yaml"), inputs, str(tmp_path / "out"))
    assert submit(head, argv, "--submission-id", "once", "--no-wait")[0] == 0
    code, output = submit(head, argv, "--submission-id", "once")
    assert code != 0
    assert "Job with submission_id once already exists" in output
    manifest = tmp_path / "out" / "manifest.json"
    assert not manifest.exists(), "the job has ended too early"
    done = head.ray("job", "logs", "--address", head.dashboard, "-f", "once")
    assert done.returncode == 0, done.stderr
    # From its first line to its last, whoever else reads them.
    assert "train-vae: writes " in done.stdout
    assert "Job 'once' succeeded" in done.stdout + done.stderr
    assert manifest.exists()
    code, output = submit(head, argv, "--submission-id", "again")
    assert code == 0
    assert "finished before, reused from" in output


def driver_code(head, submission_id):
    """Exit code of the job's own process."""
    import subprocess

    script = (
        "import sys, json; from ray.job_submission import JobSubmissionClient; "
        "print(json.dumps(JobSubmissionClient(sys.argv[1])"
        ".get_job_info(sys.argv[2]).driver_exit_code))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, head.dashboard, submission_id],
        env=head.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
