"""What Prometheus would read: the metrics endpoint of a node, after stages have run on Ray."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from difflm_core.stages.generate import STAGE as GENERATE
from difflm_core.stages.train_diffusion import STAGE as TRAIN_DIFFUSION
from tests.people import people_config, run_from
from tests.ray.commands import ROOT, command
from tests.ray.heads import local_head
from tests.ray.metrics_endpoint import from_json, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


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
def scraped(people_run, tmp_path_factory):
    """A generation by two actors, then a training, on an embedded Ray of their own."""
    folder = tmp_path_factory.mktemp("metrics")
    people_config(folder, runtime={"num_workers": 2})
    done = command("tests.ray.scraped_stages", str(people_run), str(folder))
    assert done.returncode == 0, done.stderr
    generated, trained = (from_json(text) for text in done.stdout.splitlines()[-2:])
    made = GENERATE.output.open(str(folder / GENERATE.name))
    bundle = TRAIN_DIFFUSION.output.open(str(folder / TRAIN_DIFFUSION.name))
    return Scraped(generated, made, trained, bundle)


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
