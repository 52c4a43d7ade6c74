"""The manifests of cluster/, rendered by kubectl, and how to walk through them."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from components.cluster_config import ClusterConfig, parse_cluster_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
OVERLAYS = sorted(path.name for path in (CLUSTER / "overlays").iterdir())
EXAMPLES = sorted((CLUSTER / "examples").glob("*.yaml"))
# Sets of manifests: what each overlay applies, the administrator's quota, the examples.
SETS = [*OVERLAYS, "quota", "examples"]

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed; it renders the overlays"
)


@cache
def rendered(name: str) -> tuple[dict, ...]:
    """Manifests of a set."""
    if name == "examples":
        return tuple(yaml.safe_load(path.read_text("utf-8")) for path in EXAMPLES)
    folder = CLUSTER / "overlays" / name if name in OVERLAYS else CLUSTER / name
    run = subprocess.run(
        ["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return tuple(yaml.safe_load_all(run.stdout))


def key(manifest: dict) -> tuple[str, str, str, str]:
    group = manifest["apiVersion"].rpartition("/")[0]
    metadata = manifest["metadata"]
    return group, manifest["kind"], metadata.get("namespace", ""), metadata["name"]


def of_kind(manifests: tuple[dict, ...], kind: str) -> list[dict]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def title(manifest: dict) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def pod_templates(node: object, path: str = "") -> Iterator[tuple[str, dict]]:
    """Every pod template below a node, with where it is."""
    if isinstance(node, dict):
        spec = node.get("spec")
        if isinstance(spec, dict) and isinstance(spec.get("containers"), list):
            yield path, node
            return
        for name, value in node.items():
            yield from pod_templates(value, f"{path}.{name}")
    if isinstance(node, list):
        for index, value in enumerate(node):
            yield from pod_templates(value, f"{path}[{index}]")


def all_templates(name: str) -> list[tuple[str, dict]]:
    """Every pod template of a set."""
    return [
        (f"{title(manifest)}{path}", template)
        for manifest in rendered(name)
        for path, template in pod_templates(manifest)
    ]


def ray_clusters(manifest: dict) -> list[dict]:
    """Specifications of Ray clusters in a manifest."""
    inner = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
    if manifest["kind"] == "RayCluster":
        return [manifest["spec"]]
    return [manifest["spec"][inner[manifest["kind"]]]] if manifest["kind"] in inner else []


def settings(overlay: str) -> ClusterConfig:
    """What pipelines read where this overlay is applied."""
    (found,) = [
        manifest
        for manifest in of_kind(rendered(overlay), "ConfigMap")
        if manifest["metadata"]["name"] == "difflm-stages"
    ]
    return parse_cluster_config(found["data"]["stages.yaml"], f"overlays/{overlay}")
