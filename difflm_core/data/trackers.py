"""Bounded-memory accumulators of one column: value counts, running numbers, decimals."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc_module

from difflm_core.data.hashing import DistinctCounter, hash_strings

pc: Any = pc_module

MAX_TRACKED_VALUES = 10_000
MAX_TRACKED_CHARACTERS = 1_000_000
MAX_SAMPLE = 2_000


class ValueCounts:
    """Exact counts of values while there are few, and an approximate number of distinct ones."""

    def __init__(self) -> None:
        self.counts: dict[str, int] | None = {}
        self.sample: list[str] = []
        self._characters = 0
        self._distinct = DistinctCounter()

    def add(self, values: pa.Array, counts: npt.NDArray[np.int64]) -> None:
        """Add different values (no nulls) with how often each occurs."""
        self._distinct.add(hash_strings(values))
        if len(self.sample) < MAX_SAMPLE:
            self.sample.extend(values.slice(0, MAX_SAMPLE - len(self.sample)).to_pylist())
        if self.counts is None:
            return
        if len(values) > MAX_TRACKED_VALUES:
            self.counts = None
            return
        for value, count in zip(values.to_pylist(), counts.tolist(), strict=True):
            before = self.counts.get(value)
            if before is None:
                self._characters += len(value)
            self.counts[value] = (before or 0) + count
        if len(self.counts) > MAX_TRACKED_VALUES or self._characters > MAX_TRACKED_CHARACTERS:
            self.counts = None

    @property
    def num_distinct(self) -> int:
        """Number of distinct values: exact up to 10,000, else within about 1 %."""
        return self._distinct.estimate() if self.counts is None else len(self.counts)


class RunningNumber:
    """Whether the numbers of a column, in row order, are a sequence; and their range."""

    def __init__(self) -> None:
        self.count = 0
        self.first: int | None = None
        self.last: int | None = None
        self.minimum: int | None = None
        self.maximum: int | None = None
        self.step: int | None = None
        self.is_sequence = True

    def add(self, numbers: npt.NDArray[np.int64]) -> None:
        """Add the numbers of the next rows."""
        if len(numbers) == 0:
            return
        low, high = int(numbers.min()), int(numbers.max())
        self.minimum = low if self.minimum is None else min(self.minimum, low)
        self.maximum = high if self.maximum is None else max(self.maximum, high)
        self.count += len(numbers)
        if self.is_sequence:
            joined = numbers if self.last is None else np.concatenate(([self.last], numbers))
            steps = np.diff(joined)
            if len(steps):
                if self.step is None:
                    self.step = int(steps[0])
                self.is_sequence = self.step > 0 and bool(np.all(steps == self.step))
        if self.first is None:
            self.first = int(numbers[0])
        self.last = int(numbers[-1])


class Decimals:
    """How the fractions of a column are written."""

    def __init__(self) -> None:
        self.most: int | None = 0
        self.spelled: set[int] = set()
        self.has_plain_integral = False
        self.has_fraction = False
        self.has_exponent = False

    def add_text(self, numbers: pa.Array) -> None:
        """Add decimal numbers as text (with a point or an exponent)."""
        exponent = pc.match_substring_regex(numbers, "[eE]")
        if pc.any(exponent).as_py():
            self.has_exponent = True
            for text in numbers.filter(exponent).to_pylist():
                self._raise_to(_decimals_with_exponent(text))
            numbers = numbers.filter(pc.invert(exponent))
        if not len(numbers):
            return
        point = pc.find_substring(numbers, ".")
        digits = pc.if_else(
            pc.equal(point, -1),
            0,
            pc.subtract(pc.subtract(pc.binary_length(numbers), point), 1),
        )
        lengths = np.unique(digits.to_numpy())
        self.spelled.update(int(length) for length in lengths)
        self._raise_to(int(lengths[-1]))
        if not self.has_fraction:
            fraction = pc.match_substring_regex(numbers, r"\.[0-9]*[1-9]")
            self.has_fraction = bool(pc.any(fraction).as_py())

    def add_floats(self, values: npt.NDArray[np.floating[Any]]) -> None:
        """Add binary numbers: the decimals that are enough to write each one exactly."""
        wide = values.astype(np.float64)
        while self.most is not None and len(wide):
            with np.errstate(over="ignore", invalid="ignore"):
                rounded = np.round(wide, self.most).astype(values.dtype)
            open_values = rounded != values
            if not open_values.any():
                break
            self.has_fraction = True
            wide, values = wide[open_values], values[open_values]
            self._raise_to(self.most + 1)

    def _raise_to(self, digits: int) -> None:
        if self.most is not None:
            self.most = None if digits > 15 else max(self.most, digits)


def _decimals_with_exponent(text: str) -> int:
    mantissa, _, exponent = text.lower().partition("e")
    fraction = len(mantissa.partition(".")[2].rstrip("0"))
    return max(0, fraction - int(exponent))
