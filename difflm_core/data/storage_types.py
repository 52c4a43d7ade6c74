"""The types a column may have in the source, by name.

A storage name is the text of an Arrow type, with two additions: `text` for the untyped columns of
a delimited file, and `dictionary<T>` for dictionary-encoded (pandas "category") columns.
"""

from __future__ import annotations

import re
from functools import cache

import pyarrow as pa
import pyarrow.types as pat

TEXT_STORAGE = "text"

_SIMPLE: dict[str, pa.DataType] = {
    str(kind): kind
    for kind in (
        pa.null(),
        pa.bool_(),
        pa.int8(),
        pa.int16(),
        pa.int32(),
        pa.int64(),
        pa.uint8(),
        pa.uint16(),
        pa.uint32(),
        pa.uint64(),
        pa.float16(),
        pa.float32(),
        pa.float64(),
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.date32(),
        pa.date64(),
        pa.time32("s"),
        pa.time32("ms"),
        pa.time64("us"),
        pa.time64("ns"),
        pa.timestamp("s"),
        pa.timestamp("ms"),
        pa.timestamp("us"),
        pa.timestamp("ns"),
    )
} | {"float64": pa.float64(), "float32": pa.float32(), "date": pa.date32()}

_ZONED = re.compile(r"timestamp\[(s|ms|us|ns), tz=([^\]]+)\]")
_DECIMAL = re.compile(r"decimal(128|256)\((\d+), ?(-?\d+)\)")
_DICTIONARY = re.compile(r"dictionary<(.+)>")


def storage_name(kind: pa.DataType) -> str:
    """Name of the Arrow type of a source column."""
    if pat.is_dictionary(kind):
        return f"dictionary<{storage_name(kind.value_type)}>"
    return str(kind)


@cache
def storage_type(name: str) -> pa.DataType:
    """Arrow type called `name`; the untyped `text` is a string.

    Raises:
        ValueError: the name is not a type that a table column may have.
    """
    if name == TEXT_STORAGE:
        return pa.string()
    if name in _SIMPLE:
        return _SIMPLE[name]
    if match := _ZONED.fullmatch(name):
        return pa.timestamp(match[1], tz=match[2])
    if match := _DECIMAL.fullmatch(name):
        make = pa.decimal128 if match[1] == "128" else pa.decimal256
        return make(int(match[2]), int(match[3]))
    if match := _DICTIONARY.fullmatch(name):
        return pa.dictionary(pa.int32(), storage_type(match[1]))
    raise ValueError(name)


def storage_problem(name: str) -> str | None:
    """What is wrong with a storage name, or None."""
    try:
        storage_type(name)
    except (ValueError, pa.ArrowInvalid):
        return (
            f"storage {name!r} is not a known type; expected '{TEXT_STORAGE}' or an Arrow type "
            "such as 'string', 'int64', 'double', 'bool', 'timestamp[us]'"
        )
    return None


def is_text_type(kind: pa.DataType) -> bool:
    """Whether values of this Arrow type are pieces of text."""
    return pat.is_string(kind) or pat.is_large_string(kind) or pat.is_string_view(kind)


def is_supported_type(kind: pa.DataType) -> bool:
    """Whether a column of this Arrow type can be modelled."""
    return storage_problem(storage_name(kind)) is None
