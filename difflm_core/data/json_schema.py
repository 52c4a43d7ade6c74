"""JSON Schema (draft 2020-12) of a corpus of documents: inferred, or given; and canonical text.

Every document of the corpus is valid against the inferred schema, and nothing is left unbounded
that a language model would have to end by itself: strings, arrays and maps have a largest length,
numbers a range and a number of digits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

from difflm_core import storage
from difflm_core.data.document_profile import DocumentProfile, Node, Values
from difflm_core.data.readers import Source
from difflm_core.data.schema import (
    DOCUMENT_COLUMNS,
    Column,
    ColumnKind,
    DataKind,
    Schema,
)
from difflm_core.errors import DataError, SchemaError

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Digits after the point; validators ignore it, the grammar does not (`multipleOf` of a fraction is
# not exact in binary arithmetic).
DECIMALS_KEY = "x-decimals"
# Marks a schema that was inferred: its corpus need not be checked against it.
INFERRED_KEY = "x-inferred"

# Values are listed when there are so few of them, or when each occurs so often on average ...
FEW_VALUES = 12
MIN_REPEATS = 5.0
# ... and none is longer.
MAX_VALUE_LENGTH = 80
MAX_INTEGERS = 16
# A format is believed when so many values have it.
MIN_FORMATTED = 5
# Keys are content when they are more than this, and an object has few of them on average.
MANY_KEYS = 16
SPARSE_SHARE = 1 / 6


def decide_document_schema(
    source: Source,
    profile: DocumentProfile,
    *,
    declared: Schema | Mapping[str, Any] | None = None,
    target: str | None = None,
) -> Schema:
    """Decide the schema of a profiled corpus.

    Args:
        source: The corpus.
        profile: What it holds.
        declared: A schema that is given: ours, or a JSON Schema.
        target: Dotted path that a downstream model predicts.

    Raises:
        DataError: the corpus is empty.
        SchemaError: what is declared is of another kind.
    """
    if not profile.num_rows:
        raise DataError(f"{source.label}: found no documents, expected at least one")
    if isinstance(declared, Schema):
        if declared.data_kind is not profile.kind:
            raise SchemaError(
                f"data.schema_path describes a corpus of kind {declared.data_kind}, but data.kind "
                f"is {profile.kind}; set one of them to the other"
            )
        return declared.with_target(target or declared.target)
    name = DOCUMENT_COLUMNS[profile.kind]
    if profile.kind is DataKind.CODE:
        column = Column(name=name, kind=ColumnKind.CODE, storage="string")
    else:
        json_schema = dict(declared) if declared is not None else schema_of(profile.root)
        column = Column(name=name, kind=ColumnKind.JSON, storage="string", json_schema=json_schema)
    return Schema(target=target, columns=(column,))


def load_document_schema(path: str) -> Schema | dict[str, Any]:
    """Read what is given of a corpus's schema: a schema.json, or a JSON Schema.

    Raises:
        SchemaError: the file is absent, or holds neither.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError as InvalidSchemaError

    try:
        text = storage.read_text(path)
        content: Any = json.loads(text)
    except FileNotFoundError:
        raise SchemaError(
            f"{path}: there is no such file; expected a schema.json or a JSON Schema"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SchemaError(f"{path}: not valid JSON: {error}") from None
    if isinstance(content, dict) and "columns" in content:
        return Schema.from_json(text, source=path)
    if not isinstance(content, dict) or not {"type", "properties", "anyOf", "$ref", "oneOf"} & set(
        cast("dict[str, Any]", content)
    ):
        raise SchemaError(
            f"{path}: found neither a schema.json (key 'columns') nor a JSON Schema (a key such "
            "as 'type' or 'properties')"
        )
    try:
        Draft202012Validator.check_schema(content)
    except InvalidSchemaError as error:
        place = "/".join(str(part) for part in error.absolute_path)
        raise SchemaError(
            f"{path}, at /{place}: not a valid JSON Schema: {error.message[:200]}"
        ) from None
    return cast("dict[str, Any]", content)


def schema_of(root: Node) -> dict[str, Any]:
    """The JSON Schema of everything that a profile has seen."""
    return {"$schema": DIALECT, INFERRED_KEY: True, **_schema(root)}


def _schema(node: Node) -> dict[str, Any]:
    counts = node.counts
    options: list[dict[str, Any]] = []
    if "object" in counts:
        options.append(_object(node))
    if "array" in counts:
        options.append(_array(node))
    if "string" in counts:
        options.append(_text(node))
    if "integer" in counts or "number" in counts:
        options.append(_number(node))
    options += [{"type": kind} for kind in ("boolean", "null") if kind in counts]
    return options[0] if len(options) == 1 else {"anyOf": options}


def _text(node: Node) -> dict[str, Any]:
    count = node.counts["string"]
    listed = _listed(node.texts, count)
    if listed is not None and all(len(value) <= MAX_VALUE_LENGTH for value in listed):
        return {"enum": listed}
    found: dict[str, Any] = {"type": "string"}
    if node.formats and count >= MIN_FORMATTED:
        return {**found, "format": min(node.formats)}
    low, high = int(node.lengths.low or 0), int(node.lengths.high or 0)
    return {**found, **({"minLength": low} if low else {}), "maxLength": high}


def _number(node: Node) -> dict[str, Any]:
    low, high = node.numbers.low, node.numbers.high
    if "number" not in node.counts:
        listed = _listed(node.integers, node.counts["integer"])
        if listed is not None and len(listed) <= MAX_INTEGERS and max(map(abs, listed)) < 2**53:
            return {"enum": sorted(listed)}
        return {"type": "integer", "minimum": low, "maximum": high}
    found: dict[str, Any] = {"type": "number", "minimum": low, "maximum": high}
    if node.decimals is not None:
        found[DECIMALS_KEY] = node.decimals
    return found


def _listed(values: Values, count: int) -> list[Any] | None:
    """The distinct values, most frequent first, if they are to be listed."""
    if values.counts is None:
        return None
    distinct = len(values.counts)
    if count < MIN_REPEATS * (distinct if distinct > FEW_VALUES else 1) or distinct * 2 > count:
        return None
    return [v for v, _ in sorted(values.counts.items(), key=lambda item: (-item[1], str(item[0])))]


def _array(node: Node) -> dict[str, Any]:
    low, high = int(node.sizes.low or 0), int(node.sizes.high or 0)
    found: dict[str, Any] = {"type": "array"}
    if node.items is not None:
        found["items"] = _schema(node.items)
    return {**found, **({"minItems": low} if low else {}), "maxItems": high}


def _object(node: Node) -> dict[str, Any]:
    count = node.counts["object"]
    if _is_map(node):
        node.collapse()
        low, high = int(node.num_keys.low or 0), int(node.num_keys.high or 0)
        longest = int(node.key_lengths.high or 1)
        shortest = int(node.key_lengths.low or 0)
        pattern = f"^(?s:.{{{shortest},{longest}}})$"
        return {
            "type": "object",
            "patternProperties": {pattern: _schema(cast("Node", node.values))},
            "additionalProperties": False,
            **({"minProperties": low} if low else {}),
            "maxProperties": high,
        }
    keys = node.keys or {}
    required = [key for key, child in keys.items() if child.total == count]
    return {
        "type": "object",
        "properties": {key: _schema(child) for key, child in keys.items()},
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _is_map(node: Node) -> bool:
    """Whether the keys of the objects here are content."""
    # Grammars spell DEL in two ways: as the name of a property, and everywhere else.
    if node.keys is None or any("\x7f" in key for key in node.keys):
        return True
    mean = node.total_keys / node.counts["object"]
    return len(node.keys) > MANY_KEYS and mean < SPARSE_SHARE * len(node.keys)


def canonical_document(value: Any, json_schema: Mapping[str, Any]) -> str:
    """The one spelling of a document that is trained on and generated.

    Compact, with the keys of an object in the order of its schema's `properties` (others after
    them, in their own order), numbers without exponents and whole ones without a point, and DEL
    escaped.
    """
    return _spelled(_ordered(value, json_schema, json_schema))


def _ordered(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        options = [s for s in options_of(schema, root) if "items" in s]
        items: Any = options[0]["items"] if options else {}
        return [_ordered(item, items, root) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    best = _best_object(fields, schema, root)
    properties: Mapping[str, Any] = best.get("properties", {})
    others: Any = best.get("additionalProperties")
    patterns = list(best.get("patternProperties", {}).values())
    rest: Any = patterns[0] if patterns else others if isinstance(others, Mapping) else {}
    order = [key for key in properties if key in fields]
    order += [key for key in fields if key not in properties]
    return {key: _ordered(fields[key], properties.get(key, rest), root) for key in order}


def _best_object(
    fields: Mapping[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The option of a schema whose properties are most like the fields of an object."""
    best: Mapping[str, Any] = {}
    score = -1.0
    for option in options_of(schema, root):
        properties = option.get("properties", {})
        known = sum(key in properties for key in fields)
        missing = sum(key not in fields for key in option.get("required", ()))
        consts = sum(
            isinstance(inner, Mapping) and inner.get("const", fields.get(key)) != fields.get(key)
            for key, inner in properties.items()
        )
        here = known - missing - consts + (0.5 if "patternProperties" in option else 0.0)
        if here > score or not best:
            best, score = option, here
    return best


def options_of(schema: Any, root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A schema's alternatives, references followed."""
    if not isinstance(schema, Mapping):
        return []
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target: Any = root
        for part in reference[2:].split("/"):
            target = target.get(part, {}) if isinstance(target, Mapping) else {}
        return options_of(target, root)
    found: list[Mapping[str, Any]] = []
    for key in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(key, ()):
            found += options_of(option, root)
    return [*found, schema] if "properties" in schema or not found else found


_UNUSUAL_NUMBER = re.compile(r"\de[+-]?\d|\d\.0(?!\d)")


def _spelled(value: Any) -> str:
    """Compact JSON in the spelling of the grammar, which knows no raw DEL."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if _UNUSUAL_NUMBER.search(text):  # perhaps only in a string
        text = _spelled_out(value)
    return text.replace("\x7f", "\\u007f")


def _spelled_out(value: Any) -> str:
    if isinstance(value, float):
        if value.is_integer():
            return str(int(value))
        spelled = repr(value)
        return format(Decimal(spelled), "f") if "e" in spelled else spelled
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        inside = (f"{_spelled_out(key)}:{_spelled_out(inner)}" for key, inner in fields.items())
        return "{" + ",".join(inside) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_spelled_out(item) for item in cast("list[Any]", value)) + "]"
    return json.dumps(value, ensure_ascii=False)
