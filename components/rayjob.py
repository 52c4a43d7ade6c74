"""Stages as KubeRay RayJobs: a cluster for each stage, made for it and gone when it is done."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from components.cluster_config import ClusterConfig, parse_cluster_config
from components.job_log import JobLog
from components.kubernetes_api import KubernetesApi, LogNotReadyError, connect
from components.manifests import RUN_LABEL, rayjob
from components.stage_job import StageJob, Where
from difflm_core.config_file import load_config
from difflm_core.errors import StageError

_LOGGER = logging.getLogger("difflm.submit")
RAYJOBS = "rayjobs"
SETTINGS_MAP, SETTINGS_KEY = "difflm-stages", "stages.yaml"
_DONE = ("Complete", "Failed", "ValidationFailed")
_POLL_SECONDS = 2.0
_LOG_SECONDS = 15.0
_DELETE_SECONDS = 300.0


class RayJobResources:
    """Runs a stage as a RayJob.

    A resource of its name that is not finished, or has succeeded, is attached to; one that failed
    is deleted first.
    """

    def __init__(
        self, api: KubernetesApi, where: Where, poll_seconds: float = _POLL_SECONDS
    ) -> None:
        self._api = api
        self._where = where
        self._poll_seconds = poll_seconds

    def run(self, job: StageJob) -> None:
        """Run a stage; see `Backend.run`.

        Raises:
            ConfigError: the settings of the cluster are wrong, or a right is missing.
            StageError: the job has failed or was deleted, or the API does not answer.
        """
        manifest = self.manifest(job)
        try:
            self._create(job, manifest)
            with _FollowedLog(self._api, job.name, self._poll_seconds) as log:
                status = self._wait(job)
        except KeyboardInterrupt:
            _LOGGER.warning("%s: deleting the RayJob %s", job.stage.name, job.name)
            self._api.delete(RAYJOBS, job.name)
            raise
        if status.get("jobStatus") != "SUCCEEDED":
            raise StageError(_failure(job, status, log))

    def manifest(self, job: StageJob) -> dict[str, Any]:
        """The resource of a stage."""
        owner = self._api.owner_of_this_pod()
        return rayjob(
            job,
            read_cluster_config(self._api),
            load_config(job.config).runtime.num_workers,
            self._where.image,
            [owner.reference()] if owner else [],
        )

    def _create(self, job: StageJob, manifest: Mapping[str, Any]) -> None:
        if self._api.create(RAYJOBS, manifest):
            _LOGGER.info("%s: created the RayJob %s", job.stage.name, job.name)
            return
        found = self._api.get(RAYJOBS, job.name)
        if found is not None and not _failed(found):
            state = _status(found).get("jobDeploymentStatus") or "new"
            _LOGGER.info("%s: attaching to the RayJob %s (%s)", job.stage.name, job.name, state)
            return
        _LOGGER.info("%s: replacing the RayJob %s, which failed", job.stage.name, job.name)
        self._api.delete(RAYJOBS, job.name)
        deadline = time.monotonic() + _DELETE_SECONDS
        while not self._api.create(RAYJOBS, manifest):
            if time.monotonic() > deadline:
                raise StageError(
                    f"The RayJob {job.name} failed before and is still being deleted after "
                    f"{_DELETE_SECONDS:.0f} s: kubectl -n {self._api.namespace} describe rayjob "
                    f"{job.name}"
                )
            time.sleep(self._poll_seconds)

    def _wait(self, job: StageJob) -> dict[str, Any]:
        shown = None
        while True:
            found = self._api.get(RAYJOBS, job.name)
            if found is None:
                raise StageError(
                    f"{job.stage.name}: the RayJob {job.name} was deleted before it was done."
                )
            for state in self._states(job, found):
                status = _status(state)
                words = _words(status)
                if words != shown:
                    _LOGGER.info("%s: %s", job.stage.name, words)
                    shown = words
                if status.get("jobDeploymentStatus") in _DONE:
                    return status
            time.sleep(self._poll_seconds)

    def _states(self, job: StageJob, first: dict[str, Any]) -> Any:
        yield first
        yield from self._api.watch(RAYJOBS, job.name)


class _FollowedLog(JobLog):
    """Shows the log of a RayJob's submitter pod, which is that of the job, while it runs."""

    def __init__(self, api: KubernetesApi, name: str, poll_seconds: float) -> None:
        super().__init__()
        self._api = api
        self._name = name
        self._poll_seconds = poll_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> _FollowedLog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        # Its last lines, an error among them, may still be on their way.
        self._thread.join(_LOG_SECONDS)

    def _follow(self) -> None:
        while True:
            last_time = self._ended.is_set()
            with contextlib.suppress(LogNotReadyError, StageError):
                pods = self._api.pod_names(f"job-name={self._name}")
                if pods:
                    self.restart()
                    for text in self._api.follow_log(pods[-1]):
                        self.write(text)
            if last_time:
                return
            self._ended.wait(self._poll_seconds)


def in_cluster() -> KubernetesApi:
    """The namespace of this pod, or of the user's kubeconfig."""
    return connect()


def read_cluster_config(api: KubernetesApi) -> ClusterConfig:
    """Read the settings that the platform team has left in the namespace; defaults without.

    Raises:
        ConfigError: they are wrong.
    """
    text = api.config_map(SETTINGS_MAP, SETTINGS_KEY)
    if text is None:
        _LOGGER.info("no ConfigMap %s in %s: default sizes", SETTINGS_MAP, api.namespace)
        return ClusterConfig()
    return parse_cluster_config(text, f"ConfigMap {SETTINGS_MAP}, {SETTINGS_KEY}")


def delete_unfinished(api: KubernetesApi, run_id: str) -> list[str]:
    """Delete the RayJobs that a run has left unfinished; return their names."""
    deleted: list[str] = []
    for found in api.list(RAYJOBS, f"{RUN_LABEL}={run_id}"):
        if _status(found).get("jobDeploymentStatus") not in _DONE:
            api.delete(RAYJOBS, found["metadata"]["name"])
            deleted.append(found["metadata"]["name"])
    return deleted


def _status(resource: Mapping[str, Any]) -> dict[str, Any]:
    return dict(resource.get("status") or {})


def _failed(resource: Mapping[str, Any]) -> bool:
    status = _status(resource)
    done = status.get("jobDeploymentStatus") in _DONE
    deleted = "deletionTimestamp" in resource["metadata"]
    return deleted or (done and status.get("jobStatus") != "SUCCEEDED")


def _words(status: Mapping[str, Any]) -> str:
    state = status.get("jobDeploymentStatus") or "waiting for the KubeRay operator"
    details = [str(status[key]) for key in ("jobStatus", "rayClusterName") if status.get(key)]
    return f"RayJob {state}" + (f" ({', '.join(details)})" if details else "")


def _failure(job: StageJob, status: Mapping[str, Any], log: JobLog) -> str:
    message = log.last_error()
    if message is None:
        parts = [str(status[key]) for key in ("reason", "message") if status.get(key)]
        message = ": ".join(parts)[:2000] or "it gave no message"
    return f"{job.stage.name}: the RayJob {job.name} has failed: {message}"
