"""Shards on an embedded Ray: each done once, whatever dies; errors as the worker worded them."""

import errno
import os
import signal
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from components.ray_launcher import RayLauncher, RayOptions
from components.worker_size import WorkerSize
from difflm_core.errors import DataError, StageError
from difflm_core.parallel import LocalLauncher, Shard, ignore_rows
from tests.ray.saboteurs import KilledOnce
from tests.unit.toy_stages import MakeNumberWorker, make_shards

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


def shards_in(folder, num_rows=20, shard_rows=3):
    return make_shards(str(folder), num_rows=num_rows, shard_rows=shard_rows)


def bytes_of(shards):
    return [Path(shard.output).read_bytes() for shard in shards]


@pytest.fixture
def expected(tmp_path):
    shards = shards_in(tmp_path / "local")
    LocalLauncher().map_shards(MakeNumberWorker(10), shards)
    return bytes_of(shards)


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_any_number_of_workers_writes_the_same_bytes(launcher, tmp_path, expected, num_workers):
    shards = shards_in(tmp_path)
    done = []
    launcher.map_shards(MakeNumberWorker(10), shards, num_workers, on_rows=done.append)
    assert bytes_of(shards) == expected
    assert sorted(done) == [2, 3, 3, 3, 3, 3, 3]


def test_existing_shards_are_skipped(launcher, tmp_path):
    shards = shards_in(tmp_path, num_rows=7)
    LocalLauncher().map_shards(MakeNumberWorker(10), shards[:2])
    done = []
    launcher.map_shards(MakeNumberWorker(99), shards, 2, on_rows=done.append)
    assert done == [1]
    assert pq.read_table(shards[0].output)["x"].to_pylist() == [10, 11, 12]


def test_nothing_left_to_do_starts_no_ray(tmp_path):
    shards = shards_in(tmp_path)
    LocalLauncher().map_shards(MakeNumberWorker(10), shards)
    # An address where nobody answers: connecting would raise.
    RayLauncher(RayOptions(address="127.0.0.1:1")).map_shards(MakeNumberWorker(10), shards, 2)


def test_a_relative_path_means_the_folder_of_the_command(launcher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shards = shards_in("relative")
    launcher.map_shards(MakeNumberWorker(10), shards, 2)
    assert len(list((tmp_path / "relative").glob("*.parquet"))) == len(shards)


# A toy worker reports its rows when the file is there already: nobody reports them again.
@pytest.mark.parametrize(("when", "num_reported"), [("before", 20), ("rows", 17)])
def test_a_shard_whose_worker_is_killed_is_done_again(
    launcher, tmp_path, expected, when, num_reported, capfd, caplog
):
    shards = shards_in(tmp_path)
    marker = tmp_path / "killed"
    worker = KilledOnce(MakeNumberWorker(10), str(marker), when)
    done = []
    launcher.map_shards(worker, shards, 2, on_rows=done.append)
    assert marker.exists()
    assert bytes_of(shards) == expected
    assert sum(done) == num_reported
    assert "Shard 1 lost its worker" in caplog.text
    # stdout is for results: Ray itself says nothing there, and shows no traceback.
    assert capfd.readouterr() == ("", "")


class AlwaysKilled:
    def __call__(self):
        def die(shard, on_rows):
            os.kill(os.getpid(), signal.SIGKILL)

        return die


def test_a_shard_that_always_kills_its_worker_is_given_up(launcher, tmp_path):
    patient = RayLauncher(RayOptions(max_failures=1))
    patient._started = launcher._start()
    with pytest.raises(StageError) as caught:
        patient.map_shards(AlwaysKilled(), shards_in(tmp_path)[:1])
    message = str(caught.value)
    assert message.startswith(f"Shard 0 ({tmp_path}/")
    assert "lost its worker 2 times" in message
    assert "Run the same command again: finished shards are kept." in message
    logs = Path(message.partition("Its logs are in ")[2].partition(". Run")[0])
    assert list(logs.glob("raylet.out"))
    assert "\n" not in message


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_a_worker_keeps_its_type_and_message(launcher, tmp_path, num_workers):
    with pytest.raises(DataError, match=r"^no such column$") as caught:
        launcher.map_shards(Failing(), shards_in(tmp_path), num_workers)
    assert type(caught.value) is DataError
    assert caught.value.__cause__ is None


class Failing:
    def __call__(self):
        def fail(shard, on_rows):
            raise DataError("no such column")

        return fail


class FailingToStart:
    def __call__(self):
        raise DataError("no model here")


def test_an_error_while_a_worker_is_built_passes_through(launcher, tmp_path):
    with pytest.raises(DataError, match=r"^no model here$"):
        launcher.map_shards(FailingToStart(), shards_in(tmp_path), 2)


class FullDisk:
    def __call__(self):
        def fail(shard, on_rows):
            raise OSError(errno.ENOSPC, "No space left on device", shard.output)

        return fail


def test_a_full_disk_is_recognised_from_the_driver(launcher, tmp_path):
    shards = shards_in(tmp_path)
    with pytest.raises(OSError, match="No space left") as caught:
        launcher.map_shards(FullDisk(), shards)
    assert caught.value.errno == errno.ENOSPC
    assert ", in fail" in str(caught.value.__cause__), "the worker's traceback is lost"


class WritesNothing:
    def __call__(self):
        return lambda shard, on_rows: None


def test_a_worker_that_writes_nothing_is_an_error(launcher, tmp_path):
    shard = Shard(0, str(tmp_path / "x"))
    with pytest.raises(StageError, match=r"^Shard 0 was done, but its file .* is not there\.$"):
        launcher.map_shards(WritesNothing(), [shard])


def test_more_than_the_cluster_has_is_refused_in_time(launcher, tmp_path):
    launcher._start()
    from components.shard_pool import PoolOptions, ShardPool

    options = PoolOptions(2, WorkerSize(1000), 3, start_timeout_seconds=2, logs="logs")
    with pytest.raises(StageError) as caught:
        ShardPool(MakeNumberWorker(10), options, ignore_rows).run(shards_in(tmp_path))
    message = str(caught.value)
    assert message.startswith("No worker found a place on Ray within 2 s: each needs 1000 CPUs;")
    assert "; the cluster has " in message
    assert "--set runtime.threads=1" in message


def test_more_workers_than_places_share_what_there_is(launcher, tmp_path, expected):
    wide = RayLauncher(RayOptions(threads=2, start_timeout_seconds=120))
    wide._started = launcher._start()
    shards = shards_in(tmp_path)
    wide.map_shards(MakeNumberWorker(10), shards, num_workers=7)
    assert bytes_of(shards) == expected


def test_no_worker_is_left_behind(launcher, tmp_path):
    launcher.map_shards(MakeNumberWorker(10), shards_in(tmp_path), 2)
    children = psutil.Process().children(recursive=True)
    psutil.wait_procs([c for c in children if "ShardActor" in _title(c)], timeout=20)
    assert not [c for c in psutil.Process().children(recursive=True) if "ShardActor" in _title(c)]


def _title(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
