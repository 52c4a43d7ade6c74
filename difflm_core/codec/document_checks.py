"""What makes a generated document valid: a check gives the reason against it, or None."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pyflakes import checker, messages

from difflm_core.data.document_form import parse_python, schema_validator
from difflm_core.data.schema import Column, ColumnKind
from difflm_core.data.strict_json import DuplicateKeyError, parse_strictly

# Why a document is not valid; None: it is.
DocumentCheck = Callable[[str], str | None]
# What generated code must be: Python that parses; or also without undefined names (pyflakes).
CodeRules = Literal["parse", "names"]

NOT_UTF8 = "not valid UTF-8"
NOT_JSON = "not valid JSON"
DUPLICATE_KEY = "a key twice in one object"
NOT_PYTHON = "does not parse as Python"
UNDEFINED_NAME = "an undefined name"
EMPTY = "empty"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def document_check(column: Column, code_rules: CodeRules = "parse") -> DocumentCheck:
    """The check of the documents of a corpus."""
    if column.kind is ColumnKind.CODE:
        return code_check(code_rules)
    return json_check(column.json_schema or {})


def json_check(json_schema: Mapping[str, Any]) -> DocumentCheck:
    """A check against a JSON Schema (draft 2020-12), formats included."""
    validator = schema_validator(json_schema)

    def check(text: str) -> str | None:
        if REPLACEMENT in text:
            return NOT_UTF8
        try:
            document = parse_strictly(text)
            # 1e999 is JSON, but infinite once it is read, and would be written as `Infinity`.
            json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
        except DuplicateKeyError:
            return DUPLICATE_KEY
        except UnicodeEncodeError:
            return NOT_UTF8
        except (ValueError, RecursionError):
            return NOT_JSON
        for error in validator.iter_errors(document):
            # The place in the schema, never in the document, whose keys may be content.
            return f"breaks the schema ({error.validator})"
        return None

    return check


def code_check(rules: CodeRules) -> DocumentCheck:
    """A check of Python source text; it is parsed and never run."""

    def check(text: str) -> str | None:
        if REPLACEMENT in text:
            return NOT_UTF8
        if not text.strip():
            return EMPTY
        tree = parse_python(text)
        if tree is None:
            return NOT_PYTHON
        return UNDEFINED_NAME if rules == "names" and _has_undefined_names(tree) else None

    return check


def _has_undefined_names(tree: ast.Module) -> bool:
    found: Any = checker.Checker(tree)
    return any(isinstance(message, messages.UndefinedName) for message in found.messages)
