"""The two ways work spreads: a group of training workers, and independent shards.

A `Launcher` has two verbs. `run_workers` runs one function in a group with rank and world size
(training). `map_shards` hands out shards, each written to a temporary name and renamed, existing
ones skipped (serialize, extract latents, generate). `LocalLauncher` does both on this machine; a
cluster brings its own. What a shard holds depends on its index alone, so the number of workers
never changes a result.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

from difflm_core import storage
from difflm_core.errors import StageError
from difflm_core.progress import SILENT, Progress, Sink
from difflm_core.usage import NOTHING, Meter, Usage

_LOGGER = logging.getLogger("difflm.parallel")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Worker:
    """A worker of a group: its place, and where it reports.

    Attributes:
        rank: Its number, from 0.
        world_size: Workers in the group.
        progress: Takes reports; those of the first worker are shown.
    """

    rank: int = 0
    world_size: int = 1
    progress: Progress = field(default=SILENT, compare=False)


ALONE = Worker()


@dataclass(frozen=True)
class Shard:
    """One independent piece of work.

    Attributes:
        index: position among all shards; with the run's seed it decides the shard's randomness.
        output: URI of the file that exists exactly when the shard is done.
        payload: what else the worker must know (plain values: they travel between processes).
    """

    index: int
    output: str
    payload: Mapping[str, Any] = field(default_factory=dict[str, Any])


# Takes a number of rows that were just done; may be called any number of times.
OnRows = Callable[[int], None]
# Writes `shard.output` (last, through `storage.atomic_output`), reporting rows on the way.
ShardWorker = Callable[[Shard, OnRows], None]


def ignore_rows(num_rows: int) -> None:
    """Report to nobody."""


def not_done(shards: Sequence[Shard]) -> list[Shard]:
    """Shards whose output does not exist yet."""
    return [shard for shard in shards if not storage.exists(shard.output)]


class Launcher(Protocol):
    """Where the work of a stage runs."""

    @property
    def sinks(self) -> Sequence[Sink]:
        """Where else a stage reports, such as the monitoring of a cluster."""
        ...

    def take_usage(self) -> Usage:
        """What worker processes have used since the last call; not what this process has."""
        ...

    def run_workers(
        self,
        function: Callable[[Worker], ResultT],
        num_workers: int = 1,
        progress: Progress = SILENT,
    ) -> list[ResultT]:
        """Run `function` in a group of workers and return their results in the order of ranks.

        Args:
            function: must be picklable, as `make_worker` of `map_shards` must.
            num_workers: workers in the group; a launcher without groups runs one.
            progress: where the first worker's reports arrive, in this process.
        """
        ...

    def map_shards(
        self,
        make_worker: Callable[[], ShardWorker],
        shards: Sequence[Shard],
        num_workers: int = 1,
        on_rows: OnRows = ignore_rows,
    ) -> None:
        """Do every shard whose output does not exist yet.

        Args:
            make_worker: builds a worker once in each process (loads the model, say). For more
                than one process it must be picklable: a module-level function, a
                `functools.partial` of one, or an object of a module-level class.
            shards: what to do.
            num_workers: processes that share the shards.
            on_rows: called in this process with rows done now: as the worker reports them if it
                runs here, else once for each shard.
        """
        ...


class LocalLauncher:
    """Runs everything on this machine.

    Training runs in this process. Shards run in this process for one worker, in spawned processes
    for more, each with its share of the cores.
    """

    sinks: Sequence[Sink] = ()
    _used = NOTHING

    def take_usage(self) -> Usage:
        """What worker processes have used since the last call; see `Launcher.take_usage`."""
        used, self._used = self._used, NOTHING
        return used

    def run_workers(
        self,
        function: Callable[[Worker], ResultT],
        num_workers: int = 1,
        progress: Progress = SILENT,
    ) -> list[ResultT]:
        """Run `function` once, in this process; see `Launcher.run_workers`."""
        if num_workers > 1:
            _LOGGER.info(
                "Training runs in this process, not in %d; a group needs Ray.", num_workers
            )
        return [function(Worker(progress=progress))]

    def map_shards(
        self,
        make_worker: Callable[[], ShardWorker],
        shards: Sequence[Shard],
        num_workers: int = 1,
        on_rows: OnRows = ignore_rows,
    ) -> None:
        """Do every shard whose output does not exist yet; see `Launcher.map_shards`.

        Raises:
            StageError: a worker process died, or a worker did not write its output.
        """
        missing = not_done(shards)
        if not missing:
            return
        if min(num_workers, len(missing)) == 1:
            runner = ShardRunner(make_worker)
            for shard in missing:
                runner.run(shard, on_rows)
            return
        num_workers = min(num_workers, len(missing))
        self._used += _map_in_processes(make_worker, missing, num_workers, on_rows)


def set_threads(num_threads: int) -> None:
    """Limit the threads of this process, for what is loaded and what will be loaded."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(num_threads)
    os.environ["RAYON_NUM_THREADS"] = str(num_threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(num_threads)


class ShardRunner:
    """Does shards in one process, with a worker that is built for the first of them.

    Built then rather than at the start of the process, so that an error of `make_worker` travels
    back like any other.
    """

    def __init__(self, make_worker: Callable[[], ShardWorker]) -> None:
        self._make_worker = make_worker
        self._worker: ShardWorker | None = None

    def run(self, shard: Shard, on_rows: OnRows = ignore_rows) -> int:
        """Do one shard and return its number of rows.

        Raises:
            StageError: the worker did not write the output.
        """
        if self._worker is None:
            self._worker = self._make_worker()
        num_rows = 0

        def count(more: int) -> None:
            nonlocal num_rows
            num_rows += more
            on_rows(more)

        self._worker(shard, count)
        if not storage.exists(shard.output):
            raise StageError(
                f"Shard {shard.index} was done, but its file {shard.output} is not there."
            )
        return num_rows


class ShardProcess:
    """Does shards in a process that exists for them alone, and accounts for what it uses."""

    def __init__(self, make_worker: Callable[[], ShardWorker]) -> None:
        self._runner = ShardRunner(make_worker)
        self._meter = Meter(whole_process=True)

    def run(self, shard: Shard) -> tuple[int, Usage]:
        """Do one shard; return its number of rows, and what was used since the one before."""
        return self._runner.run(shard), self._meter.take()


# Of a process of the pool: its one element.
_PROCESS: list[ShardProcess] = []


def _start_process(make_worker: Callable[[], ShardWorker], num_threads: int) -> None:
    set_threads(num_threads)
    # Ctrl-C reaches every process of the group; the parent alone speaks about it.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _PROCESS.append(ShardProcess(make_worker))


def _do_shard_in_process(shard: Shard) -> tuple[int, Usage]:
    return _PROCESS[0].run(shard)


def _end_with(parent: BaseProcess) -> None:
    """End this process as soon as its parent has: a killed parent cannot stop its workers."""
    wait_for([parent.sentinel])
    os._exit(1)


def _map_in_processes(
    make_worker: Callable[[], ShardWorker],
    shards: Sequence[Shard],
    num_workers: int,
    on_rows: OnRows,
) -> Usage:
    used = NOTHING
    num_threads = max(1, (os.cpu_count() or 1) // num_workers)
    pool = ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_process,
        initargs=(make_worker, num_threads),
    )
    try:
        pending = {pool.submit(_do_shard_in_process, shard) for shard in shards}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                num_rows, more = future.result()
                used += more
                on_rows(num_rows)
    except BrokenProcessPool:
        raise StageError(
            f"One of {num_workers} worker processes ended before its work was done (killed, or "
            "out of memory). Run the same command again: finished shards are kept. Fewer workers "
            "(--set runtime.num_workers=1) need less memory."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return used
