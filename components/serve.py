"""Ray Serve: a front that answers HTTP, and replicas that make rows.

    front (one)        routes, keys, limits, jobs: `serving/app.py`
    generator (many)   models, loaded when first asked for, and their batches: `serving/worker.py`

A span of rows is a function of its seed and place, and is asked for by itself. So any replica may
make it, a replica that dies is replaced by another in the middle of an answer, and a large answer
holds no place for longer than a span.

Ray Serve makes the application from `build_app` with the arguments of its configuration.
"""

# Ray Serve has no types for its decorators.
# pyright: reportUntypedClassDecorator=false, reportUntypedFunctionDecorator=false

import asyncio
import logging
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from components.ray_runtime import bind_replica_to_loopback
from components.serving.keys import KeyRing, read_keys
from components.serving.limits import Limits
from components.serving.problems import ServiceError
from components.serving.registry import ModelRef, Registry
from components.serving.worker import Refusal, SpanAnswer, SpanRequest, Worker
from difflm_core.generation.bundle import AnyGenerator

_LOGGER = logging.getLogger("difflm.serve")
FRONT, GENERATOR = "front", "generator"
# Requests are refused by the service's own limits, with reasons, long before these.
_MAX_FRONT_REQUESTS = 4096
_MAX_SPANS = 1024
# Not none: a head that is given no processors must not run it.
_FRONT_CPUS = 0.1
_MODELS_PER_REPLICA = 8
_MAX_DEATHS = 10
_CHECK_SECONDS = 5.0
_LOADING_SECONDS = 120.0
_BUSY_RETRY_SECONDS = 2


class AppArgs(BaseModel):
    """Arguments of the application.

    Attributes:
        models: URI of the generator of each model, by name.
        folders: Folders whose models come and go while the service runs.
        num_replicas: Processes that make rows.
        cpus_per_replica: Processors of each, and batches that it decodes at the same time.
        gpus_per_replica: GPUs of each.
        keys_file: API keys; none, and none in the environment: everybody may call.
        results: Folder of the files of jobs; None: there are no jobs.
        allowed_hosts: Names by which the service may be called; None: any.
        refresh_seconds: How often to look for new models.
        limits: How much a request may take.
    """

    model_config = ConfigDict(extra="forbid")

    models: dict[str, str] = Field(default_factory=dict[str, str])
    folders: list[str] = Field(default_factory=list[str])
    num_replicas: int = Field(default=1, ge=1)
    cpus_per_replica: int = Field(default=1, ge=1)
    gpus_per_replica: float = Field(default=0, ge=0)
    keys_file: str | None = None
    results: str | None = None
    allowed_hosts: tuple[str, ...] | None = None
    refresh_seconds: float = Field(default=10, gt=0)
    limits: Limits = Limits()


