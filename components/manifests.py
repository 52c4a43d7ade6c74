"""The Kubernetes resources of a stage and of a served generator, as plain mappings.

They are made for KubeRay's API `ray.io/v1`. A pod gets what it asks for and no more: no right on
the Kubernetes API, no root, no writable image. cluster/examples shows them with the reasons.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from components.cluster_config import ClusterConfig, PodSize, ServicePlace, StagePlace
from components.stage_job import StageJob

API_GROUP, API_VERSION = "ray.io", "v1"
STAGE_LABEL, RUN_LABEL = "difflm.io/stage", "difflm.io/run"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
SERVICE_NAME = "difflm"
SERVE_APPLICATION = "components.serve:build_app"
_PART, _COMPONENT = "app.kubernetes.io/part-of", "app.kubernetes.io/component"
_METRICS_PORT, _SERVE_PORT = ("metrics", 8080), ("serve", 8000)
_HEAD_PORTS = (("gcs-server", 6379), ("dashboard", 8265), ("client", 10001))
_HEAD_METRICS_PORTS = (_METRICS_PORT, ("dash-metrics", 44227))
# A job that is moved begins again from its last checkpoint; only a full node is a reason.
_KEEP = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
_REQUEST_SECONDS, _LAST_REQUESTS_SECONDS = 300, 120
_HOME = {"name": "HOME", "value": "/tmp"}  # noqa: S108 - in a pod, a volume of its own
_TMP = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108
_CONFINED = {
    "allowPrivilegeEscalation": False,
    # Ray writes below /tmp, HOME included, and to /dev/shm, which KubeRay mounts.
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


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
    labels = {STAGE_LABEL: job.stage.name, **({RUN_LABEL: job.run_id} if job.run_id else {})}
    pods = _Pods(config, image or place.image or config.image, "stage", labels)
    queue = {QUEUE_LABEL: config.queue} if config.queue else {}
    owner_references = {"ownerReferences": [dict(owner) for owner in owners]} if owners else {}
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": "RayJob",
        "metadata": {
            "name": job.name,
            "labels": {_PART: "difflm", **labels, **queue},
            **owner_references,
        },
        "spec": {
            # Ray runs it through a shell.
            "entrypoint": shlex.join(job.command),
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": config.ttl_seconds,
            # Both clocks start when the job is made, or when Kueue lets it start.
            "preRunningDeadlineSeconds": place.waiting_seconds,
            "activeDeadlineSeconds": place.waiting_seconds + place.deadline_seconds,
            # The pipeline tries again, not the operator.
            "backoffLimit": 0,
            "submitterPodTemplate": pods.submitter(),
            "rayClusterSpec": _stage_cluster(config, place, pods, num_workers),
        },
    }


def rayservice(
    generator: str, config: ClusterConfig, image: str = "", name: str = SERVICE_NAME
) -> dict[str, Any]:
    """The RayService that serves a generator; applied again with another, it changes over to it.

    Args:
        generator: URI of the generator.
        config: settings of the cluster.
        image: overrides the images of the settings.
        name: of the service, its application and its model.
    """
    place = config.service
    pods = _Pods(config, image or place.image or config.image, "service", {})
    serve = {
        "proxy_location": "EveryNode",
        # Behind the Service, whose clients the NetworkPolicy names.
        "http_options": {
            "host": "0.0.0.0",  # noqa: S104 - of a pod
            "port": _SERVE_PORT[1],
            "request_timeout_s": _REQUEST_SECONDS,
        },
        "applications": [
            {
                "name": name,
                "import_path": SERVE_APPLICATION,
                "route_prefix": "/",
                "args": _service_args(name, generator, place),
            }
        ],
    }
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": "RayService",
        "metadata": {"name": name, "labels": {_PART: "difflm", _COMPONENT: "service"}},
        "spec": {
            # A new cluster takes over when it is ready, and the old one ends what is in work.
            "upgradeStrategy": {"type": "NewCluster"},
            "rayClusterDeletionDelaySeconds": _LAST_REQUESTS_SECONDS,
            # The head runs no replica: its death must not take answers with it.
            "excludeHeadPodFromServeSvc": True,
            "serveConfigV2": yaml.safe_dump(serve, sort_keys=False),
            "rayClusterConfig": _service_cluster(config, place, pods),
        },
    }


def _service_args(name: str, generator: str, place: ServicePlace) -> dict[str, Any]:
    """Arguments of `components.serve:build_app`."""
    args: dict[str, Any] = {
        "models": {name: generator},
        "num_replicas": place.replicas,
        # The rest of a pod is for the front and Ray's own processes.
        "cpus_per_replica": max(1, place.worker.cpu - 1),
    }
    if place.worker.gpu:
        args["gpus_per_replica"] = place.worker.gpu
    if place.results:
        args["results"] = place.results
    return args


def _stage_cluster(
    config: ClusterConfig, place: StagePlace, pods: _Pods, num_workers: int
) -> dict[str, Any]:
    # Kueue admits a job whole; a cluster that grows would need more than what was admitted.
    grows = place.min_workers is not None and place.min_workers < num_workers and not config.queue
    first = place.min_workers if grows and place.min_workers is not None else num_workers
    head = pods.ray("ray-head", place.head, _HEAD_PORTS + _HEAD_METRICS_PORTS)
    worker = pods.ray("ray-worker", place.worker, (_METRICS_PORT,))
    for template in (head, worker):
        template["metadata"]["annotations"] = dict(_KEEP)
    _place(worker, place)
    return _ray_cluster(config, head, worker, first, num_workers)


def _service_cluster(config: ClusterConfig, place: ServicePlace, pods: _Pods) -> dict[str, Any]:
    ports = (*_HEAD_PORTS, _SERVE_PORT, *_HEAD_METRICS_PORTS)
    head = pods.ray("ray-head", place.head, ports)
    worker = pods.ray("ray-worker", place.worker, (_SERVE_PORT, _METRICS_PORT))
    _place(worker, place)
    if place.keys_secret:
        for template in (head, worker):
            container = template["spec"]["containers"][0]
            container.setdefault("envFrom", []).append({"secretRef": {"name": place.keys_secret}})
    # One node's end must not end all answers.
    worker["spec"]["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {
                "matchLabels": {
                    _PART: "difflm",
                    _COMPONENT: "service",
                    "ray.io/node-type": "worker",
                }
            },
        }
    ]
    # A pod that has to go leaves the Service at once, and may finish what is in work.
    worker["spec"]["terminationGracePeriodSeconds"] = _LAST_REQUESTS_SECONDS
    return _ray_cluster(config, head, worker, place.min_workers, place.max_workers)


def _ray_cluster(
    config: ClusterConfig,
    head: dict[str, Any],
    worker: dict[str, Any],
    min_workers: int,
    max_workers: int,
) -> dict[str, Any]:
    grows = max_workers > min_workers
    autoscaler = {"autoscalerOptions": _autoscaler(head)} if grows else {}
    return {
        "rayVersion": config.ray_version,
        # KubeRay makes a token for each cluster.
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": grows,
        **autoscaler,
        # Work goes to workers; the head keeps its memory for Ray and the stage's own process.
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": head},
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": min_workers,
                "minReplicas": min_workers,
                "maxReplicas": max_workers,
                "rayStartParams": {},
                "template": worker,
            }
        ],
    }


def _autoscaler(head: dict[str, Any]) -> dict[str, Any]:
    """Options of the autoscaler, a container of the head's pod; adds its volumes and port there.

    It alone gets the token that the account withholds from jobs, and a /tmp of its own: what a job
    leaves in a shared HOME, it would run.
    """
    token_volume = {
        "name": "kubernetes-token",
        "projected": {
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                {
                    "configMap": {
                        "name": "kube-root-ca.crt",
                        "items": [{"key": "ca.crt", "path": "ca.crt"}],
                    }
                },
            ]
        },
    }
    ports = head["spec"]["containers"][0]["ports"]
    ports.insert(-1, {"name": "as-metrics", "containerPort": 44217})
    head["spec"]["volumes"] += [{"name": "autoscaler-tmp", "emptyDir": {}}, token_volume]
    return {
        "idleTimeoutSeconds": 300,
        "resources": {
            "requests": {"cpu": "200m", "memory": "512Mi"},
            "limits": {"cpu": "500m", "memory": "512Mi"},
        },
        "env": [_HOME],
        "securityContext": _CONFINED,
        "volumeMounts": [
            {"name": "autoscaler-tmp", "mountPath": "/tmp"},  # noqa: S108
            {
                "name": "kubernetes-token",
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                "readOnly": True,
            },
        ],
    }


def _place(template: dict[str, Any], place: StagePlace | ServicePlace) -> None:
    if place.node_selector:
        template["spec"]["nodeSelector"] = dict(place.node_selector)
    if place.tolerations:
        template["spec"]["tolerations"] = [
            toleration.model_dump(exclude_none=True) for toleration in place.tolerations
        ]


class _Pods:
    """Pod templates that differ in size and role alone."""

    def __init__(
        self, config: ClusterConfig, image: str, component: str, labels: Mapping[str, str]
    ) -> None:
        self._config = config
        self._image = image
        # Not `app.kubernetes.io/name`: Services of KubeRay select heads by the value it sets.
        self._labels = {
            _PART: "difflm",
            _COMPONENT: component,
            **labels,
            # Ray speaks its own protocols between pods; a mesh's proxy in between breaks them.
            "sidecar.istio.io/inject": "false",
        }

    def ray(
        self, name: str, size: PodSize, ports: Sequence[tuple[str, int]] = ()
    ) -> dict[str, Any]:
        """A pod of a Ray cluster."""
        container = self._container(name, _resources(size, self._config.gpu_resource))
        container["ports"] = [
            {"name": port_name, "containerPort": number} for port_name, number in ports
        ]
        if self._config.storage_secret:
            # A cloud's workload identity needs none.
            secret = {"name": self._config.storage_secret, "optional": True}
            container["envFrom"] = [{"secretRef": secret}]
        return self._template(container)

    def submitter(self) -> dict[str, Any]:
        """The pod that submits a job to its cluster and shows its log."""
        limits = {"cpu": "1", "memory": "1Gi"}
        requests = {"cpu": "100m", "memory": "512Mi"}
        container = self._container("submitter", {"limits": limits, "requests": requests})
        template = self._template(container)
        template["spec"]["restartPolicy"] = "Never"
        return template

    def _container(self, name: str, resources: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": name,
            "image": self._image,
            "env": [_HOME],
            "resources": resources,
            "securityContext": _CONFINED,
            "volumeMounts": [_TMP],
        }

    def _template(self, container: dict[str, Any]) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "serviceAccountName": self._config.service_account,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        }
        if self._config.image_pull_secrets:
            spec["imagePullSecrets"] = [{"name": n} for n in self._config.image_pull_secrets]
        return {"metadata": {"labels": dict(self._labels)}, "spec": spec}


def _resources(size: PodSize, gpu_resource: str) -> dict[str, Any]:
    """Requests equal to limits: Ray plans with the limits, and the node must really have them."""
    amounts = {"cpu": str(size.cpu), "memory": size.memory}
    if size.gpu:
        amounts[gpu_resource] = str(size.gpu)
    if size.disk:
        amounts["ephemeral-storage"] = size.disk
    return {"limits": dict(amounts), "requests": dict(amounts)}
