"""An inferred JSON Schema for a person: one line for each part of the documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from difflm_core.data.json_schema import DECIMALS_KEY, options_of

_MAX_LABEL = 44
# Deeper parts are left out: recursive schemas have no end, and maps of maps are hard to read.
_MAX_DEPTH = 6


def outline(json_schema: Mapping[str, Any], name: str = "document") -> list[str]:
    """Lines with the parts of documents, indented, and what each one is; no values are shown.

    Args:
        json_schema: Of the documents.
        name: What a document is called.
    """
    rows = list(_rows(name, json_schema, json_schema, 0))
    width = min(_MAX_LABEL, max(len(label) for label, _ in rows))
    return [f"{label:<{width}}  {text}" for label, text in rows]


def _rows(
    name: str, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int, note: str = ""
) -> Iterator[tuple[str, str]]:
    options = options_of(schema, root)
    label = "  " * depth + name
    texts = dict.fromkeys(_described(option) for option in options)
    text = (" or ".join(texts) or "anything") + note
    if depth == _MAX_DEPTH:
        has_parts = any({"properties", "patternProperties", "items"} & set(o) for o in options)
        yield label, f"{text} ..." if has_parts else text
        return
    yield label, text
    for option in options:
        required = option.get("required", ())
        for key, inner in option.get("properties", {}).items():
            optional = "" if key in required else ", optional"
            yield from _rows(key, _mapping(inner), root, depth + 1, optional)
        for inner in option.get("patternProperties", {}).values():
            yield from _rows("*", _mapping(inner), root, depth + 1)
        if isinstance(option.get("additionalProperties"), Mapping):
            yield from _rows("*", option["additionalProperties"], root, depth + 1)
        if isinstance(option.get("items"), Mapping):
            yield from _rows("[]", option["items"], root, depth + 1)


def _described(schema: Mapping[str, Any]) -> str:
    """What a value is, in words."""
    if "const" in schema:
        return "one value"
    if "enum" in schema:
        count = len(schema["enum"])
        return f"one of {count} values" if count > 1 else "one value"
    types = schema.get("type", "anything")
    names = cast("list[str]", types) if isinstance(types, list) else [str(types)]
    return " or ".join(_of_type(name, schema) for name in names)


def _of_type(name: str, schema: Mapping[str, Any]) -> str:
    if name == "string":
        if "format" in schema:
            return f"text of the form {schema['format']}"
        return "text" + _span(schema, "minLength", "maxLength", "characters")
    if name in ("integer", "number"):
        word = "whole number" if name == "integer" else "number"
        low, high = schema.get("minimum"), schema.get("maximum")
        span = "" if low is None or high is None else f" from {low} to {high}"
        decimals = schema.get(DECIMALS_KEY)
        return word + span + ("" if decimals is None else f", {decimals} decimals")
    if name == "array":
        return "list" + _span(schema, "minItems", "maxItems", "items")
    if name == "object":
        is_map = "patternProperties" in schema
        return "map" + _span(schema, "minProperties", "maxProperties", "keys") if is_map else name
    return {"boolean": "true or false"}.get(name, name)


def _span(schema: Mapping[str, Any], low_key: str, high_key: str, unit: str) -> str:
    low, high = schema.get(low_key, 0), schema.get(high_key)
    if high is None:
        return "" if not low else f" of at least {low} {unit}"
    return f" of {high} {unit}" if low == high else f" of {low} to {high} {unit}"


def _mapping(schema: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", schema) if isinstance(schema, Mapping) else {}
