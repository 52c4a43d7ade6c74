"""Fidelity: are the columns, and the pairs of columns, distributed as in the real data?

Errors are 100 x (1 - SDMetrics score) against the training table, as in the TabSyn and TabDiff
papers. Shape: KSComplement for numbers, TVComplement for categories. Trend: CorrelationSimilarity
for two numbers, ContingencySimilarity otherwise (numbers in ten bins). All scores come from the
sdmetrics library itself.
"""

from __future__ import annotations

import itertools
import warnings
from typing import cast

import numpy as np
import pandas as pd
from sdmetrics.reports.single_table._properties import (  # the properties of its QualityReport
    ColumnPairTrends,
    ColumnShapes,
)

from difflm_core.evaluation.results import ColumnFidelity, PairFidelity
from difflm_core.evaluation.tables import Prepared, Role, Split, seeded_rows

MAX_TREND_PAIRS = 2000


def shape_errors(prepared: Prepared, split: Split) -> dict[str, tuple[float | None, str | None]]:
    """Shape error of each used column of `split` against the training table.

    Returns:
        Column name -> (error in percent, None) or (None, reason).
    """
    errors: dict[str, tuple[float | None, str | None]] = {}
    real, synthetic = prepared.frame(prepared.train), prepared.frame(split)
    computable: list[str] = []
    for name in prepared.used:
        if not real[name].notna().any():
            errors[name] = (None, "no value in the training table")
        elif not synthetic[name].notna().any():
            errors[name] = (100.0, None)  # real values, none of them generated
        else:
            computable.append(name)
    if computable:
        scores = _run(ColumnShapes(), prepared, real[computable], synthetic[computable], None)
        for name, score in zip(scores["Column"], scores["Score"], strict=True):
            errors[str(name)] = (_error(score), None)
    return {name: errors[name] for name in prepared.used}


def trend_errors(prepared: Prepared, split: Split, seed: int) -> list[PairFidelity]:
    """Trend error of the pairs of used columns of `split` against the training table.

    Pairs that have no defined score (a constant or empty column) carry the reason. At most
    `MAX_TREND_PAIRS` pairs, a seeded sample, are scored: a table of 200 columns has 19,900.
    """
    real, synthetic = prepared.frame(prepared.train), prepared.frame(split)
    pairs = list(itertools.combinations(prepared.used, 2))
    pairs = [pairs[i] for i in seeded_rows(len(pairs), MAX_TREND_PAIRS, seed)]
    results: list[PairFidelity] = []
    computable: list[tuple[str, str]] = []
    for first, second in pairs:
        reason = _pair_reason(prepared, real, synthetic, first, second)
        if reason is None:
            computable.append((first, second))
        else:
            results.append(
                PairFidelity(first, second, _pair_metric(prepared, first, second), None, reason)
            )
    if computable:
        table = _run(ColumnPairTrends(), prepared, real, synthetic, computable)
        rows = zip(table["Column 1"], table["Column 2"], table["Metric"], table["Score"])
        for first, second, metric, score in rows:
            error = _error(score)
            reason = None if error is not None else "undefined (no rows with both values)"
            results.append(PairFidelity(str(first), str(second), str(metric), error, reason))
    order = {pair: index for index, pair in enumerate(pairs)}
    return sorted(results, key=lambda result: order[(result.first, result.second)])


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
        if not real[name].notna().any() or not synthetic[name].notna().any():
            return f"{name} has no values"
    if _pair_metric(prepared, first, second) == "CorrelationSimilarity":
        for name in (first, second):
            if real[name].nunique() < 2 or synthetic[name].nunique() < 2:
                return f"{name} is constant, correlation is undefined"
        for frame in (real, synthetic):
            if len(frame[[first, second]].dropna()) < 2:
                return "fewer than two rows with both values"
    return None


def _run(
    prop: ColumnShapes | ColumnPairTrends,
    prepared: Prepared,
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    pairs: list[tuple[str, str]] | None,
) -> pd.DataFrame:
    metadata = {
        "columns": {
            name: {"sdtype": str(prepared.roles[str(name)])} for name in real.columns.astype(str)
        }
    }
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if pairs is None:
            return cast(pd.DataFrame, prop._generate_details(real, synthetic, metadata))
        return cast(
            pd.DataFrame, prop._generate_details(real, synthetic, metadata, column_pairs=pairs)
        )


def _error(score: object) -> float | None:
    value = float(cast(float, score))
    return None if np.isnan(value) else float(np.clip(100.0 * (1.0 - value), 0.0, 100.0))
