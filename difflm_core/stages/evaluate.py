"""Stage 6: how good and how private the synthetic records are: report.html, .json and .md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from difflm_core.artifacts import Corpus, EvaluationReport, SyntheticData
from difflm_core.config import EvaluateConfig
from difflm_core.stage import Stage, StageContext
from difflm_core.stages.corpus import load_schema, read_split

if TYPE_CHECKING:
    import pyarrow as pa


def evaluate(
    ctx: StageContext, cfg: EvaluateConfig, corpus: Corpus, synthetic: SyntheticData
) -> EvaluationReport:
    """Score the synthetic records against training and test records."""
    from difflm_core.evaluation import evaluate as score
    from difflm_core.evaluation import write_report
    from difflm_core.evaluation.protocol import NUM_PARTS

    schema = load_schema(corpus)
    with ctx.progress.track("Evaluating", total=NUM_PARTS, unit="parts") as bar:
        evaluation = score(
            read_synthetic(synthetic),
            read_split(corpus, "train", schema),
            read_split(corpus, "test", schema),
            schema,
            valid=read_split(corpus, "valid", schema),
            scorer=cfg.scorer,
            seed=cfg.seed,
            num_rejected=synthetic.manifest.summary["num_rejected"],
            categorical=cfg.categorical,
            sample_rows=cfg.max_rows,
            on_part=lambda part: bar.advance(1),
        )
    # Durations differ between equal runs, so they are an event and not part of the report.
    ctx.progress.event("evaluated", seconds=evaluation.seconds)
    with ctx.output.folder() as folder:
        write_report(evaluation, folder)
    return ctx.finish(EvaluationReport, **headline(evaluation.to_dict()))


def read_synthetic(synthetic: SyntheticData) -> pa.Table:
    """All synthetic records in canonical types."""
    import pyarrow as pa

    from difflm_core.data.documents import open_documents
    from difflm_core.data.readers import open_source
    from difflm_core.data.schema import DataKind

    schema = load_schema(synthetic)
    names = [e.path for e in synthetic.manifest.files if e.path.startswith("part-")]
    uris = [synthetic.path(name) for name in names]
    if schema.data_kind is DataKind.TABLE:
        source = open_source(uris)
    else:
        source = open_documents(uris, schema.data_kind)
    return pa.Table.from_batches(source.canonical_batches(schema), schema=schema.arrow_schema)


def headline(report: dict[str, Any]) -> dict[str, Any]:
    """The figures that a person looks at first; those that were not computed are left out."""
    paths = {
        "utility_real": ("utility", "real"),
        "utility_synthetic": ("utility", "synthetic"),
        "shape_error_percent": ("fidelity", "shape_error"),
        "trend_error_percent": ("fidelity", "trend_error"),
        "report_trend_error_percent": ("fidelity", "report_trend_error"),
        "two_sample_auc": ("detection", "auc"),
        "invalid_rows": ("validity", "num_invalid_rows"),
        "exact_copy_rate": ("privacy", "copies", "exact_rate"),
        "holdout_copy_rate": ("privacy", "copies", "holdout_exact_rate"),
    }
    found: dict[str, Any] = {}
    for name, path in paths.items():
        value: Any = report
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found[name] = round(value, 4) if isinstance(value, float) else value
    return found


STAGE = Stage(evaluate, version=2)
