"""A group of training workers on Ray: rank and world size, a process group, and recovery."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from components.shard_pool import enter_folder, reason, remote, what_there_is
from components.worker_size import WorkerSize
from difflm_core.errors import DiffLMError, StageError
from difflm_core.parallel import Worker, set_threads
from difflm_core.progress import SILENT, Messages, Progress, Relay
from difflm_core.usage import NOTHING, Meter, Usage

ResultT = TypeVar("ResultT")

# Ray decides how large an elastic group is by a view of the cluster that is up to so old.
_VIEW_SECONDS = 20
_SIGN_SECONDS = 5


@dataclass(frozen=True)
class GroupOptions:
    """How a group behaves.

    Attributes:
        num_workers: workers wanted.
        min_workers: workers that suffice while the cluster has no nodes for more.
        size: what each of them reserves.
        max_failures: times that the group starts again after a worker or node has died.
        start_timeout_seconds: longest time without a place for the group.
        logs: where the logs are, for messages.
        storage: folder or URI that all workers reach, for checkpoints reported to Ray Train; None:
            a temporary folder, which serves one machine.
    """

    num_workers: int
    min_workers: int
    size: WorkerSize
    max_failures: int
    start_timeout_seconds: float
    logs: str
    storage: str | None = None

    @property
    def elastic(self) -> bool:
        """Whether the group may be smaller than wanted."""
        return self.min_workers < self.num_workers

    @property
    def searches(self) -> int:
        """Times that the group looks for a place, within the longest time without one.

        An elastic one looks again as soon as Ray has noticed that a node is gone.
        """
        views = int(self.start_timeout_seconds // _VIEW_SECONDS) if self.elastic else 0
        return max(self.max_failures + 1, views)


class _Results:
    """Keeps what the workers return, use and report; Ray Train keeps what rank 0 returns."""

    def __init__(self) -> None:
        self.world_size = 0
        self.values: dict[int, Any] = {}
        self.used = NOTHING
        self.error: DiffLMError | None = None
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.last_sign = time.monotonic()

    def live(self) -> None:
        self.last_sign = time.monotonic()

    def silence(self) -> float:
        return time.monotonic() - self.last_sign

    def put(self, rank: int, world_size: int, value: Any, used: Usage) -> None:
        self.used += used
        # A group that starts again with another size leaves nothing of the earlier one.
        if world_size != self.world_size:
            self.world_size, self.values = world_size, {}
        self.values[rank] = value

    def say(self, kind: str, values: dict[str, Any]) -> None:
        self.messages.append((kind, values))

    def heard(self) -> list[tuple[str, dict[str, Any]]]:
        messages, self.messages = self.messages, []
        return messages

    def fail(self, error: DiffLMError) -> None:
        self.error = self.error or error

    def failed(self) -> DiffLMError | None:
        return self.error

    def by_rank(self) -> tuple[list[Any], Usage]:
        return [self.values[rank] for rank in range(self.world_size)], self.used


def run_group(
    function: Callable[[Worker], ResultT], options: GroupOptions, progress: Progress = SILENT
) -> tuple[list[ResultT], Usage]:
    """Run `function` in every worker of a group.

    A group of one goes through Ray Train as well, though a group costs 10 to 30 seconds to start:
    so the death of a worker is survived whatever the size, and the driver needs no GPU.

    Returns:
        The results in the order of ranks, and what the workers that came to the end have used.

    Raises:
        StageError: workers died more often than allowed.
        DiffLMError: as a worker raised it.
    """
    # Beside the driver: it must outlive the node of any worker.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    results = remote(_Results).options(num_cpus=0, scheduling_strategy=here).remote()
    loop = _worker_loop(function, results, options.size.num_cpus, str(Path.cwd()))
    _set_environment(options)
    with contextlib.ExitStack() as stack:
        storage = options.storage or stack.enter_context(
            tempfile.TemporaryDirectory(prefix="difflm-train-", ignore_cleanup_errors=True)
        )
        try:
            _fit(_trainer(loop, options, storage), results, options, progress)
        except TrainingFailedError as error:
            _raise_explained(results)
            raise _explain(error, options) from error
    _raise_explained(results)
    return ray.get(results.by_rank.remote())


def _trainer(loop: Callable[[], None], options: GroupOptions, storage: str) -> TorchTrainer:
    return TorchTrainer(
        loop,
        torch_config=TorchConfig(backend="nccl" if options.size.num_gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(options.min_workers, options.num_workers)
            if options.elastic
            else options.num_workers,
            use_gpu=bool(options.size.num_gpus),
            resources_per_worker=options.size.resources,
        ),
        run_config=RunConfig(
            name=f"difflm-{uuid.uuid4().hex[:8]}",
            storage_path=storage,
            # By default Ray Train would wait for a place for ever.
            failure_config=FailureConfig(
                max_failures=options.max_failures, controller_failure_limit=options.searches - 1
            ),
        ),
    )


def _set_environment(options: GroupOptions) -> None:
    """Settings that Ray Train reads from the environment of the driver."""
    # Relative paths stay those of the command.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    seconds = options.start_timeout_seconds / options.searches
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = f"{max(seconds, 10):g}"


def _raise_explained(results: Any) -> None:
    error = _failed(results)
    if error is not None:
        raise error from None


def _failed(results: Any) -> DiffLMError | None:
    return cast("DiffLMError | None", ray.get(results.failed.remote()))


def _worker_loop(
    function: Callable[[Worker], Any], results: Any, num_threads: int, folder: str
) -> Callable[[], None]:
    def loop() -> None:
        if _failed(results) is not None:
            # Ray Train starts a group again after any error. One that was explained would come
            # again: end at once, and the driver raises it.
            return
        meter = Meter(whole_process=True)
        set_threads(num_threads)
        enter_folder(folder)
        context = ray.train.get_context()
        rank, world_size = context.get_world_rank(), context.get_world_size()
        # Only the first worker speaks.
        sinks = [Messages(results.say.remote)] if rank == 0 else []
        try:
            with _signs_of_life(results):
                value = function(Worker(rank, world_size, Progress(sinks)))
        except DiffLMError as error:
            ray.get(results.fail.remote(error))
            raise
        ray.get(results.put.remote(rank, world_size, value, meter.take()))

    return loop


@contextlib.contextmanager
def _signs_of_life(results: Any) -> Generator[None]:
    """Let the driver know that there is a worker."""
    ended = threading.Event()

    def send() -> None:
        results.live.remote()
        while not ended.wait(_SIGN_SECONDS):
            results.live.remote()

    threading.Thread(target=send, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _fit(trainer: TorchTrainer, results: Any, options: GroupOptions, progress: Progress) -> None:
    """Run the group; in a thread, where Ray Train leaves this process's Ctrl-C alone."""
    relay = Relay(progress)
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    try:
        running = True
        while running:
            thread.join(0.5)
            running = thread.is_alive()
            for kind, values in ray.get(results.heard.remote()):
                relay.repeat(kind, values)
            if running and options.elastic:
                _require_workers(results, options)
    finally:
        relay.close()
    if errors:
        raise errors[0]


