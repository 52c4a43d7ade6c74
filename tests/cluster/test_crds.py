"""The check of KubeRay's kinds finds what a cluster would refuse."""

import copy

import pytest
import yaml

from tests.cluster.crds import needs_crds, problems
from tests.cluster.overlays import CLUSTER

pytestmark = needs_crds


def example(name):
    return yaml.safe_load((CLUSTER / "examples" / f"{name}.yaml").read_text("utf-8"))


def change(manifest, path, value):
    """A copy in which one value is another; None: it is gone."""
    new = copy.deepcopy(manifest)
    *parents, last = path
    inner = new
    for key in parents:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return new


JOB = ("spec", "rayClusterSpec")
SERVICE = ("spec", "rayClusterConfig")
GROUP = (*JOB, "workerGroupSpecs", 0)
POD = (*JOB, "headGroupSpec", "template", "spec")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("kind",), "RayCronJob", "no kind"),
        (("apiVersion",), "ray.io/v1alpha1", "no kind"),
        (("metadata", "name"), "x" * 48, "no DNS label of 47"),
        (("metadata", "name"), "7-days", "no DNS label"),
        (("spec", "entryPoint"), "python", "'entryPoint' was unexpected"),
        (("spec", "ttlSecondsAfterFinished"), "600", "is not of type 'integer'"),
        (("spec", "preRunningDeadlineSeconds"), 0, "less than the minimum of 1"),
        (("spec", "activeDeadlineSeconds"), 0, "must be positive"),
        (("spec", "shutdownAfterJobFinishes"), False, "needs shutdownAfterJobFinishes"),
        (("spec", "backoffLimit"), -1, "negative"),
        (("spec", "managedBy"), "me", "neither KubeRay nor MultiKueue"),
        (("spec", "submissionMode"), "SidecarMode", "not with SidecarMode"),
        (("spec", "clusterSelector"), {"ray.io/cluster": "other"}, "exactly one of"),
        (("spec", "rayClusterSpec"), None, "exactly one of"),
        (("spec", "deletionStrategy"), {"onSuccess": {"policy": "DeleteSelf"}}, "onFailure"),
        ((*JOB, "authOptions", "mode"), "tokens", "is not one of"),
        ((*JOB, "rayVersion"), None, "needed for authOptions.mode"),
        ((*JOB, "networkPolicy"), {}, "feature gate"),
        ((*JOB, "upgradeStrategy"), {"type": "Recreate"}, "only for a cluster of its own"),
        ((*GROUP, "groupName"), None, "'groupName' is a required property"),
        ((*GROUP, "maxReplicas"), 1, "not minReplicas <= replicas <= maxReplicas"),
        ((*GROUP, "idleTimeoutSeconds"), 60, "autoscaler v2 only"),
        ((*POD, "runAsNonRoot"), True, "'runAsNonRoot' was unexpected"),
        ((*POD, "containers", 0, "resources", "limits", "memory"), "8 GB", "does not match"),
        ((*POD, "containers", 0, "ports", 0), {"name": "x"}, "'containerPort' is a required"),
        ((*POD, "containers", 0, "env"), [{"name": "A"}, {"name": "A"}], "there twice"),
    ],
)
def test_a_broken_job_is_found(path, value, said):
    job = example("rayjob")
    assert problems(job) == []
    assert said in "; ".join(problems(change(job, path, value)))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("spec", "upgradeStrategy", "type"), "Rolling", "upgradeStrategy.type"),
        (("spec", "rayClusterConfig"), None, "is a required property"),
        ((*SERVICE, "workerGroupSpecs", 0, "minReplicas"), 3, "minReplicas <= replicas"),
        (
            (*SERVICE, "headGroupSpec", "template", "spec", "containers", 0, "ports", 3, "name"),
            "http",
            "no port named serve",
        ),
    ],
)
def test_a_broken_service_is_found(path, value, said):
    service = example("rayservice")
    assert problems(service) == []
    assert said in "; ".join(problems(change(service, path, value)))


def test_a_cluster_that_names_a_group_twice_is_found():
    spec = example("rayjob")["spec"]["rayClusterSpec"]
    cluster = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "x"}}
    assert problems({**cluster, "spec": spec}) == []
    spec["workerGroupSpecs"] *= 2
    assert "a groupName is there twice" in problems({**cluster, "spec": spec})[0]
