"""Whether KubeRay would take a manifest: its CRDs as strict JSON Schema, and rules of its operator.

from tests.cluster.crds import needs_crds, problems

@needs_crds
def test_it():
    assert problems(manifest) == []
"""

import gzip
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[3] / "shared" / "kuberay-crds"
_FILES = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayService": "rayservices"}
VERSION = "ray.io/v1"
# KubeRay adds up to six characters, and keeps the names of Services below 64.
_LONGEST = {"RayCluster": 53, "RayJob": 47, "RayService": 47}

needs_crds = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"no custom resource definitions of KubeRay 1.7 at {FOLDER}"
)


def problems(manifest: dict) -> list[str]:
    """Say what the API server or the operator would refuse; nothing: they take it."""
    jsonschema = pytest.importorskip("jsonschema")
    kind = manifest.get("kind")
    if manifest.get("apiVersion") != VERSION or kind not in _FILES:
        return [f"$: {manifest.get('apiVersion')} {kind} is no kind of KubeRay's {VERSION}"]
    schema = schema_of(kind)
    errors = jsonschema.Draft202012Validator(strict(schema)).iter_errors(manifest)
    found = [f"{error.json_path}: {error.message}" for error in errors]
    return found or [*_doubles(manifest, schema, "$"), *_refused(manifest)]


def known_kind(manifest: dict) -> bool:
    return manifest["apiVersion"] == VERSION and manifest["kind"] in _FILES


@cache
def schema_of(kind: str) -> dict:
    """The schema as the definition has it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with gzip.open(FOLDER / f"ray.io_{_FILES[kind]}.yaml.gz") as file:
        definition = yaml.load(file, Loader=loader)
    (version,) = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    return version["schema"]["openAPIV3Schema"]


_STRICT: dict[int, dict] = {}


def strict(schema: dict) -> dict:
    """As JSON Schema that knows no other keys, where the API server would drop or refuse them."""
    if id(schema) not in _STRICT:
        _STRICT[id(schema)] = _convert(schema)
    return _STRICT[id(schema)]


def _convert(schema: dict) -> dict:
    if schema.get("x-kubernetes-int-or-string"):
        kept = {"pattern": schema["pattern"]} if "pattern" in schema else {}
        return {"type": ["integer", "string"], **kept}
    new = {
        key: value
        for key, value in schema.items()
        if key in {"type", "enum", "pattern", "minimum", "maximum"}
        or key in {"minItems", "maxItems", "minLength", "maxLength"}
    }
    if "properties" in schema:
        # The API server fills in defaults before it looks for what is required.
        new["required"] = [
            name
            for name in schema.get("required", [])
            if "default" not in schema["properties"][name]
        ]
        new["properties"] = {name: _convert(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            new["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        new["additionalProperties"] = _convert(schema["additionalProperties"])
    if "items" in schema:
        new["items"] = _convert(schema["items"])
    if schema.get("nullable"):
        new["type"] = [schema["type"], "null"]
    return new


def _doubles(value: object, schema: dict, path: str) -> list[str]:
    """Entries of a list that Kubernetes keys by name, port and the like, when there twice."""
    found = []
    if isinstance(value, dict):
        for key, each in value.items():
            inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if isinstance(inner, dict):
                found += _doubles(each, inner, f"{path}.{key}")
    if isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys", [])
        names = [tuple(each.get(key) for key in keys) for each in value] if keys else []
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        found += [f"{path}: there twice: {name}" for name in twice]
        for index, each in enumerate(value):
            found += _doubles(each, schema.get("items", {}), f"{path}[{index}]")
    return found


def _refused(manifest: dict) -> list[str]:
    """What only CEL rules and the operator's own checks say (ray-operator, validation.go)."""
    kind, spec = manifest["kind"], manifest["spec"]
    metadata = manifest.get("metadata", {})
    name = metadata.get("name") or metadata.get("generateName", "") + "x" * 5
    found = []
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > _LONGEST[kind]:
        found.append(f"$.metadata.name: {name!r} is no DNS label of {_LONGEST[kind]} at most")
    if spec.get("managedBy", "ray.io/kuberay-operator") not in {
        "ray.io/kuberay-operator",
        "kueue.x-k8s.io/multikueue",
    }:
        found.append("$.spec.managedBy: neither KubeRay nor MultiKueue")
    if kind == "RayCluster":
        return found + _refused_cluster(spec, "$.spec")
    if kind == "RayService":
        inner = spec["rayClusterConfig"]
        found += _refused_cluster(inner, "$.spec.rayClusterConfig")
        return found + _refused_service(spec)
    if "rayClusterSpec" in spec:
        found += _refused_cluster(spec["rayClusterSpec"], "$.spec.rayClusterSpec")
    return found + _refused_job(spec)


