"""The compiled pipelines: what the dashboard takes is what the code says."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from difflm_core.evaluation.gate import Limits
from difflm_core.stages import load_stages
from pipelines.compile import COMPILED, NAMES, load_pipeline


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hash_seed", ["1", "3"])
def test_the_committed_file_is_what_the_code_compiles_to(name, hash_seed):
    # Sets of texts have another order in each process, unless it is told one.
    script = f"from pipelines.compile import compile_text; print(compile_text({name!r}), end='')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=COMPILED.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    written = (COMPILED / f"{name}.yaml").read_text("utf-8")
    assert written == done.stdout, "run `difflm pipeline compile`"


def dag(name, component):
    return spec(name)["components"][component]["dag"]["tasks"]


def spec(name):
    return next(yaml.safe_load_all((COMPILED / f"{name}.yaml").read_text("utf-8")))


def test_each_stage_waits_for_its_inputs_and_is_its_own_step():
    tasks = dag("difflm", "comp-exit-handler-1")
    for stage in load_stages():
        task = tasks[stage.name]
        inputs = task["inputs"]["parameters"]["inputs"]["runtimeValue"]["constant"]
        assert list(inputs) == list(stage.inputs)
        for name, text in inputs.items():
            producer = re.search(r"pipelinechannel--(.+)-Output", text)[1]
            assert producer in task["dependentTasks"]
            made = {stage.name: stage for stage in load_stages()}[producer].output
            assert made is stage.inputs[name]
        outputs = spec("difflm")["components"][f"comp-{stage.name}"]["outputDefinitions"]
        kinds = {
            key: value["artifactType"]["schemaTitle"] for key, value in outputs["artifacts"].items()
        }
        assert kinds == {
            "artifact": "system.Artifact",
            "metrics": "system.Metrics",
            "page": "system.HTML",
        }


def test_a_step_is_tried_again_but_never_taken_from_the_cache_of_kubeflow():
    for task in dag("difflm", "comp-exit-handler-1").values():
        assert not task.get("cachingOptions", {}).get("enableCache")
    retries = {
        stage.name: dag("difflm", "comp-exit-handler-1")[stage.name]["retryPolicy"]["maxRetryCount"]
        for stage in load_stages()
    }
    assert retries == {
        "serialize": 2,
        "train-vae": 4,
        "extract-latents": 2,
        "train-diffusion": 2,
        "generate": 4,
        "evaluate": 2,
    }


def test_deploying_waits_for_the_gate():
    gate = dag("difflm", "comp-exit-handler-1")["condition-2"]
    assert gate["dependentTasks"] == sorted(gate["dependentTasks"])
    assert "check-quality" in gate["dependentTasks"]
    assert "check-quality-Output'] == true" in gate["triggerPolicy"]["condition"].replace('"', "'")
    assert list(dag("difflm", "comp-condition-2")) == ["deploy"]


def test_the_end_comes_whatever_happens():
    for name in NAMES:
        finish = spec(name)["root"]["dag"]["tasks"]["finish"]
        assert finish["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


def test_every_limit_of_the_gate_is_a_parameter_with_its_default():
    inputs = load_pipeline("difflm").component_spec.inputs
    defaults = {name: inputs[name].default for name in Limits.__slots__}
    assert Limits(**defaults) == Limits()


def test_every_step_runs_in_the_image_of_the_parameter():
    for name in NAMES:
        for executor in spec(name)["deploymentSpec"]["executors"].values():
            assert (
                executor["container"]["image"]
                == "{{$.inputs.parameters['pipelinechannel--image']}}"
            )
            assert executor["container"]["resources"]["memoryLimit"]
