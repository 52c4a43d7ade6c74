"""Parts that evaluations of tables and of documents share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

from difflm_core.evaluation.fidelity import column_fidelity, mean_error, trend_errors
from difflm_core.evaluation.precision_recall import precision_recall
from difflm_core.evaluation.results import (
    ColumnSummary,
    DatasetSummary,
    Fidelity,
    NotComputableError,
    NotComputed,
)
from difflm_core.evaluation.tables import Prepared

OnPart = Callable[[str], None]
T = TypeVar("T")


class PartRunner:
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


def dataset_summary(
    prepared: Prepared,
    num_rows: Sequence[int],
    num_valid: int | None,
    num_rejected: int | None,
    sample_rows: int,
) -> DatasetSummary:
    """Sizes and roles of what is compared; `num_rows` of synthetic, training and test tables."""
    columns = tuple(
        ColumnSummary(column.name, column.kind.value, prepared.roles[column.name].value)
        for column in prepared.schema.columns
    )
    return DatasetSummary(
        num_synthetic=num_rows[0],
        num_train=num_rows[1],
        num_test=num_rows[2],
        num_valid=num_valid,
        num_rejected=num_rejected,
        num_synthetic_used=prepared.synthetic.num_rows,
        num_train_used=prepared.train.num_rows,
        num_test_used=prepared.test.num_rows,
        sample_rows=sample_rows,
        columns=columns,
    )


def fidelity_of(prepared: Prepared, seed: int, max_rows: int) -> Fidelity:
    """Shape and trend errors, precision and recall.

    Raises:
        NotComputableError: no column can be compared.
    """
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


def libraries() -> dict[str, str]:
    """Versions of the libraries that measure."""
    found: dict[str, str] = {}
    for name in ("sdmetrics", "xgboost", "xgboost-cpu", "lightgbm", "scikit-learn"):
        try:
            found[name.removesuffix("-cpu")] = version(name)
        except PackageNotFoundError:
            continue
    return found
