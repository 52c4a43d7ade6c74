"""Launch one stage: in this process, on a Ray cluster's job API, or as a KubeRay RayJob.

`Stage.argv` is the same for each. A stage has succeeded when its output has a valid manifest made
from the given inputs, whatever the place says that ran it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from difflm_core.artifacts import Artifact
from difflm_core.errors import ArtifactError, ConfigError, StageError
from difflm_core.stage import Stage
from difflm_core.stages import load_stages

_LOGGER = logging.getLogger("difflm.submit")


@dataclass(frozen=True)
class StageJob:
    """One stage with its arguments.

    Attributes:
        stage: what to run.
        config: URI of the configuration.
        inputs: URI of each input artifact.
        output: URI of its output.
        run_id: of the run that it belongs to. The same job of the same run has the same name, so
            that a step which is tried again finds it.
    """

    stage: Stage
    config: str
    inputs: Mapping[str, str]
    output: str
    run_id: str = ""

    @property
    def argv(self) -> list[str]:
        """Arguments of the command line that runs the stage."""
        return self.stage.argv(self.config, self.inputs, self.output)

    @property
    def command(self) -> list[str]:
        """The command of a job elsewhere."""
        return ["python", "-m", "components.entrypoint", *self.argv]

    @property
    def name(self) -> str:
        """Name of the job: a valid label of Kubernetes, of at most 47 characters."""
        key = json.dumps([self.run_id, self.argv])
        return f"difflm-{self.stage.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


class Backend(Protocol):
    """A place that runs stages."""

    def run(self, job: StageJob) -> None:
        """Run a stage to its end, showing its log; attach to it if it runs already.

        Raises:
            DiffLMError: it could not be run, or has failed.
        """
        ...


class Where(BaseModel):
    """Where stages run, as the parameters of a pipeline say it.

    Attributes:
        backend: local (in the step's own process), jobs (the job API of a Ray cluster) or rayjob (a
            RayJob resource, with a cluster of its own).
        address: URL of the job API.
        image: container image of RayJobs; empty: that of the cluster's settings.
        run_id: of the pipeline's run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str = "local"
    address: str = ""
    image: str = ""
    run_id: str = ""


BACKENDS = ("local", "jobs", "rayjob")


def read_where(values: Mapping[str, object]) -> Where:
    """Check where stages run.

    Raises:
        ConfigError: a key is unknown, or there is no such backend.
    """
    try:
        where = Where.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{key}: {first['msg']}; found {first['input']!r}.") from None
    if where.backend not in BACKENDS:
        raise ConfigError(
            f"backend {where.backend!r}: expected one of {', '.join(BACKENDS)}: in the step "
            "itself, on the job API of a Ray cluster, or as a RayJob on Kubernetes."
        )
    if where.backend == "jobs" and not where.address:
        raise ConfigError(
            "backend 'jobs' needs address: the URL of a Ray cluster's job API, such as "
            "http://difflm-head-svc:8265."
        )
    return where


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


def find_stage(name: str) -> Stage:
    """Find a stage by its name.

    Raises:
        ConfigError: there is none.
    """
    found = {stage.name: stage for stage in load_stages()}
    if name not in found:
        raise ConfigError(f"{name}: there is no such stage. Expected one of {', '.join(found)}.")
    return found[name]


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