def _require_workers(results: Any, options: GroupOptions) -> None:
    """Give up after the longest time without workers: Ray waits for nodes for ever."""
    silence = cast("float", ray.get(results.silence.remote()))
    if silence > options.start_timeout_seconds:
        why = f"no worker was there for {options.start_timeout_seconds:g} s"
        error = _no_place(why, options)
        # Should they come yet, the group ends at once.
        ray.get(results.fail.remote(error))
        raise error


def _explain(error: TrainingFailedError, options: GroupOptions) -> Exception:
    """Word deaths for a person; give an exception of the function itself as it was raised."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    causes = {rank: _cause(failure) for rank, failure in failures.items()}
    # What Ray itself raises about a worker is its death; anything else the function has raised.
    deaths = {rank: cause for rank, cause in causes.items() if type(cause).__module__[:4] == "ray."}
    if causes and not deaths:
        return next(iter(causes.values()))
    if deaths:
        rank, cause = next(iter(deaths.items()))
        return StageError(
            f"Training on {options.num_workers} workers was given up: workers died "
            f"{options.max_failures + 1} times, the last time worker {rank} with: {reason(cause)}. "
            "If memory ran out, use smaller batches or other machines. Its logs are in "
            f"{options.logs}. Run the same command again: it continues from the last checkpoint."
        )
    return _no_place(reason(error), options)


def _no_place(why: str, options: GroupOptions) -> StageError:
    return StageError(
        f"Training on {options.num_workers} workers could not start on Ray: {why}. Each "
        f"worker needs {options.size}; {what_there_is()}. Wait until other work there has ended, "
        "or ask for less (--set runtime.num_workers=N, runtime.threads=N). Its logs are in "
        f"{options.logs}."
    )


def _cause(failure: Exception) -> Exception:
    """What Ray Train has wrapped: the exception of the function, or the worker's death."""
    for wrapper in ("health_check_failure", "_base_exc"):
        failure = getattr(failure, wrapper, failure)
    return failure
