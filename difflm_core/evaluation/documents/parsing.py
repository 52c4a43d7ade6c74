"""Documents parsed as strictly as their format is, and checked; what is none is no exception."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NoReturn, cast

from difflm_core.data.document_form import parse_python, schema_validator
from difflm_core.data.schema import DataKind, Schema

# Deeper ones would end the recursion of those who walk through them.
MAX_DEPTH = 200


class Unreadable:
    """Stands for the content of a text that does not parse."""


UNREADABLE: Final = Unreadable()


def read_json(text: str) -> Any:
    """The value of a JSON text; `UNREADABLE` if it is none.

    Python's own reader also takes NaN and Infinity, which JSON does not have.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return UNREADABLE
    return value if _is_shallow(value) else UNREADABLE


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return True
    return False


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(cast("dict[str, Any]", value).values())
    return cast("list[Any]", value) if isinstance(value, list) else []


def validator_of(schema: Schema) -> Callable[[str], str | None]:
    """Why a document is invalid; None: it is valid."""
    if schema.data_kind is DataKind.CODE:
        return lambda text: None if parse_python(text) is not None else "does not parse"
    validator = schema_validator(schema.columns[0].json_schema or {})

    def check(text: str) -> str | None:
        document = read_json(text)
        if document is UNREADABLE:
            return "not valid JSON"
        error = next(iter(validator.iter_errors(document)), None)
        return None if error is None else f"breaks the schema ({error.validator})"

    return check