class _NotLoadedError(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


@serve.deployment(name=GENERATOR, max_ongoing_requests=_MAX_SPANS, max_queued_requests=_MAX_SPANS)
class GeneratorReplica:
    """Loaded models and the threads that make their rows."""

    def __init__(self, num_threads: int) -> None:
        bind_replica_to_loopback()
        self._worker = Worker(num_threads)
        self._refs: dict[str, ModelRef] = {}

    @serve.multiplexed(max_num_models_per_replica=_MODELS_PER_REPLICA)
    async def _load(self, key: str) -> AnyGenerator:
        loaded = await asyncio.to_thread(self._worker.load, self._refs[key])
        if isinstance(loaded, Refusal):
            raise _NotLoadedError(loaded)
        return loaded

    async def make(self, ref: ModelRef, request: SpanRequest) -> SpanAnswer | Refusal:
        """Make a span; see `Worker.make`."""
        self._refs[ref.key] = ref
        try:
            generator: AnyGenerator = await self._load(ref.key)  # pyright: ignore[reportCallIssue]
        except _NotLoadedError as error:
            return error.refusal
        return await self._worker.make(generator, request)

    async def prepare(self, ref: ModelRef) -> None:
        """Load a version of a model."""
        self._refs[ref.key] = ref
        try:
            await self._load(ref.key)  # pyright: ignore[reportCallIssue]
        except _NotLoadedError as error:
            _LOGGER.warning("%s: %s", ref.key, error)

    async def check(self) -> None:
        """Answer."""


class ServeGenerators:
    """The replicas, seen from the front."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        """Take the handle of their deployment."""
        self._handle = handle

    async def make(self, ref: ModelRef, request: SpanRequest, *, patient: bool) -> SpanAnswer:
        """Make a span with any replica; with another one if that dies.

        Raises:
            ServiceError: it cannot be made, or not now.
        """
        handle = self._handle.options(multiplexed_model_id=ref.key)
        deaths = 0
        while True:
            response = handle.make.remote(ref, request)
            try:
                answer = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except BackPressureError:
                if not patient:
                    raise ServiceError(
                        "busy", "All generators are busy.", _BUSY_RETRY_SECONDS
                    ) from None
            except (RayActorError, DeploymentUnavailableError):
                deaths += 1
                _LOGGER.warning("a replica died with a span of %s; asking another", ref.key)
                if deaths > _MAX_DEATHS:
                    raise ServiceError(
                        "unavailable",
                        "The generators of this model die; the service's log says more.",
                        _BUSY_RETRY_SECONDS,
                    ) from None
            else:
                if isinstance(answer, Refusal):
                    retry = _BUSY_RETRY_SECONDS if answer.code == "unavailable" else None
                    raise ServiceError(answer.code, answer.detail, retry)
                return answer
            await asyncio.sleep(0.2)

    async def prepare(self, ref: ModelRef) -> None:
        """Load a version in every replica."""
        try:
            handle = self._handle.options(multiplexed_model_id=ref.key)
            await asyncio.wait_for(handle.prepare.remote(ref), _LOADING_SECONDS)
            responses = self._handle.broadcast("prepare", ref)
            await responses.results_async(timeout_s=_LOADING_SECONDS)
        except (RayActorError, DeploymentUnavailableError, TimeoutError) as error:
            raise ServiceError("unavailable", "The replicas do not answer.", 5) from error

    async def check(self) -> None:
        """Answer if a replica does.

        Raises:
            ServiceError: none does.
        """
        try:
            await asyncio.wait_for(self._handle.check.remote(), _CHECK_SECONDS)
        except (RayActorError, DeploymentUnavailableError, BackPressureError, TimeoutError):
            raise ServiceError("unavailable", "No replica answers.", 5) from None


def build_app(values: dict[str, Any]) -> serve.Application:
    """Make the application.

    Args:
        values: `AppArgs`, as in `serveConfigV2`.
    """
    args = AppArgs.model_validate(values)

    def make_front() -> Any:
        # In the replica: the application itself never travels.
        from components.serving.app import make_app
        from components.serving.service import Service

        bind_replica_to_loopback()
        context = serve.get_replica_context()
        handle = serve.get_deployment_handle(GENERATOR, app_name=context.app_name)
        service = Service(
            Registry(args.models, args.folders),
            ServeGenerators(handle),
            KeyRing(read_keys(args.keys_file)),
            args.limits,
        )
        return make_app(
            service,
            args.results,
            allowed_hosts=args.allowed_hosts,
            refresh_seconds=args.refresh_seconds,
        )

    front = serve.deployment(
        name=FRONT,
        max_ongoing_requests=_MAX_FRONT_REQUESTS,
        # The quotas of keys and the jobs are kept in it: there is one.
        num_replicas=1,
        ray_actor_options={"num_cpus": _FRONT_CPUS},
    )(serve.ingress(make_front)())
    generators = GeneratorReplica.options(
        num_replicas=args.num_replicas,
        ray_actor_options={
            "num_cpus": args.cpus_per_replica,
            "num_gpus": args.gpus_per_replica,
        },
    ).bind(1 if args.gpus_per_replica else args.cpus_per_replica)
    return front.bind(generators)
