"""The two verbs of a `Launcher` on Ray.

Ray starts with the first verb: a stage that spreads no work, and a command that is refused, never
wait for it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from components.ray_metrics import RayMetrics
from components.ray_runtime import ray_runtime
from components.worker_size import WorkerSize, share_cpus
from difflm_core.config import RuntimeConfig
from difflm_core.errors import ConfigError, StageError
from difflm_core.parallel import (
    Launcher,
    OnRows,
    Shard,
    ShardWorker,
    Worker,
    ignore_rows,
    not_done,
)
from difflm_core.progress import SILENT, Progress, Sink
from difflm_core.usage import NOTHING, Usage

if TYPE_CHECKING:
    from components.ray_runtime import RayRuntime

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class RayOptions:
    """How work is placed and repeated.

    Attributes:
        address: see `ray_runtime`.
        threads: threads and CPUs of each worker; None: an even share of what is free.
        device: as `runtime.device`; workers reserve a GPU each if there are any, unless it is
            another kind.
        max_failures: deaths that a shard, or a training group, survives.
        min_workers: training workers that suffice while nodes are missing; None: all that are
            asked for.
        start_timeout_seconds: longest time without any worker: a cluster may have to grow first,
            and a busy machine to start a process.
        train_storage: folder or URI that all training workers reach, for what they report to Ray
            Train; None: a temporary folder, which serves one machine.
    """

    address: str | None = None
    threads: int | None = None
    device: str = "auto"
    max_failures: int = 3
    min_workers: int | None = None
    start_timeout_seconds: float = 300.0
    train_storage: str | None = None


@contextlib.contextmanager
def open_launcher(address: str | None, runtime: RuntimeConfig) -> Generator[Launcher]:
    """Make the launcher that `--on ray` stands for, and stop what it started in the end.

    Raises:
        ConfigError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "Ray is not installed here, so nothing can run on it. Install it: "
            "pip install 'difflm-on-ray[ray]'"
        )
    options = RayOptions(
        address=address,
        threads=runtime.threads,
        device=runtime.device,
        min_workers=runtime.min_workers,
    )
    with RayLauncher(options) as launcher:
        yield launcher


class RayLauncher:
    """Runs shards and training groups on Ray; a context manager that stops an embedded one."""

    def __init__(self, options: RayOptions = RayOptions()) -> None:
        """Remember the options; Ray starts with the first verb."""
        self.options = options
        self._stack = contextlib.ExitStack()
        self._started: RayRuntime | None = None
        self._used = NOTHING
        # It waits for Ray, too: a stage that needs none reports nothing there.
        self.sinks: Sequence[Sink] = [RayMetrics()]

    def __enter__(self) -> RayLauncher:
        return self

    def __exit__(self, *_: object) -> None:
        self._started = None
        self._stack.close()

    def take_usage(self) -> Usage:
        """What worker processes have used since the last call; see `Launcher.take_usage`."""
        used, self._used = self._used, NOTHING
        return used

    def map_shards(
        self,
        make_worker: Callable[[], ShardWorker],
        shards: Sequence[Shard],
        num_workers: int = 1,
        on_rows: OnRows = ignore_rows,
    ) -> None:
        """Do every shard whose output does not exist yet; see `Launcher.map_shards`.

        Raises:
            StageError: no worker found a place, or a shard lost its worker too often.
            DiffLMError: as a worker raised it.
        """
        missing = not_done(shards)
        if not missing:
            return
        runtime = self._start()
        from components.shard_pool import PoolOptions, ShardPool

        num_workers = min(num_workers, len(missing))
        options = PoolOptions(
            num_workers=num_workers,
            size=self._size(runtime, num_workers),
            max_failures=self.options.max_failures,
            start_timeout_seconds=self.options.start_timeout_seconds,
            logs=runtime.logs,
        )
        with _kept_logs(runtime):
            self._used += ShardPool(make_worker, options, on_rows).run(missing)

    def run_workers(
        self,
        function: Callable[[Worker], ResultT],
        num_workers: int = 1,
        progress: Progress = SILENT,
    ) -> list[ResultT]:
        """Run `function` in a group of workers; see `Launcher.run_workers`.

        Raises:
            StageError: the group found no place, or died too often.
            DiffLMError: as a worker raised it.
        """
        runtime = self._start()
        from components.worker_group import GroupOptions, run_group

        options = GroupOptions(
            num_workers=num_workers,
            min_workers=min(self.options.min_workers or num_workers, num_workers),
            size=self._size(runtime, num_workers),
            max_failures=self.options.max_failures,
            start_timeout_seconds=self.options.start_timeout_seconds,
            logs=runtime.logs,
            storage=self.options.train_storage,
        )
        with _kept_logs(runtime):
            results, used = run_group(function, options, progress)
        self._used += used
        return results

    def _start(self) -> RayRuntime:
        if self._started is None:
            self._started = self._stack.enter_context(ray_runtime(self.options.address))
        return self._started

    def _size(self, runtime: RayRuntime, num_workers: int) -> WorkerSize:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus = [resources.get("CPU", 0) for resources in nodes]
        free = ray.available_resources().get("CPU", 0)
        threads = self.options.threads
        if runtime.embedded:
            # This is all there will ever be, so no worker may wait for more.
            threads = min(threads, int(cpus[0])) if threads else None
            # It has more logical CPUs than there are cores; an even share is one of cores.
            cpus = [min(cpus[0], os.cpu_count() or 1)]
            free = min(free, cpus[0])
        wants_gpu = self.options.device == "auto" or self.options.device.startswith("cuda")
        has_gpu = any(resources.get("GPU") for resources in nodes)
        return WorkerSize(
            num_cpus=share_cpus(cpus, free, num_workers, threads),
            num_gpus=1 if wants_gpu and has_gpu else 0,
        )


@contextlib.contextmanager
def _kept_logs(runtime: RayRuntime) -> Generator[None]:
    """Keep the logs of an embedded Ray when the message of an error names them."""
    try:
        yield
    except StageError as error:
        runtime.keep_logs = runtime.keep_logs or runtime.logs in str(error)
        raise
