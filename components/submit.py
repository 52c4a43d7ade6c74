"""Launch one stage: in this process, on a Ray cluster's job API, or as a KubeRay RayJob.

`Stage.argv` is the same for each. A stage has succeeded when its output has a valid manifest made
from the given inputs, whatever the place says that ran it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import Protocol

from components.stage_job import StageJob, Where
from difflm_core.artifacts import Artifact
from difflm_core.errors import ArtifactError, StageError


class Backend(Protocol):
    """A place that runs stages."""

    def run(self, job: StageJob) -> None:
        """Run a stage to its end, showing its log; attach to it if it runs already.

        Raises:
            DiffLMError: it could not be run, or has failed.
        """
        ...


def open_backend(where: Where) -> Backend:
    """Make the backend of a name; what it needs is imported here."""
    if where.backend == "local":
        return InProcess()
    if where.backend == "jobs":
        from components.ray_jobs import RayJobs

        return RayJobs(where.address)
    from components.rayjob import RayJobResources, in_cluster

    return RayJobResources(in_cluster(), where)


class InProcess:
    """Runs a stage in this process, with the command line of `difflm`."""

    def run(self, job: StageJob) -> None:
        """Run it; see `Backend.run`.

        Raises:
            StageError: it has failed; its own message is in the log.
        """
        from difflm_core.cli import main

        try:
            main(job.argv)
        except SystemExit as end:
            if end.code:
                raise StageError(
                    f"{job.stage.name} ended with exit code {end.code}; its message is above."
                ) from None


def launch(job: StageJob, backend: Backend) -> Artifact:
    """Run a stage, and check what it has made.

    Raises:
        DiffLMError: it could not be run, has failed, or has left no valid output.
    """
    with _stopped_by_signal():
        backend.run(job)
    return verified_output(job)


def verified_output(job: StageJob) -> Artifact:
    """Open the output of a stage that says it is done.

    Raises:
        StageError: there is no manifest, it is not valid, a file is missing, or it was made from
            other inputs.
    """
    try:
        artifact = job.stage.output.open(job.output)
        artifact.verify(contents=False)
        inputs = {name: kind.open(job.inputs[name]) for name, kind in job.stage.inputs.items()}
    except ArtifactError as error:
        raise StageError(
            f"{job.stage.name} has ended without an error, but its output is not valid: {error}"
        ) from None
    made_from = {name: entry.content_hash for name, entry in artifact.manifest.inputs.items()}
    given = {name: item.manifest.content_hash for name, item in inputs.items()}
    if artifact.manifest.stage != job.stage.name or made_from != given:
        raise StageError(
            f"{job.output}: {job.stage.name} has ended without an error, but what lies here was "
            f"made by {artifact.manifest.stage} from other inputs. Does another run write to the "
            "same folder?"
        )
    return artifact


@contextlib.contextmanager
def _stopped_by_signal() -> Generator[None]:
    """Let a termination (Kubernetes deletes the pod of a cancelled step) stop the job as well."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Only there Python delivers signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Callable[[int, FrameType | None], object] | int | None
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
