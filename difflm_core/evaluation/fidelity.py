"""Fidelity: are the columns, and the pairs of columns, distributed as in the real data?

Errors are 100 x (1 - SDMetrics score) against the training table, as in the TabSyn and TabDiff
papers. Shape: KSComplement for numbers, TVComplement for categories. Trend: CorrelationSimilarity
for two numbers, ContingencySimilarity otherwise, numbers in ten equal bins. All scores come from
the sdmetrics library itself.

The bins are those of the real column for both tables, as ContingencySimilarity makes them. The
QualityReport of SDMetrics, which the papers print, bins each table over its own range: one other
extreme value then moves an edge through the mass of a column, and two draws of one distribution
differ by half their rows. That figure is given beside ours, as `report_error`.
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
from sdmetrics.utils import discretize_column

from difflm_core.evaluation.results import ColumnFidelity, PairFidelity
from difflm_core.evaluation.tables import Prepared, Role, Split, seeded_rows

MAX_TREND_PAIRS = 2000

_Columns = tuple[pd.Series, pd.Series]  # one column, real and synthetic


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
    tables = _Pairable(prepared, split)
    pairs = list(itertools.combinations(prepared.used, 2))
    pairs = [pairs[i] for i in seeded_rows(len(pairs), MAX_TREND_PAIRS, seed)]
    results: list[PairFidelity] = []
    for first, second in pairs:
        metric = tables.metric(first, second)
        reason = tables.problem(first, second)
        error = report_error = None
        if reason is None:
            error, report_error = tables.errors(first, second)
            reason = None if error is not None else "undefined (no spread in the rows with both)"
        results.append(PairFidelity(first, second, metric, error, report_error, reason))
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


class _Pairable:
    """The training table and a split as pairs of columns, each number binned once."""

    def __init__(self, prepared: Prepared, split: Split) -> None:
        self.roles = prepared.roles
        self.real = prepared.frame(prepared.train)
        self.synthetic = prepared.frame(split)
        self._real_bins: dict[str, _Columns] = {}
        self._own_bins: dict[str, _Columns] = {}

    def metric(self, first: str, second: str) -> str:
        both = {self.roles[first], self.roles[second]}
        return "CorrelationSimilarity" if both == {Role.NUMERICAL} else "ContingencySimilarity"

    def problem(self, first: str, second: str) -> str | None:
        """Why a pair has no score, or None."""
        frames = (self.real, self.synthetic)
        for name in (first, second):
            if not all(_has_values(frame, name) for frame in frames):
                return f"{name} has no values"
        if self.metric(first, second) == "CorrelationSimilarity":
            for name in (first, second):
                if any(_num_values(frame, name) < 2 for frame in frames):
                    return f"{name} is constant, correlation is undefined"
            if any(len(frame[[first, second]].dropna()) < 2 for frame in frames):
                return "fewer than two rows with both values"
        return None

    def errors(self, first: str, second: str) -> tuple[float | None, float | None]:
        """Trend error with the real column's bins, and with each table's own."""
        if self.metric(first, second) == "CorrelationSimilarity":
            pair = [_pair(frame, first, second) for frame in (self.real, self.synthetic)]
            error = _score(CorrelationSimilarity, pair[0], pair[1])
            return error, error
        error = self._contingency([self._column(name) for name in (first, second)])
        if self.roles[first] is self.roles[second]:
            return error, error
        return error, self._contingency([self._report_column(name) for name in (first, second)])

    def _contingency(self, columns: Sequence[_Columns]) -> float | None:
        tables = [pd.concat(both, axis=1) for both in zip(*columns, strict=True)]
        return _score(ContingencySimilarity, tables[0], tables[1])

    def _column(self, name: str) -> _Columns:
        columns = _series(self.real, name), _series(self.synthetic, name)
        if self.roles[name] is not Role.NUMERICAL:
            return columns
        if name not in self._real_bins:
            real, synthetic = discretize_column(*columns)
            self._real_bins[name] = pd.Series(real, name=name), pd.Series(synthetic, name=name)
        return self._real_bins[name]

    def _report_column(self, name: str) -> _Columns:
        columns = _series(self.real, name), _series(self.synthetic, name)
        if self.roles[name] is not Role.NUMERICAL:
            return columns
        if name not in self._own_bins:
            self._own_bins[name] = _own_bins(columns[0]), _own_bins(columns[1])
        return self._own_bins[name]


def _own_bins(values: pd.Series) -> pd.Series:
    """Ten equal bins over the values' own range, as SDMetrics' QualityReport makes them."""
    edges = np.histogram_bin_edges(values.dropna())
    return pd.Series(np.digitize(values, edges), name=values.name)


def _score(metric: Any, real: pd.DataFrame, synthetic: pd.DataFrame) -> float | None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return _error(metric.compute(real, synthetic))


def _pair(table: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    return cast(pd.DataFrame, table[[first, second]])


def _series(table: pd.DataFrame, name: str) -> pd.Series:
    return cast(pd.Series, table[name])


def _has_values(table: pd.DataFrame, name: str) -> bool:
    return bool(_series(table, name).notna().any())


def _num_values(table: pd.DataFrame, name: str) -> int:
    return int(_series(table, name).nunique())


def _error(score: object) -> float | None:
    value = float(cast(float, score))
    return None if np.isnan(value) else float(np.clip(100.0 * (1.0 - value), 0.0, 100.0))
