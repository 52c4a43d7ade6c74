"""What makes a generated document valid: a check gives the reason against it, or None."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

from difflm_core.data.schema import Column, ColumnKind
from difflm_core.data.strict_json import DuplicateKeyError, parse_strictly
from difflm_core.errors import ConfigError

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
    """The check of the documents of a corpus.

    Raises:
        ConfigError: `code_rules` needs a package that is not installed.
    """
    if column.kind is ColumnKind.CODE:
        return code_check(code_rules)
    return json_check(column.json_schema or {})


def json_check(json_schema: Mapping[str, Any]) -> DocumentCheck:
    """A check against a JSON Schema (draft 2020-12), formats included."""
    from jsonschema import Draft202012Validator

    validator: Any = Draft202012Validator(
        json_schema, format_checker=Draft202012Validator.FORMAT_CHECKER
    )

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
    """A check of Python source text; it is parsed and never run.

    Raises:
        ConfigError: `names` needs pyflakes, which is not installed.
    """
    if rules == "names":
        try:
            import pyflakes.api  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except ImportError:
            raise ConfigError(
                "codec.code_rules = 'names': pyflakes is not installed here. Install it: pip "
                "install pyflakes; or set codec.code_rules=parse."
            ) from None

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


def parse_python(text: str) -> ast.Module | None:
    """The syntax tree of a source text; None if it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as invalid escapes in strings
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _has_undefined_names(tree: ast.Module) -> bool:
    from pyflakes import checker, messages

    found: Any = checker.Checker(tree)
    return any(isinstance(message, messages.UndefinedName) for message in found.messages)
