"""Stage 1: real records to a corpus: schema, splits, and the codec that turns them into tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from difflm_core.artifacts import Corpus
from difflm_core.config import CodecConfig, DataConfig, SerializeConfig
from difflm_core.errors import ConfigError, DataError, SchemaError
from difflm_core.stage import Stage, StageContext
from difflm_core.stages.corpus import CODEC_FOLDER, SCHEMA_FILE, part_name

if TYPE_CHECKING:
    import pyarrow as pa

    from difflm_core.data.readers import Source
    from difflm_core.data.schema import Schema

# Rows collected for a shard before they are written as one row group.
ROW_GROUP_ROWS = 16_384


def serialize(ctx: StageContext, cfg: SerializeConfig) -> Corpus:
    """Read records, infer their schema, split them, and fit the codec."""
    from difflm_core.codec.fields import CodecOptions
    from difflm_core.codec.records import RecordCodec
    from difflm_core.data.sampling import sample_rows
    from difflm_core.data.splits import plan_splits

    source = open_records(cfg.data)
    test_source = _open(cfg.data, cfg.data.test_source) if cfg.data.test_source else None
    schema = resolve_schema(cfg.data, source)
    num_rows = sum(batch.num_rows for batch in source.batches())
    plan = plan_splits(
        num_rows,
        valid_fraction=cfg.data.valid_fraction,
        test_fraction=0.0 if test_source else cfg.data.test_fraction,
        seed=ctx.seed,
        source=source.label,
    )
    require_something_to_learn(schema, source.label)
    sizes = dict(plan.sizes)
    shards = {name: _num_shards(size, cfg.codec) for name, size in sizes.items()}
    with ctx.progress.track("Reading records", total=num_rows) as bar, ExitStack() as stack:
        writers = {
            name: _ShardWriters(ctx, stack, schema, name, count, ctx.seed)
            for name, count in shards.items()
            if sizes[name]
        }

        def training_rows() -> Iterator[pa.RecordBatch]:
            start = 0
            for batch in source.canonical_batches(schema):
                parts = plan.split(batch, start)
                for name, writer in writers.items():
                    writer.write(parts[name])
                start += batch.num_rows
                bar.advance(batch.num_rows)
                yield parts["train"]

        sample = sample_rows(training_rows(), cfg.codec.fit_rows, ctx.seed)
    if test_source:
        sizes["test"] = _write_test(ctx, test_source, schema, cfg.codec)
    options = CodecOptions(
        digit_base=cfg.codec.digit_base,
        max_value_tokens=cfg.codec.max_value_tokens,
        max_text_tokens=cfg.codec.max_text_tokens,
        text_vocab_size=cfg.codec.text_vocab_size,
    )
    codec = RecordCodec.fit(schema, sample, options)
    with ctx.output.folder(CODEC_FOLDER) as folder:
        codec.save(folder)
    with ctx.output.file(SCHEMA_FILE) as path:
        schema.save(path)
    return ctx.finish(
        Corpus,
        num_train=sizes["train"],
        num_valid=sizes["valid"],
        num_test=sizes["test"],
        num_columns=len(schema.columns),
        tokens_per_record=len(codec.grammar),
        vocab_size=codec.grammar.vocab_size,
    )


def open_records(cfg: DataConfig) -> Source:
    """Open the records of a run."""
    if not cfg.source:
        raise ConfigError(
            "data.source is missing. Expected a path, a glob or a URI of CSV, TSV, JSONL or "
            "Parquet files."
        )
    return _open(cfg, cfg.source)


def _open(cfg: DataConfig, uri: str) -> Source:
    from difflm_core.data.readers import open_source

    options: dict[str, Any] = {}
    if cfg.delimiter:
        options["delimiter"] = cfg.delimiter
    if cfg.column_names:
        options["column_names"] = list(cfg.column_names)
    return open_source(uri, **options)


def resolve_schema(cfg: DataConfig, source: Source) -> Schema:
    """Infer the schema of the records, keeping what a schema file declares."""
    from difflm_core.data.inference import infer_schema
    from difflm_core.data.schema import Schema

    declared = Schema.load(cfg.schema_path) if cfg.schema_path else None
    return infer_schema(
        source, target=cfg.target, declared=declared, missing_values=cfg.missing_values
    )


def require_something_to_learn(schema: Schema, source: str) -> None:
    """Refuse a table of identifiers and constants alone, before work starts."""
    from difflm_core.data.schema import NOT_LEARNED

    if all(column.kind in NOT_LEARNED for column in schema.columns):
        kinds = ", ".join(f"column {c.name!r} is {c.kind}" for c in schema.columns[:5])
        raise SchemaError(
            f"{source}: there is nothing to learn: {kinds}; expected at least one column whose "
            "values vary and repeat; add one, or correct the kinds in a schema.json (difflm schema "
            "infer) and pass it as data.schema_path"
        )


def _num_shards(num_rows: int, cfg: CodecConfig) -> int:
    return max(1, -(-num_rows // cfg.shard_rows))


def _write_test(ctx: StageContext, source: Source, schema: Schema, cfg: CodecConfig) -> int:
    num_rows = sum(batch.num_rows for batch in source.batches())
    if not num_rows:
        raise DataError(f"{source.label}: found no rows, expected at least one to test on.")
    with ExitStack() as stack:
        count = _num_shards(num_rows, cfg)
        writer = _ShardWriters(ctx, stack, schema, "test", count, ctx.seed)
        for batch in source.canonical_batches(schema):
            writer.write(batch)
    return num_rows


class _ShardWriters:
    """Deals the rows of one split out to its shards at random, so that each is a fair sample."""

    def __init__(
        self,
        ctx: StageContext,
        stack: ExitStack,
        schema: Schema,
        split: str,
        num_shards: int,
        seed: int,
    ) -> None:
        import pyarrow.parquet as pq

        self.split = split
        self.seed = seed
        self.start = 0
        self.held: list[list[pa.RecordBatch]] = [[] for _ in range(num_shards)]
        self.num_held = [0] * num_shards
        self.writers: list[Any] = []
        for index in range(num_shards):
            path = stack.enter_context(ctx.output.file(part_name(split, index)))
            writer = pq.ParquetWriter(path, schema.arrow_schema, compression="zstd")
            self.writers.append(stack.enter_context(writer))
        stack.callback(self._flush_all)

    def write(self, batch: pa.RecordBatch) -> None:
        """Deal out the next rows of the split."""
        import pyarrow as pa

        from difflm_core.data.hashing import hash_indices, seed_key

        if len(self.writers) == 1:
            self._hold(0, [batch])
            return
        drawn = hash_indices(self.start, batch.num_rows, seed_key(self.seed, f"shard-{self.split}"))
        self.start += batch.num_rows
        chosen = drawn % len(self.writers)
        for index in range(len(self.writers)):
            self._hold(index, [batch.filter(pa.array(chosen == index))])

    def _hold(self, index: int, batches: Iterable[pa.RecordBatch]) -> None:
        for batch in batches:
            self.held[index].append(batch)
            self.num_held[index] += batch.num_rows
        if self.num_held[index] >= ROW_GROUP_ROWS:
            self._flush(index)

    def _flush(self, index: int) -> None:
        import pyarrow as pa

        if self.num_held[index]:
            self.writers[index].write_table(
                pa.Table.from_batches(self.held[index]).combine_chunks()
            )
        self.held[index], self.num_held[index] = [], 0

    def _flush_all(self) -> None:
        for index in range(len(self.writers)):
            self._flush(index)


def _sources(cfg: SerializeConfig) -> list[str]:
    return [uri for uri in (cfg.data.source, cfg.data.test_source, cfg.data.schema_path) if uri]


STAGE = Stage(serialize, version=1, sources=_sources)
