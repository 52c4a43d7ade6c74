"""From canonical Arrow tables to the three forms the metrics need.

`prepare` decides once how each column is treated (its `Role`) and turns every split into float
arrays (missing = NaN) and integer codes over the union of categories (missing = -1), so that all
metrics see the same data in the same encoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc_module
from numpy.typing import NDArray

from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.errors import DataError

pc: Any = pc_module  # its functions are made at run time and have no stubs

Floats = NDArray[np.float64]
Codes = NDArray[np.int32]

NUMERICAL_KINDS = {
    ColumnKind.INTEGER,
    ColumnKind.FLOAT,
    ColumnKind.DATETIME,
    ColumnKind.DATE,
    ColumnKind.TIME,
}
CATEGORICAL_KINDS = {ColumnKind.CATEGORICAL, ColumnKind.BOOLEAN}


class Role(StrEnum):
    """How the metrics treat a column."""

    NUMERICAL = "numerical"
    CATEGORICAL = "categorical"
    IGNORED = "ignored"


@dataclass(frozen=True)
class Split:
    """One table as arrays: `numbers` per numerical column, `codes` per categorical column."""

    num_rows: int
    numbers: Mapping[str, Floats]
    codes: Mapping[str, Codes]

    def take(self, rows: NDArray[np.int64]) -> Split:
        """Return the given rows as a new split."""
        return Split(
            len(rows),
            {name: values[rows] for name, values in self.numbers.items()},
            {name: values[rows] for name, values in self.codes.items()},
        )


@dataclass(frozen=True)
class Prepared:
    """All splits in one encoding. Column order is the schema's."""

    schema: Schema
    roles: Mapping[str, Role]
    categories: Mapping[str, tuple[str, ...]]
    synthetic: Split
    train: Split
    test: Split

    @property
    def used(self) -> list[str]:
        """Columns that the metrics use, in order."""
        return [name for name, role in self.roles.items() if role is not Role.IGNORED]

    @property
    def numerical(self) -> list[str]:
        """Numerical columns, in order."""
        return [name for name, role in self.roles.items() if role is Role.NUMERICAL]

    @property
    def categorical(self) -> list[str]:
        """Categorical columns, in order."""
        return [name for name, role in self.roles.items() if role is Role.CATEGORICAL]

    def features(self, split: Split, exclude: str | None = None) -> pd.DataFrame:
        """Feature frame for tree learners: floats, and pandas categoricals over the union.

        Columns are called f0, f1, ... because the learners refuse some characters in names.
        """
        columns: dict[str, pd.Series | pd.Categorical] = {}
        names = [name for name in self.used if name != exclude]
        for index, name in enumerate(names):
            if self.roles[name] is Role.NUMERICAL:
                columns[f"f{index}"] = pd.Series(split.numbers[name])
            else:
                dtype = pd.CategoricalDtype(np.arange(len(self.categories[name])))
                columns[f"f{index}"] = pd.Categorical.from_codes(split.codes[name], dtype=dtype)
        return pd.DataFrame(columns, index=pd.RangeIndex(split.num_rows))

    def frame(self, split: Split) -> pd.DataFrame:
        """Frame with the real names for SDMetrics: floats, and object columns of category codes."""
        columns: dict[str, pd.Series] = {}
        for name in self.used:
            if self.roles[name] is Role.NUMERICAL:
                columns[name] = pd.Series(split.numbers[name])
            else:
                codes = split.codes[name]
                columns[name] = pd.Series(codes).astype("float64").where(codes >= 0)
        return pd.DataFrame(columns, index=pd.RangeIndex(split.num_rows))


def decide_roles(schema: Schema, train: pa.Table, categorical: Sequence[str]) -> dict[str, Role]:
    """Decide the role of each column.

    Numbers, dates and times are numerical, categories and booleans categorical; constants, texts
    and identifiers carry no distribution to compare and are ignored. The caller may name numeric
    columns to be treated as categorical (the papers do so for Beijing's year, month, day and hour
    and Default's codes). A numerical target of at most two distinct values is a class label.

    Raises:
        DataError: `categorical` names a column that the schema lacks.
    """
    unknown = [name for name in categorical if name not in schema.names]
    if unknown:
        raise DataError(
            f"evaluation: categorical columns {unknown} are not in the schema; "
            f"expected some of {list(schema.names)}"
        )
    roles: dict[str, Role] = {}
    for column in schema.columns:
        if column.kind in CATEGORICAL_KINDS:
            role = Role.CATEGORICAL
        elif column.kind in NUMERICAL_KINDS:
            role = Role.CATEGORICAL if column.name in categorical else Role.NUMERICAL
        else:
            role = Role.IGNORED
        if role is Role.NUMERICAL and column.name == schema.target:
            num_values = pc.count_distinct(train.column(column.name), mode="only_valid").as_py()
            role = Role.CATEGORICAL if num_values <= 2 else role
        roles[column.name] = role
    return roles


