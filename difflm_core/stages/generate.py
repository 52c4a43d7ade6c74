"""Stage 5: synthetic records, exactly as many as asked for.

part-00000.parquet|csv|jsonl    records in the form of the source
schema.json                     their schema
rejections.json                 number of rejected tries by column and reason
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from difflm_core import storage
from difflm_core.artifacts import GeneratorBundle, SyntheticData
from difflm_core.config import GenerateConfig
from difflm_core.parallel import Shard, ShardWorker
from difflm_core.stage import Stage, StageContext
from difflm_core.stages.corpus import CODEC_FOLDER, SCHEMA_FILE

if TYPE_CHECKING:
    from difflm_core.generation.generator import SamplingOptions


def generate(ctx: StageContext, cfg: GenerateConfig, generator: GeneratorBundle) -> SyntheticData:
    """Generate records from noise."""
    from difflm_core.codec.records import RecordCodec

    num_rows = cfg.num_rows or int(generator.manifest.summary["num_training_rows"])
    # Whole batches per shard: the batches, and so the rows, are those of the run as a whole.
    shard_rows = max(1, cfg.shard_rows // cfg.batch_rows) * cfg.batch_rows
    shards = [
        Shard(
            index,
            ctx.output.path(f"part-{index:05d}.{cfg.format}"),
            {"start": start, "num_rows": min(shard_rows, num_rows - start)},
        )
        for index, start in enumerate(range(0, num_rows, shard_rows))
    ]
    worker = _Generate(generator, cfg, ctx.seed, ctx.runtime.device, ctx.runtime.num_workers)
    with ctx.progress.track("Generating records", total=num_rows) as bar:
        if ctx.runtime.num_workers == 1:
            worker = worker.reporting_to(bar.advance)
            ctx.launcher.map_shards(worker, shards)
        else:
            ctx.launcher.map_shards(
                worker, shards, ctx.runtime.num_workers, on_done=lambda _, rows: bar.advance(rows)
            )
    ledger: dict[str, dict[str, int]] = {}
    for shard in shards:
        uri = _ledger_uri(shard.output)
        for column, reasons in json.loads(storage.read_text(uri)).items():
            for reason, count in reasons.items():
                total = ledger.setdefault(column, {})
                total[reason] = total.get(reason, 0) + count
    ctx.output.write_json("rejections.json", ledger)
    with generator.local(CODEC_FOLDER) as folder, ctx.output.file(SCHEMA_FILE) as path:
        RecordCodec.load(folder).schema.save(path)
    rejected = sum(count for reasons in ledger.values() for count in reasons.values())
    return ctx.finish(SyntheticData, num_rows=num_rows, num_rejected=rejected)


def _ledger_uri(shard_uri: str) -> str:
    folder, _, name = shard_uri.rpartition("/")
    return f"{folder}/work/{name}.rejections.json"


@dataclass(frozen=True)
class _Generate:
    """Builds the worker that generates one shard."""

    bundle: GeneratorBundle
    cfg: GenerateConfig
    seed: int
    device: str
    num_workers: int
    advance: object = None

    def reporting_to(self, advance: object) -> _Generate:
        """The same, reporting every batch."""
        from dataclasses import replace

        return replace(self, advance=advance)

    def options(self) -> SamplingOptions:
        from difflm_core.generation.generator import SamplingOptions

        cfg = self.cfg
        return SamplingOptions(
            self.seed, cfg.temperature, cfg.top_p, cfg.batch_rows, cfg.max_attempts
        )

    def __call__(self) -> ShardWorker:
        from collections import Counter

        import torch

        from difflm_core.data.writers import RecordWriter
        from difflm_core.device import choose_device
        from difflm_core.generation.bundle import load_generator

        with self.bundle.local() as folder:
            generator = load_generator(folder, choose_device(self.device))
        num_threads = torch.get_num_threads()

        def generate_shard(shard: Shard) -> int:
            rejections: Counter[tuple[str, str]] = Counter()
            batches = generator.batches(
                shard.payload["num_rows"],
                self.options(),
                start=shard.payload["start"],
                num_threads=num_threads,
                rejections=rejections,
            )
            schema = generator.codec.schema
            with RecordWriter(shard.output, schema, self.cfg.format) as writer:
                for batch in batches:
                    writer.write(batch)
                    if callable(self.advance):
                        self.advance(batch.num_rows)
                ledger: dict[str, dict[str, int]] = {}
                for (column, reason), count in sorted(rejections.items()):
                    ledger.setdefault(column, {})[reason] = count
                storage.write_text(_ledger_uri(shard.output), json.dumps(ledger))
            return shard.payload["num_rows"]

        return generate_shard


STAGE = Stage(generate, version=1)
