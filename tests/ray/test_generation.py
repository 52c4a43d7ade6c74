"""Real stages on Ray write the bytes that this process writes, whoever dies on the way."""

import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from difflm_core.stages.extract_latents import STAGE as EXTRACT
from difflm_core.stages.generate import STAGE as GENERATE
from tests.people import people_config, run_from
from tests.ray.saboteurs import KilledOnce, Sabotaged

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
NUM_ROWS = 250
# Five shards of two batches.
GENERATION = {"num_rows": NUM_ROWS, "shard_rows": 50, "batch_rows": 25}


def generate(people_run, folder, launcher=None, num_workers=1):
    config = people_config(
        folder, "out", generation=GENERATION, runtime={"num_workers": num_workers}
    )
    return run_from(people_run, GENERATE, config, folder / "out", launcher)


def parts(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("part-*.parquet")}


@pytest.fixture(scope="session")
def undisturbed(people_run, tmp_path_factory):
    """The synthetic data that this process makes, without Ray."""
    artifact = generate(people_run, tmp_path_factory.mktemp("local"))
    assert len(parts(artifact.uri)) == 5
    return artifact


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_any_number_of_workers_generates_the_same_bytes(
    launcher, people_run, undisturbed, tmp_path, num_workers
):
    artifact = generate(people_run, tmp_path, launcher, num_workers)
    assert parts(artifact.uri) == parts(undisturbed.uri)
    assert artifact.manifest.content_hash == undisturbed.manifest.content_hash


def test_two_workers_extract_the_same_latents(launcher, people_run, tmp_path):
    config = people_config(tmp_path, runtime={"num_workers": 2})
    artifact = run_from(people_run, EXTRACT, config, tmp_path / "latents", launcher)
    expected = EXTRACT.output.open(str(people_run / "latents"))
    assert artifact.manifest.content_hash == expected.manifest.content_hash


def test_a_generation_worker_killed_within_a_shard_changes_nothing(
    launcher, people_run, undisturbed, tmp_path
):
    marker = tmp_path / "killed"
    saboteur = Sabotaged(launcher, partial(KilledOnce, marker=str(marker)))
    artifact = generate(people_run, tmp_path, saboteur, num_workers=2)
    assert marker.exists()
    assert artifact.manifest.content_hash == undisturbed.manifest.content_hash
    rows = [row for part in sorted(parts(artifact.uri)) for row in read_ids(artifact.uri, part)]
    assert rows == sorted(set(rows))
    assert len(rows) == NUM_ROWS
    assert not list(Path(artifact.uri).rglob("*.tmp"))


def read_ids(uri, part):
    """The identifier of a made person counts up with the index of the row."""
    return pq.read_table(Path(uri) / part)["person"].to_pylist()


def test_a_killed_driver_takes_its_ray_along_and_a_rerun_ends_the_same(
    people_run, undisturbed, tmp_path
):
    config = people_config(tmp_path, generation=GENERATION)
    argv = GENERATE.argv(
        str(tmp_path / "run.yaml"),
        {"generator": str(people_run / "generator")},
        str(tmp_path / "out"),
    )
    assert config.generation.num_rows == NUM_ROWS
    command = [sys.executable, "-m", "components.entrypoint", *argv]
    driver = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: parts(tmp_path / "out") or driver.poll() is not None, 180)
        children = psutil.Process(driver.pid).children(recursive=True)
        family = {f"{p.pid} {p.name()}": p for p in children}
    finally:
        driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL, driver.stderr.read()
    driver.stderr.close()
    assert 0 < len(parts(tmp_path / "out")) < 5, "the driver was killed too late"
    # Ray's two agents, which hold no work, try for a minute to report the death of the others.
    workers = [process for name, process in family.items() if not name.endswith("Agent")]
    assert len(workers) >= 4
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive, "Ray outlives its driver"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    artifact = GENERATE.output.open(str(tmp_path / "out"))
    assert artifact.manifest.content_hash == undisturbed.manifest.content_hash


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_node_changes_nothing(people_run, undisturbed, tmp_path):
    """In a process of its own: a cluster of three nodes, one of which dies with its shard."""
    people_config(tmp_path, generation=GENERATION, runtime={"num_workers": 2})
    command = [sys.executable, "-m", "tests.ray.node_killed", str(people_run), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "killed").exists()
    artifact = GENERATE.output.open(str(tmp_path / "out"))
    assert artifact.manifest.content_hash == undisturbed.manifest.content_hash
