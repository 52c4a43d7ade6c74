"""The Kubernetes resources of a stage and of a served generator, as plain mappings.

They are made for KubeRay's API `ray.io/v1`. A pod gets what it asks for and no more: no right on
the Kubernetes API, no root, no writable image.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from components.cluster_config import ClusterConfig, PodSize, StagePlace, Toleration

if TYPE_CHECKING:
    from components.submit import StageJob

API_GROUP, API_VERSION = "ray.io", "v1"
STAGE_LABEL, RUN_LABEL = "difflm.io/stage", "difflm.io/run"
OUTPUT_ANNOTATION = "difflm.io/output"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
SERVICE_NAME = "difflm"
SERVE_APPLICATION = "components.serve:build_app"
_LABELS = {"app.kubernetes.io/name": "difflm", "app.kubernetes.io/part-of": "difflm"}


def rayjob(
    job: StageJob,
    config: ClusterConfig,
    num_workers: int,
    image: str = "",
    owners: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The RayJob of a stage: a cluster of its own, sized for it, gone when it is done.

    Args:
        job: what runs.
        config: settings of the cluster.
        num_workers: worker pods (`runtime.num_workers` of the run).
        image: overrides the images of the settings.
        owners: owner references: with the owner, the job goes.
    """
    place = config.place(job.stage.name)
    image = image or place.image or config.image
    labels = {**_LABELS, STAGE_LABEL: job.stage.name}
    if job.run_id:
        labels[RUN_LABEL] = job.run_id
    pods = _Pods(config, image, labels)
    queue = {QUEUE_LABEL: config.queue} if config.queue else {}
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": "RayJob",
        "metadata": {
            "name": job.name,
            "labels": {**labels, **queue},
            "annotations": {OUTPUT_ANNOTATION: job.output},
            **({"ownerReferences": [dict(owner) for owner in owners]} if owners else {}),
        },
        "spec": {
            # Ray runs it through a shell.
            "entrypoint": shlex.join(job.command),
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": config.ttl_seconds,
            "preRunningDeadlineSeconds": place.waiting_seconds,
            "activeDeadlineSeconds": place.deadline_seconds,
            # A stage is tried again by its pipeline, which knows when to give up.
            "backoffLimit": 0,
            "submitterPodTemplate": pods.submitter(),
            "rayClusterSpec": _stage_cluster(config, place, pods, num_workers),
        },
    }


def rayservice(
    generator: str,
    config: ClusterConfig,
    image: str = "",
    name: str = SERVICE_NAME,
) -> dict[str, Any]:
    """The RayService that serves a generator; applied again with another, it changes over to it.

    Args:
        generator: URI of the generator.
        config: settings of the cluster.
        image: overrides the images of the settings.
        name: of the service, its application and its route.
    """
    place = config.service
    labels = {**_LABELS, "app.kubernetes.io/component": "service"}
    pods = _Pods(config, image or place.image or config.image, labels)
    ports = [("gcs-server", 6379), ("dashboard", 8265), ("client", 10001), ("serve", 8000)]
    head = pods.ray("ray-head", place.head, ports)
    worker = pods.ray("ray-worker", place.worker, [("serve", 8000)])
    _place(worker, place.node_selector, place.tolerations)
    serve = {
        "http_options": {"host": "0.0.0.0", "port": 8000},  # noqa: S104 - behind the Service
        "applications": [
            {
                "name": name,
                "import_path": SERVE_APPLICATION,
                "route_prefix": "/",
                "args": {"models": {name: generator}, "num_replicas": place.replicas},
            }
        ],
    }
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": "RayService",
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {OUTPUT_ANNOTATION: generator},
        },
        "spec": {
            # A new cluster takes over when it is ready: no request is lost in between.
            "upgradeStrategy": {"type": "NewCluster"},
            # The head runs no replica: its death must not take answers with it.
            "excludeHeadPodFromServeSvc": True,
            "serveConfigV2": yaml.safe_dump(serve, sort_keys=False),
            "rayClusterConfig": {
                **_cluster(config),
                "enableInTreeAutoscaling": place.max_workers > place.min_workers,
                "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": head},
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": place.min_workers,
                        "minReplicas": place.min_workers,
                        "maxReplicas": place.max_workers,
                        "rayStartParams": {},
                        "template": worker,
                    }
                ],
            },
        },
    }


