"""What manifests name exists, fits, and is what the code exports."""

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest

from components.cluster_config import STAGE_NAMES
from components.ray_metrics import _COUNTERS, _GAUGES
from tests.cluster.overlays import (
    CLUSTER,
    OVERLAYS,
    SETS,
    all_templates,
    needs_kubectl,
    of_kind,
    rendered,
    settings,
)

pytestmark = needs_kubectl
# Not made by an overlay: README.md of cluster/ says who makes them.
EXTERNAL_SECRETS = {"difflm-storage"}
EXTERNAL_CONFIG_MAPS = {"kube-root-ca.crt"}  # Kubernetes makes one in every namespace
DASHBOARD = CLUSTER / "components" / "monitoring" / "difflm.json"


def names(manifests, kind):
    return {manifest["metadata"]["name"] for manifest in of_kind(manifests, kind)}


def base_of(name):
    """The overlay that the examples are meant to meet."""
    return "gpu" if name == "examples" else name


@pytest.mark.parametrize("name", SETS)
def test_what_pods_refer_to_exists_or_is_documented(name):
    manifests = rendered(base_of(name))
    readme = (CLUSTER / "README.md").read_text("utf-8")
    for where, template in all_templates(name):
        spec = template["spec"]
        assert spec["serviceAccountName"] in names(manifests, "ServiceAccount"), where
        assert "priorityClassName" not in spec, where
        for volume in spec.get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or claim in names(manifests, "PersistentVolumeClaim"), where
            for source in volume.get("projected", {}).get("sources", []):
                assert source.get("configMap", {}).get("name") in {None, *EXTERNAL_CONFIG_MAPS}
        for container in spec["containers"]:
            secrets = {source["secretRef"]["name"] for source in container.get("envFrom", [])}
            assert secrets <= EXTERNAL_SECRETS, where
            assert all(secret in readme for secret in secrets)


@pytest.mark.parametrize("name", SETS)
def test_mounts_name_volumes_and_services_name_ports(name):
    for where, template in all_templates(name):
        volumes = {volume["name"] for volume in template["spec"].get("volumes", [])}
        for container in template["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, where
    for service in of_kind(rendered(name), "Service"):
        wanted = service["spec"]["selector"].items()
        ports = {
            port["name"]
            for _, template in all_templates(name)
            if wanted <= template["metadata"]["labels"].items()
            for container in template["spec"]["containers"]
            for port in container["ports"]
        }
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_name_what_the_overlay_has(overlay):
    config, manifests = settings(overlay), rendered(overlay)
    assert config.service_account in names(manifests, "ServiceAccount")
    assert config.storage_secret in EXTERNAL_SECRETS
    assert config.queue is None or config.queue in names(manifests, "LocalQueue")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_node_with_pods_of_the_service_can_be_drained(overlay):
    budgets = of_kind(rendered(overlay), "PodDisruptionBudget")
    assert len(budgets) == (overlay != "dev")
    for budget in budgets:
        least = budget["spec"]["minAvailable"]
        # A share, or maxUnavailable, needs a controller that Kubernetes knows.
        assert isinstance(least, int)
        assert 1 <= least < settings(overlay).service.min_workers


def quantity(text):
    number, unit = re.fullmatch(r"([\d.]+)(m|[kMGTPE]i?)?", str(text)).groups()
    binary = {f"{letter}i": 1024**power for power, letter in enumerate("KMGTPE", 1)}
    decimal = {letter: 1000**power for power, letter in enumerate("kMGTPE", 1)}
    return Decimal(number) * Decimal({**binary, **decimal, "m": "0.001"}.get(unit, 1))


def test_the_quota_is_one_that_kueue_takes():
    manifests = rendered("quota")
    assert {manifest["apiVersion"] for manifest in manifests} == {"kueue.x-k8s.io/v1beta2"}
    assert all("namespace" not in manifest["metadata"] for manifest in manifests)
    (queue,) = of_kind(manifests, "ClusterQueue")
    (group,) = queue["spec"]["resourceGroups"]
    flavors = group["flavors"]
    assert {flavor["name"] for flavor in flavors} == names(manifests, "ResourceFlavor")
    for flavor in flavors:
        # In the same order: a rule of Kueue's definition.
        assert [resource["name"] for resource in flavor["resources"]] == group["coveredResources"]
    (local,) = of_kind(rendered("prod"), "LocalQueue")
    assert local["apiVersion"] == "kueue.x-k8s.io/v1beta2"
    assert local["spec"] == {"clusterQueue": queue["metadata"]["name"]}
    assert queue["spec"]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": local["metadata"]["namespace"]
    }


def test_the_quota_holds_the_largest_stage_of_prod():
    config = settings("prod")
    (queue,) = of_kind(rendered("quota"), "ClusterQueue")
    (group,) = queue["spec"]["resourceGroups"]
    quotas = {
        flavor["name"]: {r["name"]: quantity(r["nominalQuota"]) for r in flavor["resources"]}
        for flavor in group["flavors"]
    }
    for stage in STAGE_NAMES:
        place = config.place(stage)
        for size, flavor in (
            (place.head, "difflm-cpu"),
            (place.worker, "difflm-gpu" if place.worker.gpu else "difflm-cpu"),
        ):
            asked = {"cpu": size.cpu, "memory": size.memory}
            asked |= {"ephemeral-storage": size.disk} if size.disk else {}
            asked |= {config.gpu_resource: size.gpu} if size.gpu else {}
            for resource, amount in asked.items():
                # Four workers, at least: Kueue admits them together.
                many = 4 if size is place.worker else 1
                assert quantity(amount) * many <= quotas[flavor][resource], (stage, resource)


def panels():
    return [
        panel for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"] if "targets" in panel
    ]


def dashboard_metrics():
    text = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    return set(re.findall(r"\bray_(?!io_)\w+(?=\{)", text))


def test_the_dashboard_shows_all_metrics_of_ours_and_no_others():
    ours = {name for name in dashboard_metrics() if name.startswith("ray_difflm_")}
    assert ours == {f"ray_{name}" for name in (*_COUNTERS, *_GAUGES)}


def test_the_dashboard_groups_by_labels_that_metrics_have():
    tables = {**_COUNTERS, **_GAUGES}
    targets = [t for panel in panels() for t in panel["targets"] if "ray_difflm_" in t["expr"]]
    for target in targets:
        found = re.match(r"\w+ by \(([^)]*)\) \(ray_(difflm_\w+)", target["expr"])
        assert found, target["expr"]
        labels = set(re.split(r", *", found[1]))
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert shown <= labels <= set(tables[found[2]][1]), target["expr"]


def test_the_dashboard_names_metrics_that_ray_exports():
    ray = pytest.importorskip("ray")
    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    known = " ".join(path.read_text("utf-8") for path in folder.glob("*.py"))
    theirs = {name for name in dashboard_metrics() if not name.startswith("ray_difflm_")}
    assert len(theirs) > 8
    missing = {name for name in theirs if not re.search(rf"\b{name}\b", known)}
    assert missing == set()


def test_the_dashboard_is_in_the_map_that_grafana_looks_for():
    (found,) = [m for m in of_kind(rendered("prod"), "ConfigMap") if "difflm.json" in m["data"]]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    identifiers = [panel["id"] for panel in json.loads(found["data"]["difflm.json"])["panels"]]
    assert len(set(identifiers)) == len(identifiers)
