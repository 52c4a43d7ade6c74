"""Every overlay renders, and a cluster would take what it renders."""

import re

import pytest

from components.cluster_config import STAGE_NAMES
from tests.cluster.crds import known_kind, needs_crds, problems
from tests.cluster.overlays import (
    OVERLAYS,
    SETS,
    all_templates,
    key,
    needs_kubectl,
    of_kind,
    rendered,
    settings,
    title,
)

pytestmark = needs_kubectl
CORE = {
    "",
    "apps",
    "batch",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
}
FOREIGN = {"kueue.x-k8s.io", "monitoring.coreos.com"}
# Oldest and newest version of Kubernetes that the manifests are checked against.
KUBERNETES = ["1.30", "1.35"]


@pytest.mark.parametrize("name", SETS)
def test_every_kind_is_checked_by_one_of_these_tests(name):
    assert rendered(name)
    groups = {key(manifest)[0] for manifest in rendered(name)}
    assert groups <= CORE | FOREIGN | {"ray.io"}


@needs_crds
@pytest.mark.parametrize("name", SETS)
def test_kuberay_takes_its_kinds(name):
    found = [m for m in rendered(name) if key(m)[0] == "ray.io"]
    assert all(known_kind(manifest) for manifest in found)
    assert {title(manifest): problems(manifest) for manifest in found} == {
        title(manifest): [] for manifest in found
    }


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", SETS)
def test_kubernetes_takes_its_kinds(name, version):
    validator = pytest.importorskip("kubernetes_validate")
    for manifest in rendered(name):
        if key(manifest)[0] in CORE:
            validator.validate(manifest, version, strict=True)


@pytest.mark.parametrize("name", SETS)
def test_nothing_is_there_twice(name):
    keys = [key(manifest) for manifest in rendered(name)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_in_one_namespace_that_exists_or_is_kubeflows(overlay):
    manifests = rendered(overlay)
    namespaces = {m["metadata"].get("namespace") for m in manifests if m["kind"] != "Namespace"}
    made = {m["metadata"]["name"] for m in of_kind(manifests, "Namespace")}
    assert len(namespaces) == 1
    assert namespaces == (made or {"kubeflow"})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_of_stages_are_valid_and_found_by_name(overlay):
    config = settings(overlay)
    for stage in STAGE_NAMES:
        assert config.place(stage).head.cpu >= 1
    (found,) = [m for m in rendered(overlay) if m["metadata"]["name"] == "difflm-stages"]
    assert list(found["data"]) == ["stages.yaml"]


def test_only_the_gpu_overlays_ask_for_gpus():
    with_gpu = {
        overlay: {s for s in STAGE_NAMES if settings(overlay).place(s).worker.gpu}
        for overlay in OVERLAYS
    }
    assert with_gpu == {"dev": set(), "gpu": {"train-vae"}, "prod": {"train-vae"}}
    for overlay in ("gpu", "prod"):
        place = settings(overlay).place("train-vae")
        assert place.image == "difflm:0.1.0-gpu"
        assert place.node_selector
        assert [toleration.key for toleration in place.tolerations] == ["nvidia.com/gpu"]


def images(name):
    for where, template in all_templates(name):
        spec = template["spec"]
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            yield f"{where} {container['name']}", container["image"]
    if name in OVERLAYS:
        config = settings(name)
        yield "stages.yaml", config.image
        for place in (config.default, config.service, *config.stages.values()):
            if place.image is not None:
                yield "stages.yaml, a place", place.image


@pytest.mark.parametrize("name", SETS)
def test_images_have_a_version(name):
    for where, image in images(name):
        tag = re.fullmatch(r"[a-z0-9./-]+:([\w.-]+)", image)
        assert tag, (where, image)
        assert tag[1] != "latest", (where, image)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_interactive_cluster_has_the_software_of_the_stages(overlay):
    (cluster,) = of_kind(rendered(overlay), "RayCluster")
    config = settings(overlay)
    assert cluster["spec"]["rayVersion"] == config.ray_version
    templates = [each for where, each in all_templates(overlay) if "RayCluster" in where]
    assert {t["spec"]["containers"][0]["image"] for t in templates} == {config.image}
    assert {t["spec"]["serviceAccountName"] for t in templates} == {config.service_account}


def test_pod_monitors_name_ports_that_pods_have():
    (monitor,) = of_kind(rendered("prod"), "PodMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor["spec"]) == {"selector", "podTargetLabels", "podMetricsEndpoints"}
    endpoints = {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]}
    (cluster,) = of_kind(rendered("prod"), "RayCluster")
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert endpoints <= {port["name"] for port in head["ports"]}
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted == {"app.kubernetes.io/part-of": "difflm", "ray.io/is-ray-node": "yes"}
