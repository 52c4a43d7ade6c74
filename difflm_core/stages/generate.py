"""Stage 5: synthetic records, exactly as many as asked for.

part-00000.parquet|csv|jsonl    records in the form of the source
schema.json                     their schema
rejections.json                 number of rejected tries by column and reason
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from difflm_core import storage
from difflm_core.artifacts import WORK_FOLDER, GeneratorBundle, SyntheticData
from difflm_core.config import GenerateConfig, RuntimeConfig
from difflm_core.parallel import OnRows, Shard, ShardWorker
from difflm_core.stage import Stage, StageContext
from difflm_core.stages.corpus import REJECTIONS_FILE, SCHEMA_FILE, load_codec

if TYPE_CHECKING:
    from difflm_core.generation.drawing import Rejections


def generate(ctx: StageContext, cfg: GenerateConfig, generator: GeneratorBundle) -> SyntheticData:
    """Generate records from noise."""
    from difflm_core.generation.generator import require_identifiers

    codec = load_codec(generator)
    num_rows = cfg.num_rows or int(generator.manifest.summary["num_training_rows"])
    require_identifiers(codec, num_rows)
    shards = plan_shards(ctx, cfg, num_rows)
    done = sum(s.payload["num_rows"] for s in shards if storage.exists(s.output))
    make_worker = _Generate(generator, cfg, ctx.seed, ctx.runtime)
    tokens = {"tokens": codec.tokens_per_record}
    with ctx.progress.track("Generating records", num_rows, initial=done, contents=tokens) as bar:
        ctx.launcher.map_shards(make_worker, shards, ctx.runtime.num_workers, bar.advance)
    rejections = read_ledgers(shard.payload["ledger"] for shard in shards)
    ctx.output.write_json(REJECTIONS_FILE, by_column(rejections))
    ctx.note(rejections=by_column(rejections))
    with ctx.output.file(SCHEMA_FILE) as path:
        codec.schema.save(path)
    return ctx.finish(SyntheticData, num_rows=num_rows, num_rejected=rejections.total())


def plan_shards(ctx: StageContext, cfg: GenerateConfig, num_rows: int) -> Sequence[Shard]:
    """Cut the rows into shards of whole batches, so that the batches are those of one shard."""
    shard_rows = max(1, cfg.shard_rows // cfg.batch_rows) * cfg.batch_rows
    shards: list[Shard] = []
    for index, start in enumerate(range(0, num_rows, shard_rows)):
        name = f"part-{index:05d}.{cfg.format}"
        payload = {
            "start": start,
            "num_rows": min(shard_rows, num_rows - start),
            # Beside the shard rather than in memory: a run that continues needs it.
            "ledger": ctx.output.path(WORK_FOLDER, f"{name}.rejections.json"),
        }
        shards.append(Shard(index, ctx.output.path(name), payload))
    return shards


def by_column(rejections: Rejections) -> dict[str, dict[str, int]]:
    """The ledger as JSON: column, reason, number of rejected tries."""
    ledger: dict[str, dict[str, int]] = {}
    for (column, reason), count in rejections.items():
        ledger.setdefault(column, {})[reason] = count
    return ledger


def read_ledgers(uris: Iterable[str]) -> Rejections:
    """Add up ledgers written by `by_column`."""
    rejections: Rejections = Counter()
    for uri in uris:
        for column, reasons in json.loads(storage.read_text(uri)).items():
            for reason, count in reasons.items():
                rejections[column, reason] += count
    return rejections


@dataclass(frozen=True)
class _Generate:
    """Builds the worker that generates one shard."""

    bundle: GeneratorBundle
    cfg: GenerateConfig
    seed: int
    runtime: RuntimeConfig

    def __call__(self) -> ShardWorker:
        from difflm_core.data.writers import RecordWriter
        from difflm_core.device import choose_compute
        from difflm_core.generation.bundle import load_generator
        from difflm_core.generation.drawing import SamplingOptions

        cfg = self.cfg
        options = SamplingOptions(
            self.seed, cfg.temperature, cfg.top_p, cfg.batch_rows, cfg.max_attempts
        )
        compute = choose_compute(self.runtime.device, self.runtime.precision)
        with self.bundle.local() as folder:
            generator = load_generator(folder, compute)

        def generate_shard(shard: Shard, on_rows: OnRows) -> None:
            rejections: Rejections = Counter()
            batches = generator.batches(
                shard.payload["num_rows"],
                options,
                start=shard.payload["start"],
                rejections=rejections,
            )
            with RecordWriter(shard.output, generator.codec.schema, cfg.format) as writer:
                for batch in batches:
                    writer.write(batch)
                    on_rows(batch.num_rows)
                # Before the shard appears: where there is a shard, there is its ledger.
                storage.write_text(shard.payload["ledger"], json.dumps(by_column(rejections)))

        return generate_shard


STAGE = Stage(generate, version=5)
