"""From canonical types back to the form of the source: types, number and date spellings."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc_module
import pyarrow.types as pat

from difflm_core.data.datetimes import MICROS_PER_DAY, format_text
from difflm_core.data.identifiers import IdentifierPattern, Run
from difflm_core.data.profile import INTEGER_REGEX, NUMBER_REGEX
from difflm_core.data.schema import TEMPORAL_KINDS, Column, ColumnKind, Schema
from difflm_core.data.storage_types import is_text_type, storage_type

if TYPE_CHECKING:
    import pandas as pd

pc: Any = pc_module

Form = Literal["typed", "text", "json"]
_DICTIONARY_MARK = {b"difflm.storage": b"dictionary"}


def from_canonical(table: pa.Table, schema: Schema, *, form: Form = "typed") -> pa.Table:
    """Convert canonical records to the form of the source.

    Args:
        table: Canonical records.
        schema: What the columns are.
        form: What to do with columns of a delimited file, which has no types. `typed`: their
            natural Arrow types (for Parquet and DataFrames). `text`: spelled as in the source.
            `json`: natural types, but dates and times as text.

    Returns:
        Table with the columns of the schema; a column of a typed source has its type again.
    """
    arrays: list[pa.Array] = []
    for column in schema.columns:
        array: Any = table.column(column.name)
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        arrays.append(_column_from_canonical(array, column, form))
    return pa.Table.from_arrays(arrays, names=list(schema.names))


def source_schema(schema: Schema, *, form: Form = "typed") -> pa.Schema:
    """Arrow schema of the tables that `from_canonical` makes."""
    return from_canonical(schema.arrow_schema.empty_table(), schema, form=form).schema


def to_dataframe(table: pa.Table, schema: Schema) -> pd.DataFrame:
    """Convert canonical records to a pandas DataFrame with the dtypes of the source."""
    nullable = {column.name for column in schema.columns if column.nullable}
    return typed_dataframe(from_canonical(table, schema), nullable)


def stream_schema(schema: Schema) -> pa.Schema:
    """Arrow schema of records in a stream: that of the source, without dictionaries.

    Dictionaries would tie each batch to those before it. A mark remembers them, for
    `from_stream`, and each field tells whether values may be missing.
    """
    fields: list[pa.Field] = []
    for field, column in zip(source_schema(schema), schema.columns, strict=True):
        if pat.is_dictionary(field.type):
            field = field.with_type(field.type.value_type).with_metadata(_DICTIONARY_MARK)
        fields.append(field.with_nullable(column.nullable))
    return pa.schema(fields)


def from_stream(table: pa.Table) -> pa.Table:
    """Records of a stream, with the dictionaries that `stream_schema` left out."""
    for index, field in enumerate(table.schema):
        if dict(field.metadata or {}) == _DICTIONARY_MARK:
            values: Any = table.column(index)
            encoded = values.combine_chunks().dictionary_encode()
            plain = field.remove_metadata().with_type(encoded.type)
            table = table.set_column(index, plain, encoded)
    return table


def typed_dataframe(table: pa.Table, nullable: Collection[str]) -> pd.DataFrame:
    """Convert records in the form of the source to a pandas DataFrame with its dtypes.

    Args:
        table: What `from_canonical` makes in the form `typed`.
        nullable: Names of the columns that may miss values.
    """
    import pandas as pd

    names = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
    dtypes: dict[Any, Any] = {
        pa.type_for_alias(name.lower()): getattr(pd, f"{name}Dtype")() for name in names
    }
    dtypes[pa.bool_()] = pd.BooleanDtype()
    series: dict[str, Any] = {}
    for name in table.column_names:
        values: Any = table.column(name)
        mapper: dict[Any, Any] = dict(dtypes) if name in nullable else {}
        mapper[pa.large_string()] = pd.StringDtype()
        series[name] = values.to_pandas(types_mapper=mapper.get)
    return pd.DataFrame(series)


def _column_from_canonical(array: Any, column: Column, form: Form) -> pa.Array:
    if column.is_untyped:
        if form == "text":
            return _spell_missing(_as_text(array, column), column, empty="")
        if form == "json" and column.kind in TEMPORAL_KINDS:
            return _as_text(array, column)
        return array.cast(_natural_type(column))
    target = storage_type(column.storage)
    if pat.is_null(target):
        return pa.nulls(len(array))
    if pat.is_dictionary(target):
        values = _typed(array, column, target.value_type)
        return values.dictionary_encode().cast(target)
    if is_text_type(target):
        return _spell_missing(_as_text(array, column), column, empty=None).cast(target)
    return _typed(array, column, target)


def _natural_type(column: Column) -> pa.DataType:
    """Arrow type of a column whose source has no types."""
    if column.kind is ColumnKind.IDENTIFIER:
        return pa.int64() if _is_plain_number(column.pattern) else pa.string()
    if column.kind is ColumnKind.CONSTANT and column.value is not None:
        if re.match(INTEGER_REGEX, column.value):
            return pa.int64()
        return pa.float64() if re.match(NUMBER_REGEX, column.value) else pa.string()
    return column.arrow_type


def _is_plain_number(pattern: str | None) -> bool:
    """Whether all identifiers of a pattern are whole numbers that fit and lose no leading zero."""
    if pattern is None:
        return False
    parsed = IdentifierPattern.parse(pattern)
    sequence = parsed.sequence
    if sequence is not None:
        return len(parsed.parts) == 1 and sequence.digits == 0
    runs = [part for part in parsed.parts if isinstance(part, Run)]
    return (
        bool(runs)
        and all(set(run.alphabet) <= set("0123456789") for run in runs)
        and "0" not in runs[0].alphabet
        and sum(run.most for run in runs) <= 18
    )


def _typed(array: Any, column: Column, target: pa.DataType) -> pa.Array:
    """Convert to a type of the source that is not text."""
    if column.format is not None and not pat.is_temporal(target):
        return _as_text(array, column).cast(target)
    if pat.is_timestamp(target):
        micros = array.cast(pa.timestamp("us")).cast(pa.int64())
        zoned = (
            micros.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.timestamp("us", tz=target.tz))
        )
        return zoned.cast(target, safe=False)
    if pat.is_decimal(target) and pat.is_floating(array.type):
        return array.cast(pa.decimal128(38, target.scale)).cast(target)
    if pat.is_float16(target):
        return array.cast(pa.float32()).cast(target)
    return array.cast(target, safe=not pat.is_floating(target))


def _as_text(array: Any, column: Column) -> pa.Array:
    """Spell the values of a column; missing ones stay null."""
    kind = column.kind
    if kind in TEMPORAL_KINDS:
        return _temporal_text(array, column)
    if kind is ColumnKind.BOOLEAN:
        true_value, false_value = column.true_value or "true", column.false_value or "false"
        return pc.if_else(array, true_value, false_value)
    if kind is ColumnKind.INTEGER:
        texts = array.cast(pa.string())
        if column.number_style == "fixed" and column.decimals:
            texts = pc.binary_join_element_wise(texts, "." + "0" * column.decimals, "")
        return texts
    return _float_text(array, column) if kind is ColumnKind.FLOAT else array


def _temporal_text(array: Any, column: Column) -> pa.Array:
    if column.format is None:
        return array.cast(pa.string())
    if column.kind is ColumnKind.DATE:
        micros = pc.multiply(array.cast(pa.int32()).cast(pa.int64()), MICROS_PER_DAY)
    else:
        micros = array.cast(pa.int64())
    return format_text(micros, column.format)


def _float_text(array: Any, column: Column) -> pa.Array:
    """Spell floats: rounded to the decimals of the column, in its style."""
    style, decimals = column.number_style or "plain", column.decimals
    largest = pc.max(pc.abs(array)).as_py() or 0.0
    if decimals is not None and largest < 10.0 ** (37 - decimals):
        texts = _fixed_point(pc.round(array, decimals), decimals)
        if decimals == 0:
            return texts if style == "plain" else pc.binary_join_element_wise(texts, ".0", "")
        if style == "fixed":
            return texts
        texts = pc.utf8_rtrim(texts, "0")
        return pc.replace_substring_regex(texts, r"\.$", "" if style == "plain" else ".0")
    texts = array.cast(pa.string())
    if style == "plain":
        return pc.replace_substring_regex(texts, r"\.0$", "")
    whole = pc.match_substring_regex(texts, r"^[+-]?[0-9]+$")
    return pc.if_else(whole, pc.binary_join_element_wise(texts, ".0", ""), texts)


def _fixed_point(array: Any, decimals: int) -> pa.Array:
    """Write floats with a fixed number of digits after the point, never with an exponent."""
    exact = array.cast(pa.decimal128(38, decimals))
    # A decimal with a scale is written with an exponent when it is small, so the same bits are
    # read as a whole number and the point is put in by hand.
    whole = pa.Array.from_buffers(
        pa.decimal128(38, 0), len(exact), exact.buffers(), exact.null_count, exact.offset
    ).cast(pa.string())
    if decimals == 0:
        return whole
    sign = pc.if_else(pc.starts_with(whole, "-"), "-", "")
    digits = pc.utf8_lpad(pc.utf8_ltrim(whole, "-"), decimals + 1, "0")
    before = pc.utf8_slice_codeunits(digits, 0, -decimals)
    after = pc.utf8_slice_codeunits(digits, -decimals, None)
    unsigned = pc.binary_join_element_wise(before, after, ".")
    return pc.binary_join_element_wise(sign, unsigned, "")


def _spell_missing(texts: Any, column: Column, *, empty: str | None) -> pa.Array:
    """Write missing values as the source does: its most frequent spelling."""
    spelling = column.missing_values[0] if column.missing_values else ""
    fill = spelling or empty
    return texts if fill is None else pc.fill_null(texts, fill)
