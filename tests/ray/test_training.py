"""The text-VAE through the command line, in two workers on Ray with DeepSpeed ZeRO."""

import json

import pytest

from difflm_core.stages.train_vae import STAGE
from tests.people import SAME_IN_GROUPS, people_config
from tests.ray.commands import command

pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

VAE = {**SAME_IN_GROUPS, "evaluate_every_steps": 1}


def train(module, people_run, folder, runtime):
    """Run the stage; give the validation scores of every step."""
    folder.mkdir(exist_ok=True)
    people_config(folder, vae=VAE, runtime={"threads": 1, **runtime})
    inputs = {"corpus": str(people_run / "corpus")}
    argv = STAGE.argv(str(folder / "run.yaml"), inputs, str(folder / "vae"))
    done = command(module, *argv)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "vae" / "manifest.json").read_text())["kind"] == "VaeCheckpoint"
    lines = (folder / "vae" / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    scores = {
        event["step"]: event.get("language_model", event.get("reconstruction"))
        for event in events
        if event["event"] == "evaluation"
    }
    assert len(scores) > 30
    return scores


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def alone(request, people_run, tmp_path_factory):
    """Precision, and the scores of one process without Ray and DeepSpeed."""
    folder = tmp_path_factory.mktemp("alone")
    precision = request.param
    return precision, train("difflm_core.cli", people_run, folder, {"precision": precision})


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_in_two_workers_scores_as_one_process(people_run, tmp_path, alone, stage):
    precision, expected = alone
    runtime = {"num_workers": 2, "zero_stage": stage, "precision": precision}
    found = train("components.entrypoint", people_run, tmp_path, runtime)
    tolerance = {"float32": 1e-5, "bfloat16": 3e-3}[precision]
    assert found == pytest.approx(expected, rel=tolerance)
