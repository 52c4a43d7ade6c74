"""DeepSpeed ZeRO trains as one process does, whatever is shared out among how many workers."""

import pytest

from tests.deepspeed.groups import train, train_in_group
from tests.people import SETTINGS

pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

VAE = {
    **SETTINGS["vae"],
    "optimizer": "adamw",
    "dropout": 0.0,
    "max_tokens": 30_000,
    "warmup_steps": 3,
    "free_nats": 0.02,
    "patience": 0,
}


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
    assert report.active_dims == expected_report.active_dims


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_losses_are_those_of_one_process(corpus, alone, tmp_path, stage):
    runtime = {"precision": "float32", "zero_stage": stage}
    assert_like(train_in_group(corpus, tmp_path, VAE, runtime, 2), alone, 1e-4)
