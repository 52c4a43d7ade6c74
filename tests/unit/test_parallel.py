import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from difflm_core.errors import DataError, StageError
from difflm_core.parallel import LocalLauncher, Worker
from tests.unit.toy_stages import MakeNumberWorker, make_shards


def values_of(shards):
    return [pq.read_table(shard.output)["x"].to_pylist() for shard in shards]


@pytest.fixture
def shards(tmp_path):
    return make_shards(str(tmp_path), num_rows=7, shard_rows=3)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_every_shard_is_done_once(shards, num_workers):
    done = []
    LocalLauncher().map_shards(MakeNumberWorker(10), shards, num_workers, on_rows=done.append)
    assert sorted(done) == [1, 3, 3]
    assert values_of(shards) == [[10, 11, 12], [13, 14, 15], [16]]


def test_existing_shards_are_skipped(shards):
    LocalLauncher().map_shards(MakeNumberWorker(10), shards[:2])
    done = []
    LocalLauncher().map_shards(MakeNumberWorker(99), shards, on_rows=done.append)
    assert done == [1]
    assert values_of(shards) == [[10, 11, 12], [13, 14, 15], [105]]


def test_nothing_left_to_do_builds_no_worker(shards):
    LocalLauncher().map_shards(MakeNumberWorker(10), shards)

    def make_worker():
        raise AssertionError("a worker was built")

    LocalLauncher().map_shards(make_worker, shards, num_workers=2)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_a_worker_passes_through(shards, num_workers, monkeypatch):
    monkeypatch.setenv("TOY_FAIL_SHARD", "1")
    with pytest.raises(DataError, match=r"^shard failed$"):
        LocalLauncher().map_shards(MakeNumberWorker(10), shards, num_workers)


class FailToStart:
    def __call__(self):
        raise DataError("no model here")


def test_an_error_while_building_a_worker_passes_through(shards):
    with pytest.raises(DataError, match=r"^no model here$"):
        LocalLauncher().map_shards(FailToStart(), shards, 2)


def test_a_dead_worker_is_one_clear_error(shards, monkeypatch):
    monkeypatch.setenv("TOY_KILL_SHARD", "1")
    with pytest.raises(StageError) as caught:
        LocalLauncher().map_shards(MakeNumberWorker(10), shards, 2)
    assert str(caught.value) == (
        "One of 2 worker processes ended before its work was done (killed, or out of memory). "
        "Run the same command again: finished shards are kept. Fewer workers "
        "(--set runtime.num_workers=1) need less memory."
    )


def test_a_worker_that_writes_nothing_is_an_error(shards):
    with pytest.raises(StageError) as caught:
        LocalLauncher().map_shards(lambda: lambda shard, on_rows: None, shards)
    assert str(caught.value) == (f"Shard 0 was done, but its file {shards[0].output} is not there.")


# Two workers that say who they are and then sleep for longer than any test.
_SLEEPERS = """
import os, sys, time
from pathlib import Path
from difflm_core.parallel import LocalLauncher, Shard

def work(shard, on_rows):
    folder, name = os.path.split(shard.output)
    Path(folder, f"{name}.pid").write_text(str(os.getpid()))
    Path(folder, f"{name}.ready").touch()
    time.sleep(600)

def make_worker():
    return work

if __name__ == "__main__":
    LocalLauncher().map_shards(make_worker, [Shard(i, f"{sys.argv[1]}/{i}") for i in (0, 1)], 2)
"""


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "sleepers.py"
    script.write_text(_SLEEPERS)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    wait_until(lambda: len(list(tmp_path.glob("*.ready"))) == 2)
    workers = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(is_running(worker) for worker in workers))


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    # An orphan that nobody has waited for yet is a zombie: it has ended.
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def test_training_runs_in_this_process():
    assert LocalLauncher().run_workers(lambda info: info, num_workers=4) == [
        Worker(rank=0, world_size=1)
    ]
