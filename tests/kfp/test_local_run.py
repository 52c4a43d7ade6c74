"""`difflm pipeline run-local`: the whole DAG for real, each step a process of its own."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from difflm_core.stages import load_stages
from tests.people import content_hashes, people_config

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
ANY = [
    part
    for name in (
        "utility_loss_percent",
        "shape_error_percent",
        "trend_error_percent",
        "two_sample_auc",
        "membership_auc",
    )
    for part in ("-p", f"{name}=-1")
]


def command(*arguments):
    return [sys.executable, "-m", "difflm_core.cli", "pipeline", "run-local", *arguments]


def run(folder, *arguments):
    line = command("run.yaml", "--output", "run", *arguments)
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)


def begin(folder):
    """Start a run, and wait until it trains."""
    line = command("run.yaml", "--output", "run", *ANY)
    output = subprocess.PIPE
    process = subprocess.Popen(line, cwd=folder, stdout=output, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "run" / "vae" / "started.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    return process


def created(folder):
    names = ("corpus", "vae", "latents", "generator", "synthetic", "report")
    return {name: (folder / "run" / name / "manifest.json").read_bytes() for name in names}


@pytest.fixture(scope="module")
def finished(people_run, tmp_path_factory):
    """A run through the pipeline, refused by the gate; and what it printed."""
    folder = tmp_path_factory.mktemp("pipeline")
    people_config(folder, runtime={"threads": 1})
    return folder, run(folder, "-p", "shape_error_percent=0")


def test_the_pipeline_makes_what_one_process_makes(finished, people_run):
    folder, done = finished
    assert done.returncode == 0, done.stdout + done.stderr
    assert content_hashes(folder / "run") == content_hashes(people_run)


def test_its_log_shows_the_steps_and_nothing_of_the_machinery(finished):
    _, done = finished
    headings = [line for line in done.stdout.splitlines() if line.startswith("[")]
    names = [f"[{stage.name}]" for stage in load_stages()]
    assert headings == ["[prepare]", *names, "[check-quality]", "[finish]"]
    assert "KFP Executor" not in done.stdout
    assert "executor_input" not in done.stdout
    assert "Training the text-VAE" in done.stdout
    assert "Run succeeded" in done.stdout


def test_the_gate_refuses(finished):
    folder, done = finished
    assert "Quality gate: refused" in done.stdout
    assert "| shape_error_percent |" in done.stdout
    assert not (folder / "run" / "rayservice.yaml").exists()


def test_the_gate_lets_pass_and_finished_steps_are_reused(finished):
    folder, _ = finished
    before = created(folder)
    done = run(folder, *ANY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("finished before, reused from") == len(load_stages())
    assert created(folder) == before
    assert "Quality gate: passed" in done.stdout
    assert "[deploy]" in done.stdout
    service = yaml.safe_load((folder / "run" / "rayservice.yaml").read_text())
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert serve["applications"][0]["args"]["models"] == {"difflm": "run/generator"}


def test_a_changed_setting_is_refused_at_the_first_step_until_it_may_replace(finished):
    folder, _ = finished
    before = created(folder)
    done = run(folder, "-p", "rows=90", *ANY)
    assert done.returncode == 2
    assert "[prepare] failed" in done.stdout
    assert "generation.num_rows: 250 -> 90" in done.stdout
    assert "[serialize]" not in done.stdout
    # The end comes all the same.
    assert "Run failed" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert created(folder) == before
    done = run(folder, "-p", "rows=90", "-p", "replace_changed=true", *ANY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("finished before, reused from") == len(load_stages()) - 2
    manifest = json.loads((folder / "run" / "synthetic" / "manifest.json").read_text())
    assert manifest["summary"]["num_rows"] == 90


@pytest.mark.slow
def test_killed_in_a_step_it_goes_on_where_it_stopped(people_run, tmp_path):
    people_config(tmp_path, runtime={"threads": 1})
    process = begin(tmp_path)
    # The power fails: steps and all.
    top = psutil.Process(process.pid)
    for child in [*top.children(recursive=True), top]:
        child.kill()
    process.communicate()
    corpus = (tmp_path / "run" / "corpus" / "manifest.json").read_bytes()
    done = run(tmp_path, *ANY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "serialize: finished before, reused from" in done.stdout
    assert (tmp_path / "run" / "corpus" / "manifest.json").read_bytes() == corpus
    assert content_hashes(tmp_path / "run") == content_hashes(people_run)


@pytest.mark.slow
def test_a_killed_step_is_tried_again_by_its_policy(people_run, tmp_path):
    people_config(tmp_path, runtime={"threads": 1})
    process = begin(tmp_path)
    (step,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "executor_main" in " ".join(child.cmdline()) and not child.name().startswith("sh")
    ]
    step.kill()
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert content_hashes(tmp_path / "run") == content_hashes(people_run)


@pytest.mark.slow
def test_a_sweep_compares_its_runs(people_run, tmp_path):
    people_config(tmp_path, runtime={"threads": 1})
    runs = "[{folder: a, seed: 0, rows: 60}, {folder: b, seed: 1, rows: 60}]"
    done = run(tmp_path, "--pipeline", "sweep", "-p", f"runs={runs}")
    assert done.returncode == 0, done.stdout + done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in table[-3:]] == ["| a", "| b", "| **mean ± sd**"]
    found = {name: content_hashes(tmp_path / "run" / name) for name in ("a", "b")}
    assert found["a"]["synthetic"] != found["b"]["synthetic"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_adult_table_at_a_small_setting(tmp_path):
    values = yaml.safe_load((ROOT / "pipelines" / "configs" / "adult.yaml").read_text("utf-8"))
    values["vae"] = {"max_tokens": 2_000_000}
    values["diffusion"] = {"num_steps": 300}
    values["generation"] = {"num_rows": 3000}
    values["evaluation"] = {"max_rows": 3000}
    path = tmp_path / "adult.yaml"
    path.write_text(yaml.safe_dump(values))
    line = command(str(path), "--output", str(tmp_path / "run"))
    strict = [*line, "-p", "shape_error_percent=0.1"]
    done = subprocess.run(strict, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Quality gate: refused" in done.stdout
    assert not (tmp_path / "run" / "rayservice.yaml").exists()
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("finished before, reused from") == len(load_stages())
    assert "Quality gate: passed" in done.stdout
    assert "utility_loss_percent" in done.stdout
    assert (tmp_path / "run" / "rayservice.yaml").exists()
