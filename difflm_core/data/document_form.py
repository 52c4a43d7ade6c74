"""Documents in their canonical form: the one spelling that is trained on and generated."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from difflm_core.data.json_schema import INFERRED_KEY, canonical_document
from difflm_core.data.schema import Column, ColumnKind
from difflm_core.errors import DataError


def canonical_documents(texts: Iterable[str | None], column: Column, place: str) -> pa.Array:
    """Canonical texts of raw documents.

    Args:
        texts: Compact JSON, or code.
        column: Of the kind `json` or `code`.
        place: Names the source in errors, with the number of the first document as `{}`.

    Raises:
        DataError: a document breaks a JSON Schema that was given.
    """
    if column.kind is ColumnKind.CODE:
        return pa.array([canonical_code(text or "") for text in texts], pa.string())
    schema = column.json_schema or {}
    validator: Any = None
    if not schema.get(INFERRED_KEY):  # every document is valid against an inferred one
        from jsonschema import Draft202012Validator

        validator = Draft202012Validator(schema)
    found: list[str] = []
    for number, text in enumerate(texts):
        document = json.loads(text or "null")
        if validator is not None:
            _require_valid(validator, document, place.format(number))
        found.append(canonical_document(document, schema))
    return pa.array(found, pa.string())


def canonical_code(text: str) -> str:
    """Source text with one kind of line break, and nothing at the ends of lines or of the text."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def parse_python(text: str) -> ast.Module | None:
    """The syntax tree of a source text, which is never run; None if it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as invalid escapes in strings
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def schema_validator(json_schema: Mapping[str, Any]) -> Any:
    """Checks values against a JSON Schema (draft 2020-12), formats included."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json_schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def _require_valid(validator: Any, document: Any, place: str) -> None:
    for error in validator.iter_errors(document):
        # Places in the schema: those in the document may be content.
        where = "/".join(str(part) for part in error.absolute_schema_path)
        raise DataError(
            f"{place}: the document breaks the JSON Schema of data.schema_path at /{where}: found "
            f"{_described(error.instance)}, expected {error.validator} "
            f"{json.dumps(error.validator_value)[:120]}; correct the document or the schema"
        )


def _described(value: Any) -> str:
    """A value without its content."""
    if isinstance(value, str):
        return f"text of {len(value)} characters"
    if isinstance(value, list):
        return f"a list of {len(value)} items"
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    return "null" if value is None else type(value).__name__
