"""Column values as plain numbers, and back, without losing a digit.

Integers, dates, times and decimals live on a grid and become int64 multiples of its step; floats
of unlimited precision stay float64; categories become indices into their sorted list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from difflm_core.codec.ranks import EXACT_INTEGER, Numbers
from difflm_core.data.schema import Column, ColumnKind

# Grids a column of times may lie on, in microseconds: days, hours, minutes, seconds, milliseconds.
TIME_STEPS = (86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000, 1_000, 1)

_TIMES = (ColumnKind.DATETIME, ColumnKind.TIME)
_LISTED = (ColumnKind.CATEGORICAL,)


@dataclass(frozen=True)
class NumberForm:
    """How the values of one column are written as numbers.

    Attributes:
        column: The column.
        step: Grid step: microseconds for times, 1 otherwise.
        decimals: Decimal places of a float on a grid; None for a float without one.
        categories: Sorted categories; empty for other kinds.
    """

    column: Column
    step: int = 1
    decimals: int | None = None
    categories: tuple[str, ...] = ()

    @classmethod
    def fit(cls, column: Column, values: pa.Array) -> NumberForm:
        """Choose the form for `column` from its non-missing canonical `values`."""
        if column.kind in _LISTED:
            categories = sorted(pc.unique(values).to_pylist(), key=_category_key)
            return cls(column, categories=tuple(categories))
        if column.kind in _TIMES:
            ticks = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
            return cls(column, step=next(s for s in TIME_STEPS if not np.any(ticks % s)))
        if column.kind is ColumnKind.FLOAT and column.decimals is not None:
            numbers = values.to_numpy(zero_copy_only=False)
            largest = float(np.abs(numbers).max(initial=0.0)) * 10.0**column.decimals
            if largest < EXACT_INTEGER:
                return cls(column, decimals=column.decimals)
        return cls(column)

    @property
    def is_ordered(self) -> bool:
        """Whether neighbouring numbers mean neighbouring values."""
        if self.column.kind in _LISTED:
            return all(_is_number(category) for category in self.categories)
        return True

    @property
    def is_listed(self) -> bool:
        """Whether the column's values are a closed list of categories."""
        return self.column.kind in _LISTED

    def to_numbers(self, values: pa.Array) -> Numbers:
        """Numbers of the non-missing canonical `values`; an unknown category is -1."""
        kind = self.column.kind
        if kind in _LISTED:
            index = pc.index_in(values, value_set=pa.array(self.categories, pa.string()))
            return index.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        if kind is ColumnKind.BOOLEAN:
            return values.cast(pa.int8()).to_numpy(zero_copy_only=False).astype(np.int64)
        if kind is ColumnKind.DATE:
            return values.cast(pa.int32()).to_numpy(zero_copy_only=False).astype(np.int64)
        if kind in _TIMES:
            return values.cast(pa.int64()).to_numpy(zero_copy_only=False) // self.step
        numbers = values.to_numpy(zero_copy_only=False)
        if kind is ColumnKind.FLOAT and self.decimals is not None:
            return np.rint(numbers * 10.0**self.decimals).astype(np.int64)
        return numbers

    def from_numbers(self, numbers: Numbers, missing: npt.NDArray[np.bool_]) -> pa.Array:
        """Canonical array of `numbers`, null where `missing`, inside the declared range."""
        kind = self.column.kind
        if kind in _LISTED:
            index = pa.array(numbers.astype(np.int32), mask=missing)
            return pa.DictionaryArray.from_arrays(
                index, pa.array(self.categories, pa.string())
            ).cast(pa.string())
        if kind is ColumnKind.FLOAT:
            values = numbers.astype(np.float64)
            if self.decimals is not None:
                values = values / 10.0**self.decimals
            elif self.column.decimals is not None:
                values = np.round(values, self.column.decimals)
            return pa.array(self._clip(values), pa.float64(), mask=missing)
        if kind is ColumnKind.INTEGER:
            return pa.array(self._clip(numbers), pa.int64(), mask=missing)
        if kind is ColumnKind.BOOLEAN:
            return pa.array(numbers.astype(bool), pa.bool_(), mask=missing)
        if kind is ColumnKind.DATE:
            return pa.array(numbers.astype(np.int32), pa.int32(), mask=missing).cast(pa.date32())
        return pa.array(numbers * self.step, pa.int64(), mask=missing).cast(self.column.arrow_type)

    def _clip(self, values: Numbers) -> Numbers:
        low, high = self.column.minimum, self.column.maximum
        if isinstance(low, int | float):
            values = np.maximum(values, values.dtype.type(low))
        if isinstance(high, int | float):
            values = np.minimum(values, values.dtype.type(high))
        return values

    def to_json(self) -> dict[str, Any]:
        """JSON form, without the column."""
        return {
            "step": self.step,
            "decimals": self.decimals,
            "categories": list(self.categories),
        }

    @classmethod
    def from_json(cls, column: Column, data: Mapping[str, Any]) -> NumberForm:
        """Inverse of `to_json`."""
        return cls(column, data["step"], data["decimals"], tuple(data["categories"]))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _category_key(text: str) -> tuple[int, float, str]:
    """Numeric-looking categories first and in numeric order, the rest alphabetically."""
    return (0, float(text), text) if _is_number(text) else (1, 0.0, text)
