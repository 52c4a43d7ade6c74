"""Bounded-memory accumulators of one column: value counts, running numbers, decimals.

Each one takes the next rows by `add`, the rows after those by `merge` of another's, and goes
between processes as JSON.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from typing import Any

import datasketches as datasketches_module
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc_module

pc: Any = pc_module
datasketches: Any = datasketches_module

MAX_TRACKED_VALUES = 10_000
MAX_TRACKED_CHARACTERS = 1_000_000
MAX_SAMPLE = 2_000
# 2^14 registers of 8 bits: 16 KiB, and a standard error below 1 %.
_LOG2_REGISTERS = 14


class ValueCounts:
    """Exact counts of values while there are few, and an approximate number of distinct ones.

    The number comes from a HyperLogLog sketch (Flajolet et al. 2007; Apache DataSketches).
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] | None = {}
        self.sample: list[str] = []
        self._characters = 0
        self._distinct: Any = None  # a sketch, once there is no exact count

    def add(self, values: pa.Array, counts: npt.NDArray[np.int64]) -> None:
        """Add different values (no nulls) with how often each occurs."""
        texts = values.to_pylist()
        self._add_sample(texts)
        if self.counts is None or len(texts) > MAX_TRACKED_VALUES:
            self._sketch(texts)
        else:
            self._add_counts(self.counts, zip(texts, counts.tolist(), strict=True))

    def merge(self, later: ValueCounts) -> None:
        """Add the values of later rows."""
        self._add_sample(later.sample)
        if later.counts is not None and self.counts is not None:
            self._add_counts(self.counts, later.counts.items())
            return
        union = datasketches.hll_union(_LOG2_REGISTERS)
        for part in (self, later):
            part._sketch([])
            union.update(part._distinct)
        self._distinct = union.get_result(datasketches.HLL_8)

    @property
    def num_distinct(self) -> int:
        """Number of distinct values: exact up to 10,000, else within about 1 %."""
        return round(self._distinct.get_estimate()) if self.counts is None else len(self.counts)

    def to_json(self) -> dict[str, Any]:
        """The state as JSON values."""
        sketch = self._distinct and b64encode(self._distinct.serialize_compact()).decode()
        return {"counts": self.counts, "sample": self.sample, "sketch": sketch}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> ValueCounts:
        """Inverse of `to_json`."""
        made = cls()
        made.sample = state["sample"]
        made.counts = state["counts"]
        made._characters = sum(map(len, made.counts or ()))
        if state["sketch"]:
            made._distinct = datasketches.hll_sketch.deserialize(b64decode(state["sketch"]))
        return made

    def _add_sample(self, texts: list[str]) -> None:
        if len(self.sample) < MAX_SAMPLE:
            self.sample.extend(texts[: MAX_SAMPLE - len(self.sample)])

    def _add_counts(self, counts: dict[str, int], more: Iterable[tuple[str, int]]) -> None:
        for value, count in more:
            before = counts.get(value)
            if before is None:
                self._characters += len(value)
            counts[value] = (before or 0) + count
        if len(counts) > MAX_TRACKED_VALUES or self._characters > MAX_TRACKED_CHARACTERS:
            self._sketch([])

    def _sketch(self, texts: list[str]) -> None:
        """Count by the sketch from here on, first what was counted exactly, then `texts`."""
        if self._distinct is None:
            self._distinct = datasketches.hll_sketch(_LOG2_REGISTERS, datasketches.HLL_8)
        update = self._distinct.update
        for text in [*(self.counts or ()), *texts]:
            update(text)
        self.counts = None


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

    def merge(self, later: RunningNumber) -> None:
        """Add the numbers of later rows."""
        if later.first is None or later.minimum is None or later.maximum is None:
            return
        if self.last is None or self.minimum is None or self.maximum is None:
            self.__dict__.update(later.__dict__)
            return
        steps = {self.step, later.step, later.first - self.last} - {None}
        self.is_sequence = self.is_sequence and later.is_sequence and len(steps) == 1
        self.is_sequence = self.is_sequence and later.first > self.last
        self.step = self.step or later.first - self.last
        self.count += later.count
        self.minimum = min(self.minimum, later.minimum)
        self.maximum = max(self.maximum, later.maximum)
        self.last = later.last

    def to_json(self) -> dict[str, Any]:
        """The state as JSON values."""
        return dict(self.__dict__)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> RunningNumber:
        """Inverse of `to_json`."""
        made = cls()
        made.__dict__.update(state)
        return made


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

    def merge(self, other: Decimals) -> None:
        """Add the numbers of other rows."""
        self.most = None if other.most is None or self.most is None else max(self.most, other.most)
        self.spelled |= other.spelled
        self.has_plain_integral |= other.has_plain_integral
        self.has_fraction |= other.has_fraction
        self.has_exponent |= other.has_exponent

    def to_json(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {**self.__dict__, "spelled": sorted(self.spelled)}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Decimals:
        """Inverse of `to_json`."""
        made = cls()
        made.__dict__.update({**state, "spelled": set(state["spelled"])})
        return made

    def _raise_to(self, digits: int) -> None:
        if self.most is not None:
            self.most = None if digits > 15 else max(self.most, digits)


def _decimals_with_exponent(text: str) -> int:
    mantissa, _, exponent = text.lower().partition("e")
    fraction = len(mantissa.partition(".")[2].rstrip("0"))
    return max(0, fraction - int(exponent))
