"""The inferred JSON Schema: every document is valid, and its canonical text a sentence of it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from difflm_core.codec.constraint import Constraint, json_grammar
from difflm_core.codec.text_tokenizer import END, train_tokenizer
from difflm_core.data.document_profile import MAX_KEYS, DocumentProfile, num_decimals
from difflm_core.data.json_schema import (
    canonical_document,
    decide_document_schema,
    load_document_schema,
    schema_of,
)
from difflm_core.data.schema import DataKind, Schema
from difflm_core.errors import DataError, SchemaError
from tests.documents import make_tools

KEYS = st.sampled_from(["a", "b", "cd", "e f", "ü", '"', "\\", "\n"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(-1e9, 1e9, allow_nan=False).map(lambda x: round(x, 4))
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
)
DOCUMENTS = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_size=4,
)


def profiled(documents):
    profile = DocumentProfile(DataKind.JSON)
    profile.add_texts(json.dumps(document) for document in documents)
    return profile


def inferred(documents):
    return schema_of(profiled(documents).root)


@settings(max_examples=60, deadline=None)
@given(st.lists(DOCUMENTS, min_size=1, max_size=8))
def test_every_document_is_valid_and_a_sentence_of_the_grammar(documents):
    assert_sentences(documents)


@pytest.mark.parametrize(
    "documents",
    [
        [{"share": number / 100} for number in range(-49, 50)],
        [{"share": number / 1000} for number in range(-10, 1235)],
        [{"share": -number / 1000} for number in range(450, 2347)],
        [{"number": 2**53 + 1}, {"number": 0}] * 10,
        [{"a\x7fb": "c\x7fd"}] * 10,
    ],
    ids=["beginnings", "long beginnings", "below zero", "beyond doubles", "delete"],
)
def test_what_grammars_find_hard_is_a_sentence_too(documents):
    assert_sentences(documents)


def assert_sentences(documents):
    schema = inferred(documents)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    texts = [canonical_document(document, schema) for document in documents]
    tokenizer = train_tokenizer([texts], schema, vocab_size=300)
    constraint = Constraint(json_grammar(schema), tokenizer, end=tokenizer.token_to_id(END))
    for document, text in zip(documents, texts, strict=True):
        assert validator.is_valid(document)
        assert json.loads(text) == document
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == text
        assert constraint.accepts(ids), text


@settings(max_examples=40, deadline=None)
@given(st.lists(DOCUMENTS, min_size=2, max_size=8), st.integers(1, 7))
def test_a_profile_in_parts_is_that_of_the_whole(documents, cut):
    first, second = profiled(documents[:cut]), DocumentProfile(DataKind.JSON)
    second.load(json.loads(json.dumps(profiled(documents[cut:]).to_json())))
    first.merge(second)
    assert first.to_json() == profiled(documents).to_json()


def test_what_is_inferred_of_tools():
    schema = inferred(make_tools(200))
    assert list(schema["properties"]) == [
        "name", "category", "parameters", "required", "price", "version",
    ]  # fmt: skip
    assert schema["required"] == ["name", "category", "parameters", "required", "price"]
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]["category"]["enum"]) == {"weather", "music", "travel", "sports"}
    assert schema["properties"]["version"]["enum"] == [1, 2, 3]
    price = schema["properties"]["price"]["anyOf"]
    assert price == [
        {"type": "number", "minimum": 0, "maximum": 1.25, "x-decimals": 2},
        {"type": "null"},
    ]


def test_open_keys_are_a_map():
    documents = [{"of": {f"key {i}": i, f"other {i}": i}} for i in range(MAX_KEYS)]
    schema = inferred(documents)["properties"]["of"]
    assert "properties" not in schema
    (pattern,) = schema["patternProperties"]
    assert pattern == "^(?s:.{5,8})$"
    assert (schema["minProperties"], schema["maxProperties"]) == (2, 2)


def test_few_keys_are_properties():
    documents = [{f"key {i % 5}": i} for i in range(100)]
    assert len(inferred(documents)["properties"]) == 5


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([f"2024-01-{day}" for day in range(10, 20)], {"format": "date"}),
        ([f"10.0.0.{i}" for i in range(9)], {"format": "ipv4"}),
        ([f"word{i}" for i in range(9)], {"minLength": 5, "maxLength": 5}),
        (["a", "b"] * 9, {"enum": ["a", "b"]}),
        ([1, 2, 2] * 9, {"enum": [1, 2]}),
        (list(range(50)), {"minimum": 0, "maximum": 49}),
        ([0.5, 1.25, 3], {"minimum": 0.5, "maximum": 3, "x-decimals": 2}),
        ([1e-9, 2.0], {"minimum": 1e-9, "maximum": 2.0}),
        ([True, False], {"type": "boolean"}),
    ],
)
def test_values(values, expected):
    found = inferred([{"v": value} for value in values])["properties"]["v"]
    assert {key: found[key] for key in expected} == expected
    assert ("x-decimals" in found) == ("x-decimals" in expected)


@pytest.mark.parametrize(
    ("value", "decimals"), [(0.5, 1), (1.25, 2), (1e-8, 8), (1e-9, None), (1e22, 0)]
)
def test_decimals(value, decimals):
    assert num_decimals(value) == decimals


def test_canonical_order_is_that_of_the_schema():
    schema = inferred([{"a": 1, "b": {"c": 1, "d": [{"x": 1, "y": 2}]}}])
    shuffled = {"b": {"d": [{"y": 2, "x": 1}], "c": 1}, "a": 1}
    assert canonical_document(shuffled, schema) == '{"a":1,"b":{"c":1,"d":[{"x":1,"y":2}]}}'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-7, "0.0000001"),
        (1e22, "10000000000000000000000"),
        (-2.5e-8, "-0.000000025"),
        (3.0, "3"),
        (-0.0, "0"),
    ],
)
def test_numbers_have_no_exponents(value, text):
    assert canonical_document([value, "1e-7"], {}) == f'[{text},"1e-7"]'
    assert json.loads(text) == value


def test_del_is_escaped():
    assert canonical_document("a\x7fb", {}) == '"a\\u007fb"'


def test_schemas_are_loaded(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"type": "object", "properties": {"a": {"type": "integer"}}}')
    assert load_document_schema(str(path))["type"] == "object"
    path.write_text('{"type": "objekt"}')
    with pytest.raises(SchemaError, match="at /type: not a valid JSON Schema"):
        load_document_schema(str(path))
    path.write_text('{"some": "thing"}')
    with pytest.raises(SchemaError, match="neither a schema"):
        load_document_schema(str(path))
    with pytest.raises(SchemaError, match="no such file"):
        load_document_schema(str(tmp_path / "no.json"))


def test_an_empty_corpus_and_a_schema_of_another_kind_are_refused():
    class Source:
        label = "a.jsonl"

    with pytest.raises(DataError, match="found no documents"):
        decide_document_schema(Source(), DocumentProfile(DataKind.JSON))
    declared = Schema.model_validate({"columns": [{"name": "code", "kind": "code"}]})
    with pytest.raises(SchemaError, match="corpus of kind code, but"):
        decide_document_schema(Source(), profiled([{"a": 1}]), declared=declared)