def _cluster(config: ClusterConfig) -> dict[str, Any]:
    return {"rayVersion": config.ray_version, "authOptions": {"mode": "token"}}


def _stage_cluster(
    config: ClusterConfig, place: StagePlace, pods: _Pods, num_workers: int
) -> dict[str, Any]:
    # Kueue admits a job whole; a cluster that grows would need more than what was admitted.
    grows = place.min_workers is not None and place.min_workers < num_workers and not config.queue
    ports = [("gcs-server", 6379), ("dashboard", 8265), ("client", 10001)]
    worker = pods.ray("ray-worker", place.worker)
    _place(worker, place.node_selector, place.tolerations)
    first = place.min_workers if grows else num_workers
    return {
        **_cluster(config),
        "enableInTreeAutoscaling": grows,
        # Workers live in the worker pods alone: the head keeps its memory for the stage's process.
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0"},
            "template": pods.ray("ray-head", place.head, ports),
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": first,
                "minReplicas": first,
                "maxReplicas": num_workers,
                "rayStartParams": {},
                "template": worker,
            }
        ],
    }


def _place(
    template: dict[str, Any], node_selector: Mapping[str, str], tolerations: Sequence[Toleration]
) -> None:
    if node_selector:
        template["spec"]["nodeSelector"] = dict(node_selector)
    if tolerations:
        template["spec"]["tolerations"] = [
            toleration.model_dump(exclude_none=True) for toleration in tolerations
        ]


class _Pods:
    """Pod templates that differ in size and role alone."""

    def __init__(self, config: ClusterConfig, image: str, labels: Mapping[str, str]) -> None:
        self._config = config
        self._image = image
        self._labels = dict(labels)

    def ray(
        self, name: str, size: PodSize, ports: Sequence[tuple[str, int]] = ()
    ) -> dict[str, Any]:
        """A pod of a Ray cluster."""
        container = self._container(name, _resources(size, self._config.gpu_resource))
        container["volumeMounts"] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - in a pod
        if ports:
            container["ports"] = [
                {"name": port_name, "containerPort": number} for port_name, number in ports
            ]
        if self._config.storage_secret:
            secret = {"name": self._config.storage_secret, "optional": True}
            container["envFrom"] = [{"secretRef": secret}]
        return self._template(container, [{"name": "tmp", "emptyDir": {}}])

    def submitter(self) -> dict[str, Any]:
        """The pod that submits a job to its cluster and shows its log."""
        limits = {"cpu": "1", "memory": "1Gi"}
        requests = {"cpu": "100m", "memory": "512Mi"}
        container = self._container("submitter", {"limits": limits, "requests": requests})
        container["volumeMounts"] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - in a pod
        template = self._template(container, [{"name": "tmp", "emptyDir": {}}])
        template["spec"]["restartPolicy"] = "Never"
        return template

    def _container(self, name: str, resources: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": name,
            "image": self._image,
            # The image cannot be written to; the volume at /tmp can.
            "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 - in a pod
            "resources": resources,
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            },
        }

    def _template(
        self, container: dict[str, Any], volumes: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "serviceAccountName": self._config.service_account,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [dict(volume) for volume in volumes],
        }
        if self._config.image_pull_secrets:
            spec["imagePullSecrets"] = [{"name": n} for n in self._config.image_pull_secrets]
        return {"metadata": {"labels": self._labels}, "spec": spec}


def _resources(size: PodSize, gpu_resource: str) -> dict[str, Any]:
    """Requests equal to limits: Ray plans with the limits, and the node must really have them."""
    amounts = {"cpu": str(size.cpu), "memory": size.memory}
    if size.gpu:
        amounts[gpu_resource] = str(size.gpu)
    if size.disk:
        amounts["ephemeral-storage"] = size.disk
    return {"limits": dict(amounts), "requests": dict(amounts)}
