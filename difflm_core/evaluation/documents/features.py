"""JSON documents as flat tables of features, so that the measures of tables apply to them.

A place in the documents becomes a column: a listed value is a category, a number a number, a text
its length, a list or a map its size, an optional key whether it is there. What is inside lists and
maps is counted (listed values) or averaged (numbers, lengths).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pyarrow as pa

from difflm_core.data.json_schema import options_of
from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.evaluation.documents.parsing import UNREADABLE, read_json

# Columns nearest to the root are kept.
MAX_FEATURES = 48
# Listed values inside lists and maps that are counted.
MAX_COUNTED = 6
# A place in fewer documents says more about chance than about the corpus.
MIN_DOCUMENTS, MIN_SHARE = 5, 0.02
# JSON's numbers have no bounds; larger ones are measured as floating-point numbers.
MAX_INTEGER = 2**53
CHARACTERS, DEPTH = "document (characters)", "document (depth)"

Features = dict[str, Any]


class JsonFeatures:
    """Turns documents of one JSON Schema into rows of features."""

    def __init__(self, json_schema: Mapping[str, Any]) -> None:
        """Prepare for documents of `json_schema`."""
        self._schema = json_schema

    def of(self, text: str) -> Features:
        """The features of a document; places that are not there have none.

        A text that is not JSON has its length alone.
        """
        document = read_json(text)
        if document is UNREADABLE:
            return {CHARACTERS: len(text)}
        found: Features = {CHARACTERS: len(text), DEPTH: _depth(document)}
        self._add(document, self._schema, "", found, inside=False)
        return {name: _total(value) for name, value in found.items()}

    def _add(self, value: Any, schema: Any, path: str, found: Features, *, inside: bool) -> None:
        options = options_of(schema, self._schema)
        if len(options) > 1 and path:
            _note(found, f"{path} (type)", _type_name(value), inside)
        if isinstance(value, dict):
            self._add_object(cast("dict[str, Any]", value), options, path, found, inside)
        elif isinstance(value, list):
            items = cast("list[Any]", value)
            _note(found, f"{path} (items)", len(items), inside)
            inner: Any = next((o["items"] for o in options if "items" in o), {})
            for item in items:
                self._add(item, inner, f"{path}[]", found, inside=True)
        elif isinstance(value, str):
            listed = next((o for o in options if "enum" in o and value in o["enum"]), None)
            if listed is None:
                _note(found, f"{path} (characters)", len(value), inside)
            elif not inside:
                found[path] = value
            elif value in listed["enum"][:MAX_COUNTED]:
                _count(found, f"{path} = {value}")
        elif isinstance(value, bool):
            _note(found, path, json.dumps(value), inside)
        elif value is not None:  # a null is no value: as a text, it would turn numbers into texts
            _note(found, path, value, inside)

    def _add_object(
        self,
        fields: dict[str, Any],
        options: Sequence[Mapping[str, Any]],
        path: str,
        found: Features,
        inside: bool,
    ) -> None:
        properties: dict[str, Any] = {}
        for option in options:
            properties |= option.get("properties", {})
        patterns = [p for o in options for p in o.get("patternProperties", {}).values()]
        others = (o.get("additionalProperties") for o in options)
        patterns += [other for other in others if isinstance(other, Mapping)]
        if patterns:
            _note(found, f"{path} (keys)", len(fields), inside)
        required = {key for option in options for key in option.get("required", ())}
        for key in properties:
            name = f"{path}.{key}" if path else key
            if key not in required and not inside:
                found[f"{name} (present)"] = "yes" if key in fields else "no"
            elif key not in required and key in fields:
                _count(found, f"{name} (present)")
        for key, inner in fields.items():
            if key in properties:
                name = f"{path}.{key}" if path else key
                self._add(inner, properties[key], name, found, inside=inside)
            elif patterns:
                self._add(inner, patterns[0], f"{path}.*", found, inside=True)


class _Mean(list[float]):
    """Values inside a list or a map, to be averaged."""


def _note(found: Features, name: str, value: Any, inside: bool) -> None:
    if not inside:
        found[name] = value
    elif isinstance(value, str):
        _count(found, f"{name} = {value}")
    else:
        found.setdefault(name, _Mean()).append(value)


def _count(found: Features, name: str) -> None:
    found[name] = found.get(name, 0) + 1


def _total(value: Any) -> Any:
    return sum(value) / len(value) if isinstance(value, _Mean) else value


def _type_name(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "boolean"}
    return names.get(type(value), "null" if value is None else "number")


def _depth(value: Any) -> int:
    inner: Any = ()
    if isinstance(value, dict):
        inner = cast("dict[str, Any]", value).values()
    elif isinstance(value, list):
        inner = cast("list[Any]", value)
    return 1 + max(_depth(item) for item in inner) if inner else 0


def feature_tables(
    rows_of_tables: Sequence[Sequence[Features]], reference: int = 1
) -> tuple[Schema, list[pa.Table]]:
    """Tables of the same columns from rows of features.

    Args:
        rows_of_tables: Rows of each table.
        reference: Index of the table that decides which columns there are, and of which kind.
    """
    columns = _columns(rows_of_tables[reference])
    schema = Schema(columns=tuple(columns))
    tables: list[pa.Table] = []
    for rows in rows_of_tables:
        arrays: list[pa.Array] = []
        for column in columns:
            values = [row.get(column.name) for row in rows]
            arrays.append(pa.array([_fit(v, column) for v in values], column.arrow_type))
        tables.append(pa.Table.from_arrays(arrays, schema=schema.arrow_schema))
    return schema, tables


def _columns(rows: Sequence[Features]) -> list[Column]:
    """A column for each feature that varies, those near to the root first."""
    seen: dict[str, set[Any]] = {}
    numeric: dict[str, bool] = {}
    counts: dict[str, int] = {}
    for row in rows:
        for name, value in row.items():
            seen.setdefault(name, set()).add(value)
            numeric[name] = numeric.get(name, True) and not isinstance(value, str)
            counts[name] = counts.get(name, 0) + 1
    fewest = max(MIN_DOCUMENTS, MIN_SHARE * len(rows))
    names = [n for n in seen if len(seen[n]) > 1 and counts[n] >= fewest]
    names = names or list(seen)[:1]  # a table needs a column
    names.sort(key=lambda name: (name.count(".") + name.count("[]"), -counts[name]))
    columns: list[Column] = []
    for name in names[:MAX_FEATURES]:
        whole = all(isinstance(v, int) and abs(v) < MAX_INTEGER for v in seen[name])
        kind = ColumnKind.CATEGORICAL
        if numeric[name]:
            kind = ColumnKind.INTEGER if whole else ColumnKind.FLOAT
        columns.append(Column(name=name, kind=kind, storage=_STORAGE[kind], nullable=True))
    return columns


_STORAGE = {
    ColumnKind.CATEGORICAL: "string",
    ColumnKind.INTEGER: "int64",
    ColumnKind.FLOAT: "double",
}


def _fit(value: Any, column: Column) -> Any:
    """A value as one of its column; of another kind, it is missing."""
    if value is None:
        return None
    if column.kind is ColumnKind.CATEGORICAL:
        return str(value)
    if isinstance(value, str):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return None
    if not math.isfinite(number):
        return None
    if column.kind is ColumnKind.INTEGER:
        return int(max(-MAX_INTEGER, min(MAX_INTEGER, number)))
    return number
