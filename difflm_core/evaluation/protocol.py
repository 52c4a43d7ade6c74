"""The protocol: which rows each metric sees, in which order, and what is left out why."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

import pyarrow as pa

from difflm_core.data.schema import Schema
from difflm_core.errors import ConfigError, DataError
from difflm_core.evaluation.detection import detect
from difflm_core.evaluation.fidelity import column_fidelity, mean_error, trend_errors
from difflm_core.evaluation.figures import add_figures
from difflm_core.evaluation.paper import add_paper_scores
from difflm_core.evaluation.precision_recall import precision_recall
from difflm_core.evaluation.privacy import privacy
from difflm_core.evaluation.results import (
    REPORT_FORMAT_VERSION,
    ColumnSummary,
    DatasetSummary,
    Evaluation,
    Fidelity,
    FigureData,
    NotComputableError,
    NotComputed,
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

OnPart = Callable[[str], None]
T = TypeVar("T")


class _Run:
    """Runs the parts of an evaluation: reports progress, times, turns refusals into reasons."""

    def __init__(self, on_part: OnPart | None) -> None:
        self.seconds: dict[str, float] = {}
        self._on_part = on_part

    def part(self, name: str, compute: Callable[[], T]) -> T | NotComputed:
        """Run one part; a metric that is undefined on this data becomes `NotComputed`."""
        start = time.perf_counter()
        try:
            return compute()
        except NotComputableError as reason:
            return NotComputed(str(reason))
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 3)
            if self._on_part is not None:
                self._on_part(name)


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
    categorical: Sequence[str] = (),
    sample_rows: int = DEFAULT_SAMPLE_ROWS,
    num_seeds: int = 3,
    on_part: OnPart | None = None,
) -> Evaluation:
    """Score a synthetic table against the real one it was learned from.

    Args:
        synthetic: generated rows, canonical types (other types are cast, failures counted).
        train: the real rows that the generator learned from.
        test: real rows that it never saw.
        schema: columns, kinds and the target of the downstream task.
        valid: rows that the generator used for early stopping; only their number is reported.
        scorer: "strict" (headline), "paper" (the TabSyn/DiffLM protocol) or "both".
        seed: seed of every sample, fold and refit.
        num_rejected: rows that generation had to throw away, for the report.
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
    run = _Run(on_part)
    figures = FigureData()
    dataset = _dataset(
        prepared, [synthetic_full, train_full, test_full], valid, num_rejected, sample_rows
    )
    fidelity = run.part("fidelity", lambda: _fidelity(prepared, seed, sample_rows))
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
        libraries=_libraries(),
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


def _dataset(
    prepared: Prepared,
    tables: list[pa.Table],
    valid: pa.Table | None,
    num_rejected: int | None,
    sample_rows: int,
) -> DatasetSummary:
    columns = tuple(
        ColumnSummary(column.name, column.kind.value, prepared.roles[column.name].value)
        for column in prepared.schema.columns
    )
    return DatasetSummary(
        num_synthetic=tables[0].num_rows,
        num_train=tables[1].num_rows,
        num_test=tables[2].num_rows,
        num_valid=valid.num_rows if valid is not None else None,
        num_rejected=num_rejected,
        num_synthetic_used=prepared.synthetic.num_rows,
        num_train_used=prepared.train.num_rows,
        num_test_used=prepared.test.num_rows,
        sample_rows=sample_rows,
        columns=columns,
    )


def _fidelity(prepared: Prepared, seed: int, max_rows: int) -> Fidelity:
    if not prepared.used:
        raise NotComputableError("no numerical or categorical column")
    columns = column_fidelity(prepared)
    pairs = trend_errors(prepared, prepared.synthetic, seed)
    floor = trend_errors(prepared, prepared.test, seed)
    num_used = len(prepared.used)
    try:
        quality = precision_recall(prepared, seed, max_rows=max_rows)
    except NotComputableError as reason:
        quality = NotComputed(str(reason))
    return Fidelity(
        shape_error=mean_error([column.shape_error for column in columns]),
        trend_error=mean_error([pair.trend_error for pair in pairs]),
        report_trend_error=mean_error([pair.report_error for pair in pairs]),
        holdout_shape_error=mean_error([column.holdout_shape_error for column in columns]),
        holdout_trend_error=mean_error([pair.trend_error for pair in floor]),
        holdout_report_trend_error=mean_error([pair.report_error for pair in floor]),
        columns=columns,
        pairs=tuple(pairs),
        num_pairs_total=num_used * (num_used - 1) // 2,
        precision_recall=quality,
    )


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


def _libraries() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("sdmetrics", "xgboost", "xgboost-cpu", "lightgbm", "scikit-learn"):
        try:
            found[name.removesuffix("-cpu")] = version(name)
        except PackageNotFoundError:
            continue
    return found