def _refused_cluster(spec: dict, path: str) -> list[str]:
    found = []
    head = spec["headGroupSpec"]["template"]["spec"]
    groups = spec.get("workerGroupSpecs", [])
    if spec.get("authOptions", {}).get("mode") == "token" and not spec.get("rayVersion"):
        found.append(f"{path}.rayVersion: needed for authOptions.mode: token")
    names = [group["groupName"] for group in groups]
    if len(set(names)) < len(names):
        found.append(f"{path}.workerGroupSpecs: a groupName is there twice")
    for group in groups:
        where = f"{path}.workerGroupSpecs[{group['groupName']}]"
        least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        if not 0 <= least <= group.get("replicas", least) <= most:
            found.append(f"{where}: not minReplicas <= replicas <= maxReplicas")
        if "labels" in group.get("rayStartParams", {}):
            found.append(f"{where}.rayStartParams.labels: use labels of the group")
        if "idleTimeoutSeconds" in group and not _second_autoscaler(spec):
            found.append(f"{where}.idleTimeoutSeconds: for autoscaler v2 only")
    if _second_autoscaler(spec):
        pods = [head, *(group["template"]["spec"] for group in groups)]
        if any(pod.get("restartPolicy", "Never") != "Never" for pod in pods):
            found.append(f"{path}: restartPolicy must be Never with autoscaler v2")
    for gated in ("networkPolicy", "tlsOptions", "historyServerOptions"):
        if gated in spec:
            found.append(f"{path}.{gated}: needs a feature gate that is off by default")
    return found


def _second_autoscaler(spec: dict) -> bool:
    version = spec.get("autoscalerOptions", {}).get("version")
    return bool(spec.get("enableInTreeAutoscaling")) and version == "v2"


def _refused_job(spec: dict) -> list[str]:
    found = []
    selector = spec.get("clusterSelector")
    if ("rayClusterSpec" in spec) == bool(selector):
        found.append("$.spec: exactly one of rayClusterSpec and clusterSelector is needed")
    shutdown = spec.get("shutdownAfterJobFinishes", False)
    if spec.get("ttlSecondsAfterFinished", 0) and not shutdown:
        found.append("$.spec.ttlSecondsAfterFinished: needs shutdownAfterJobFinishes")
    if spec.get("suspend") and not shutdown:
        found.append("$.spec.suspend: needs shutdownAfterJobFinishes")
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(key, 1) <= 0:
            found.append(f"$.spec.{key}: must be positive")
    if spec.get("backoffLimit", 0) < 0 or (selector and spec.get("backoffLimit", 0)):
        found.append("$.spec.backoffLimit: negative, or with clusterSelector")
    if spec.get("submissionMode") == "SidecarMode" and "submitterPodTemplate" in spec:
        found.append("$.spec.submitterPodTemplate: not with SidecarMode")
    strategy = spec.get("deletionStrategy")
    if strategy is not None:
        legacy = [key for key in ("onSuccess", "onFailure") if key in strategy]
        rules = strategy.get("deletionRules")
        if (len(legacy) == 2) == bool(rules) or len(legacy) == 1:
            found.append("$.spec.deletionStrategy: onSuccess and onFailure, or deletionRules")
        if rules and shutdown:
            found.append("$.spec.deletionStrategy.deletionRules: not with shutdownAfterJobFinishes")
    if spec.get("rayClusterSpec", {}).get("upgradeStrategy"):
        found.append("$.spec.rayClusterSpec.upgradeStrategy: only for a cluster of its own")
    return found


def _refused_service(spec: dict) -> list[str]:
    found = []
    kind = spec.get("upgradeStrategy", {}).get("type")
    if kind not in {None, "None", "NewCluster", "NewClusterWithIncrementalUpgrade"}:
        found.append(f"$.spec.upgradeStrategy.type: {kind!r}")
    head = spec["rayClusterConfig"]["headGroupSpec"]
    container = head["template"]["spec"]["containers"][0]
    ports = [port.get("name", "") for port in container.get("ports", [{"name": "serve"}])]
    if not any(name == "serve" or name.startswith("serve-") for name in ports):
        found.append("$.spec.rayClusterConfig.headGroupSpec: no port named serve, so no Service")
    if head.get("headService", {}).get("metadata", {}).get("name"):
        found.append("$.spec.rayClusterConfig.headGroupSpec.headService: must have no name")
    if spec["rayClusterConfig"].get("upgradeStrategy"):
        found.append("$.spec.rayClusterConfig.upgradeStrategy: only for a cluster of its own")
    return found