def to_numbers(values: pa.ChunkedArray) -> Floats:
    """Canonical numeric or temporal column as float64; dates in days, times in seconds.

    Missing is NaN; an infinity (which canonical data never has) is treated as missing.
    """
    kind = values.type
    if pa.types.is_date32(kind):
        values = values.cast(pa.int32())
    elif pa.types.is_timestamp(kind) or pa.types.is_time64(kind):
        values = values.cast(pa.int64())
    floats = values.cast(pa.float64(), safe=False)
    array = np.array(floats.to_numpy(), dtype=np.float64)
    if pa.types.is_timestamp(kind) or pa.types.is_time64(kind):
        array = array / 1e6
    array[~np.isfinite(array)] = np.nan
    return array


def to_labels(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Any canonical column as strings (booleans as true/false)."""
    return values if pa.types.is_string(values.type) else values.cast(pa.string())


def natural_key(label: str) -> tuple[int, float, str]:
    """Sort key that puts numeric labels in numeric order before all others."""
    try:
        number = float(label)
    except ValueError:
        return (1, 0.0, label)
    return (0, number, label) if np.isfinite(number) else (1, 0.0, label)


def encode(values: pa.ChunkedArray, categories: Sequence[str]) -> Codes:
    """Codes of the labels in `categories`, -1 for missing."""
    found = pc.index_in(to_labels(values), value_set=pa.array(categories, pa.string()))
    codes = np.array(pc.fill_null(found, -1).to_numpy(), dtype=np.int32)
    return codes


def seeded_rows(num_rows: int, limit: int, seed: int) -> NDArray[np.int64]:
    """Sorted indices of a uniform sample of at most `limit` rows."""
    if num_rows <= limit:
        return np.arange(num_rows, dtype=np.int64)
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(num_rows, size=limit, replace=False)).astype(np.int64)


def sample_table(table: pa.Table, limit: int, seed: int) -> pa.Table:
    """Uniform seeded sample of at most `limit` rows, in the original order."""
    if table.num_rows <= limit:
        return table
    return table.take(pa.array(seeded_rows(table.num_rows, limit, seed)))


def prepare(
    synthetic: pa.Table,
    train: pa.Table,
    test: pa.Table,
    schema: Schema,
    *,
    categorical: Sequence[str] = (),
    roles: Mapping[str, Role] | None = None,
) -> Prepared:
    """Encode the three tables (already in canonical types) with one set of categories."""
    decided = dict(roles) if roles is not None else decide_roles(schema, train, categorical)
    tables = (synthetic, train, test)
    categories: dict[str, tuple[str, ...]] = {}
    for name, role in decided.items():
        if role is Role.CATEGORICAL:
            labels: set[str] = set()
            for table in tables:
                labels.update(pc.unique(to_labels(table.column(name)).drop_null()).to_pylist())
            categories[name] = tuple(sorted(labels, key=natural_key))
    splits = [_split(table, decided, categories) for table in tables]
    return Prepared(schema, decided, categories, splits[0], splits[1], splits[2])


def _split(
    table: pa.Table, roles: Mapping[str, Role], categories: Mapping[str, tuple[str, ...]]
) -> Split:
    numbers: dict[str, Floats] = {}
    codes: dict[str, Codes] = {}
    for name, role in roles.items():
        if role is Role.NUMERICAL:
            numbers[name] = to_numbers(table.column(name))
        elif role is Role.CATEGORICAL:
            codes[name] = encode(table.column(name), categories[name])
    return Split(table.num_rows, numbers, codes)


def conform(table: pa.Table, schema: Schema, what: str) -> tuple[pa.Table, dict[str, int]]:
    """Bring a table into the schema's columns and canonical types.

    Returns:
        The table, and per column the number of values that were not of the column's type (they
        become missing).

    Raises:
        DataError: a column of the schema is not in the table.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise DataError(
            f"evaluation: the {what} table lacks the columns {missing}; "
            f"found {table.column_names}, expected {list(schema.names)}"
        )
    arrays: list[pa.ChunkedArray] = []
    wrong: dict[str, int] = {}
    for column in schema.columns:
        values, wrong[column.name] = _conform_column(table.column(column.name), column)
        arrays.append(values)
    return pa.table(arrays, names=list(schema.names)), wrong


def _conform_column(values: pa.ChunkedArray, column: Column) -> tuple[pa.ChunkedArray, int]:
    expected = column.arrow_type
    if column.kind is ColumnKind.CONSTANT:
        return to_labels(values) if not pa.types.is_null(values.type) else values, 0
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    if values.type == expected:
        return values, 0
    try:
        return values.cast(expected), 0
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    good: list[object] = []
    for value in values:
        try:
            good.append(value.cast(expected).as_py())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            good.append(None)
    repaired = pa.chunked_array([pa.array(good, expected)])
    return repaired, repaired.null_count - values.null_count
