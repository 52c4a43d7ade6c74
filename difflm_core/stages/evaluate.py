"""Stage 6: how good and how private the synthetic records are: report.html, .json and .md."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from difflm_core import storage
from difflm_core.artifacts import Corpus, EvaluationReport, SyntheticData
from difflm_core.config import EvaluateConfig
from difflm_core.stage import Stage, StageContext
from difflm_core.stages.corpus import REJECTIONS_FILE, load_schema, read_split

if TYPE_CHECKING:
    import pyarrow as pa


def evaluate(
    ctx: StageContext, cfg: EvaluateConfig, corpus: Corpus, synthetic: SyntheticData
) -> EvaluationReport:
    """Score the synthetic records against training and test records."""
    from difflm_core.data.schema import DataKind
    from difflm_core.evaluation import evaluate as score
    from difflm_core.evaluation import write_report
    from difflm_core.evaluation.documents.protocol import NUM_DOCUMENT_PARTS
    from difflm_core.evaluation.protocol import NUM_PARTS

    schema = load_schema(corpus)
    num_parts = NUM_PARTS if schema.data_kind is DataKind.TABLE else NUM_DOCUMENT_PARTS
    with ctx.progress.track("Evaluating", total=num_parts, unit="parts") as bar:
        evaluation = score(
            read_synthetic(synthetic),
            read_split(corpus, "train", schema),
            read_split(corpus, "test", schema),
            schema,
            valid=read_split(corpus, "valid", schema),
            scorer=cfg.scorer,
            seed=cfg.seed,
            num_rejected=synthetic.manifest.summary["num_rejected"],
            rejected=_by_reason(synthetic),
            categorical=cfg.categorical,
            sample_rows=cfg.max_rows,
            on_part=lambda part: bar.advance(1),
        )
    # Durations differ between equal runs, so they are an event and not part of the report.
    ctx.progress.event("evaluated", seconds=evaluation.seconds)
    with ctx.output.folder() as folder:
        write_report(evaluation, folder)
    return ctx.finish(EvaluationReport, **headline(evaluation.to_dict()))


def _by_reason(synthetic: SyntheticData) -> dict[str, int]:
    """Tries that generation rejected, by reason, over all columns."""
    found: dict[str, int] = {}
    ledger: dict[str, dict[str, int]] = json.loads(
        storage.read_text(synthetic.path(REJECTIONS_FILE))
    )
    for reasons in ledger.values():
        for reason, count in reasons.items():
            found[reason] = found.get(reason, 0) + count
    return found


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
    paths: dict[str, tuple[str, ...]] = {
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
    if report.get("documents"):
        paths = _DOCUMENT_PATHS
    found: dict[str, Any] = {}
    for name, path in paths.items():
        value: Any = report
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found[name] = round(value, 4) if isinstance(value, float) else value
    return found


_DOCUMENT_PATHS: dict[str, tuple[str, ...]] = {
    "invalid_documents": ("documents", "validity", "num_invalid"),
    "bits_per_character_real": ("documents", "language", "real"),
    "bits_per_character_synthetic": ("documents", "language", "synthetic"),
    "bits_per_character_both": ("documents", "language", "both"),
    "text_auc": ("documents", "detection", "auc"),
    "shape_error_percent": ("fidelity", "shape_error"),
    "holdout_shape_error_percent": ("fidelity", "holdout_shape_error"),
    "trend_error_percent": ("fidelity", "trend_error"),
    "diversity": ("documents", "spread", "diversity"),
    "real_diversity": ("documents", "spread", "real_diversity"),
    "average_similarity": ("documents", "similarity", "score"),
    "real_average_similarity": ("documents", "holdout_similarity", "score"),
    "argument_share": ("documents", "arguments", "share"),
    "duplicate_share": ("documents", "repetition", "duplicate_share"),
    "copy_rate": ("documents", "repetition", "copy_rate"),
    "near_copy_rate": ("documents", "repetition", "near_copy_rate"),
    "holdout_near_copy_rate": ("documents", "repetition", "holdout_near_copy_rate"),
}


STAGE = Stage(evaluate, version=3)
