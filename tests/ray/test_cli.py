"""The command line with its work on Ray: the artifacts, the messages, the exit codes."""

import signal
import time

import psutil
import pytest

from difflm_core.stages import load_stages
from tests.people import content_hashes, people_config
from tests.ray.commands import command, start

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


def test_a_run_on_ray_makes_the_same_six_artifacts(people_run, tmp_path):
    # As many threads as the other run had: sums in training depend on them.
    people_config(tmp_path, runtime={"threads": 1})
    done = command("difflm_core.cli", "run", str(tmp_path / "run.yaml"), "--on", "ray")
    assert done.returncode == 0, done.stderr
    hashes = content_hashes(tmp_path / "run")
    assert len(hashes) == 6
    assert hashes == content_hashes(people_run)
    # One view of the whole run, and nothing of Ray's own.
    headings = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert headings == [f"[{i}/6] {s.name}" for i, s in enumerate(load_stages(), start=1)]
    assert "Generating records: 250/250 rows (100%)" in done.stderr
    assert "ray" not in (done.stdout + done.stderr).lower().replace(str(tmp_path).lower(), "")


def test_an_error_in_a_worker_is_the_message_of_the_stage(people_run, tmp_path):
    people_config(tmp_path, generation={"max_attempts": 1})
    stage = {stage.name: stage for stage in load_stages()}["generate"]
    inputs = {"generator": str(people_run / "generator")}
    argv = stage.argv(str(tmp_path / "run.yaml"), inputs, str(tmp_path / "out"))
    expected = command("difflm_core.cli", *argv)
    assert expected.returncode == 2
    assert expected.stderr.splitlines()[-1].startswith("Error: ")
    done = command("components.entrypoint", *argv)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == expected.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_cluster_that_does_not_answer_is_named(people_run, tmp_path):
    people_config(tmp_path)
    run = ("run", str(tmp_path / "run.yaml"), "--on", "ray", "--address", "127.0.0.1:1")
    done = command("difflm_core.cli", *run)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: 127.0.0.1:1: no Ray cluster could be reached here: ")
    assert "Traceback" not in done.stderr


def test_a_run_whose_driver_is_killed_in_training_continues(people_run, tmp_path):
    people_config(tmp_path, runtime={"threads": 1})
    arguments = ("run", str(tmp_path / "run.yaml"), "--on", "ray")
    driver = start("difflm_core.cli", *arguments)
    checkpoint = tmp_path / "run" / "vae" / "work" / "training.safetensors"
    while driver.poll() is None and not checkpoint.exists():
        time.sleep(0.01)
    family = psutil.Process(driver.pid).children(recursive=True)
    family = [process for process in family if not process.name().endswith("Agent")]
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    # Ray ends with the process that has started it; its two agents, which hold no work, try for a
    # minute to report the death of the others.
    assert not psutil.wait_procs(family, timeout=30)[1]
    assert "vae" not in content_hashes(tmp_path / "run")
    done = command("difflm_core.cli", *arguments)
    assert done.returncode == 0, done.stderr
    assert "train-vae (continue)" in done.stderr
    assert content_hashes(tmp_path / "run") == content_hashes(people_run)
