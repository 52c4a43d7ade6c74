"""Column values as plain numbers, and back, without losing a digit.

Integers, dates, times and decimals live on a grid and become int64 multiples of its step; floats
of unlimited precision stay float64; categories become indices into their sorted list.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc_module

from difflm_core.codec.ranks import Numbers
from difflm_core.data.schema import Column, ColumnKind
from difflm_core.errors import DataError, SchemaError

pc: Any = pc_module

# Grids a column of times may lie on, in microseconds: days, hours, minutes, seconds, milliseconds.
TIME_STEPS = (86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000, 1_000, 1)
# A common divisor of fewer different numbers may be an accident.
MIN_GRID_VALUES = 32
# Decimals with this many units or more would suffer from the rounding of float64.
MAX_UNITS = 2**50
_LARGEST = 2**62

_TIMES = (ColumnKind.DATETIME, ColumnKind.TIME)


@dataclass(frozen=True)
class NumberForm:
    """How the values of one column are written as numbers.

    Attributes:
        column: The column.
        step: Grid step: microseconds for times, a common divisor of integers (or of the units in
            the last decimal place of a float), 1 otherwise.
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
        if column.kind is ColumnKind.CATEGORICAL:
            categories: list[str] = pc.unique(values).to_pylist()
            return cls(column, categories=tuple(sorted(categories, key=_category_key)))
        if column.kind in _TIMES:
            ticks = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
            return cls(column, step=next(s for s in TIME_STEPS if not np.any(ticks % s)))
        form = cls(column)
        if column.kind is ColumnKind.FLOAT:
            if column.decimals is None:
                return form
            numbers = form.to_numbers(values)
            if float(np.abs(numbers).max(initial=0.0)) * 10.0**column.decimals >= MAX_UNITS:
                return form
            form = cls(column, decimals=column.decimals)
        elif column.kind is not ColumnKind.INTEGER:
            return form
        return cls(column, step=_common_divisor(form.to_numbers(values)), decimals=form.decimals)

    @property
    def is_listed(self) -> bool:
        """Whether the column's values are a closed list of categories."""
        return self.column.kind is ColumnKind.CATEGORICAL

    @property
    def is_ordered(self) -> bool:
        """Whether neighbouring numbers mean neighbouring values."""
        return not self.is_listed or all(_is_number(category) for category in self.categories)

    def to_numbers(self, values: pa.Array) -> Numbers:
        """Numbers of the non-missing canonical `values`.

        A value off the grid takes the nearest number, and an unknown category is -1.

        Raises:
            DataError: a float is NaN or infinite.
        """
        kind = self.column.kind
        if self.is_listed:
            index = pc.index_in(values, value_set=pa.array(self.categories, pa.string()))
            return index.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        if kind is ColumnKind.BOOLEAN:
            return values.cast(pa.int8()).to_numpy(zero_copy_only=False).astype(np.int64)
        if kind is ColumnKind.FLOAT:
            return self._from_floats(values.to_numpy(zero_copy_only=False))
        if kind is ColumnKind.DATE:
            values = values.cast(pa.int32())
        return self._on_grid(values.cast(pa.int64()).to_numpy(zero_copy_only=False))

    def _from_floats(self, values: npt.NDArray[np.float64]) -> Numbers:
        if not np.isfinite(values).all():
            raise DataError(
                f"Column {self.column.name!r}: found NaN or infinite numbers, expected finite "
                "numbers or missing. Replace them, or list their spelling in missing_values of the "
                "column."
            )
        if self.decimals is None:
            return values
        scale = 10.0**self.decimals
        units = np.rint(np.clip(values, -_LARGEST / scale, _LARGEST / scale) * scale)
        return self._on_grid(units.astype(np.int64))

    def _on_grid(self, ticks: npt.NDArray[np.int64]) -> Numbers:
        if self.step == 1:
            return ticks
        below = ticks // self.step
        rest = ticks - below * self.step
        return below + (rest >= self.step - rest)

    def from_numbers(self, numbers: Numbers, missing: npt.NDArray[np.bool_]) -> pa.Array:
        """Canonical array of `numbers`, null where `missing`, inside the declared range."""
        kind = self.column.kind
        if self.is_listed:
            index = pa.array(numbers.astype(np.int32), mask=missing)
            known = pa.array(self.categories, pa.string())
            return pa.DictionaryArray.from_arrays(index, known).cast(pa.string())
        low, high = self.limits
        if low is not None:
            numbers = np.maximum(numbers, low)
        if high is not None:
            numbers = np.minimum(numbers, high)
        if kind is ColumnKind.FLOAT:
            return pa.array(self._to_floats(numbers), pa.float64(), mask=missing)
        if kind is ColumnKind.BOOLEAN:
            return pa.array(numbers.astype(bool), pa.bool_(), mask=missing)
        if kind is ColumnKind.DATE:
            return pa.array(numbers.astype(np.int32), pa.int32(), mask=missing).cast(pa.date32())
        return pa.array(numbers * self.step, pa.int64(), mask=missing).cast(self.column.arrow_type)

    def _to_floats(self, numbers: Numbers) -> npt.NDArray[np.float64]:
        if self.decimals is not None:
            return (numbers * self.step) / 10.0**self.decimals
        if self.column.decimals is None:
            return numbers
        # Some values are too large for the grid: float64 holds no more decimals there.
        scale = 10.0**self.column.decimals
        rounded = np.abs(numbers) < MAX_UNITS / scale
        result = np.where(
            rounded, np.rint(np.where(rounded, numbers, 0.0) * scale) / scale, numbers
        )
        low, high = self.limits  # rounding may have crossed them
        return np.clip(result, -np.inf if low is None else low, np.inf if high is None else high)

    @cached_property
    def limits(self) -> tuple[int | float | None, int | float | None]:
        """Declared minimum and maximum as numbers of this form; None where none is declared."""
        return self.bound(self.column.minimum, up=True), self.bound(self.column.maximum, up=False)

    def bound(self, bound: int | float | str | None, *, up: bool) -> int | float | None:
        """Number of a bound: the nearest one of this form that is not below it, or not above it.

        Args:
            bound: A number, or an ISO date or time; None: no bound.
            up: Whether it bounds from below.

        Returns:
            None where there is no bound, or the column's values have no order.

        Raises:
            SchemaError: it is no valid date or time.
        """
        if bound is None or self.column.kind is ColumnKind.BOOLEAN or self.is_listed:
            return None
        if self.column.kind is ColumnKind.FLOAT and self.decimals is None:
            return float(bound)
        if isinstance(bound, str):
            exact = Decimal(self._ticks(bound))
        else:
            exact = Decimal(str(bound)).scaleb(self.decimals or 0)
        units = exact / self.step
        if not units.is_finite():
            return None
        whole = math.ceil(units) if up else math.floor(units)
        return min(max(whole, -(2**63)), 2**63 - 1)

    def _ticks(self, bound: str) -> int:
        """Days or microseconds of an ISO date or time."""
        parse = {
            ColumnKind.DATE: datetime.date.fromisoformat,
            ColumnKind.TIME: datetime.time.fromisoformat,
        }.get(self.column.kind, datetime.datetime.fromisoformat)
        try:
            moment = pa.scalar(parse(bound), self.column.arrow_type)
        except ValueError:
            raise SchemaError(
                f"Column {self.column.name!r}: the bound {bound!r} is not a valid "
                f"{self.column.kind}. Expected ISO text such as '2024-01-31'; correct minimum or "
                "maximum in schema.json."
            ) from None
        days = self.column.kind is ColumnKind.DATE
        return int(moment.cast(pa.int32() if days else pa.int64()).as_py())

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


def _common_divisor(numbers: Numbers) -> int:
    """Largest step whose multiples the numbers are; 1 when they are too few to tell."""
    distinct = np.unique(numbers)
    if distinct.size < MIN_GRID_VALUES:
        return 1
    step = int(np.gcd.reduce(np.abs(distinct).view(np.uint64)))
    return step if 0 < step < _LARGEST else 1


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _category_key(text: str) -> tuple[int, float, str]:
    """Numeric-looking categories first and in numeric order, the rest alphabetically."""
    return (0, float(text), text) if _is_number(text) else (1, 0.0, text)
