"""Shards on Ray: a pool of actors, each doing one shard at a time.

An actor that is ready gets the next shard, so as many shards are under way as there is room for
actors now, and more of them join when room comes. What dies is replaced, and its shard is done
again: a shard appears whole or not at all, and holds the same wherever it is done.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import ray
from ray.exceptions import RayError, RayTaskError

from components.worker_size import WorkerSize, word_resources
from difflm_core import storage
from difflm_core.errors import DiffLMError, StageError
from difflm_core.parallel import OnRows, Shard, ShardProcess, ShardWorker, set_threads
from difflm_core.usage import NOTHING, Usage

_LOGGER = logging.getLogger("difflm.ray")


class ShardActor:
    """What lives in a worker process."""

    def __init__(
        self, make_worker: Callable[[], ShardWorker], num_threads: int, folder: str
    ) -> None:
        set_threads(num_threads)
        enter_folder(folder)
        self._process = ShardProcess(make_worker)

    def ready(self) -> None:
        """Return as soon as the process has a place."""

    def do(self, shard: Shard) -> tuple[int, Usage]:
        """Do a shard, unless another actor has finished it since.

        Returns:
            The rows done here, and what this process has used since its last shard.
        """
        return (0, NOTHING) if storage.exists(shard.output) else self._process.run(shard)


def enter_folder(folder: str) -> None:
    """Let relative paths mean what they mean where the command was given, if it is there."""
    with contextlib.suppress(OSError):
        os.chdir(folder)


@dataclass(frozen=True)
class PoolOptions:
    """How a pool behaves.

    Attributes:
        num_workers: actors at most.
        size: what each of them reserves.
        max_failures: times that a shard may lose its actor, and that starting one may fail in a
            row, before the map gives up.
        start_timeout_seconds: longest time without any actor.
        logs: where the logs are, for messages.
    """

    num_workers: int
    size: WorkerSize
    max_failures: int
    start_timeout_seconds: float
    logs: str


class ShardPool:
    """Does shards with actors; for one call of `run`."""

    def __init__(
        self, make_worker: Callable[[], ShardWorker], options: PoolOptions, on_rows: OnRows
    ) -> None:
        self._options = options
        self._on_rows = on_rows
        self._make_worker = ray.put(make_worker)
        self._waiting: deque[Shard] = deque()
        self._starting: dict[Any, Any] = {}
        self._running: dict[Any, tuple[Any, Shard]] = {}
        self._losses: Counter[int] = Counter()
        self._failed_starts = 0
        self._last_seen = time.monotonic()
        self._used = NOTHING

    def run(self, shards: Sequence[Shard]) -> Usage:
        """Do all shards, and return what the actors have used.

        An actor that dies takes the account of its last shard along.

        Raises:
            StageError: an actor finds no place, or what replaces it dies, too.
            DiffLMError: as a worker raised it.
        """
        self._waiting.extend(shards)
        try:
            self._start_actors()
            while self._waiting or self._running:
                self._step()
        finally:
            running = [actor for actor, _ in self._running.values()]
            for actor in [*self._starting.values(), *running]:
                ray.kill(actor)
        return self._used

    def _start_actors(self) -> None:
        """Have as many actors as there are shards for, up to the limit."""
        size = self._options.size
        actor_class = remote(ShardActor).options(
            num_cpus=size.num_cpus,
            num_gpus=size.num_gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        wanted = min(self._options.num_workers - len(self._running), len(self._waiting))
        for _ in range(wanted - len(self._starting)):
            actor = actor_class.remote(self._make_worker, size.num_cpus, str(Path.cwd()))
            self._starting[actor.ready.remote()] = actor

    def _step(self) -> None:
        """Wait for one event, and act on it."""
        refs = [*self._running, *self._starting]
        done, _ = ray.wait(refs, num_returns=1, timeout=1.0)
        if self._running:
            self._last_seen = time.monotonic()
        elif time.monotonic() - self._last_seen > self._options.start_timeout_seconds:
            raise self._no_place()
        for ref in done:
            if ref in self._starting:
                self._take_started(ref)
            else:
                self._take_finished(ref)

    def _take_started(self, ref: Any) -> None:
        actor = self._starting.pop(ref)
        try:
            ray.get(ref)
        except RayError as error:
            self._failed_starts += 1
            if self._failed_starts > self._options.max_failures:
                raise StageError(
                    f"No worker could be started on Ray in {self._failed_starts} tries: "
                    f"{reason(error)}. Its logs are in {self._options.logs}."
                ) from None
            self._start_actors()
            return
        self._failed_starts = 0
        self._give_next(actor)

    def _give_next(self, actor: Any) -> None:
        self._last_seen = time.monotonic()
        if self._waiting:
            shard = self._waiting.popleft()
            self._running[actor.do.remote(shard)] = (actor, shard)
        else:
            ray.kill(actor)

    def _take_finished(self, ref: Any) -> None:
        actor, shard = self._running.pop(ref)
        try:
            num_rows, used = cast("tuple[int, Usage]", ray.get(ref))
        except RayTaskError as error:
            ray.kill(actor)
            raise_cause(error)
        except RayError as error:
            # It may live on behind a broken connection.
            ray.kill(actor)
            self._take_back(shard, error)
            return
        if not storage.exists(shard.output):
            raise StageError(
                f"Shard {shard.index} was done, but its file {shard.output} cannot be seen here. "
                "The output must be in storage that all nodes of the cluster share, such as "
                "s3://... or a network folder."
            )
        self._used += used
        self._on_rows(num_rows)
        self._give_next(actor)

    def _take_back(self, shard: Shard, error: RayError) -> None:
        self._losses[shard.index] += 1
        losses = self._losses[shard.index]
        if losses > self._options.max_failures:
            raise StageError(
                f"Shard {shard.index} ({shard.output}) lost its worker {losses} times, the last "
                f"time with: {reason(error)}. If memory ran out, use fewer workers "
                "(--set runtime.num_workers=N) or smaller shards. Its logs are in "
                f"{self._options.logs}. Run the same command again: finished shards are kept."
            ) from None
        _LOGGER.warning(
            "Shard %d lost its worker (%s); it is done again.", shard.index, reason(error)
        )
        self._waiting.appendleft(shard)
        self._start_actors()

    def _no_place(self) -> StageError:
        return StageError(
            f"No worker found a place on Ray within {self._options.start_timeout_seconds:g} s: "
            f"each needs {self._options.size}; {what_there_is()}. Wait until other work there has "
            "ended, or ask for less for each worker (--set runtime.threads=1)."
        )


def remote(cls: type) -> Any:
    """Make an actor class; Ray's own types do not describe one that is made of a plain class."""
    return cast("Any", ray.remote(cls))


def what_there_is() -> str:
    """Word the resources of the cluster, and what is free of them."""
    total = word_resources(ray.cluster_resources())
    return f"the cluster has {total}, of which {word_resources(ray.available_resources())} are free"


def raise_cause(error: RayTaskError) -> NoReturn:
    """Raise what the worker raised: for a person without Ray's traceback, for a defect with it."""
    cause = error.cause
    if isinstance(cause, DiffLMError):
        raise cause from None
    if isinstance(cause, Exception):
        raise cause from error
    raise error


def reason(error: BaseException) -> str:
    """Find what Ray says about a death, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    marker = "Worker exit detail: "
    for line in lines:
        if marker in line:
            return line.partition(marker)[2].partition(". ")[0].rstrip(".")
    if not lines:
        return type(error).__name__
    # An exception within a worker comes with its traceback, whose last line says what it was.
    return lines[-1 if "Traceback" in str(error) else 0].rstrip(".")
