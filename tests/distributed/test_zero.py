"""DeepSpeed ZeRO trains as one process does, whatever is shared out among how many workers."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from difflm_core.artifacts import Corpus
from difflm_core.device import Compute
from difflm_core.errors import ConfigError
from difflm_core.generation.bundle import load_vae
from difflm_core.stages.corpus import load_codec
from tests.distributed.groups import train, train_in_group
from tests.people import SAME_IN_GROUPS, SETTINGS

pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

VAE = {**SETTINGS["vae"], **SAME_IN_GROUPS}


@pytest.fixture(scope="module")
def corpus(people_run):
    return people_run / "corpus"


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    """Losses, evaluations and report of one process without DeepSpeed."""
    return train(corpus, tmp_path_factory.mktemp("alone"), VAE, {"precision": "float32"})


def assert_like(found, expected, tolerance):
    losses, evaluations, report = found
    expected_losses, expected_evaluations, expected_report = expected
    assert len(expected_losses) > 12
    assert losses == pytest.approx(expected_losses, rel=tolerance)
    assert [e["phase"] for e in evaluations] == [e["phase"] for e in expected_evaluations]
    assert report.reconstruction == pytest.approx(expected_report.reconstruction, rel=tolerance)
    assert report.kl == pytest.approx(expected_report.kl, rel=100 * tolerance)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_losses_are_those_of_one_process(corpus, alone, tmp_path, stage):
    runtime = {"precision": "float32", "zero_stage": stage}
    assert_like(train_in_group(corpus, tmp_path, VAE, runtime, 2), alone, 1e-5)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_in_bfloat16_they_are_those_of_one_process_in_bfloat16(
    corpus, alone_in_bfloat16, tmp_path, stage
):
    runtime = {"precision": "bfloat16", "zero_stage": stage}
    # Other sums are rounded to three digits.
    assert_like(train_in_group(corpus, tmp_path, VAE, runtime, 2), alone_in_bfloat16, 3e-3)


@pytest.fixture(scope="module")
def alone_in_bfloat16(corpus, tmp_path_factory):
    """As `alone`."""
    return train(corpus, tmp_path_factory.mktemp("alone"), VAE, {"precision": "bfloat16"})


@pytest.mark.parametrize(
    "runtime",
    [
        {"accumulation_steps": 3},
        {"accumulation_steps": 3, "zero_stage": 2},
        {"activation_checkpointing": True},
        {"activation_checkpointing": True, "zero_stage": 3},
        {"offload": "optimizer", "zero_stage": 2},
        {"offload": "all", "zero_stage": 3},
    ],
    ids=str,
)
def test_what_saves_memory_changes_no_loss(corpus, alone, tmp_path, runtime):
    found = train_in_group(corpus, tmp_path, VAE, {"precision": "float32", **runtime}, 2)
    # Free bits look at a part of the batch where it is computed in parts.
    assert_like(found, alone, 2e-3 if "accumulation_steps" in runtime else 1e-5)


@pytest.fixture(scope="module")
def saved(corpus, tmp_path_factory):
    """Checkpoints at step 20, of ZeRO 2 and 3 in two workers, with the losses after it."""
    found = {}
    for stage in (2, 3):
        output = tmp_path_factory.mktemp(f"zero{stage}")
        settings = {**VAE, "checkpoint_every_steps": 20}
        runtime = {"precision": "float32", "zero_stage": stage}
        losses, _, _ = train_in_group(corpus, output, settings, runtime, 2)
        found[stage] = output / "work", losses
    return found


@pytest.mark.parametrize(
    ("saved_stage", "stage", "world_size"), [(2, 2, 1), (2, 2, 3), (3, 3, 1), (3, 3, 3), (3, 0, 1)]
)
def test_a_checkpoint_continues_with_any_number_of_workers(
    corpus, saved, tmp_path, saved_stage, stage, world_size
):
    work, losses = saved[saved_stage]
    shutil.copytree(work, tmp_path / "work")
    settings = {**VAE, "checkpoint_every_steps": 1000}
    runtime = {"precision": "float32", "zero_stage": stage}
    found, _, _ = train_in_group(corpus, tmp_path, settings, runtime, world_size)
    assert min(found) == 20
    assert found == pytest.approx({step: losses[step] for step in found}, rel=1e-5)


def test_the_weights_are_an_ordinary_checkpoint(corpus, alone, saved, tmp_path):
    del alone
    work, _ = saved[3]
    vae = load_vae(work.parent, load_codec(Corpus.open(str(corpus))), Compute(torch.device("cpu")))
    assert all(bool(parameter.isfinite().all()) for parameter in vae.parameters())
    names = set(load_file(work.parent / "vae.safetensors"))
    train(corpus, tmp_path, VAE, {"precision": "float32"})
    assert names == set(load_file(tmp_path / "vae.safetensors"))


def test_muon_is_refused_with_zero(corpus, tmp_path):
    settings = {**VAE, "optimizer": "muon"}
    with pytest.raises(ConfigError, match=r"runtime\.zero_stage = 2 with vae\.optimizer = 'muon'"):
        train(corpus, tmp_path, settings, {"zero_stage": 2})
