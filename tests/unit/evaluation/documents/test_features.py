import json

import pyarrow as pa
import pytest

from difflm_core.data.schema import ColumnKind
from difflm_core.evaluation.documents.features import (
    CHARACTERS,
    DEPTH,
    MAX_FEATURES,
    JsonFeatures,
    feature_tables,
)
from tests.unit.evaluation.documents.corpora import JSON_SCHEMA, json_texts


def features(document: object, schema: dict) -> dict:
    text = json.dumps(document)
    found = JsonFeatures(schema).of(text)
    assert found.pop(CHARACTERS) == len(text)
    found.pop(DEPTH)
    return found


def test_every_place_becomes_what_it_is() -> None:
    document = {
        "category": "travel",
        "name": "hotels",
        "count": 3,
        "arguments": [{"name": "ab", "type": "STRING"}, {"name": "abcd", "type": "STRING"}],
    }
    assert features(document, JSON_SCHEMA) == {
        "category": "travel",
        "name (characters)": 6,
        "count (present)": "yes",
        "count": 3,
        "arguments (present)": "yes",
        "arguments (items)": 2,
        "arguments[].name (characters)": 3.0,  # the mean of 2 and 4
        "arguments[].type = STRING": 2,
    }


def test_an_absent_key_is_a_feature_and_a_null_is_no_value() -> None:
    found = features({"category": "travel", "name": "x", "count": None}, JSON_SCHEMA)
    assert found["count (present)"] == "yes"
    assert found["arguments (present)"] == "no"
    assert "count" not in found


def test_the_type_of_a_union_is_a_feature() -> None:
    schema = {"properties": {"v": {"anyOf": [{"type": "string"}, {"type": "number"}]}}}
    assert features({"v": "ab"}, schema) == {
        "v (present)": "yes",
        "v (type)": "text",
        "v (characters)": 2,
    }
    assert features({"v": 2.5}, schema) == {"v (present)": "yes", "v (type)": "number", "v": 2.5}


@pytest.mark.parametrize("key", ["additionalProperties", "patternProperties"])
def test_maps_are_counted_and_their_values_averaged(key) -> None:
    inner = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    values = inner if key == "additionalProperties" else {".*": inner}
    schema = {"properties": {"m": {"type": "object", key: values}}, "required": ["m"]}
    found = features({"m": {"x": {"n": 1}, "y": {"n": 4}}}, schema)
    assert found == {"m (keys)": 2, "m.*.n": 2.5}


def test_references_are_followed() -> None:
    schema = {"properties": {"a": {"$ref": "#/$defs/e"}}, "$defs": {"e": {"enum": ["p", "q"]}}}
    assert features({"a": "q"}, schema)["a"] == "q"


@pytest.mark.parametrize(
    ("document", "depth"), [(3, 0), ({}, 0), ({"a": 1}, 1), ([[1], {"a": [2]}], 3)]
)
def test_depth(document, depth) -> None:
    assert JsonFeatures({}).of(json.dumps(document))[DEPTH] == depth


def test_what_is_no_json_has_its_length_alone() -> None:
    assert JsonFeatures(JSON_SCHEMA).of('{"name":') == {CHARACTERS: 8}


def test_the_training_table_decides_on_columns_and_kinds() -> None:
    rows = [{"n": i, "f": i / 2, "c": "ab"[i % 2], "rare": 1, "same": 7} for i in range(20)]
    for row in rows[1:]:
        del row["rare"]
    made = [{"n": "text", "f": 1, "c": "new", "other": 3}, {"n": 2.7}]
    schema, tables = feature_tables([made, rows, rows[:1]])
    assert {c.name: c.kind for c in schema.columns} == {
        "n": ColumnKind.INTEGER,
        "f": ColumnKind.FLOAT,
        "c": ColumnKind.CATEGORICAL,
    }
    assert tables[0].to_pylist() == [
        {"n": None, "f": 1.0, "c": "new"},
        {"n": 2, "f": None, "c": None},
    ]
    assert tables[1].column("n").to_pylist() == list(range(20))


def test_a_nullable_number_stays_a_number() -> None:
    rows = [JsonFeatures(JSON_SCHEMA).of(text) for text in json_texts(100, 1)]
    schema, _ = feature_tables([rows, rows])
    assert schema.column("count").kind is ColumnKind.INTEGER


def test_numbers_beyond_all_bounds_fit() -> None:
    schema = {"properties": {"n": {"type": "number"}}, "required": ["n"]}
    numbers = [1, 10**30, -(10**400), 1e400, 2.5, 3, 4]
    rows = [
        JsonFeatures(schema).of(f'{{"n":{number}}}'.replace("inf", "1e400")) for number in numbers
    ]
    table = feature_tables([rows, rows])[1][0]
    assert table.column("n").to_pylist() == [1.0, 1e30, None, None, 2.5, 3.0, 4.0]
    whole = feature_tables([rows, [{"n": i} for i in range(9)]])[1][0].column("n")
    assert whole.type == pa.int64()
    assert whole.to_pylist() == [1, 2**53, None, None, 2, 3, 4]


def test_columns_are_bounded_and_the_nearest_to_the_root_kept() -> None:
    names = [f"a.b{i}" for i in range(60)] + ["top"]
    rows = [{name: value for name in names} for value in range(10)]
    schema, _ = feature_tables([rows, rows])
    assert len(schema.columns) == MAX_FEATURES
    assert schema.names[0] == "top"


def test_documents_without_a_difference_still_make_a_table() -> None:
    schema, tables = feature_tables([[{"n": 1}], [{"n": 1}]])
    assert schema.names == ("n",)
    assert tables[0].to_pylist() == [{"n": 1}]
