"""A training group whose worker is killed continues from its checkpoint, and ends the same."""

import json
from functools import partial
from pathlib import Path

import pytest

from difflm_core.stages.train_diffusion import STAGE as DIFFUSION
from difflm_core.stages.train_vae import STAGE as VAE
from tests.people import people_config, run_from
from tests.ray.saboteurs import KilledInTraining, Sabotaged

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


def train(stage, people_run, folder, launcher, runtime):
    config = people_config(folder, vae={"optimizer": "adamw"}, runtime=runtime)
    return run_from(people_run, stage, config, folder / "out", launcher)


def steps(artifact):
    lines = (Path(artifact.uri) / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [event["step"] for event in events if event["event"] == "evaluation"]


@pytest.mark.parametrize(("rank", "zero_stage"), [(0, 0), (1, 0), (1, 3)])
def test_the_text_vae_ends_as_if_nobody_had_died(
    launcher, people_run, tmp_path_factory, rank, zero_stage
):
    runtime = {"num_workers": 2, "threads": 1, "zero_stage": zero_stage}
    folders = [tmp_path_factory.mktemp("train") for _ in range(2)]
    expected = train(VAE, people_run, folders[0], launcher, runtime)
    marker = folders[1] / "killed"
    saboteur = Sabotaged(launcher, partial(KilledInTraining, marker=str(marker), rank=rank))
    found = train(VAE, people_run, folders[1], saboteur, runtime)
    assert marker.exists()
    assert found.manifest.content_hash == expected.manifest.content_hash
    # What lay before the checkpoint was not done again.
    assert steps(found).count(min(steps(found))) == 1
    assert sorted(set(steps(found))) == steps(expected)


def test_the_diffusion_ends_as_if_nobody_had_died(launcher, people_run, tmp_path_factory):
    runtime = {"num_workers": 2, "threads": 1}
    folders = [tmp_path_factory.mktemp("train") for _ in range(2)]
    expected = train(DIFFUSION, people_run, folders[0], launcher, runtime)
    marker = folders[1] / "killed"
    saboteur = Sabotaged(launcher, partial(KilledInTraining, marker=str(marker), rank=1))
    found = train(DIFFUSION, people_run, folders[1], saboteur, runtime)
    assert marker.exists()
    assert found.manifest.content_hash == expected.manifest.content_hash
