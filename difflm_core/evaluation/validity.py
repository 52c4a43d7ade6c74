"""Validity and diversity: impossible values, and values or rows that repeat or went missing."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from difflm_core.data.identifiers import IdentifierPattern
from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.evaluation.privacy import hash_rows
from difflm_core.evaluation.results import (
    ColumnDiversity,
    ColumnValidity,
    Diversity,
    NotComputableError,
    Validity,
)
from difflm_core.evaluation.tables import NUMERICAL_KINDS, pc, to_labels, to_numbers

RARE_SHARE = 0.01
MAX_NAMED_CATEGORIES = 100_000

Mask = NDArray[np.bool_]


def validity(
    synthetic: pa.Table,
    train: pa.Table,
    schema: Schema,
    wrong_type: Mapping[str, int],
    num_rejected: int | None,
) -> Validity:
    """Check every synthetic value against the schema and the training table.

    A value is invalid if it is of the wrong type, missing where the training table never is,
    outside the declared (else the training) range, a category that training lacks, or an
    identifier that breaks its pattern or repeats. Unseen values of free text are not invalid.
    """
    invalid = np.zeros(synthetic.num_rows, dtype=np.bool_)
    columns: list[ColumnValidity] = []
    for column in schema.columns:
        made, real = synthetic.column(column.name), train.column(column.name)
        null = _mask(pc.is_null(made))
        absent = null if real.null_count == 0 and not column.nullable else np.zeros_like(null)
        out_of_range = _out_of_range(made, real, column)
        unseen = _unseen(made, real, column)
        bad_pattern, repeated = _bad_identifier(made, column)
        wrong = wrong_type.get(column.name, 0)
        num_absent = int(absent.sum())
        for mask in (absent, out_of_range, unseen, bad_pattern, repeated):
            invalid |= mask
        if wrong:
            invalid |= null  # a value of the wrong type has become missing
        columns.append(
            ColumnValidity(
                name=column.name,
                num_wrong_type=wrong,
                num_missing_not_allowed=max(0, num_absent - wrong),
                num_out_of_range=int(out_of_range.sum()),
                num_unseen_category=int(unseen.sum()),
                num_bad_pattern=int(bad_pattern.sum()),
                num_duplicate_identifier=int(repeated.sum()),
            )
        )
    rate = None
    if num_rejected is not None:
        rate = num_rejected / max(1, num_rejected + synthetic.num_rows)
    return Validity(
        num_rows=synthetic.num_rows,
        num_invalid_rows=int(invalid.sum()),
        columns=tuple(columns),
        num_rejected=num_rejected,
        rejection_rate=rate,
    )


def diversity(synthetic: pa.Table, train: pa.Table, test: pa.Table, schema: Schema) -> Diversity:
    """Repeated rows, and the share of real categories (common and rare) that were generated.

    Raises:
        NotComputableError: the table has only identifiers and constants.
    """
    if all(c.kind in (ColumnKind.IDENTIFIER, ColumnKind.CONSTANT) for c in schema.columns):
        raise NotComputableError("the table has only identifiers and constants")
    columns = [
        _column_diversity(synthetic.column(column.name), train.column(column.name), column)
        for column in schema.columns
        if column.kind not in (ColumnKind.IDENTIFIER, ColumnKind.CONSTANT, ColumnKind.TEXT)
    ]
    size = min(table.num_rows for table in (synthetic, train, test))
    rates = [duplicate_rate(hash_rows(table, schema)[:size]) for table in (synthetic, train, test)]
    return Diversity(
        duplicate_rate=rates[0],
        train_duplicate_rate=rates[1],
        holdout_duplicate_rate=rates[2],
        category_coverage=_mean([column.coverage for column in columns]),
        rare_category_coverage=_mean([column.rare_coverage for column in columns]),
        mean_entropy_ratio=_mean([column.entropy_ratio for column in columns]),
        columns=tuple(columns),
    )


def duplicate_rate(hashes: NDArray[np.uint64]) -> float:
    """Share of rows that repeat an earlier row."""
    return 1.0 - len(np.unique(hashes)) / len(hashes) if len(hashes) else 0.0


def _column_diversity(
    made: pa.ChunkedArray, real: pa.ChunkedArray, column: Column
) -> ColumnDiversity:
    if column.kind in NUMERICAL_KINDS:
        return ColumnDiversity(column.name, None, None, None, _range_coverage(made, real), None)
    real_counts, made_counts = _counts(real), _counts(made)
    if not real_counts or len(real_counts) > MAX_NAMED_CATEGORIES:
        return ColumnDiversity(column.name, len(real_counts), None, None, None, None)
    total = sum(real_counts.values())
    rare = [label for label, count in real_counts.items() if count < RARE_SHARE * total]
    covered = sum(label in made_counts for label in real_counts) / len(real_counts)
    rare_covered = sum(label in made_counts for label in rare) / len(rare) if rare else None
    entropy = _entropy(real_counts)
    ratio = _entropy(made_counts) / entropy if entropy > 0 else None
    return ColumnDiversity(column.name, len(real_counts), covered, rare_covered, None, ratio)


def _counts(values: pa.ChunkedArray) -> dict[str, int]:
    counted = pc.value_counts(to_labels(values).drop_null())
    return {item["values"]: item["counts"] for item in counted.to_pylist()}


def _entropy(counts: Mapping[str, int]) -> float:
    shares = np.array(list(counts.values()), dtype=np.float64)
    if shares.sum() == 0:
        return 0.0
    shares = shares / shares.sum()
    return float(-(shares * np.log(shares)).sum())


def _range_coverage(made: pa.ChunkedArray, real: pa.ChunkedArray) -> float | None:
    """Share of the real range that the synthetic values span."""
    ours, theirs = to_numbers(made), to_numbers(real)
    ours, theirs = ours[~np.isnan(ours)], theirs[~np.isnan(theirs)]
    if len(theirs) == 0 or np.ptp(theirs) == 0:
        return None
    if len(ours) == 0:
        return 0.0
    overlap = min(ours.max(), theirs.max()) - max(ours.min(), theirs.min())
    return float(np.clip(overlap / np.ptp(theirs), 0.0, 1.0))


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _mask(values: pa.ChunkedArray | pa.Array) -> Mask:
    return np.array(pc.fill_null(values, False).to_numpy(zero_copy_only=False), dtype=np.bool_)


def _out_of_range(made: pa.ChunkedArray, real: pa.ChunkedArray, column: Column) -> Mask:
    if column.kind not in NUMERICAL_KINDS:
        return np.zeros(len(made), dtype=np.bool_)
    values, known = to_numbers(made), to_numbers(real)
    known = known[~np.isnan(known)]
    low = _bound(column, column.minimum)
    high = _bound(column, column.maximum)
    if low is None and len(known):
        low = float(known.min())
    if high is None and len(known):
        high = float(known.max())
    outside = np.zeros(len(made), dtype=np.bool_)
    tolerance = 1e-9
    if low is not None:
        outside |= values < low - tolerance * max(1.0, abs(low))
    if high is not None:
        outside |= values > high + tolerance * max(1.0, abs(high))
    return outside


def _bound(column: Column, bound: float | str | None) -> float | None:
    """A declared bound in the unit of `to_numbers`; None if there is none or it cannot be read."""
    if bound is None:
        return None
    if not isinstance(bound, str):
        return float(bound)
    try:
        if column.kind is ColumnKind.DATE:
            value: object = datetime.date.fromisoformat(bound[:10])
        elif column.kind is ColumnKind.TIME:
            value = datetime.time.fromisoformat(bound)
        elif column.kind is ColumnKind.DATETIME:
            value = datetime.datetime.fromisoformat(bound).replace(tzinfo=None)
        else:
            return float(bound)
    except ValueError:
        return None
    return float(to_numbers(pa.chunked_array([pa.array([value], column.arrow_type)]))[0])


def _unseen(made: pa.ChunkedArray, real: pa.ChunkedArray, column: Column) -> Mask:
    if column.kind not in (ColumnKind.CATEGORICAL, ColumnKind.BOOLEAN, ColumnKind.CONSTANT):
        return np.zeros(len(made), dtype=np.bool_)
    labels, known = to_labels(made), pc.unique(to_labels(real).drop_null())
    unseen = pc.invert(pc.is_in(labels, value_set=known))
    return _mask(pc.and_(unseen, pc.is_valid(labels)))


def _bad_identifier(made: pa.ChunkedArray, column: Column) -> tuple[Mask, Mask]:
    """Masks of identifiers that break their pattern, and of repeats of an earlier one."""
    clean = np.zeros(len(made), dtype=np.bool_)
    if column.kind is not ColumnKind.IDENTIFIER:
        return clean, clean
    values: list[str | None] = made.to_pylist()
    bad = clean
    if column.pattern is not None:
        matching = IdentifierPattern.parse(column.pattern).matches(made.combine_chunks())
        bad = _mask(pc.and_(pc.invert(matching), pc.is_valid(made.combine_chunks())))
    seen: set[str] = set()
    repeated = clean.copy()
    for row, value in enumerate(values):
        if value is not None and value in seen:
            repeated[row] = True
        elif value is not None:
            seen.add(value)
    return bad, repeated
