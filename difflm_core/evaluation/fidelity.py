"""Fidelity: are the columns, and the pairs of columns, distributed as in the real data?

Errors are 100 x (1 - SDMetrics score) against the training table, as in the TabSyn and TabDiff
papers. Shape: KSComplement for numbers, TVComplement for categories. Trend: CorrelationSimilarity
for two numbers, ContingencySimilarity otherwise (numbers in ten bins). All scores come from the
sdmetrics library itself.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from sdmetrics.column_pairs import ContingencySimilarity, CorrelationSimilarity
from sdmetrics.single_column import KSComplement, TVComplement

from difflm_core.evaluation.results import ColumnFidelity, PairFidelity
from difflm_core.evaluation.tables import Prepared, Role, Split, seeded_rows

MAX_TREND_PAIRS = 2000

_Binned = list[tuple[pd.DataFrame, dict[str, pd.Series]]]  # tables, and their binned columns


def shape_errors(prepared: Prepared, split: Split) -> dict[str, tuple[float | None, str | None]]:
    """Shape error of each used column of `split` against the training table.

    Returns:
        Column name -> (error in percent, None) or (None, reason).
    """
    errors: dict[str, tuple[float | None, str | None]] = {}
    real, synthetic = prepared.frame(prepared.train), prepared.frame(split)
    for name in prepared.used:
        if not _has_values(real, name):
            errors[name] = (None, "no value in the training table")
        elif not _has_values(synthetic, name):
            errors[name] = (100.0, None)  # real values, none of them generated
        else:
            number = prepared.roles[name] is Role.NUMERICAL
            metric: Any = KSComplement if number else TVComplement
            errors[name] = (_error(metric.compute(real[name], synthetic[name])), None)
    return errors


def trend_errors(prepared: Prepared, split: Split, seed: int) -> list[PairFidelity]:
    """Trend error of the pairs of used columns of `split` against the training table.

    Pairs that have no defined score (a constant or empty column) carry the reason. At most
    `MAX_TREND_PAIRS` pairs, a seeded sample, are scored: a table of 200 columns has 19,900.
    """
    real, synthetic = prepared.frame(prepared.train), prepared.frame(split)
    pairs = list(itertools.combinations(prepared.used, 2))
    pairs = [pairs[i] for i in seeded_rows(len(pairs), MAX_TREND_PAIRS, seed)]
    binned: _Binned = [(real, {}), (synthetic, {})]
    results: list[PairFidelity] = []
    for first, second in pairs:
        metric = _pair_metric(prepared, first, second)
        reason = _pair_reason(prepared, real, synthetic, first, second)
        error = None
        if reason is None:
            error = _pair_error(prepared, (real, synthetic), binned, first, second)
            reason = None if error is not None else "undefined (no spread in the rows with both)"
        results.append(PairFidelity(first, second, metric, error, reason))
    return results


def mean_error(errors: list[float | None]) -> float | None:
    """Mean of the defined errors; None when none is."""
    values = [error for error in errors if error is not None]
    return float(np.mean(values)) if values else None


def column_fidelity(prepared: Prepared, holdout: bool = True) -> tuple[ColumnFidelity, ...]:
    """Shape error and missing rate of each used column, with the real holdout beside it."""
    errors = shape_errors(prepared, prepared.synthetic)
    floor = shape_errors(prepared, prepared.test) if holdout else {}
    results: list[ColumnFidelity] = []
    for name in prepared.used:
        error, reason = errors[name]
        number = prepared.roles[name] is Role.NUMERICAL
        results.append(
            ColumnFidelity(
                name=name,
                metric="KSComplement" if number else "TVComplement",
                shape_error=error,
                holdout_shape_error=floor.get(name, (None, None))[0],
                missing_rate_real=missing_rate(prepared, prepared.train, name),
                missing_rate_synthetic=missing_rate(prepared, prepared.synthetic, name),
                reason=reason,
            )
        )
    return tuple(results)


def missing_rate(prepared: Prepared, split: Split, name: str) -> float:
    """Share of missing values of a column, 0 for an empty table."""
    if split.num_rows == 0:
        return 0.0
    if prepared.roles[name] is Role.NUMERICAL:
        return float(np.isnan(split.numbers[name]).mean())
    return float((split.codes[name] < 0).mean())


def _pair_metric(prepared: Prepared, first: str, second: str) -> str:
    both = {prepared.roles[first], prepared.roles[second]}
    return "CorrelationSimilarity" if both == {Role.NUMERICAL} else "ContingencySimilarity"


def _pair_reason(
    prepared: Prepared, real: pd.DataFrame, synthetic: pd.DataFrame, first: str, second: str
) -> str | None:
    for name in (first, second):
        if not _has_values(real, name) or not _has_values(synthetic, name):
            return f"{name} has no values"
    if _pair_metric(prepared, first, second) == "CorrelationSimilarity":
        for name in (first, second):
            if _num_values(real, name) < 2 or _num_values(synthetic, name) < 2:
                return f"{name} is constant, correlation is undefined"
        for frame in (real, synthetic):
            if len(frame[[first, second]].dropna()) < 2:
                return "fewer than two rows with both values"
    return None


def _bins(values: pd.Series) -> pd.Series:
    """Ten equal bins over the values' own range, as SDMetrics' ColumnPairTrends makes them."""
    edges = np.histogram_bin_edges(values.dropna())
    return pd.Series(np.digitize(values, edges), index=values.index, name=values.name)


def _pair_error(
    prepared: Prepared, tables: Sequence[pd.DataFrame], binned: _Binned, first: str, second: str
) -> float | None:
    metric: Any = ContingencySimilarity
    if _pair_metric(prepared, first, second) == "CorrelationSimilarity":
        metric = CorrelationSimilarity
        pair = [table[[first, second]] for table in tables]
    elif prepared.roles[first] is prepared.roles[second]:
        pair = [table[[first, second]] for table in tables]
    else:
        columns = [[_column(prepared, t, b, n) for n in (first, second)] for t, b in binned]
        pair = [pd.concat(both, axis=1) for both in columns]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return _error(metric.compute(pair[0], pair[1]))


def _column(
    prepared: Prepared, table: pd.DataFrame, bins: dict[str, pd.Series], name: str
) -> pd.Series:
    number = prepared.roles[name] is Role.NUMERICAL
    if number and name not in bins:
        bins[name] = _bins(_series(table, name))
    return bins[name] if number else _series(table, name)


def _series(table: pd.DataFrame, name: str) -> pd.Series:
    return cast(pd.Series, table[name])


def _has_values(table: pd.DataFrame, name: str) -> bool:
    return bool(_series(table, name).notna().any())


def _num_values(table: pd.DataFrame, name: str) -> int:
    return int(_series(table, name).nunique())


def _error(score: object) -> float | None:
    value = float(cast(float, score))
    return None if np.isnan(value) else float(np.clip(100.0 * (1.0 - value), 0.0, 100.0))
