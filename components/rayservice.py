"""A generator as a RayService: created, or changed over to, without a lost request."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from components.cluster_config import ClusterConfig
from components.manifests import SERVICE_NAME, rayservice
from components.stage_job import Where
from difflm_core import storage
from difflm_core.errors import StageError

if TYPE_CHECKING:
    from components.kubernetes_api import KubernetesApi

_LOGGER = logging.getLogger("difflm.submit")
RAYSERVICES = "rayservices"
MANIFEST_NAME = "rayservice.yaml"
_POLL_SECONDS = 2.0


def write_service(generator: str, where: Where, run: str) -> str:
    """Write the manifest of the service into the run directory; where there is no Kubernetes.

    Returns:
        What to do with it, in Markdown.
    """
    uri = storage.join(run, MANIFEST_NAME)
    manifest = rayservice(generator, ClusterConfig(), where.image)
    storage.write_text(uri, yaml.safe_dump(manifest, sort_keys=False))
    return (
        "# Ready to serve\n\n"
        f"The backend {where.backend} has no Kubernetes to deploy to, so the manifest of the "
        f"service was written:\n\n    kubectl apply -f {uri}\n"
    )


def apply_service(generator: str, where: Where) -> str:
    """Create or update the service of this namespace, and wait until it serves the generator.

    Returns:
        Where it answers, in Markdown.

    Raises:
        StageError: it does not become ready in time.
    """
    from components.rayjob import in_cluster, read_cluster_config

    api = in_cluster()
    config = read_cluster_config(api)
    deploy_service(api, rayservice(generator, config, where.image), config.service.waiting_seconds)
    address = f"http://{SERVICE_NAME}-serve-svc.{api.namespace}:8000"
    return (
        "# Deployed\n\n"
        f"The RayService `{SERVICE_NAME}` in `{api.namespace}` serves `{generator}` at "
        f"`{address}`.\n"
    )


def deploy_service(
    api: KubernetesApi,
    manifest: Mapping[str, Any],
    waiting_seconds: float,
    poll_seconds: float = _POLL_SECONDS,
) -> None:
    """Create the service, or change the one of its name, and wait until all of it is ready.

    Raises:
        StageError: it is not ready after `waiting_seconds`; an earlier version still answers.
    """
    name = manifest["metadata"]["name"]
    if api.create(RAYSERVICES, manifest):
        _LOGGER.info("created the RayService %s", name)
    else:
        api.patch(RAYSERVICES, name, manifest)
        _LOGGER.info("changed the RayService %s; the old one answers until it is ready", name)
    deadline = time.monotonic() + waiting_seconds
    shown = None
    while True:
        found = api.get(RAYSERVICES, name) or {}
        words = _words(found)
        if words != shown:
            _LOGGER.info("RayService %s: %s", name, words)
            shown = words
        if _is_ready(found):
            return
        if time.monotonic() > deadline:
            raise StageError(
                f"The RayService {name} is not ready after {waiting_seconds:.0f} s ({words}). An "
                f"earlier version, if there is one, still answers. See: kubectl -n "
                f"{api.namespace} describe rayservice {name}"
            )
        time.sleep(poll_seconds)


def _is_ready(resource: Mapping[str, Any]) -> bool:
    """Whether KubeRay has seen this version, serves it, and no change is under way."""
    status = resource.get("status") or {}
    seen = status.get("observedGeneration") == resource.get("metadata", {}).get("generation")
    conditions = {item["type"]: item["status"] for item in status.get("conditions") or []}
    ready = conditions.get("Ready") == "True"
    return seen and ready and conditions.get("UpgradeInProgress") != "True"


def _words(resource: Mapping[str, Any]) -> str:
    conditions = (resource.get("status") or {}).get("conditions") or []
    if not conditions:
        return "waiting for the KubeRay operator"
    words = [
        f"{item['type']} {item['status']}" + (f" ({item['reason']})" if item.get("reason") else "")
        for item in conditions
    ]
    return ", ".join(words)
