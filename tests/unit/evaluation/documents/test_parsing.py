import json

import pytest

from difflm_core.data.document_form import parse_python
from difflm_core.evaluation.documents.parsing import (
    MAX_DEPTH,
    UNREADABLE,
    read_json,
    validator_of,
)
from tests.unit.evaluation.documents.corpora import CODE, JSON


@pytest.mark.parametrize("value", [None, True, 0, -1.5, "ü", [], {}, [{"a": [1, None]}]])
def test_json_is_read(value) -> None:
    assert read_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    "text", ["", "{", '{"a":1', "{'a': 1}", "NaN", '{"a": Infinity}', "1" * 5000, "[" * 100_000]
)
def test_what_is_no_json_is_unreadable(text) -> None:
    assert read_json(text) is UNREADABLE


def test_the_depth_that_can_be_walked_is_a_limit() -> None:
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert read_json(deepest) is not UNREADABLE
    assert read_json(f"[{deepest}]") is UNREADABLE


@pytest.mark.parametrize("text", ["def f(:", "  x = 1\n y = 2", "a\0b", "print 'old'"])
def test_what_is_no_python_is_none(text) -> None:
    assert parse_python(text) is None
    assert validator_of(CODE)(text) == "does not parse"


def test_odd_escapes_warn_nobody(recwarn) -> None:
    assert parse_python("x = '\\d'") is not None
    assert not recwarn.list


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"category":"sports","name":"x"}', None),
        ('{"category":"sports"}', "breaks the schema (required)"),
        ('{"category":"cooking","name":"x"}', "breaks the schema (enum)"),
        ('{"category":"sports","name":3}', "breaks the schema (type)"),
        ('{"category":"sports","name":"x"', "not valid JSON"),
        ('{"category":"sports","name":"x","count":NaN}', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_why_a_document_is_invalid(text, reason) -> None:
    assert validator_of(JSON)(text) == reason
