"""What Prometheus would read: the metrics endpoint of a node, after stages have run on Ray."""

import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from difflm_core.stages.generate import STAGE as GENERATE
from difflm_core.stages.train_diffusion import STAGE as TRAIN_DIFFUSION
from tests.people import people_config, run_from
from tests.ray.heads import local_head

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
SAMPLE = re.compile(r"^ray_(difflm_\w+)\{(.*)\} (\S+)$", re.MULTILINE)


def scrape(port):
    """Values of all metrics of ours, by name and by the labels that are ours."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    ours = {"stage", "task", "unit", "metric", "column", "reason"}
    found = {}
    for name, labels, value in SAMPLE.findall(text):
        pairs = re.findall(r'(\w+)="([^"]*)"', labels)
        found[name, frozenset((k, v) for k, v in pairs if k in ours)] = float(value)
    return found


def wait_for(port, name, **labels):
    """Scrape until there is such a sample; Ray brings them every ten seconds."""
    deadline = time.monotonic() + 60
    while (name, frozenset(labels.items())) not in (found := scrape(port)):
        assert time.monotonic() < deadline, (name, labels, found)
        time.sleep(1)
    return found


def run(stage, people_run, folder, launcher, **changes):
    config = people_config(folder, **changes)
    return run_from(people_run, stage, config, folder / stage.name, launcher)


@dataclass(frozen=True)
class Scraped:
    """What an endpoint showed after each of two stages, and what they made."""

    generated: dict
    made: Any
    trained: dict
    bundle: Any


@pytest.fixture(scope="module")
def scraped(launcher, people_run, tmp_path_factory):
    """A generation by two actors, then a training, on an embedded Ray."""
    folder = tmp_path_factory.mktemp("metrics")
    made = run(GENERATE, people_run, folder, launcher, runtime={"num_workers": 2})
    import ray

    (node,) = ray.nodes()
    port, last = node["MetricsExportPort"], "difflm_stage_cpu_seconds_total"
    generated = wait_for(port, last, stage="generate")
    bundle = run(TRAIN_DIFFUSION, people_run, folder, launcher)
    return Scraped(generated, made, wait_for(port, last, stage="train-diffusion"), bundle)


def sample(found, name, **labels):
    return found[name, frozenset(labels.items())]


def test_the_rows_of_a_generation_are_counted(scraped):
    task = {"stage": "generate", "task": "Generating records"}
    found = scraped.generated
    assert sample(found, "difflm_rows_total", **task) == 250
    num_slots, rest = divmod(sample(found, "difflm_tokens_total", **task), 250)
    assert (num_slots > 8, rest) == (True, 0)
    assert sample(found, "difflm_progress_ratio", **task) == 1
    rate = sample(found, "difflm_rate_per_second", **task, unit="rows")
    assert rate > 0
    tokens = sample(found, "difflm_tokens_per_second", **task)
    assert tokens == pytest.approx(num_slots * rate)


def test_the_loss_of_a_training_is_shown(scraped):
    task = {"stage": "train-diffusion", "task": "Training the latent diffusion"}
    found = scraped.trained
    assert 0 < sample(found, "difflm_loss", **task) < 100
    valid = sample(found, "difflm_metric", **task, metric="valid_loss")
    assert valid == pytest.approx(scraped.bundle.manifest.summary["loss"])
    assert sample(found, "difflm_rows_total", **task) == 12 * 64
    assert sample(found, "difflm_rate_per_second", **task, unit="steps") > 0


def test_rejections_are_counted_by_column_and_reason(scraped):
    found = {
        labels: value
        for (name, labels), value in scraped.generated.items()
        if name == "difflm_rejections_total"
    }
    assert sum(found.values()) == scraped.made.manifest.summary["num_rejected"] > 0
    assert all(dict(labels)["column"] == "note" for labels in found)


@pytest.mark.parametrize("which", ["generated", "trained"])
def test_what_the_workers_used_is_counted(scraped, which):
    found = getattr(scraped, which)
    artifact = scraped.made if which == "generated" else scraped.bundle
    done, stage = artifact.manifest.provenance, artifact.manifest.stage
    seconds = sample(found, "difflm_stage_cpu_seconds_total", stage=stage)
    assert seconds == pytest.approx(done.cpu_hours * 3600)
    # A worker loads torch and the model, which takes seconds of its processor.
    assert 1 < seconds < 300
    assert sample(found, "difflm_stage_seconds_total", stage=stage) == done.duration_seconds
    assert done.worker_peak_memory_bytes > 100 * 2**20
    peak = sample(found, "difflm_stage_peak_memory_bytes", stage=stage)
    assert peak == max(done.worker_peak_memory_bytes, done.peak_memory_bytes)


def test_two_actors_use_more_than_one(launcher, people_run, tmp_path):
    def cpu_seconds(num_workers):
        folder = tmp_path / str(num_workers)
        folder.mkdir()
        runtime = {"num_workers": num_workers, "threads": 1}
        artifact = run(GENERATE, people_run, folder, launcher, runtime=runtime)
        return artifact.manifest.provenance.cpu_hours * 3600

    # Each of them imports torch and loads the model.
    assert cpu_seconds(2) > 1.3 * cpu_seconds(1)


def test_a_cluster_still_shows_what_an_ended_process_has_done(people_run, tmp_path):
    people_config(tmp_path)
    inputs = {"generator": str(people_run / "generator")}
    argv = GENERATE.argv(str(tmp_path / "run.yaml"), inputs, str(tmp_path / "out"))
    with local_head() as head:
        environment = {**head.environment, "RAY_ADDRESS": head.address}
        subprocess.run(
            [sys.executable, "-m", "components.entrypoint", *argv],
            env=environment,
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        found = wait_for(
            metrics_port(environment), "difflm_stage_cpu_seconds_total", stage="generate"
        )
    assert sample(found, "difflm_rows_total", stage="generate", task="Generating records") == 250


def metrics_port(environment):
    """Port of the metrics of the only node, asked for in another process."""
    script = (
        "import ray; ray.init(log_to_driver=False, logging_level='ERROR');"
        "print(ray.nodes()[0]['MetricsExportPort'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout.splitlines()[-1])
