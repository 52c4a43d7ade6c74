"""Stage 1: real records to a corpus: schema, splits, and the codec that turns them into tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from difflm_core.artifacts import Corpus
from difflm_core.config import CodecConfig, DataConfig, SerializeConfig
from difflm_core.errors import ConfigError, DataError, SchemaError
from difflm_core.stage import Stage, StageContext
from difflm_core.stages.corpus import CODEC_FOLDER, SCHEMA_FILE

if TYPE_CHECKING:
    import pyarrow as pa

    from difflm_core.codec.loading import AnyCodec
    from difflm_core.data.readers import Source
    from difflm_core.data.schema import Schema


def serialize(ctx: StageContext, cfg: SerializeConfig) -> Corpus:
    """Read records, infer their schema, split them, and fit the codec."""
    try:
        return _serialize(ctx, cfg)
    except (DataError, SchemaError):
        # Corrected data starts anew: what was found in the refused one says nothing about it.
        ctx.output.discard_work()
        raise


def _serialize(ctx: StageContext, cfg: SerializeConfig) -> Corpus:
    from difflm_core.data.schema import DataKind
    from difflm_core.data.splits import SplitPlan, plan_splits
    from difflm_core.stages.dealing import Dealing
    from difflm_core.stages.profiling import Profiler

    data = cfg.data
    kind = DataKind(data.kind)
    source = open_records(data)
    test_source = _open(data, data.test_source) if data.test_source else None
    declared = _declared(data)
    profiler = Profiler(data.target, declared, data.missing_values, kind)
    profile, pieces = profiler.run(ctx, "rows", source)
    schema = _decide(data, source, profile, declared)
    plan = plan_splits(
        profile.num_rows,
        valid_fraction=data.valid_fraction,
        test_fraction=0.0 if test_source else data.test_fraction,
        seed=ctx.seed,
        source=source.label,
    )
    require_something_to_learn(schema, source.label)
    sizes = dict(plan.sizes)
    shared: dict[str, Any] = {"seed": ctx.seed, "shard_rows": cfg.codec.shard_rows}
    dealing = Dealing.of("rows", schema, pieces, plan, num_sampled=cfg.codec.fit_rows, **shared)
    dealing.run(ctx)
    if test_source:
        found, pieces = Profiler(None, None, (), kind).run(ctx, "test", test_source)
        sizes["test"] = num_test = found.num_rows
        if not num_test:
            raise DataError(
                f"{test_source.label}: found no rows, expected at least one to test on."
            )
        all_test = SplitPlan(num_test, num_valid=0, num_test=num_test, seed=ctx.seed)
        Dealing.of("test", schema, pieces, all_test, num_sampled=0, **shared).run(ctx)
    codec = _fit_codec(cfg.codec, schema, *dealing.sample(ctx))
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
        tokens_per_record=codec.tokens_per_record,
        vocab_size=codec.vocab_size,
    )


def _decide(data: DataConfig, source: Source, profile: Any, declared: Any) -> Schema:
    """The schema of profiled records."""
    from difflm_core.data.inference import decide_schema
    from difflm_core.data.json_schema import decide_document_schema

    if data.kind != "table":
        return decide_document_schema(source, profile, declared=declared, target=data.target)
    return decide_schema(source, profile, target=data.target, declared=declared)


def _fit_codec(cfg: CodecConfig, schema: Schema, sample: pa.Table, values: pa.Table) -> AnyCodec:
    """Fit the codec of the records to a sample of them."""
    from difflm_core.codec.fields import CodecOptions
    from difflm_core.codec.records import RecordCodec
    from difflm_core.codec.text import TextCodec, TextCodecOptions
    from difflm_core.codec.text_tokenizer import TokenizerSource
    from difflm_core.data.schema import DataKind

    if schema.data_kind is not DataKind.TABLE:
        source = TokenizerSource(cfg.tokenizer, cfg.tokenizer_revision) if cfg.tokenizer else None
        options = TextCodecOptions(
            cfg.document_vocab_size, cfg.max_document_tokens, cfg.code_rules, cfg.code_grammar
        )
        return TextCodec.fit(schema, sample, options, source)
    options = CodecOptions(
        digit_base=cfg.digit_base,
        max_value_tokens=cfg.max_value_tokens,
        max_text_tokens=cfg.max_text_tokens,
        text_vocab_size=cfg.text_vocab_size,
    )
    return RecordCodec.fit(schema, sample, options, values)


def open_records(cfg: DataConfig) -> Source:
    """Open the records of a run."""
    if not cfg.source:
        raise ConfigError(
            "data.source is missing. Expected a path, a glob or a URI of CSV, TSV, JSONL or "
            "Parquet files."
        )
    return _open(cfg, cfg.source)


def _open(cfg: DataConfig, uri: str) -> Source:
    from difflm_core.data.documents import open_documents
    from difflm_core.data.readers import open_source
    from difflm_core.data.schema import DataKind

    if cfg.kind != "table":
        return open_documents(uri, DataKind(cfg.kind), field=cfg.field)
    options: dict[str, Any] = {}
    if cfg.delimiter:
        options["delimiter"] = cfg.delimiter
    if cfg.column_names:
        options["column_names"] = list(cfg.column_names)
    return open_source(uri, **options)


def _declared(cfg: DataConfig) -> Any:
    """What is known of the schema: a `Schema`, or the JSON Schema of documents."""
    from difflm_core.data.json_schema import load_document_schema
    from difflm_core.data.schema import Schema

    if not cfg.schema_path:
        return None
    if cfg.kind != "table":
        return load_document_schema(cfg.schema_path)
    return Schema.load(cfg.schema_path)


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


def _sources(cfg: SerializeConfig) -> list[str]:
    return [uri for uri in (cfg.data.source, cfg.data.test_source, cfg.data.schema_path) if uri]


STAGE = Stage(serialize, version=3, sources=_sources)
