"""What one pass over a column leaves behind: counts, spellings and candidates, in bounded memory.

A profile takes the arrays of a column batch by batch, and can be merged with that of later rows:
one pass, by any number of workers. It decides nothing: `inference` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc_module
import pyarrow.types as pat

from difflm_core.data.datetimes import guess_formats, parse_text
from difflm_core.data.spellings import INFINITE
from difflm_core.data.storage_types import is_text_type
from difflm_core.data.trackers import Decimals, RunningNumber, ValueCounts

pc: Any = pc_module
KeyT = TypeVar("KeyT")

MAX_SPELLINGS = 1_000

# Attributes that merge by adding, and by each of the two logical operations.
_SUMS = (
    "num_rows",
    "num_null",
    "num_empty",
    "num_integer",
    "num_padded",
    "num_big",
    "num_decimal",
    "num_other",
    "num_infinite",
    "num_characters",
    "num_words",
)
_ALL, _ANY = "all_compact_dates", "has_unsafe_integers"

INTEGER_REGEX = r"^[+-]?(0|[1-9][0-9]{0,18})$"
NUMBER_REGEX = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_PADDED_REGEX = r"^[+-]?0[0-9]+$"


class ColumnProfile:
    """All that is known of one column of the source."""

    def __init__(self, name: str, storage: pa.DataType, missing: frozenset[str]) -> None:
        self.name = name
        self.storage = storage
        self.missing = missing
        self.num_rows = 0
        self.num_null = 0
        self.num_empty = 0
        self.num_declared_missing: dict[str, int] = {}
        self.num_integer = self.num_padded = self.num_big = self.num_decimal = self.num_other = 0
        self.num_infinite = 0
        self.num_characters = self.num_words = 0
        self.values = ValueCounts()
        self.others: dict[str, int] | None = {}
        self.formats: dict[tuple[str, str], int] = {}
        self.decimals = Decimals()
        self.running = RunningNumber()
        self.tails: RunningNumber | None = RunningNumber()
        self.all_compact_dates = True
        self.has_unsafe_integers = False

    @property
    def num_present(self) -> int:
        """Rows that are not null, empty or of a declared missing spelling."""
        return (
            self.num_rows - self.num_null - self.num_empty - sum(self.num_declared_missing.values())
        )

    @property
    def is_dictionary(self) -> bool:
        """Whether the source stores the column dictionary-encoded (a pandas category)."""
        return pat.is_dictionary(self.storage)

    @property
    def is_text(self) -> bool:
        """Whether the source stores the column as text."""
        return is_text_type(self.storage)

    def add(self, array: pa.Array) -> None:
        """Take the next rows of the column."""
        self.num_rows += len(array)
        if self.is_dictionary:
            array = array.cast(self.storage.value_type)
            if not is_text_type(array.type):
                array = array.cast(pa.string())
            self._add_text(array)
        elif self.is_text:
            self._add_text(array)
        elif pat.is_integer(self.storage) or pat.is_decimal(self.storage):
            self._add_integers(array)
        elif pat.is_floating(self.storage):
            self._add_floats(array)
        else:
            self.num_null += array.null_count
            present = array.drop_null()
            self._count(present.cast(pa.string()))

    # Parts of a table ------------------------------------------------------------------------

    def merge(self, later: ColumnProfile) -> None:
        """Add what another profile found in later rows."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.all_compact_dates &= later.all_compact_dates
        self.has_unsafe_integers |= later.has_unsafe_integers
        self.values.merge(later.values)
        self.decimals.merge(later.decimals)
        self.running.merge(later.running)
        self.num_declared_missing = _added(self.num_declared_missing, later.num_declared_missing)
        if self.others is not None and later.others is not None:
            others = _added(self.others, later.others)
            self.others = others if len(others) <= MAX_SPELLINGS else None
        else:
            self.others = None
        # A format that fits every cell is among the candidates wherever there is such a cell.
        self.formats = _added(self.formats, later.formats)
        if self.tails is None or later.tails is None:
            self.tails = None
        else:
            self.tails.merge(later.tails)

    def to_json(self) -> dict[str, Any]:
        """What was found, as JSON values."""
        return {
            **{name: getattr(self, name) for name in (*_SUMS, _ALL, _ANY)},
            "num_declared_missing": self.num_declared_missing,
            "others": self.others,
            "formats": [[*key, hits] for key, hits in self.formats.items()],
            "values": self.values.to_json(),
            "decimals": self.decimals.to_json(),
            "running": self.running.to_json(),
            "tails": self.tails and self.tails.to_json(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `to_json` of a profile of the same column says."""
        for name in (*_SUMS, _ALL, _ANY):
            setattr(self, name, state[name])
        self.num_declared_missing = state["num_declared_missing"]
        self.others = state["others"]
        self.formats = {(kind, fmt): hits for kind, fmt, hits in state["formats"]}
        self.values = ValueCounts.from_json(state["values"])
        self.decimals = Decimals.from_json(state["decimals"])
        self.running = RunningNumber.from_json(state["running"])
        self.tails = state["tails"] and RunningNumber.from_json(state["tails"])

    # Text ------------------------------------------------------------------------------------

    def _count(self, texts: pa.Array) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        """Count present values; return the different ones with their counts."""
        found = pc.value_counts(texts)
        unique, counts = found.field(0), found.field(1).to_numpy()
        if len(unique):
            self.values.add(unique, counts)
        return unique, counts

    def _add_text(self, array: pa.Array) -> None:
        if not pat.is_string(array.type):
            array = array.cast(pa.string())
        self.num_null += array.null_count
        present = array.drop_null() if array.null_count else array
        found = pc.value_counts(present)
        unique, counts = found.field(0), found.field(1).to_numpy()
        trimmed = pc.utf8_trim_whitespace(unique)
        empty = pc.equal(trimmed, "").to_numpy(zero_copy_only=False)
        keep = ~empty
        self.num_empty += int(counts[empty].sum())
        if self.missing:
            declared = pc.is_in(trimmed, pa.array(sorted(self.missing))).to_numpy(
                zero_copy_only=False
            )
            for at in np.flatnonzero(declared & keep):
                spelling = trimmed[int(at)].as_py()
                tally = self.num_declared_missing
                tally[spelling] = tally.get(spelling, 0) + int(counts[at])
            keep &= ~declared
        if not keep.all():
            mask = pa.array(keep)
            unique, trimmed, counts = unique.filter(mask), trimmed.filter(mask), counts[keep]
        if not len(unique):
            return
        self.values.add(unique, counts)
        self._classify(trimmed, counts)

    def _classify(self, texts: pa.Array, counts: npt.NDArray[np.int64]) -> None:
        """Sort different non-empty texts into integers, decimals and others."""
        integer, number = _number_masks(texts)
        if number.any():
            self._add_numbers(texts, counts, integer, number)
        other = ~number
        if not other.any():
            return
        texts, counts = texts.filter(pa.array(other)), counts[other]
        self.num_other += int(counts.sum())
        self.num_characters += int((pc.utf8_length(texts).to_numpy() * counts).sum())
        words = pc.add(pc.count_substring_regex(texts, r"\s+"), 1)
        self.num_words += int((words.to_numpy() * counts).sum())
        if self.others is not None:
            if len(self.others) + len(texts) > MAX_SPELLINGS:
                self.others = None
            else:
                for text, count in zip(texts.to_pylist(), counts.tolist(), strict=True):
                    self.others[text] = self.others.get(text, 0) + count
                    self.num_infinite += count if text.lower() in INFINITE else 0
        self._add_formats(texts, counts)
        self._add_tails(texts)

    def _add_numbers(
        self,
        texts: pa.Array,
        counts: npt.NDArray[np.int64],
        integer: npt.NDArray[np.bool_],
        number: npt.NDArray[np.bool_],
    ) -> None:
        self.all_compact_dates = self.all_compact_dates and bool(number.all())
        decimal = number & ~integer
        if integer.any():
            self._add_integer_texts(texts.filter(pa.array(integer)), counts[integer])
        if decimal.any():
            chosen, tally = texts.filter(pa.array(decimal)), counts[decimal]
            self.all_compact_dates = False
            padded = pc.match_substring_regex(chosen, _PADDED_REGEX).to_numpy(zero_copy_only=False)
            big = pc.match_substring_regex(chosen, r"^[+-]?[1-9][0-9]{18,}$").to_numpy(
                zero_copy_only=False
            )
            self.num_padded += int(tally[padded].sum())
            self.num_big += int(tally[big].sum())
            real = ~padded & ~big
            self.num_decimal += int(tally[real].sum())
            if real.any():
                self.decimals.add_text(chosen.filter(pa.array(real)))
            self._add_tails(chosen.filter(pa.array(padded)))

    def _add_integer_texts(self, texts: pa.Array, counts: npt.NDArray[np.int64]) -> None:
        numbers, fits = _to_int64(texts)
        self.num_integer += int(counts[fits].sum())
        self.num_big += int(counts[~fits].sum())
        self.decimals.has_plain_integral = True
        self._note_integers(numbers)

    def _note_integers(self, numbers: npt.NDArray[np.int64]) -> None:
        self.running.add(numbers)
        if self.all_compact_dates and len(numbers):
            low, high = int(numbers.min()), int(numbers.max())
            self.all_compact_dates = (
                low >= 19000101 and high <= 21001231 and compact_dates_valid(numbers)
            )

    def _add_formats(self, texts: pa.Array, counts: npt.NDArray[np.int64]) -> None:
        """Count the cells that fit each date format that any early cell fits."""
        if not self.formats:
            if self.num_other > 100_000:
                return
            for text in texts.slice(0, 50).to_pylist():
                for guess in guess_formats(text):
                    self.formats.setdefault(guess, 0)
        for kind, fmt in list(self.formats):
            parsed = parse_text(texts, fmt)
            hits = int(counts[parsed.is_valid().to_numpy(zero_copy_only=False)].sum())
            self.formats[kind, fmt] += hits
        if len(self.formats) > 1 and self.num_other > 1_000:
            best = max(self.formats.values())
            self.formats = {key: hits for key, hits in self.formats.items() if hits >= best * 0.5}

    def _add_tails(self, texts: pa.Array) -> None:
        """Follow the number at the end of codes such as `CUST-000123`."""
        if self.tails is None or not len(texts):
            return
        if self.values.counts is not None and len(self.values.counts) < self.num_rows * 0.5:
            self.tails = None
            return
        found = pc.extract_regex(texts, r"(?P<tail>[0-9]{1,18})$").drop_null()
        if len(found) < len(texts) * 0.9:
            self.tails = None
            return
        self.tails.add(found.field(0).cast(pa.int64()).to_numpy())

    # Typed columns ---------------------------------------------------------------------------

    def _drop_declared(self, array: pa.Array) -> pa.Array:
        """Drop nulls and the numbers that are declared to mean missing."""
        self.num_null += array.null_count
        present = array.drop_null() if array.null_count else array
        for spelling in sorted(self.missing):
            try:
                number = pa.scalar(float(spelling)).cast(present.type)
            except (ValueError, pa.ArrowInvalid):
                continue
            equal = pc.equal(present, number)
            hits = pc.sum(equal).as_py() or 0
            if hits:
                tally = self.num_declared_missing
                tally[spelling] = tally.get(spelling, 0) + hits
                present = present.filter(pc.invert(equal))
        return present

    def _add_integers(self, array: pa.Array) -> None:
        present = self._drop_declared(array)
        if not len(present):
            return
        if pat.is_decimal(self.storage) and self.storage.scale > 0:
            self._add_float_values(present.cast(pa.string()).cast(pa.float64()).to_numpy())
            return
        try:
            numbers = present.cast(pa.int64())
        except pa.ArrowInvalid:
            self.num_big += len(present)
            self._count(present.cast(pa.string()))
            return
        self._count_numbers(numbers)
        self.num_integer += len(present)
        self._note_integers(numbers.to_numpy())

    def _count_numbers(self, numbers: pa.Array) -> None:
        found = pc.value_counts(numbers)
        self.values.add(found.field(0).cast(pa.string()), found.field(1).to_numpy())

    def _add_floats(self, array: pa.Array) -> None:
        if pat.is_float16(array.type):
            array = array.cast(pa.float32())
        nan = pc.is_nan(array)
        array = pc.if_else(nan, None, array) if pc.any(nan).as_py() else array
        self._add_float_values(self._drop_declared(array).to_numpy())

    def _add_float_values(self, values: npt.NDArray[np.floating[Any]]) -> None:
        infinite = np.isinf(values)
        if infinite.any():
            self.num_infinite += int(infinite.sum())
            values = values[~infinite]
        if not len(values):
            return
        self._count(pa.array(values).cast(pa.string()))
        self.decimals.add_floats(values)
        if not self.decimals.has_fraction:
            if np.abs(values).max() > 2**53:
                self.has_unsafe_integers = True
            else:
                self.running.add(values.astype(np.int64))
        self.num_decimal += len(values)


class TableProfile:
    """Profiles of all columns of a table, or of a piece of one."""

    def __init__(self, schema: pa.Schema, missing: Mapping[str, frozenset[str]]) -> None:
        """Begin with no rows.

        Args:
            schema: Raw columns of the source.
            missing: Spellings that mean "missing", by column.
        """
        self.num_rows = 0
        self.columns = [
            ColumnProfile(field.name, field.type, missing[field.name]) for field in schema
        ]

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the next rows."""
        self.num_rows += batch.num_rows
        for column, array in zip(self.columns, batch.columns, strict=True):
            column.add(array)

    def merge(self, later: TableProfile) -> None:
        """Add the profile of later rows."""
        self.num_rows += later.num_rows
        for mine, theirs in zip(self.columns, later.columns, strict=True):
            mine.merge(theirs)

    def to_json(self) -> dict[str, Any]:
        """What was found, as JSON values."""
        return {
            "num_rows": self.num_rows,
            "columns": [column.to_json() for column in self.columns],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `to_json` of a profile of the same columns says."""
        self.num_rows = state["num_rows"]
        for column, found in zip(self.columns, state["columns"], strict=True):
            column.load(found)


def _added(left: Mapping[KeyT, int], right: Mapping[KeyT, int]) -> dict[KeyT, int]:
    """Sums of counts by key; keys in the order in which they were first seen."""
    sums = dict(left)
    for key, count in right.items():
        sums[key] = sums.get(key, 0) + count
    return sums


def _number_masks(texts: pa.Array) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which texts are integers (no leading zeros, at most 19 digits), and which are numbers."""
    try:
        # Fast path: everything converts. Words such as nan and inf convert too, hence the check.
        finite = np.isfinite(texts.cast(pa.float64()).to_numpy()).all()
    except pa.ArrowInvalid:
        finite = False
    if finite:
        number = np.ones(len(texts), dtype=bool)
    else:
        number = pc.match_substring_regex(texts, NUMBER_REGEX).to_numpy(zero_copy_only=False)
    integer = pc.match_substring_regex(texts, INTEGER_REGEX).to_numpy(zero_copy_only=False)
    return integer & number, number


def _to_int64(texts: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Parse integers of at most 19 digits; the mask says which ones fit 64 bits."""
    plain = pc.utf8_ltrim(texts, "+")
    try:
        return plain.cast(pa.int64()).to_numpy(), np.ones(len(texts), dtype=bool)
    except pa.ArrowInvalid:
        exact = [int(text) for text in plain.to_pylist()]
        fits = np.array([-(2**63) <= number < 2**63 for number in exact])
        return np.array([n for n in exact if -(2**63) <= n < 2**63], dtype=np.int64), fits


def compact_dates_valid(numbers: npt.NDArray[np.int64]) -> bool:
    """Whether all integers are calendar days written as YYYYMMDD."""
    texts = pa.array(numbers).cast(pa.string())
    return parse_text(texts, "%Y%m%d").null_count == 0


def spellings_by_count(counts: Mapping[str, int]) -> list[str]:
    """Spellings, the most frequent first."""
    return [text for text, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
