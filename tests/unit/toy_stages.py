"""Two small stages for the tests of whatever runs stages: numbers, then their sum."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from difflm_core import storage
from difflm_core.artifacts import Artifact, Corpus, EvaluationReport
from difflm_core.config import NOT_IN_FINGERPRINT, Section
from difflm_core.errors import DataError
from difflm_core.parallel import Shard
from difflm_core.stage import Stage, StageContext


class CountConfig(Section):
    num_rows: int = Field(default=10, ge=1, description="Rows in all.")
    shard_rows: int = Field(default=4, ge=1, description="Rows in a shard.")
    source: str | None = Field(default=None, description="A file that is read.")
    verbose: bool = Field(
        default=False, description="Changes no result.", json_schema_extra=NOT_IN_FINGERPRINT
    )


class AddConfig(Section):
    factor: int = Field(default=1, description="Multiplies the sum.")


class NumberWorker:
    """Writes the numbers of one shard; picklable, for worker processes."""

    def __init__(self, seed):
        self.seed = seed

    def __call__(self, shard, on_rows):
        start, stop = shard.payload["start"], shard.payload["stop"]
        if shard.index == int(os.environ.get("TOY_FAIL_SHARD", "-1")):
            raise DataError("shard failed")
        if shard.index == int(os.environ.get("TOY_KILL_SHARD", "-1")):
            os._exit(9)
        with storage.atomic_output(shard.output) as path:
            table = pa.table({"x": [self.seed + row for row in range(start, stop)]})
            pq.write_table(table, path)
        on_rows(stop - start)


class MakeNumberWorker:
    def __init__(self, seed):
        self.seed = seed

    def __call__(self):
        return NumberWorker(self.seed)


def make_shards(uri, num_rows, shard_rows):
    return [
        Shard(
            index,
            storage.join(uri, f"numbers-{index:03d}.parquet"),
            {"start": start, "stop": min(start + shard_rows, num_rows)},
        )
        for index, start in enumerate(range(0, num_rows, shard_rows))
    ]


def count_numbers(ctx: StageContext, cfg: CountConfig) -> Corpus:
    """Write numbers in shards."""
    shards = make_shards(ctx.output.uri, cfg.num_rows, cfg.shard_rows)
    with ctx.progress.track("Counting", total=cfg.num_rows) as bar:
        ctx.launcher.map_shards(
            MakeNumberWorker(ctx.seed),
            shards,
            ctx.runtime.num_workers,
            on_rows=bar.advance,
        )
    return ctx.finish(Corpus, num_rows=cfg.num_rows)


def add_numbers(ctx: StageContext, cfg: AddConfig, corpus: Corpus) -> EvaluationReport:
    """Add the numbers of a corpus."""
    total = 0
    for entry in corpus.files(suffix=".parquet"):
        with corpus.local(entry.path) as path:
            total += sum(pq.read_table(path)["x"].to_pylist())
    ctx.output.write_json("report.json", {"sum": total * cfg.factor})
    return ctx.finish(EvaluationReport, sum=total * cfg.factor)


def read_sum(artifact: Artifact) -> int:
    return json.loads(storage.read_text(artifact.path("report.json")))["sum"]


COUNT = Stage(count_numbers, sources=lambda cfg: [cfg.source] if cfg.source else [])
ADD = Stage(add_numbers, version=2)
