"""The sink of Ray's metrics, with Ray's own classes replaced; tests/ray scrapes real ones."""

import subprocess
import sys

import pytest

from components.ray_metrics import RayMetrics
from difflm_core.progress import Progress

ray = pytest.importorskip("ray")
metrics = pytest.importorskip("ray.util.metrics")


class Fake:
    """Keeps what is counted and set, by metric and labels."""

    kept: dict

    def __init__(self, name, description, tag_keys):
        assert description.endswith(".")
        self.name, self.keys = name, set(tag_keys)

    def _key(self, tags):
        assert set(tags) == self.keys
        return (self.name, *tags.values())

    def inc(self, value, tags):
        assert value > 0
        self.kept[self._key(tags)] = self.kept.get(self._key(tags), 0) + value

    def set(self, value, tags):
        self.kept[self._key(tags)] = value


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(Fake, "kept", {}, raising=False)
    for name in ("Counter", "Gauge"):
        monkeypatch.setattr(metrics, name, Fake)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    return Fake.kept


@pytest.fixture
def progress(monkeypatch):
    monkeypatch.setattr(RayMetrics, "interval_seconds", 0.0)
    return Progress([RayMetrics()])


def test_rows_and_tokens_are_counted_once(kept, progress):
    progress.event("stage_started", stage="generate")
    with progress.track("Making", 100, initial=40, contents={"tokens": 8}) as bar:
        bar.advance(10)
        assert kept["difflm_rows_total", "generate", "Making"] == 10
        bar.advance(20)
    assert kept["difflm_rows_total", "generate", "Making"] == 30
    assert kept["difflm_tokens_total", "generate", "Making"] == 240
    assert kept["difflm_progress_ratio", "generate", "Making"] == 0.7
    with progress.track("Making", 100, initial=70) as bar:
        bar.advance(30)
    assert kept["difflm_rows_total", "generate", "Making"] == 60


def test_losses_and_other_metrics_are_gauges(kept, progress):
    progress.event("stage_started", stage="train-vae")
    with progress.track("Training", 10, "steps", contents={"tokens": 64}) as bar:
        bar.advance(1, loss=2.5, kl=0.25)
    assert kept["difflm_loss", "train-vae", "Training"] == 2.5
    assert kept["difflm_metric", "train-vae", "Training", "kl"] == 0.25
    assert ("difflm_rate_per_second", "train-vae", "Training", "steps") in kept
    assert not [key for key in kept if key[0] == "difflm_rows_total"]


def test_a_finished_stage_adds_what_it_used(kept, progress):
    finished = {
        "stage": "generate",
        "duration_seconds": 2.0,
        "cpu_hours": 0.5,
        "gpu_hours": 0.0,
        "peak_memory_bytes": 100,
        "worker_peak_memory_bytes": 300,
        "rejections": {"note": {"not UTF-8": 3}},
    }
    for _ in range(2):
        progress.event("stage_started", stage="generate")
        progress.event("stage_finished", **finished)
    assert kept == {
        ("difflm_stage_seconds_total", "generate"): 4.0,
        ("difflm_stage_cpu_seconds_total", "generate"): 3600.0,
        ("difflm_stage_peak_memory_bytes", "generate"): 300,
        ("difflm_rejections_total", "generate", "note", "not UTF-8"): 6,
    }


def test_ray_is_neither_imported_nor_started():
    code = (
        "import sys\n"
        "from components.ray_metrics import RayMetrics\n"
        "from difflm_core.progress import Progress\n"
        "progress = Progress([RayMetrics()])\n"
        "progress.event('stage_started', stage='evaluate')\n"
        "with progress.track('Evaluating', 3) as bar:\n"
        "    bar.advance(3)\n"
        "progress.event('stage_finished', stage='evaluate')\n"
        "print('ray' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
