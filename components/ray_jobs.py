"""Stages on the job API of a Ray cluster that runs already."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
import time
from typing import TYPE_CHECKING

from components.job_log import JobLog
from components.patience import Patience
from components.stage_job import StageJob
from difflm_core.errors import ConfigError, StageError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_LOGGER = logging.getLogger("difflm.submit")
_POLL_SECONDS = 1.0


class RayJobs:
    """Runs a stage as a job, under a name of its own.

    A job of that name that runs, or has succeeded, is attached to; one that failed makes place.
    """

    def __init__(self, address: str, patience_seconds: float = 600.0) -> None:
        """Remember the cluster.

        Args:
            address: URL of its job API, such as `http://127.0.0.1:8265`. Its token comes from the
                environment (RAY_AUTH_MODE, RAY_AUTH_TOKEN), as for Ray's own command.
            patience_seconds: longest time without an answer.
        """
        self._address = address
        self._patience = Patience(f"{address} (Ray's job API)", _is_outage, patience_seconds)

    def run(self, job: StageJob) -> None:
        """Run a stage; see `Backend.run`.

        Raises:
            ConfigError: the address is wrong, or its token is.
            StageError: the job has failed, or the API does not answer.
        """
        client = self._connect()
        try:
            self._submit(client, job)
            details = self._follow(client, job, log := JobLog())
        except KeyboardInterrupt:
            _LOGGER.warning("%s: stopping the job %s", job.stage.name, job.name)
            with contextlib.suppress(Exception):
                client.stop_job(job.name)
            raise
        if details.status.value != "SUCCEEDED":
            message = log.last_error() or details.message or "it gave no message"
            raise StageError(
                f"{job.stage.name}: the Ray job {job.name} has ended as {details.status}: {message}"
            )

    def _connect(self) -> JobSubmissionClient:
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        try:
            return self._patience.call(lambda: JobSubmissionClient(self._address))
        except (AuthenticationError, RuntimeError, ValueError) as error:
            first = str(error).strip().partition("\n")[0].rstrip(".")
            raise ConfigError(
                f"{self._address}: this job API refuses to talk: {first}. Expected the URL of a "
                "cluster of the same version of Ray, with its token in RAY_AUTH_TOKEN."
            ) from None

    def _submit(self, client: JobSubmissionClient, job: StageJob) -> None:
        found = self._find(client, job.name)
        if found is not None and found.status.value in ("FAILED", "STOPPED"):
            _LOGGER.info("%s: replacing the job %s (%s)", job.stage.name, job.name, found.status)
            self._patience.call(lambda: client.delete_job(job.name))
            found = None
        if found is not None:
            _LOGGER.info("%s: attaching to the job %s (%s)", job.stage.name, job.name, found.status)
            return

        def submit() -> None:
            # An answer that was lost has left the job all the same.
            if self._find(client, job.name) is None:
                client.submit_job(
                    entrypoint=shlex.join(job.command),
                    submission_id=job.name,
                    metadata={"difflm_stage": job.stage.name, "difflm_run": job.run_id},
                )

        self._patience.call(submit)
        _LOGGER.info("%s: submitted the job %s", job.stage.name, job.name)

    def _find(self, client: JobSubmissionClient, name: str) -> JobDetails | None:
        jobs = self._patience.call(client.list_jobs)
        return next((found for found in jobs if found.submission_id == name), None)

    def _follow(self, client: JobSubmissionClient, job: StageJob, log: JobLog) -> JobDetails:
        while True:
            with contextlib.suppress(Exception):
                # A tail that breaks begins anew; what is known of the job decides.
                asyncio.run(_show_log(client, job.name, log))
            details = self._patience.call(lambda: client.get_job_info(job.name))
            if details.status.is_terminal():
                log.restart()
                with contextlib.suppress(Exception):
                    log.write(client.get_job_logs(job.name))
                return details
            time.sleep(_POLL_SECONDS)


async def _show_log(client: JobSubmissionClient, name: str, log: JobLog) -> None:
    log.restart()
    async for text in client.tail_job_logs(name):
        log.write(text)


def _is_outage(error: Exception) -> bool:
    """Whether an error of Ray's client may pass: no connection, or the server's own trouble."""
    if isinstance(error, OSError):  # those of requests among them
        return True
    return isinstance(error, RuntimeError) and "status code 5" in str(error)
