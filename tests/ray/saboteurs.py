"""Workers that die at a chosen moment, and launchers that use them."""

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difflm_core.parallel import ignore_rows
from difflm_core.progress import SILENT


@dataclass(frozen=True)
class KilledOnce:
    """Wraps the maker of a worker: the first process that does shard `index` dies.

    Attributes:
        when: "before" any of the shard is written, or with its first "rows".
    """

    make_worker: Any
    marker: str
    when: str = "rows"
    index: int = 1

    def __call__(self):
        worker = self.make_worker()

        def die_once():
            if not Path(self.marker).exists():
                Path(self.marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)

        def work(shard, on_rows):
            def die_or_count(num_rows):
                if shard.index == self.index and self.when == "rows":
                    die_once()
                on_rows(num_rows)

            if shard.index == self.index and self.when == "before":
                die_once()
            worker(shard, die_or_count)

        return work


@dataclass(frozen=True)
class Sabotaged:
    """A launcher whose work is wrapped, so that something happens to it.

    Attributes:
        launcher: Runs it.
        wrap: Makes a saboteur of the maker of a worker, or of what a training worker does.
    """

    launcher: Any
    wrap: Any

    @property
    def sinks(self):
        return self.launcher.sinks

    def take_usage(self):
        return self.launcher.take_usage()

    def map_shards(self, make_worker, shards, num_workers=1, on_rows=ignore_rows):
        self.launcher.map_shards(self.wrap(make_worker), shards, num_workers, on_rows)

    def run_workers(self, function, num_workers=1, progress=SILENT):
        return self.launcher.run_workers(self.wrap(function), num_workers, progress)


@contextlib.contextmanager
def after_two_checkpoints(act):
    """Have `act` called when the training of this process has written its second checkpoint."""
    from difflm_core.training import TrainingLoop

    original = TrainingLoop._save
    saved = []

    def save_and_act(loop, uri):
        original(loop, uri)
        saved.append(loop.state.step)
        if len(saved) == 2:
            act()

    TrainingLoop._save = save_and_act
    try:
        yield
    finally:
        TrainingLoop._save = original


@dataclass(frozen=True)
class KilledInTraining:
    """Wraps what a training worker does: one of them dies after its second checkpoint, once."""

    function: Any
    marker: str
    rank: int

    def __call__(self, worker):
        def die_once():
            if worker.rank == self.rank and not Path(self.marker).exists():
                Path(self.marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)

        with after_two_checkpoints(die_once):
            return self.function(worker)
