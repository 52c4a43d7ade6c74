"""The few calls on the Kubernetes API that stages and services need, patient with its outages."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config
from kubernetes import watch as kubernetes_watch
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from components.manifests import API_GROUP, API_VERSION
from components.patience import Patience
from difflm_core.errors import ConfigError, StageError

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_TIMEOUT_SECONDS = (10.0, 60.0)
_WATCH_SECONDS = 30
_FIELD_MANAGER = "difflm"


@dataclass(frozen=True)
class Owner:
    """An object that others go with, as an owner reference."""

    api_version: str
    kind: str
    name: str
    uid: str

    def reference(self) -> dict[str, Any]:
        """As Kubernetes writes it."""
        return {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
        }


class KubernetesApi:
    """One namespace of a cluster."""

    def __init__(
        self,
        api: kubernetes_client.ApiClient,
        namespace: str,
        patience_seconds: float = 600.0,
    ) -> None:
        """Remember the connection.

        Args:
            api: connection, with its credentials.
            namespace: where everything lives.
            patience_seconds: longest outage that is waited out.
        """
        self.namespace = namespace
        self._objects = kubernetes_client.CustomObjectsApi(api)
        self._core = kubernetes_client.CoreV1Api(api)
        self._patience = Patience("The Kubernetes API", _is_outage, patience_seconds)

    def get(self, plural: str, name: str) -> dict[str, Any] | None:
        """Read a resource of KubeRay; None if there is none."""
        try:
            return self._call(
                "get",
                plural,
                lambda: self._objects.get_namespaced_custom_object(
                    *self._where(plural), name, _request_timeout=_TIMEOUT_SECONDS
                ),
            )
        except _NotFoundError:
            return None

    def create(self, plural: str, manifest: Mapping[str, Any]) -> bool:
        """Create a resource; False if there is one of that name already."""
        try:
            self._call(
                "create",
                plural,
                lambda: self._objects.create_namespaced_custom_object(
                    *self._where(plural),
                    dict(manifest),
                    field_manager=_FIELD_MANAGER,
                    _request_timeout=_TIMEOUT_SECONDS,
                ),
            )
        except _ConflictError:
            return False
        return True

    def patch(self, plural: str, name: str, manifest: Mapping[str, Any]) -> None:
        """Change a resource to what a manifest says."""
        self._call(
            "patch",
            plural,
            lambda: self._objects.patch_namespaced_custom_object(
                *self._where(plural), name, dict(manifest), _request_timeout=_TIMEOUT_SECONDS
            ),
        )

    def delete(self, plural: str, name: str) -> None:
        """Delete a resource with all that belongs to it; nothing if there is none."""
        try:
            self._call(
                "delete",
                plural,
                lambda: self._objects.delete_namespaced_custom_object(
                    *self._where(plural),
                    name,
                    propagation_policy="Background",
                    _request_timeout=_TIMEOUT_SECONDS,
                ),
            )
        except _NotFoundError:
            return

    def list(self, plural: str, label_selector: str) -> list[dict[str, Any]]:
        """List resources with these labels."""
        found = self._call(
            "list",
            plural,
            lambda: self._objects.list_namespaced_custom_object(
                *self._where(plural),
                label_selector=label_selector,
                _request_timeout=_TIMEOUT_SECONDS,
            ),
        )
        return list(found["items"])

    def watch(self, plural: str, name: str) -> Generator[dict[str, Any]]:
        """Give a resource as it is, and again whenever it changes, until half a minute has passed.

        Every watch begins with the present state, so a sequence of them misses nothing. An outage
        ends it early.
        """
        events: Any = kubernetes_watch.Watch()
        try:
            for event in events.stream(
                self._objects.list_namespaced_custom_object,
                *self._where(plural),
                field_selector=f"metadata.name={name}",
                timeout_seconds=_WATCH_SECONDS,
                _request_timeout=(10.0, _WATCH_SECONDS + 15.0),
            ):
                if event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"]
                elif event["type"] != "BOOKMARK":
                    return
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            if not _is_outage(error) and getattr(error, "status", None) != 410:
                raise self._worded("watch", plural, error) from None
        finally:
            events.stop()

    def pod_names(self, label_selector: str) -> list[str]:
        """Names of the pods with these labels, oldest first."""
        found = self._call(
            "list",
            "pods",
            lambda: self._core.list_namespaced_pod(
                self.namespace, label_selector=label_selector, _request_timeout=_TIMEOUT_SECONDS
            ),
        )
        pods = sorted(found.items, key=lambda pod: str(pod.metadata.creation_timestamp))
        return [pod.metadata.name for pod in pods]

    def follow_log(self, pod: str) -> Generator[str]:
        """Give the log of a pod from its beginning, until it ends or the connection breaks.

        Raises:
            LogNotReadyError: the pod has not begun.
        """
        try:
            answer = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                follow=True,
                _preload_content=False,
                _request_timeout=(10.0, 300.0),
            )
            try:
                for piece in answer.stream(amt=None, decode_content=True):
                    yield piece.decode("utf-8", "replace")
            finally:
                answer.release_conn()
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            raise LogNotReadyError(str(error)) from None

    def config_map(self, name: str, key: str) -> str | None:
        """Read one key of a ConfigMap; None if there is no such map."""
        try:
            found = self._call(
                "get",
                "configmaps",
                lambda: self._core.read_namespaced_config_map(
                    name, self.namespace, _request_timeout=_TIMEOUT_SECONDS
                ),
            )
        except _NotFoundError:
            return None
        if key not in (found.data or {}):
            held = ", ".join(found.data or {}) or "nothing"
            raise ConfigError(f"ConfigMap {name}: expected the key {key}, found {held}.")
        return str(found.data[key])

    def owner_of_this_pod(self) -> Owner | None:
        """What controls the pod that this process runs in: the workflow of the pipeline's run.

        The pod itself would take a job along that its own retry wants to find again.
        """
        name = os.environ.get("HOSTNAME")
        if not name or not _NAMESPACE_FILE.exists():
            return None
        try:
            pod = self._call(
                "get",
                "pods",
                lambda: self._core.read_namespaced_pod(
                    name, self.namespace, _request_timeout=_TIMEOUT_SECONDS
                ),
            )
        except _NotFoundError:
            return None
        for owner in pod.metadata.owner_references or []:
            if owner.controller:
                return Owner(owner.api_version, owner.kind, owner.name, owner.uid)
        return None

    def _where(self, plural: str) -> tuple[str, str, str, str]:
        return API_GROUP, API_VERSION, self.namespace, plural

    def _call(self, verb: str, plural: str, function: Any) -> Any:
        try:
            return self._patience.call(function)
        except ApiException as error:
            raise self._worded(verb, plural, error) from None

    def _worded(self, verb: str, plural: str, error: Exception) -> Exception:
        status = getattr(error, "status", None)
        if status == 404 and verb != "create":
            return _NotFoundError()
        if status == 409 and verb == "create":
            return _ConflictError()
        if status == 403:
            return ConfigError(
                f"The service account may not {verb} {plural} in the namespace {self.namespace}. "
                "Apply cluster/base there: its Role difflm-pipeline allows it."
            )
        hint = ""
        if status == 404:
            hint = " Is the KubeRay operator installed (its resources are served as ray.io/v1)?"
        return StageError(f"The Kubernetes API refused to {verb} {plural}: {_reason(error)}.{hint}")


class LogNotReadyError(Exception):
    """A log cannot be read yet, or its connection has broken."""


class _NotFoundError(Exception):
    pass


class _ConflictError(Exception):
    pass


def connect(namespace: str | None = None) -> KubernetesApi:
    """Connect with the service account of this pod, or else with the user's kubeconfig.

    Raises:
        ConfigError: there is neither.
    """
    configuration: Any = kubernetes_client.Configuration()
    try:
        kubernetes_config.load_incluster_config(client_configuration=configuration)
    except ConfigException:
        try:
            kubernetes_config.load_kube_config(client_configuration=configuration)
        except ConfigException as error:
            raise ConfigError(
                f"The backend rayjob needs a Kubernetes cluster: this process is in none, and "
                f"there is no kubeconfig ({error})."
            ) from None
    # Failures are waited out in one place, with a limit in time.
    configuration.retries = urllib3.Retry(0)
    return KubernetesApi(
        kubernetes_client.ApiClient(configuration), namespace or _default_namespace()
    )


def _default_namespace() -> str:
    if _NAMESPACE_FILE.exists():
        return _NAMESPACE_FILE.read_text("utf-8").strip()
    try:
        _, context = kubernetes_config.list_kube_config_contexts()
    except ConfigException:
        return "default"
    return context["context"].get("namespace", "default")


def _is_outage(error: Exception) -> bool:
    if isinstance(error, ApiException):
        return error.status in (None, 0, 429, 500, 502, 503, 504)
    return isinstance(error, urllib3.exceptions.HTTPError | OSError)


def _reason(error: Exception) -> str:
    """The server's own message, without headers."""
    body: Any = getattr(error, "body", None)
    try:
        return str(json.loads(body)["message"]).rstrip(".")
    except (TypeError, ValueError, KeyError):
        return str(getattr(error, "reason", None) or error).rstrip(".")
