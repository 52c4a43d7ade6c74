"""Documents parsed as strictly as their format is, and checked; what is none is no exception."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Callable
from typing import Any, Final, NoReturn, cast

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


def parse_quietly(text: str) -> ast.Module | None:
    """The syntax tree of a source text; None if it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def validator_of(schema: Schema) -> Callable[[str], str | None]:
    """Why a document is invalid; None: it is valid."""
    if schema.data_kind is DataKind.CODE:
        return lambda text: None if parse_quietly(text) is not None else "does not parse"
    from jsonschema import Draft202012Validator

    validator: Any = Draft202012Validator(
        schema.columns[0].json_schema or {},
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )

    def check(text: str) -> str | None:
        document = read_json(text)
        if document is UNREADABLE:
            return "not valid JSON"
        error = next(iter(validator.iter_errors(document)), None)
        return None if error is None else f"breaks the schema ({error.validator})"

    return check
