"""From the form of the source to canonical types, and back.

`to_canonical` checks every value against the schema; what does not fit is an error that names the
file, the row, the column, what was found and what was expected, without showing any row.
`from_canonical` is its inverse, up to the spelling of missing values.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc_module
import pyarrow.types as pat

from difflm_core.data.datetimes import MICROS_PER_DAY, parse_text
from difflm_core.data.document_form import canonical_documents
from difflm_core.data.profile import NUMBER_REGEX
from difflm_core.data.schema import (
    DOCUMENT_KINDS,
    NUMERIC_KINDS,
    TEMPORAL_KINDS,
    Column,
    ColumnKind,
    Schema,
    check_names_exist,
)
from difflm_core.data.source_form import from_canonical
from difflm_core.data.spellings import describe_spelling
from difflm_core.data.storage_types import is_text_type
from difflm_core.errors import DataError

pc: Any = pc_module

# What text may look like in a column of dates or times that declares no format.
ISO_FORMATS: dict[ColumnKind, list[str]] = {
    ColumnKind.DATE: ["%Y-%m-%d"],
    ColumnKind.TIME: ["%H:%M:%S", "%H:%M:%S.%f", "%H:%M"],
    ColumnKind.DATETIME: [
        f"%Y-%m-%d{gap}{time}"
        for time in ("%H:%M:%S", "%H:%M:%S.%f", "%H:%M")
        for gap in (" ", "T")
    ]
    + ["%Y-%m-%d"],
}

_INTEGER_TEXT = r"^[+-]?[0-9]+(\.0*)?$"


def to_canonical(
    table: Any,
    schema: Schema,
    *,
    source: str | None = None,
    first_row: int = 0,
) -> pa.Table:
    """Convert a table in source form to canonical types.

    Args:
        table: Arrow table, record batch or pandas DataFrame; other columns than those of the
            schema are ignored.
        schema: What the columns are.
        source: Name of the source in errors.
        first_row: Number of rows of the source before this table, for row numbers in errors.

    Returns:
        Table with exactly the columns of the schema, in its order.

    Raises:
        SchemaError: a column is absent.
        DataError: a value does not fit its column.
    """
    if isinstance(table, pa.RecordBatch):
        batches = [table]
    else:
        if not isinstance(table, pa.Table):
            from difflm_core.data.readers import open_source

            opened = open_source(table)
            source = source or opened.label
            batches = list(opened.batches())
            if not batches:
                check_names_exist(schema.names, opened.names, source=source)
        else:
            check_names_exist(schema.names, table.schema.names, source=source)
            batches = table.to_batches()
    converted: list[pa.RecordBatch] = []
    for batch in batches:
        converted.append(to_canonical_batch(batch, schema, source=source, first_row=first_row))
        first_row += batch.num_rows
    return pa.Table.from_batches(converted, schema=schema.arrow_schema)


def to_canonical_batch(
    batch: pa.RecordBatch, schema: Schema, *, source: str | None = None, first_row: int = 0
) -> pa.RecordBatch:
    """Convert one batch; see `to_canonical`."""
    check_names_exist(schema.names, batch.schema.names, source=source)
    label = source or "table"
    arrays = [
        _ToCanonical(column, label, first_row).convert(batch.column(column.name))
        for column in schema.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema.arrow_schema)


def spells_missing(trimmed: Any, column: Column) -> Any:
    """Mask of the trimmed texts that mean "missing" in a column; null where a text is null."""
    missing = pc.equal(trimmed, "")
    spellings = [text for text in column.missing_values if text]
    if spellings:
        missing = pc.or_kleene(missing, pc.is_in(trimmed, pa.array(spellings)))
    return missing


class _ToCanonical:
    """Converts arrays of one column."""

    def __init__(self, column: Column, label: str, first_row: int) -> None:
        self.column = column
        self.label = label
        self.first_row = first_row

    def convert(self, array: Any) -> pa.Array:
        """Convert an array of the source type to the canonical type."""
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        if self.column.kind in DOCUMENT_KINDS:
            place = f"{self.label}, document {{}} after {self.first_row}"
            return canonical_documents(array.to_pylist(), self.column, place)
        result = self._convert(array)
        if result.type != self.column.arrow_type:
            result = result.cast(self.column.arrow_type)
        if result.null_count and not self._may_be_missing():
            self._fail(
                pc.is_null(result),
                array,
                f"found {result.null_count} missing values",
                "a value in every row, because the schema says nullable: false",
                "set nullable to true in the schema",
            )
        self._check_bounds(result, array)
        return result

    def _may_be_missing(self) -> bool:
        column = self.column
        return column.nullable or (column.kind is ColumnKind.CONSTANT and column.value is None)

    def _convert(self, array: Any) -> pa.Array:
        if pat.is_null(array.type):
            return pa.nulls(len(array), self.column.arrow_type)
        if pat.is_dictionary(array.type):
            if self.column.arrow_type == pa.string() and self.column.kind is not (
                ColumnKind.CONSTANT
            ):  # Any value fits, so each is converted once; otherwise errors need the rows.
                return self._convert_plain(array.dictionary).take(array.indices)
            array = array.dictionary.take(array.indices)
        if is_text_type(array.type) and self.column.kind in (*TEMPORAL_KINDS, ColumnKind.BOOLEAN):
            # Parse each spelling once; errors are located in the full array.
            encoded = array.cast(pa.string()).dictionary_encode()
            if len(encoded.dictionary) * 2 < len(array):
                dictionary = self._convert_plain(encoded.dictionary, located=array)
                return dictionary.take(encoded.indices)
        return self._convert_plain(array)

    def _convert_plain(self, array: Any, located: Any = None) -> pa.Array:
        """Convert an array that is not dictionary-encoded."""
        kind, origin = self.column.kind, array if located is None else located
        if is_text_type(array.type):
            return self._from_text(array.cast(pa.string()), origin)
        if pat.is_floating(array.type):
            array = self._clean_floats(array)
        array = self._drop_declared_numbers(array)
        if kind in NUMERIC_KINDS:
            return self._number(array)
        if kind is ColumnKind.BOOLEAN:
            return self._cast(array, pa.bool_())
        if kind in TEMPORAL_KINDS:
            return self._temporal(array)
        return self._as_text(array)

    # Text ------------------------------------------------------------------------------------

    def _from_text(self, array: pa.Array, origin: pa.Array) -> pa.Array:
        kind = self.column.kind
        trimmed = pc.utf8_trim_whitespace(array)
        missing = spells_missing(trimmed, self.column)
        if pc.any(missing).as_py():
            array = pc.if_else(missing, None, array)
            trimmed = pc.if_else(missing, None, trimmed)
        if kind is ColumnKind.INTEGER:
            return self._integer_text(trimmed)
        if kind is ColumnKind.FLOAT:
            fits = pc.match_substring_regex(trimmed, NUMBER_REGEX)
            self._require(fits, trimmed, "a number")
            return pc.utf8_ltrim(trimmed, "+").cast(pa.float64())
        if kind is ColumnKind.BOOLEAN:
            return self._boolean_text(trimmed, origin)
        if kind in TEMPORAL_KINDS:
            return self._temporal_text(trimmed, origin)
        if kind is ColumnKind.IDENTIFIER:
            return trimmed
        if kind is ColumnKind.CONSTANT:
            return self._constant(array)
        return array

    def _integer_text(self, texts: pa.Array) -> pa.Array:
        try:
            # Hexadecimal would convert too, so a letter sends the column down the careful path.
            if not pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py():
                return texts.cast(pa.int64())
        except pa.ArrowInvalid:
            pass
        self._require(pc.match_substring_regex(texts, _INTEGER_TEXT), texts, "a whole number")
        plain = pc.replace_substring_regex(pc.utf8_ltrim(texts, "+"), r"\.0*$", "")
        return self._cast(plain, pa.int64(), expected="a whole number of at most 64 bits")

    def _boolean_text(self, texts: pa.Array, origin: pa.Array) -> pa.Array:
        true_value = (self.column.true_value or "true").lower()
        false_value = (self.column.false_value or "false").lower()
        lower = pc.utf8_lower(texts)
        is_true = pc.equal(lower, true_value)
        fits = pc.or_kleene(is_true, pc.equal(lower, false_value))
        self._require(fits, texts, f"{true_value!r} or {false_value!r}", origin)
        return is_true

    def _temporal_text(self, texts: pa.Array, origin: pa.Array) -> pa.Array:
        formats = [self.column.format] if self.column.format else ISO_FORMATS[self.column.kind]
        micros = pc.coalesce(*(parse_text(texts, fmt) for fmt in formats))
        fits = pc.if_else(pc.is_valid(texts), pc.is_valid(micros), None)
        self._require(
            fits, texts, f"a valid {self.column.kind} of the form {' or '.join(formats)}", origin
        )
        return self._from_micros(micros)

    def _from_micros(self, micros: pa.Array) -> pa.Array:
        if self.column.kind is ColumnKind.DATE:
            return pc.divide(micros, MICROS_PER_DAY).cast(pa.int32()).cast(pa.date32())
        return micros.cast(self.column.arrow_type)

    def _constant(self, texts: pa.Array) -> pa.Array:
        if self.column.value is None:
            fits = pc.if_else(pc.is_valid(texts), False, None)
            self._require(fits, texts, "only missing values, because the column is constant")
        else:
            fits = pc.equal(texts, self.column.value)
            self._require(fits, texts, "one constant value in every row")
        return texts

    # Typed columns ---------------------------------------------------------------------------

    def _clean_floats(self, array: pa.Array) -> pa.Array:
        if pat.is_float16(array.type):
            array = array.cast(pa.float32())
        nan = pc.is_nan(array)
        if pc.any(nan).as_py():
            array = pc.if_else(nan, None, array)
        infinite = pc.is_inf(array)
        if pc.any(infinite).as_py() and self.column.kind in NUMERIC_KINDS:
            declared = {text.lower() for text in self.column.missing_values}
            if declared & {"inf", "-inf", "+inf"}:
                return pc.if_else(infinite, None, array)
            self._fail(
                infinite,
                array,
                f"found {pc.sum(infinite).as_py()} infinite values (inf)",
                "finite numbers or missing",
                "replace them, or list 'inf' and '-inf' in missing_values of the column",
            )
        return array

    def _drop_declared_numbers(self, array: pa.Array) -> pa.Array:
        if not pat.is_primitive(array.type) or pat.is_temporal(array.type):
            return array
        for spelling in self.column.missing_values:
            try:
                number = pa.scalar(float(spelling)).cast(array.type)
            except (ValueError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
                continue
            array = pc.if_else(pc.equal(array, number), None, array)
        return array

    def _number(self, array: pa.Array) -> pa.Array:
        if self.column.kind is ColumnKind.FLOAT:
            if pat.is_decimal(array.type):
                # Through text, because the direct cast does not give the nearest float.
                array = array.cast(pa.string())
            return self._cast(array, pa.float64(), safe=False)
        if pat.is_floating(array.type):
            whole = pc.equal(pc.floor(array), array)
            fits = pc.and_kleene(whole, pc.less(pc.abs(array), 2.0**63))
            self._require(fits, array, "whole numbers of at most 64 bits")
        return self._cast(array, pa.int64())

    def _temporal(self, array: pa.Array) -> pa.Array:
        column = self.column
        if pat.is_integer(array.type) or pat.is_floating(array.type):
            if column.format is None:
                raise DataError(
                    f"{self._where()}: found type {array.type}, expected {column.kind}; give the "
                    "'format' of the numbers in the schema, such as '%Y%m%d'"
                )
            texts = array.cast(pa.int64()).cast(pa.string())
            return self._temporal_text(texts, array)
        if pat.is_timestamp(array.type):
            array = array.cast(pa.timestamp("us", tz=array.type.tz), safe=False)
            if array.type.tz is not None:
                array = array.cast(pa.int64()).cast(pa.timestamp("us"))
            if column.kind is ColumnKind.TIME:
                return array.cast(pa.time64("us"))
        elif pat.is_time(array.type):
            array = array.cast(pa.time64("us"), safe=False)
        return self._cast(array, column.arrow_type, safe=False)

    def _as_text(self, array: pa.Array) -> pa.Array:
        """Categories, identifiers and constants that the source stores with a type."""
        if pat.is_floating(array.type):
            whole = pc.all(pc.equal(pc.floor(array), array)).as_py()
            if whole and self.column.kind is not ColumnKind.CONSTANT:
                array = array.cast(pa.int64(), safe=False)
        texts = array.cast(pa.string())
        return self._constant(texts) if self.column.kind is ColumnKind.CONSTANT else texts

    # Errors ----------------------------------------------------------------------------------

    def _cast(
        self, array: pa.Array, kind: pa.DataType, *, safe: bool = True, expected: str | None = None
    ) -> pa.Array:
        try:
            return array.cast(kind, safe=safe)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise DataError(
                f"{self._where()}: found {array.type} values that do not convert; expected "
                f"{expected or kind}; correct them, or change the kind of the column in the schema"
            ) from None

    def _require(
        self, fits: pa.Array, values: pa.Array, expected: str, origin: pa.Array | None = None
    ) -> None:
        """Fail if any of the present values does not fit."""
        if pc.all(fits).as_py() is not False:
            return
        wrong = pc.fill_null(pc.invert(fits), False)
        bad = values.filter(wrong)
        form = describe_spelling(str(bad[0].as_py())) if is_text_type(values.type) else "a number"
        located = values
        if origin is not None and len(origin) != len(values):
            # Parsed spelling by spelling: find the rows that have one of the wrong spellings.
            located = origin
            wrong = pc.is_in(pc.utf8_trim_whitespace(origin.cast(pa.string())), bad)
        number = int(pc.sum(wrong).as_py() or 0)
        self._fail(
            wrong,
            located,
            f"found {number} {'value' if number == 1 else 'values'} such as {form}",
            expected,
            "correct the cell, list the spelling in missing_values, or change the kind of the "
            "column in the schema",
        )

    def _fail(self, wrong: pa.Array, values: pa.Array, found: str, expected: str, fix: str) -> None:
        row = pc.index(wrong, True).as_py() if len(wrong) == len(values) else -1
        where = f", first in row {self.first_row + row + 1}" if row >= 0 else ""
        raise DataError(f"{self._where()}: {found}{where}; expected {expected}; {fix}")

    def _where(self) -> str:
        return f"{self.label}, column {self.column.name!r}"

    def _check_bounds(self, result: pa.Array, origin: pa.Array) -> None:
        column = self.column
        for bound, compare, word in (
            (column.minimum, pc.less, "at least"),
            (column.maximum, pc.greater, "at most"),
        ):
            if bound is None:
                continue
            limit = pa.scalar(bound)
            if isinstance(bound, str):
                limit = pa.scalar(bound).cast(column.arrow_type)
            outside = pc.fill_null(compare(result, limit), False)
            count = pc.sum(outside).as_py() or 0
            if count:
                self._fail(
                    outside,
                    origin,
                    f"found {count} values outside the declared range",
                    f"{word} {bound}",
                    "correct the cells, or widen minimum and maximum in the schema",
                )


__all__ = ["from_canonical", "to_canonical", "to_canonical_batch"]
