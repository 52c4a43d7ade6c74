"""The evaluation of a corpus of documents: as texts, and as tables of their features."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from difflm_core.data.schema import Schema
from difflm_core.errors import DataError
from difflm_core.evaluation.detection import detect
from difflm_core.evaluation.documents.embedding import Embedder
from difflm_core.evaluation.documents.features import feature_tables
from difflm_core.evaluation.documents.measures import (
    Corpora,
    document_features,
    measure_documents,
)
from difflm_core.evaluation.documents.results import DocumentFigures
from difflm_core.evaluation.documents.verdict import judge_documents
from difflm_core.evaluation.figures import add_figures
from difflm_core.evaluation.parts import (
    OnPart,
    PartRunner,
    dataset_summary,
    fidelity_of,
    libraries,
)
from difflm_core.evaluation.results import (
    REPORT_FORMAT_VERSION,
    Evaluation,
    FigureData,
    NotComputed,
)
from difflm_core.evaluation.tables import conform, prepare
from difflm_core.evaluation.validity import diversity, validity

# Documents of each side that the costly measures look at.
MAX_MEASURED = 5000
NUM_DOCUMENT_PARTS = 12
_OF_TEXTS = NotComputed("documents are compared as texts; see Documents")


def evaluate_documents(
    synthetic: pa.Table,
    train: pa.Table,
    test: pa.Table,
    schema: Schema,
    *,
    num_valid: int | None = None,
    seed: int = 0,
    rejected: Mapping[str, int] | None = None,
    max_documents: int = MAX_MEASURED,
    embed: Embedder | None = None,
    on_part: OnPart | None = None,
) -> Evaluation:
    """Score synthetic documents against the real ones that they were learned from.

    Args:
        synthetic: Generated documents, one text column.
        train: Documents that the generator learned from.
        test: Documents that it never saw.
        schema: Of the documents.
        num_valid: Documents used for early stopping.
        seed: Of every sample, fold and embedding.
        rejected: Tries that generation rejected, by reason.
        max_documents: The costly measures see at most so many of each side.
        embed: Embedding of documents; None: latent semantic analysis, fitted here.
        on_part: Called with the name of each part when it is done.

    Raises:
        DataError: a side has no documents.
    """
    sides = {"synthetic": synthetic, "training": train, "test": test}
    for name, table in sides.items():
        if not table.num_rows:
            raise DataError(f"evaluation: there are no {name} documents; expected at least one")
    run = PartRunner(on_part)
    limit = min(max_documents, MAX_MEASURED)
    # A missing document is an empty one, and as such invalid.
    texts = [[text or "" for text in table.column(0).to_pylist()] for table in sides.values()]
    corpora = Corpora(schema, *texts, seed=seed, max_documents=limit, embed=embed)
    shown = DocumentFigures()
    measures = measure_documents(corpora, rejected or {}, shown, run)
    feature_schema, tables = _features(corpora)
    prepared = prepare(tables[0], tables[1], tables[2], feature_schema)
    fidelity = run.part("fidelity", lambda: fidelity_of(prepared, seed, limit))
    detection = run.part("detection", lambda: detect(prepared, seed, max_rows=limit))
    made, real, held = tables
    spread = run.part("diversity", lambda: diversity(made, real, held, feature_schema))
    figures = FigureData()
    run.part("figures", lambda: add_figures(figures, prepared))
    num_rejected = sum((rejected or {}).values())
    return Evaluation(
        format_version=REPORT_FORMAT_VERSION,
        scorer="strict",
        seed=seed,
        seconds=run.seconds,
        dataset=dataset_summary(
            prepared, [t.num_rows for t in sides.values()], num_valid, num_rejected, limit
        ),
        verdict=judge_documents(measures, fidelity),
        fidelity=fidelity,
        detection=detection,
        utility=_OF_TEXTS,
        validity=validity(tables[0], tables[1], feature_schema, {}, num_rejected),
        diversity=spread,
        privacy=_OF_TEXTS,
        libraries=libraries(),
        documents=measures,
        figures=figures,
        document_figures=shown,
    )


def _features(corpora: Corpora) -> tuple[Schema, list[pa.Table]]:
    """The feature tables of synthetic, training and test documents."""
    sides = (corpora.synthetic, corpora.train, corpora.test)
    schema, tables = feature_tables([document_features(corpora.schema, side) for side in sides])
    return schema, [conform(table, schema, "features")[0] for table in tables]
