"""Training that goes on somewhere else: on other nodes, or in another number of workers."""

import json
import shutil
import subprocess
import sys
from functools import partial

import pytest

from components.ray_launcher import RayLauncher, RayOptions
from difflm_core.errors import StageError
from difflm_core.stages.train_vae import STAGE
from tests.people import SAME_IN_GROUPS, people_config, run_from
from tests.ray.commands import ROOT
from tests.ray.saboteurs import KilledInTraining, Sabotaged

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

# Scores after every step; checkpoints at steps 3, 6, ...
VAE = {**SAME_IN_GROUPS, "max_tokens": 12_000, "evaluate_every_steps": 1}
LAST_CHECKPOINT = 6


def config_in(folder, **runtime):
    runtime = {"num_workers": 2, "threads": 1, "precision": "float32", **runtime}
    return people_config(folder, vae=VAE, runtime=runtime)


def train(launcher, people_run, folder, **runtime):
    config = config_in(folder, **runtime)
    return run_from(people_run, STAGE, config, folder / "out", launcher)


def scores(folder):
    """Validation score after every step."""
    lines = (folder / "out" / "metrics.jsonl").read_text().splitlines()
    events = [event for event in map(json.loads, lines) if event["event"] == "evaluation"]
    return {e["step"]: e.get("language_model", e.get("reconstruction")) for e in events}


@pytest.fixture(scope="module")
def undisturbed(launcher, people_run, tmp_path_factory):
    """Content hash and scores of two workers to whom nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    artifact = train(launcher, people_run, folder)
    assert len(scores(folder)) > 2 * LAST_CHECKPOINT
    return artifact.manifest.content_hash, scores(folder)


def train_while_a_node_dies(people_run, folder, num_nodes, **runtime):
    """Give the sizes of the groups that trained, one after the other."""
    config_in(folder, **runtime)
    command = [sys.executable, "-m", "tests.ray.node_killed_in_training"]
    command += [str(people_run), str(folder), str(num_nodes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "killed").exists()
    return [int(line) for line in (folder / "sizes").read_text().splitlines()]


def test_a_training_worker_whose_node_dies_finds_another(people_run, undisturbed, tmp_path):
    assert train_while_a_node_dies(people_run, tmp_path, num_nodes=3) == [2, 2]
    found = STAGE.output.open(str(tmp_path / "out")).manifest.content_hash
    assert (found, scores(tmp_path)) == undisturbed


def test_a_group_without_nodes_goes_on_in_fewer_workers(people_run, undisturbed, tmp_path):
    sizes = train_while_a_node_dies(people_run, tmp_path, num_nodes=2, min_workers=1)
    assert sizes == [2, 1]
    assert scores(tmp_path) == pytest.approx(undisturbed[1], rel=1e-5)


def test_a_group_that_finds_too_few_nodes_is_given_up(launcher):
    runtime = launcher._start()
    options = RayOptions(threads=1, min_workers=30, start_timeout_seconds=20, max_failures=0)
    impatient = RayLauncher(options)
    impatient._started = runtime
    with pytest.raises(StageError) as caught:
        impatient.run_workers(lambda worker: None, 40)
    message = str(caught.value)
    assert message.startswith(
        "Training on 40 workers could not start on Ray: no worker was there for 20 s. Each "
    )


@pytest.fixture(scope="module")
def interrupted(launcher, people_run, tmp_path_factory):
    """Folder of a training in two workers that was given up after its second checkpoint."""
    folder = tmp_path_factory.mktemp("interrupted")
    impatient = RayLauncher(RayOptions(max_failures=0))
    impatient._started = launcher._start()
    wrap = partial(KilledInTraining, marker=str(folder / "killed"), rank=0)
    with pytest.raises(StageError, match="workers died 1 times"):
        train(Sabotaged(impatient, wrap), people_run, folder)
    return folder


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_checkpoint_of_two_workers_continues_in_another_number(
    launcher, people_run, undisturbed, interrupted, tmp_path, num_workers
):
    folder = tmp_path / "resumed"
    shutil.copytree(interrupted, folder)
    (folder / "out" / "metrics.jsonl").unlink()
    train(launcher, people_run, folder, num_workers=num_workers)
    found, expected = scores(folder), undisturbed[1]
    assert min(found) == LAST_CHECKPOINT + 1
    # The next step to four decimals; to the last one, to five digits.
    following = LAST_CHECKPOINT + 1
    assert found[following] == pytest.approx(expected[following], abs=5e-5)
    assert found == pytest.approx({step: expected[step] for step in found}, rel=1e-5)
