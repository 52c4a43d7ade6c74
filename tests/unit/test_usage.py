"""What work uses: sums, readings of a process, and what a stage makes of its workers'."""

import sys
import time
from types import SimpleNamespace

import pytest

from difflm_core import usage as usage_module
from difflm_core.parallel import LocalLauncher
from difflm_core.usage import NOTHING, Meter, Usage
from tests.unit.toy_stages import MakeNumberWorker, make_shards


def test_times_add_up_and_the_larger_peak_counts():
    assert Usage(1.5, 2.0, 100) + Usage(0.25, 4.0, 70) == Usage(1.75, 6.0, 100)
    assert Usage(1.0) + Usage(2.0, 0.0, 5) == Usage(3.0, 0.0, 5)
    assert NOTHING + NOTHING == NOTHING == Usage(0.0, 0.0, None)


def test_hours():
    assert (Usage(9000.0, 36.0).cpu_hours, Usage(9000.0, 36.0).gpu_hours) == (2.5, 0.01)


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_meter_reads_processor_time_portion_by_portion():
    burn(0.05)
    meter = Meter()
    burn(0.1)
    first = meter.take()
    time.sleep(0.1)  # takes no processor time
    second = meter.take()
    assert 0.1 <= first.cpu_seconds < 0.2
    assert second.cpu_seconds < 0.05
    assert first.gpu_seconds == 0
    assert first.peak_memory_bytes > 1_000_000


def test_a_process_of_its_own_counts_from_its_start():
    meter = Meter(whole_process=True)
    first = meter.take().cpu_seconds
    assert first == pytest.approx(time.process_time(), abs=0.05)
    assert meter.take().cpu_seconds < 0.05


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is of the whole process")
def test_the_peak_is_that_of_the_portion():
    meter = Meter()
    large = bytearray(200 * 2**20)
    large[::4096] = b"x" * len(large[::4096])
    first = meter.take().peak_memory_bytes
    del large
    meter.take()  # the portion in which it went
    assert meter.take().peak_memory_bytes < first - 150 * 2**20


class FakeCuda:
    """Four GPUs, of which tensors are on some."""

    def __init__(self, *used):
        self.used = set(used)

    def is_initialized(self):
        return True

    def device_count(self):
        return 4

    def max_memory_allocated(self, device):
        return 1024 if device in self.used else 0

    def reset_peak_memory_stats(self, device):
        self.used.discard(device)


def test_a_gpu_counts_while_tensors_are_on_it(monkeypatch):
    cuda = FakeCuda()
    now = [100.0]
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(usage_module.time, "monotonic", lambda: now[0])
    meter = Meter()
    cuda.used = {1, 3}
    now[0] += 2.5
    assert meter.take().gpu_seconds == 5.0
    now[0] += 10
    assert meter.take().gpu_seconds == 0


def test_a_launcher_adds_up_what_its_workers_used(tmp_path):
    launcher = LocalLauncher()
    shards = make_shards(str(tmp_path), num_rows=7, shard_rows=3)
    launcher.map_shards(MakeNumberWorker(10), shards[:1])
    assert launcher.take_usage() == NOTHING, "this process counts itself"
    launcher.map_shards(MakeNumberWorker(10), shards, num_workers=2)
    used = launcher.take_usage()
    # Two processes that import pyarrow.
    assert 0.2 < used.cpu_seconds < 60
    assert used.peak_memory_bytes > 20_000_000
    assert launcher.take_usage() == NOTHING
