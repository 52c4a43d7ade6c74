"""A run that was killed in any stage ends as an undisturbed one; Ctrl-C says how to go on."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.people import content_hashes, people_config

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
# A moment inside each stage, in the order of the pipeline.
MOMENTS = {
    "serialize": ("before", "corpus/train/part-00001.parquet"),
    "train-vae": ("after", "vae/work/training.safetensors"),
    "extract-latents": ("before", "latents/train/part-00001.parquet"),
    "train-diffusion": ("after", "generator/work/training.safetensors"),
    "generate": ("before", "synthetic/part-00001.parquet"),
    "evaluate": ("after", "report/report.html"),
}


def difflm(*arguments, stop=None):
    """Run the command line in a process of its own."""
    module = ["tests.e2e.stopped", *stop] if stop else ["difflm_core.cli"]
    command = [sys.executable, "-m", *module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_run_killed_in_every_stage_ends_as_an_undisturbed_one(people_run, tmp_path):
    people_config(tmp_path)
    arguments = ("run", str(tmp_path / "run.yaml"))
    run = tmp_path / "run"
    finished = []
    for stage, (when, file) in MOMENTS.items():
        done = difflm(*arguments, stop=("SIGKILL", when, file))
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert list(content_hashes(run)) == sorted(finished)  # nothing half-made looks complete
        finished.append(file.partition("/")[0])
        if stage == "generate":
            assert [path.name for path in run.glob("synthetic/part-*")] == ["part-00000.parquet"]
    done = difflm(*arguments)
    assert done.returncode == 0, done.stderr
    assert "[5/6] generate (reuse)" in done.stderr
    assert "[6/6] evaluate (continue)" in done.stderr
    assert content_hashes(run) == content_hashes(people_run)
    events = [json.loads(line) for line in (run / "vae" / "metrics.jsonl").open()]
    steps = [event["step"] for event in events if event["event"] == "evaluation"]
    assert steps == sorted(steps), "the training that was killed began anew"
    assert not list(run.rglob("*.tmp"))
    assert not list(run.rglob("work"))


def test_a_kill_between_manifest_and_clearing_leaves_a_finished_stage(people_run, tmp_path):
    people_config(tmp_path)
    arguments = ("run", str(tmp_path / "run.yaml"))
    killed = difflm(*arguments, stop=("SIGKILL", "after", "vae/manifest.json"))
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "run" / "vae" / "started.json").exists()
    planned = difflm(*arguments, "--dry-run")
    assert [line.split()[0] for line in planned.stdout.splitlines()[:3]] == [
        "reuse",
        "reuse",
        "run",
    ]
    assert content_hashes(tmp_path / "run").items() <= content_hashes(people_run).items()


def test_ctrl_c_in_training_says_how_to_go_on(tmp_path):
    people_config(tmp_path)
    config = str(tmp_path / "run.yaml")
    stopped = difflm("run", config, stop=("SIGINT", "after", "vae/work/training.safetensors"))
    assert stopped.returncode == 130
    assert stopped.stderr.splitlines()[-1].startswith(
        "Stopped: What is finished is kept. Continue with: difflm "
    )
    assert stopped.stderr.splitlines()[-1].endswith(f" run {config}")
    assert "Traceback" not in stopped.stderr
    planned = difflm("run", config, "--dry-run").stdout.splitlines()
    assert [line.split()[:2] for line in planned[:3]] == [
        ["reuse", "serialize"],
        ["continue", "train-vae"],
        ["run", "extract-latents"],
    ]
