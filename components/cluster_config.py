"""What a stage gets on Kubernetes: image, places, processors, memory, time.

A platform team writes it once, as `stages.yaml` (cluster/base); those who run pipelines never see
it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from difflm_core.errors import ConfigError
from difflm_core.stages import STAGE_MODULES

STAGE_NAMES = tuple(module.replace("_", "-") for module in STAGE_MODULES)
_QUANTITY = r"^\d+(\.\d+)?(m|[kMGTPE]i?)?$"


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Quantity = Annotated[str, BeforeValidator(_as_text), Field(pattern=_QUANTITY)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PodSize(_Strict):
    """What a pod requests, and may use at most."""

    cpu: int = Field(default=2, ge=1, description="Processors.")
    memory: Quantity = Field(default="8Gi", description="Memory, such as 16Gi.")
    gpu: int = Field(default=0, ge=0, description="GPUs (the resource `gpu_resource`).")
    disk: Quantity | None = Field(default=None, description="Ephemeral storage, such as 50Gi.")


class Toleration(_Strict):
    """A taint that pods accept, as Kubernetes words it."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class StagePlace(_Strict):
    """The Ray cluster that a stage gets for itself.

    Attributes:
        head: the pod with Ray's head and the stage's own process.
        worker: each of the pods that the work is spread over; there are as many as
            `runtime.num_workers` of the run.
        min_workers: pods that start at once; null: all. Fewer: Ray's autoscaler adds the rest.
        node_selector: labels of nodes that may take the worker pods.
        tolerations: taints of nodes that may take the worker pods.
        deadline_seconds: longest time of the job, waiting for nodes not included.
        waiting_seconds: longest time until the job's cluster is up.
        image: overrides the one of all stages, such as a GPU image.
    """

    head: PodSize = PodSize()
    worker: PodSize = PodSize(cpu=4, memory="16Gi")
    min_workers: int | None = Field(default=None, ge=0)
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    deadline_seconds: int = Field(default=86_400, ge=60)
    waiting_seconds: int = Field(default=3_600, ge=30)
    image: str | None = None


class ServicePlace(_Strict):
    """The Ray cluster that serves a generator.

    Attributes:
        replicas: copies of the generator, one in each worker pod, that make rows.
        keys_secret: a Secret whose entry DIFFLM_API_KEYS names the API keys; null: every client
            that the NetworkPolicy lets through may call.
        results: where jobs write their rows, such as s3://bucket/results; null: no jobs.
        head: as for a stage.
        worker: each of the pods that replicas live in.
        min_workers: worker pods that are always there.
        max_workers: worker pods at most.
        waiting_seconds: longest time until a new version answers.
        image: overrides the one of the stages.
    """

    replicas: int = Field(default=2, ge=1)
    keys_secret: str | None = None
    results: str | None = None
    head: PodSize = PodSize()
    worker: PodSize = PodSize(cpu=4, memory="8Gi")
    min_workers: int = Field(default=1, ge=0)
    max_workers: int = Field(default=4, ge=1)
    waiting_seconds: int = Field(default=1_800, ge=30)
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    image: str | None = None

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers {self.min_workers} is more than {self.max_workers}")
        return self


class ClusterConfig(_Strict):
    """Settings of all stages on one Kubernetes namespace.

    Attributes:
        image: container image of the software.
        ray_version: version of Ray in that image.
        service_account: of the Ray pods; it needs no right on the Kubernetes API.
        storage_secret: secret whose keys become environment variables of the Ray pods, such as
            the credentials of an object store; null: none.
        image_pull_secrets: secrets for a private registry.
        queue: Kueue queue that admits the jobs; null: none.
        gpu_resource: name of the GPU resource of the nodes.
        ttl_seconds: time that a finished job's pods stay, for a look at them.
        default: place of a stage that `stages` does not name.
        stages: places by stage; what one leaves out comes from `default`.
        service: where the generator is served.
    """

    image: str = "difflm:0.1.0"
    ray_version: str = "2.60.0"
    service_account: str = "difflm-ray"
    storage_secret: str | None = "difflm-storage"  # noqa: S105 - a name
    image_pull_secrets: tuple[str, ...] = ()
    queue: str | None = None
    gpu_resource: str = "nvidia.com/gpu"
    ttl_seconds: int = Field(default=600, ge=0)
    default: StagePlace = StagePlace()
    stages: dict[str, StagePlace] = {}
    service: ServicePlace = ServicePlace()

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """Fill what the place of a stage leaves out from `default`."""
        if not isinstance(values, Mapping) or not isinstance(values.get("stages"), Mapping):
            return values
        base = values.get("default") or {}
        stages = {name: _merged(base, place) for name, place in values["stages"].items()}
        return {**values, "stages": stages}

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        unknown = [name for name in self.stages if name not in STAGE_NAMES]
        if unknown:
            raise ValueError(
                f"stages: there is no stage {unknown[0]!r}; expected {', '.join(STAGE_NAMES)}"
            )
        return self

    def place(self, stage: str) -> StagePlace:
        """Where a stage runs."""
        return self.stages.get(stage, self.default)


def _merged(base: Any, over: Any) -> Any:
    if isinstance(base, BaseModel):
        base = base.model_dump()
    if isinstance(over, BaseModel):
        over = over.model_dump(exclude_unset=True)
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    return {**base, **{key: _merged(base.get(key), value) for key, value in over.items()}}


def parse_cluster_config(text: str, origin: str) -> ClusterConfig:
    """Read `stages.yaml`.

    Raises:
        ConfigError: it is no YAML, or a key or a value is wrong; names the origin and the key.
    """
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        first = re.sub(r"\s+", " ", str(error))
        raise ConfigError(f"{origin}: this is not valid YAML: {first}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: expected keys such as image: and stages:, found {values!r}.")
    try:
        return ClusterConfig.model_validate(values)
    except ValidationError as error:
        lines = [_word(dict(item), origin) for item in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _word(item: dict[str, Any], origin: str) -> str:
    path = ".".join(str(part) for part in item["loc"])
    where = f"{origin}: {path}" if path else origin
    if item["type"] == "extra_forbidden":
        known = _known_keys(item["loc"])
        near = difflib.get_close_matches(str(item["loc"][-1]), known, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"{where}: there is no such key. Expected one of {', '.join(known)}.{hint}"
    found = f" Found {item['input']!r}." if path else ""
    return f"{where}: {item['msg'].removeprefix('Value error, ')}.{found}"


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    """Keys of the section that an unknown key stands in."""
    kind: Any = ClusterConfig
    for part in location[:-1]:
        if get_origin(kind) in (dict, tuple):
            kind = next(inner for inner in get_args(kind) if inner not in (str, ...))
        else:
            kind = kind.model_fields[str(part)].annotation
    return list(kind.model_fields)
