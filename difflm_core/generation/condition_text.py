"""Conditions as text, for the command line.

    COLUMN=VALUE                 sex=Female
    COLUMN=VALUE|VALUE           education=Masters|Doctorate
    COLUMN=MIN..MAX              age=30..40, age=30.., joined=2024-01-01..2024-06-30
    COLUMN=                      workclass=  (missing); workclass=|Private  (missing or Private)
    COLUMN=JSON                  job="a|b", job=["a|b", "c"], age={"min": 30}

Only numbers, dates and times have ranges, so `..` in a category is a part of its name. A category
that holds `|` is understood when it stands alone; in a list, it is written as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from difflm_core.codec.rank_field import RankField
from difflm_core.codec.records import RecordCodec
from difflm_core.data.schema import NUMERIC_KINDS, TEMPORAL_KINDS, absent_name
from difflm_core.errors import ConfigError


def read_where(texts: Iterable[str], codec: RecordCodec) -> dict[str, Any]:
    """Read conditions from text, for `Conditions.parse`.

    Raises:
        ConfigError: a text names no column, or two name the same one.
    """
    wanted: dict[str, Any] = {}
    for text in texts:
        name, value = _split(text, codec)
        if name in wanted:
            raise ConfigError(
                f"conditions: column {name!r} is given twice. Join its values: "
                f"'{name}=A|B' asks for rows with one of them."
            )
        wanted[name] = _value(value, name, codec)
    return wanted


def _split(text: str, codec: RecordCodec) -> tuple[str, str]:
    """Column and value; the name of a column may hold an equals sign."""
    names = codec.schema.names
    fits = [name for name in names if text.startswith(f"{name}=")]
    if fits:
        name = max(fits, key=len)
        return name, text[len(name) + 1 :]
    name, equals, _ = text.partition("=")
    if not equals:
        raise ConfigError(
            f"conditions: found {text!r}, expected COLUMN=VALUE, such as 'age=30..40' or "
            "'sex=Female'."
        )
    raise ConfigError(f"conditions: {absent_name(name, names)}")


def _value(text: str, name: str, codec: RecordCodec) -> Any:
    field = codec.fields.get(name)
    if isinstance(field, RankField) and text in field.form.categories:
        return text
    if text[:1] in ('"', "[", "{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            pass  # perhaps a category that begins like this
    column = codec.schema.column(name)
    if column.value is not None and text == column.value:
        return text
    has_ranges = column.kind in NUMERIC_KINDS + TEMPORAL_KINDS
    return [_part(part, has_ranges=has_ranges) for part in text.split("|")]


def _part(text: str, *, has_ranges: bool) -> Any:
    if not text:
        return None
    low, dots, high = text.partition("..")
    if dots and has_ranges:
        return {"min": low.strip() or None, "max": high.strip() or None}
    return text.strip() if has_ranges else text
