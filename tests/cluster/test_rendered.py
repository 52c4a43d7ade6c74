"""What the code makes of a stage and of a service is what Kubernetes and cluster/ expect."""

from pathlib import Path

import pytest
import yaml

from components.cluster_config import parse_cluster_config
from components.manifests import rayjob, rayservice
from components.stage_job import StageJob
from difflm_core.stages import load_stages
from difflm_core.stages.pipeline import FOLDERS
from tests.cluster.crds import needs_crds, problems

CLUSTER = Path(__file__).parents[2] / "cluster"
SETTINGS = sorted(CLUSTER.glob("**/stages.yaml"))
RUN = "s3://difflm/runs/adult"


def config_of(path):
    return parse_cluster_config(path.read_text("utf-8"), str(path))


def job_of(stage, run_id=""):
    inputs = {name: f"{RUN}/{FOLDERS[kind]}" for name, kind in stage.inputs.items()}
    return StageJob(stage, f"{RUN}/pipeline.yaml", inputs, f"{RUN}/{FOLDERS[stage.output]}", run_id)


def example(name):
    return yaml.safe_load((CLUSTER / "examples" / name).read_text("utf-8"))


def test_there_are_settings():
    assert len(SETTINGS) == 4


@needs_crds
@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.parent.name)
@pytest.mark.parametrize("stage", load_stages(), ids=lambda stage: stage.name)
def test_kuberay_takes_the_job_of_every_stage(path, stage):
    assert problems(rayjob(job_of(stage, "run-1"), config_of(path), 4)) == []


@needs_crds
@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.parent.name)
def test_kuberay_takes_the_service(path):
    assert problems(rayservice(f"{RUN}/generator", config_of(path))) == []


@needs_crds
def test_a_growing_job_is_taken_too():
    config = parse_cluster_config(
        "default: {min_workers: 1, tolerations: [{key: gpu}], node_selector: {a: b}}\n"
        "image_pull_secrets: [registry]",
        "settings",
    )
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "step", "uid": "u"}
    manifest = rayjob(job_of(load_stages()[1]), config, 4, "other:1", [owner])
    assert problems(manifest) == []
    cluster = manifest["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    group = cluster["workerGroupSpecs"][0]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (1, 1, 4)
    head = cluster["headGroupSpec"]["template"]["spec"]
    mounted = {mount["name"] for mount in cluster["autoscalerOptions"]["volumeMounts"]}
    assert mounted <= {volume["name"] for volume in head["volumes"]}
    # The token is the autoscaler's: no other container mounts it.
    for container in head["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} == {"tmp"}


def test_the_example_of_a_job_is_what_the_code_makes():
    written = example("rayjob.yaml")
    stage = {stage.name: stage for stage in load_stages()}["generate"]
    made = rayjob(job_of(stage), config_of(CLUSTER / "base" / "stages.yaml"), 2)
    made["metadata"]["name"] = written["metadata"]["name"]
    assert made == written


def test_the_example_of_a_service_is_what_the_code_makes():
    written = example("rayservice.yaml")
    made = rayservice(f"{RUN}/generator", config_of(CLUSTER / "base" / "stages.yaml"))
    for manifest in (made, written):
        spec = manifest["spec"]
        spec["serveConfigV2"] = yaml.safe_load(spec["serveConfigV2"])
    assert made == written


def test_a_queue_admits_a_job_whole():
    settings = "queue: difflm\ndefault: {min_workers: 1}"
    manifest = rayjob(job_of(load_stages()[1]), parse_cluster_config(settings, "settings"), 4)
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "difflm"
    cluster = manifest["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is False
    assert cluster["workerGroupSpecs"][0]["replicas"] == 4
