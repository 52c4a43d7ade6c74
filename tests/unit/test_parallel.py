import pyarrow.parquet as pq
import pytest

from difflm_core.errors import DataError, StageError
from difflm_core.parallel import LocalLauncher, WorkerInfo
from tests.unit.toy_stages import MakeNumberWorker, make_shards


def values_of(shards):
    return [pq.read_table(shard.output)["x"].to_pylist() for shard in shards]


@pytest.fixture
def shards(tmp_path):
    return make_shards(str(tmp_path), num_rows=7, shard_rows=3)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_every_shard_is_done_once(shards, num_workers):
    done = []
    LocalLauncher().map_shards(
        MakeNumberWorker(10),
        shards,
        num_workers,
        on_done=lambda shard, rows: done.append((shard.index, rows)),
    )
    assert sorted(done) == [(0, 3), (1, 3), (2, 1)]
    assert values_of(shards) == [[10, 11, 12], [13, 14, 15], [16]]


def test_existing_shards_are_skipped(shards):
    LocalLauncher().map_shards(MakeNumberWorker(10), shards[:2])
    done = []
    LocalLauncher().map_shards(
        MakeNumberWorker(99), shards, on_done=lambda shard, rows: done.append(shard.index)
    )
    assert done == [2]
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
        LocalLauncher().map_shards(lambda: lambda shard: 3, shards)
    assert str(caught.value) == (f"Shard 0 was done, but its file {shards[0].output} is not there.")


def test_training_runs_in_this_process():
    assert LocalLauncher().run_workers(lambda info: info, num_workers=4) == [
        WorkerInfo(rank=0, world_size=1)
    ]
