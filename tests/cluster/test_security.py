"""Rights, pods and connections: no more than is needed."""

import pytest

from tests.cluster.overlays import (
    OVERLAYS,
    SETS,
    all_templates,
    needs_kubectl,
    of_kind,
    ray_clusters,
    rendered,
    settings,
    title,
)

pytestmark = needs_kubectl
TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"


def rules(overlay):
    roles = of_kind(rendered(overlay), "Role")
    assert roles
    return [(role["metadata"]["name"], rule) for role in roles for rule in role["rules"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_roles_have_no_wildcard_and_hold_in_their_namespace(overlay):
    assert of_kind(rendered(overlay), "ClusterRole") == []
    assert of_kind(rendered(overlay), "ClusterRoleBinding") == []
    for role, rule in rules(overlay):
        for words in (rule["apiGroups"], rule["resources"], rule["verbs"]):
            assert "*" not in "".join(words), role


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pipelines_get_what_they_use_and_no_more(overlay):
    granted = {
        (group, resource, *sorted(rule.get("resourceNames", []))): set(rule["verbs"])
        for role, rule in rules(overlay)
        if role == "difflm-pipeline"
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    all_verbs = {"create", "get", "list", "watch", "update", "patch", "delete"}
    assert granted == {
        ("ray.io", "rayjobs"): all_verbs,
        ("ray.io", "rayservices"): all_verbs,
        ("", "pods"): {"get", "list"},
        ("", "pods/log"): {"get"},
        ("", "configmaps", "difflm-stages"): {"get"},
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_role_reads_secrets_but_that_of_kubeflows_own_store(overlay):
    for role, rule in rules(overlay):
        if "secrets" in rule["resources"]:
            assert role == "difflm-kfp-executor"
            assert rule["resourceNames"] == ["mlpipeline-minio-artifact"]
            assert rule["verbs"] == ["get"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rights_are_bound_to_the_account_of_pipelines_where_it_is(overlay):
    manifests = rendered(overlay)
    roles = {role["metadata"]["name"] for role in of_kind(manifests, "Role")}
    bindings = of_kind(manifests, "RoleBinding")
    assert {binding["roleRef"]["name"] for binding in bindings} == roles
    for binding in bindings:
        assert binding["roleRef"]["kind"] == "Role"
        (subject,) = binding["subjects"]
        assert subject == {
            "kind": "ServiceAccount",
            "name": "difflm-pipeline",
            "namespace": binding["metadata"]["namespace"],
        }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_account_of_pipelines_brings_a_token(overlay):
    accounts = {
        account["metadata"]["name"]: account.get("automountServiceAccountToken", True)
        for account in of_kind(rendered(overlay), "ServiceAccount")
    }
    assert {name for name, mounts in accounts.items() if mounts} == {"difflm-pipeline"}
    assert settings(overlay).service_account in accounts


def test_no_secret_is_here():
    for name in SETS:
        assert of_kind(rendered(name), "Secret") == []


@pytest.mark.parametrize("name", SETS)
def test_pods_meet_the_restricted_standard(name):
    for where, template in all_templates(name):
        spec = template["spec"]
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True, where
        assert pod["runAsUser"] > 0, where
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), where
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert_confined(container["securityContext"], where)
        for volume in spec.get("volumes", []):
            allowed = {"emptyDir", "projected", "persistentVolumeClaim"}
            assert len(allowed & set(volume)) == 1, (where, volume["name"])


def assert_confined(context, where):
    assert context == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }, where


@pytest.mark.parametrize("name", SETS)
def test_containers_write_where_the_image_is_not(name):
    for where, template in all_templates(name):
        volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", [])}
        for container in template["spec"]["containers"]:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert "emptyDir" in volumes[mounts["/tmp"]], where
            assert TOKEN_PATH not in mounts, where


def clusters(name):
    return [
        (title(manifest), spec) for manifest in rendered(name) for spec in ray_clusters(manifest)
    ]


@pytest.mark.parametrize("name", SETS)
def test_ray_asks_for_a_token(name):
    for where, spec in clusters(name):
        assert spec["authOptions"] == {"mode": "token"}, where


@pytest.mark.parametrize("name", [*OVERLAYS, "examples"])
def test_an_autoscaler_has_a_token_of_its_own_that_jobs_cannot_reach(name):
    growing = [(w, s) for w, s in clusters(name) if s["enableInTreeAutoscaling"]]
    assert growing
    for where, spec in growing:
        options = spec["autoscalerOptions"]
        assert_confined(options["securityContext"], where)
        mounts = {mount["mountPath"]: mount for mount in options["volumeMounts"]}
        assert mounts[TOKEN_PATH]["readOnly"] is True
        pod = spec["headGroupSpec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        sources = volumes[mounts[TOKEN_PATH]["name"]]["projected"]["sources"]
        paths = [source.get("serviceAccountToken", {}).get("path") for source in sources]
        assert "token" in paths
        # Whoever shares its /tmp, its HOME, could leave code there that it would run.
        (head,) = pod["containers"]
        shared = {m["name"] for m in head["volumeMounts"]} & {m["name"] for m in mounts.values()}
        assert shared == set(), where


@pytest.mark.parametrize("name", SETS)
def test_pods_carry_the_labels_that_policies_select(name):
    for where, template in all_templates(name):
        labels = template["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "difflm", where
        assert labels["app.kubernetes.io/component"] in {
            "interactive",
            "service",
            "stage",
            "store",
        }
        # Services of KubeRay select heads by its own value.
        assert "app.kubernetes.io/name" not in labels, where
        if "Ray" in where:
            assert labels["sidecar.istio.io/inject"] == "false", where


def network_policies(overlay):
    found = of_kind(rendered(overlay), "NetworkPolicy")
    return {policy["metadata"]["name"]: policy["spec"] for policy in found}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_connections_to_ray_come_from_ray_or_the_operator(overlay):
    policies = network_policies(overlay)
    ours = {"app.kubernetes.io/part-of": "difflm"}
    pods = policies["difflm-pods"]
    assert pods["podSelector"] == {"matchLabels": ours}
    assert pods["policyTypes"] == ["Ingress"]
    inside, operator = pods["ingress"]
    assert inside == {"from": [{"podSelector": {"matchLabels": ours}}]}
    assert [set(peer) for peer in operator["from"]] == [{"namespaceSelector", "podSelector"}]
    assert {port["port"] for port in operator["ports"]} == {8265, 8000}
    service = policies["difflm-service"]
    assert service["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "service"
    assert [port["port"] for rule in service["ingress"] for port in rule["ports"]] == [8000]
    for name, policy in policies.items():
        assert policy["podSelector"]["matchLabels"].items() >= ours.items(), name
        for rule in policy.get("ingress", []):
            assert rule["from"], name  # an empty list lets everybody in
            for peer in rule["from"]:
                assert peer.get("podSelector") != {}, name
                assert peer.get("namespaceSelector") != {}, name


def test_nothing_leaves_prod_but_names_store_and_api():
    policies = network_policies("prod")
    deny = policies["difflm-default-deny"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(deny)
    ours, names, outside = policies["difflm-egress"]["egress"]
    assert list(ours) == ["to"]
    asked = {(port["port"], port["protocol"]) for port in names["ports"]}
    assert asked == {(53, "UDP"), (53, "TCP")}
    assert {port["port"] for port in outside["ports"]} == {443, 6443}
    (peer,) = outside["to"]
    assert peer["ipBlock"]["except"] == ["169.254.0.0/16"]
