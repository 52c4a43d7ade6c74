"""Runs of the toy stages, watched and disturbed."""

from pathlib import Path

from difflm_core.parallel import LocalLauncher, ignore_rows
from difflm_core.stage import run_stage
from tests.unit.toy_stages import COUNT, CountConfig


class CountingLauncher(LocalLauncher):
    """Remembers which shards were done."""

    def __init__(self):
        self.done = []

    def map_shards(self, make_worker, shards, num_workers=1, on_rows=ignore_rows):
        def make_remembering_worker():
            worker = make_worker()

            def work(shard, on_rows):
                worker(shard, on_rows)
                self.done.append(shard.index)

            return work

        super().map_shards(make_remembering_worker, shards, num_workers, on_rows)


def run_count(out, launcher=None, cfg=None, **options):
    return run_stage(COUNT, cfg or CountConfig(), {}, out, launcher, **options)


def names_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def fail_at(monkeypatch, index):
    monkeypatch.setenv("TOY_FAIL_SHARD", str(index))
