"""Promises of the real stages: one definition, the same command line, nothing heavy at import."""

import resource
import subprocess
import sys

import pytest

from difflm_core.artifacts import ARTIFACT_KINDS
from difflm_core.config import RunConfig
from difflm_core.stages import load_stages
from difflm_core.stages.pipeline import FOLDERS

NAMES = ["serialize", "train-vae", "extract-latents", "train-diffusion", "generate", "evaluate"]


def test_the_six_stages_in_order():
    assert [stage.name for stage in load_stages()] == NAMES


def test_every_input_is_made_by_an_earlier_stage_under_its_name():
    made = []
    for stage in load_stages():
        for name, kind in stage.inputs.items():
            assert kind in made
            assert FOLDERS[kind] == name
        made.append(stage.output)
    assert made == list(ARTIFACT_KINDS.values())


def test_every_stage_has_a_section_and_a_summary():
    for stage in load_stages():
        assert isinstance(RunConfig().section(stage.config_type), stage.config_type)
        assert stage.summary.endswith(".")


def test_only_the_first_stage_reads_files_beside_its_inputs():
    assert [stage.sources is not None for stage in load_stages()] == [True] + [False] * 5


def test_a_source_file_is_part_of_the_fingerprint():
    config = RunConfig.model_validate({"data": {"source": "a.csv", "schema_path": "s.json"}})
    stage = load_stages()[0]
    assert stage.sources is not None
    assert {"a.csv", "s.json"} <= set(stage.sources(config.section(stage.config_type)))


def test_the_stages_and_their_help_load_nothing_heavy():
    heavy = "torch transformers pyarrow pandas sklearn lightgbm xgboost ray kfp deepspeed".split()
    code = (
        "import sys; from difflm_core.cli import build_app; build_app();"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_answers_in_half_a_second():
    def seconds(*arguments):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time, and one of twenty: what else the machine is doing does not count. On a slow
    # machine, the libraries that no command can do without are the measure.
    libraries = seconds("-c", "import pydantic, typer.rich_utils, yaml")
    longest = max(0.5, 3 * libraries)
    assert any(seconds("-m", "difflm_core.cli", "--help") < longest for _ in range(20))


@pytest.mark.parametrize("name", NAMES)
def test_the_command_line_of_a_stage_is_its_argv(name):
    stage = {stage.name: stage for stage in load_stages()}[name]
    uris = {key: f"run/{key}" for key in stage.inputs}
    argv = stage.argv("run.yaml", uris, "run/out")
    assert argv[:3] == [name, "--config", "run.yaml"]
    assert argv[-2:] == ["--output", "run/out"]
    assert argv[3:-2] == [part for key in stage.inputs for part in (f"--{key}", f"run/{key}")]
