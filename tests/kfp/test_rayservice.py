"""Deploying a generator against a Kubernetes API over HTTP, and as a file where there is none."""

import time

import pytest
import yaml

from components import rayservice, steps
from components.cluster_config import ClusterConfig
from components.manifests import rayservice as manifest_of
from difflm_core.errors import ArtifactError, StageError
from tests.kfp.fake_kubernetes import fake_kubernetes


def ready(cluster, plural, name):
    """An operator that takes a while, and then serves the present version."""
    generation = cluster.of(plural)[name]["metadata"]["generation"]
    condition = {"type": "Ready", "status": "False", "reason": "Initializing"}
    cluster.set_status(plural, name, conditions=[condition])
    time.sleep(0.2)
    upgrade = {"type": "UpgradeInProgress", "status": "False", "reason": "NoPendingCluster"}
    conditions = [{"type": "Ready", "status": "True", "reason": "NonZeroServeEndpoints"}, upgrade]
    cluster.set_status(plural, name, conditions=conditions, observedGeneration=generation)


def models(cluster):
    (resource,) = cluster.of("rayservices").values()
    serve = yaml.safe_load(resource["spec"]["serveConfigV2"])
    return serve["applications"][0]["args"]["models"]


@pytest.fixture
def deploy(people_run, monkeypatch):
    monkeypatch.setattr(rayservice, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(rayservice.deploy_service, "__defaults__", (0.05,))

    def deploy(api, generator="generator"):
        monkeypatch.setattr("components.rayjob.in_cluster", lambda: api)
        return steps.deploy(str(people_run / generator), {"backend": "rayjob"}, "s3://b/run")

    return deploy


def test_a_service_is_made_and_changed_over(deploy, people_run):
    with fake_kubernetes(ready) as (cluster, api):
        text = deploy(api)
        assert "http://difflm-serve-svc.team:8000" in text
        assert models(cluster) == {"difflm": str(people_run / "generator")}
        cluster.set_status("rayservices", "difflm", models="old")
        deploy(api)
        assert cluster.count("PATCH", "rayservices/difflm") == 1
        assert cluster.of("rayservices")["difflm"]["metadata"]["generation"] == 2


def test_an_earlier_version_that_is_ready_is_not_enough(people_run):
    """The operator has not yet seen the change: what is ready is the version before."""

    def blind(cluster, plural, name):
        conditions = [{"type": "Ready", "status": "True"}]
        cluster.set_status(plural, name, conditions=conditions, observedGeneration=1)

    manifest = manifest_of("s3://b/one", ClusterConfig())
    with fake_kubernetes(blind) as (_, api):
        rayservice.deploy_service(api, manifest, 5, poll_seconds=0.05)
        with pytest.raises(StageError, match="is not ready after 0 s"):
            rayservice.deploy_service(api, manifest, 0.3, poll_seconds=0.05)


def test_a_change_under_way_is_waited_for(people_run):
    def changing(cluster, plural, name):
        conditions = [
            {"type": "Ready", "status": "True"},
            {"type": "UpgradeInProgress", "status": "True", "reason": "BothActivePending"},
        ]
        cluster.set_status(plural, name, conditions=conditions, observedGeneration=1)

    manifest = manifest_of("s3://b/one", ClusterConfig())
    with (
        fake_kubernetes(changing) as (_, api),
        pytest.raises(StageError, match=r"UpgradeInProgress True \(BothActivePending\)"),
    ):
        rayservice.deploy_service(api, manifest, 0.3, poll_seconds=0.05)


def test_only_a_generator_is_deployed(deploy):
    with fake_kubernetes() as (cluster, api):
        with pytest.raises(ArtifactError, match="expected a GeneratorBundle"):
            deploy(api, "corpus")
        assert cluster.of("rayservices") == {}


def test_without_kubernetes_the_manifest_is_written(people_run, tmp_path):
    generator = str(people_run / "generator")
    text = steps.deploy(generator, {"backend": "local"}, str(tmp_path))
    assert f"kubectl apply -f {tmp_path}/rayservice.yaml" in text
    written = yaml.safe_load((tmp_path / "rayservice.yaml").read_text())
    assert written == manifest_of(generator, ClusterConfig())
