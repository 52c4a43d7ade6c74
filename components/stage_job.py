"""One stage with its arguments, and where it is to run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from difflm_core.errors import ConfigError
from difflm_core.stage import Stage
from difflm_core.stages import load_stages

BACKENDS = ("local", "jobs", "rayjob")


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


def find_stage(name: str) -> Stage:
    """Find a stage by its name.

    Raises:
        ConfigError: there is none.
    """
    found = {stage.name: stage for stage in load_stages()}
    if name not in found:
        raise ConfigError(f"{name}: there is no such stage. Expected one of {', '.join(found)}.")
    return found[name]


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
