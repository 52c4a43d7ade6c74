"""The protocol: which rows each metric sees, in which order, and what is left out why."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from difflm_core.data.schema import DataKind, Schema
from difflm_core.errors import ConfigError, DataError
from difflm_core.evaluation.detection import detect
from difflm_core.evaluation.documents.protocol import evaluate_documents
from difflm_core.evaluation.figures import add_figures
from difflm_core.evaluation.paper import add_paper_scores
from difflm_core.evaluation.parts import OnPart, PartRunner, dataset_summary, fidelity_of, libraries
from difflm_core.evaluation.privacy import privacy
from difflm_core.evaluation.results import (
    REPORT_FORMAT_VERSION,
    Evaluation,
    FigureData,
    NotComputableError,
    Utility,
)
from difflm_core.evaluation.tables import (
    Prepared,
    conform,
    decide_roles,
    prepare,
    sample_table,
)
from difflm_core.evaluation.utility import strict_utility
from difflm_core.evaluation.validity import diversity, validity
from difflm_core.evaluation.verdict import judge

SCORERS = ("strict", "paper", "both")
DEFAULT_SAMPLE_ROWS = 50_000
NUM_PARTS = 6


def evaluate(
    synthetic: pa.Table,
    train: pa.Table,
    test: pa.Table,
    schema: Schema,
    *,
    valid: pa.Table | None = None,
    scorer: str = "strict",
    seed: int = 0,
    num_rejected: int | None = None,
    rejected: Mapping[str, int] | None = None,
    categorical: Sequence[str] = (),
    sample_rows: int = DEFAULT_SAMPLE_ROWS,
    num_seeds: int = 3,
    on_part: OnPart | None = None,
) -> Evaluation:
    """Score synthetic records against the real ones that they were learned from.

    Documents are compared as texts and as tables of features: see `evaluate_documents`.

    Args:
        synthetic: generated rows, canonical types (other types are cast, failures counted).
        train: the real rows that the generator learned from.
        test: real rows that it never saw.
        schema: columns, kinds and the target of the downstream task.
        valid: rows that the generator used for early stopping; only their number is reported.
        scorer: "strict" (headline), "paper" (the TabSyn/DiffLM protocol) or "both".
        seed: seed of every sample, fold and refit.
        num_rejected: rows that generation had to throw away, for the report.
        rejected: these by reason; of documents.
        categorical: numeric columns to be treated as categories, as the papers do for coded
            columns.
        sample_rows: the costly metrics see at most this many rows of each table (a seeded
            uniform sample); validity, duplicates and exact copies see every row.
        num_seeds: refits for the deviation of the utility figures.
        on_part: called with the name of each of the `NUM_PARTS` parts when it is done.

    Raises:
        ConfigError: unknown scorer, or a sample size below 1.
        DataError: a table lacks a column, is empty, or has values of the wrong type in the
            training or test table.
    """
    if schema.data_kind is not DataKind.TABLE:
        return evaluate_documents(
            synthetic,
            train,
            test,
            schema,
            num_valid=valid.num_rows if valid is not None else None,
            seed=seed,
            rejected=rejected,
            max_documents=sample_rows,
            on_part=on_part,
        )
    if scorer not in SCORERS:
        raise ConfigError(f"evaluation.scorer: found {scorer!r}, expected one of {SCORERS}")
    if sample_rows < 1:
        raise ConfigError(f"evaluation.sample_rows: found {sample_rows}, expected at least 1")
    synthetic_full, wrong_type, train_full, test_full = _conform_all(synthetic, train, test, schema)
    prepared = prepare(
        sample_table(synthetic_full, sample_rows, seed),
        sample_table(train_full, sample_rows, seed),
        sample_table(test_full, sample_rows, seed),
        schema,
        roles=decide_roles(schema, train_full, categorical),
    )
    run = PartRunner(on_part)
    figures = FigureData()
    num_rows = [table.num_rows for table in (synthetic_full, train_full, test_full)]
    num_valid = valid.num_rows if valid is not None else None
    dataset = dataset_summary(prepared, num_rows, num_valid, num_rejected, sample_rows)
    fidelity = run.part("fidelity", lambda: fidelity_of(prepared, seed, sample_rows))
    detection = run.part("detection", lambda: detect(prepared, seed, max_rows=sample_rows))
    utility = run.part("utility", lambda: _utility(prepared, scorer, seed, num_seeds, figures))
    privacy_result = run.part(
        "privacy",
        lambda: privacy(synthetic_full, train_full, test_full, prepared, seed, figures),
    )
    diversity_result = run.part(
        "diversity", lambda: diversity(synthetic_full, train_full, test_full, schema)
    )
    start = time.perf_counter()
    validity_result = validity(synthetic_full, train_full, schema, wrong_type, num_rejected)
    run.seconds["validity"] = round(time.perf_counter() - start, 3)
    run.part("figures", lambda: add_figures(figures, prepared))
    verdict = judge(fidelity, detection, utility, validity_result, privacy_result)
    return Evaluation(
        format_version=REPORT_FORMAT_VERSION,
        scorer=scorer,
        seed=seed,
        seconds=run.seconds,
        dataset=dataset,
        verdict=verdict,
        fidelity=fidelity,
        detection=detection,
        utility=utility,
        validity=validity_result,
        diversity=diversity_result,
        privacy=privacy_result,
        libraries=libraries(),
        figures=figures,
    )


def _conform_all(
    synthetic: pa.Table, train: pa.Table, test: pa.Table, schema: Schema
) -> tuple[pa.Table, dict[str, int], pa.Table, pa.Table]:
    made, wrong = conform(synthetic, schema, "synthetic")
    real: list[pa.Table] = []
    for what, table in (("training", train), ("test", test)):
        conformed, bad = conform(table, schema, what)
        for name, count in bad.items():
            if count:
                raise DataError(
                    f"evaluation: the {what} table has {count} values in column {name!r} that are "
                    f"not of its kind {schema.column(name).kind.value!r}; correct the schema"
                )
        real.append(conformed)
    for what, table in (("synthetic", made), ("training", real[0]), ("test", real[1])):
        if table.num_rows == 0:
            raise DataError(f"evaluation: the {what} table is empty; expected at least one row")
    return made, wrong, real[0], real[1]


def _utility(
    prepared: Prepared, scorer: str, seed: int, num_seeds: int, figures: FigureData
) -> Utility:
    result, curves = strict_utility(prepared, seed, num_seeds=num_seeds)
    figures.roc_curves.update(curves)
    if scorer == "strict":
        return result
    try:
        return add_paper_scores(result, prepared, seed)
    except NotComputableError as reason:
        return replace(result, notes=(*result.notes, str(reason)))
