import json

import pytest

from difflm_core.data.inference import infer_schema
from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.errors import SchemaError


@pytest.fixture
def schema():
    return Schema(
        target="income",
        columns=(
            Column(name="age", kind=ColumnKind.INTEGER, minimum=0),
            Column(name="born", kind=ColumnKind.DATE, format="%d/%m/%Y", missing_values=("?",)),
            Column(name="income", kind=ColumnKind.CATEGORICAL),
        ),
    )


def test_save_and_load(tmp_path, schema):
    path = tmp_path / "schema.json"
    schema.save(path)
    assert Schema.load(path) == schema
    content = json.loads(path.read_text())
    assert list(content) == ["format_version", "target", "columns"]
    assert content["columns"][0] == {
        "name": "age", "kind": "integer", "storage": "text", "nullable": False, "minimum": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("at", "change", "pieces"),
    [
        (0, {"kind": "integr"}, ["'age'", "kind is 'integr'", "'integer'"]),
        (0, {"mini": 0}, ["'age'", "key 'mini'", "nearest: 'minimum'"]),
        (0, {"maximum": -1}, ["'age'", "above maximum"]),
        (0, {"minimum": "a"}, ["'age'", "needs a number"]),
        (0, {"decimals": 99}, ["'age'", "decimals is 99", "less than or equal to 18"]),
        (1, {"format": "%d/%Q"}, ["'born'", "'%Q'", "known parts"]),
        (1, {"format": "%H:%M"}, ["'born'", "describes a time"]),
        (1, {"pattern": "x"}, ["'born'", "pattern does not apply"]),
        (2, {"storage": "int65"}, ["'income'", "'int65'", "'int64'"]),
        (2, {"true_value": "x"}, ["'income'", "belong together"]),
        (2, {"kind": None}, ["'income'", "'kind' is absent"]),
        (2, {"name": "age"}, ["'age' appears twice"]),
        (None, {"target": "incme"}, ["target column 'incme'", "nearest: 'income'"]),
        (None, {"tarjet": "x"}, ["key 'tarjet'", "nearest: 'target'"]),
        (None, {"format_version": 9}, ["format_version is 9", "reads 1"]),
        (None, {"columns": []}, ["no columns"]),
    ],
)
def test_wrong_edits_are_explained(tmp_path, schema, at, change, pieces):
    content = json.loads(schema.to_json())
    place = content if at is None else content["columns"][at]
    for key, value in change.items():
        place[key] = value
        if value is None:
            del place[key]
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SchemaError) as error:
        Schema.load(path)
    for piece in ["schema.json", *pieces]:
        assert piece in str(error.value), str(error.value)


def test_files_that_are_no_schema(tmp_path):
    with pytest.raises(SchemaError, match="no such file"):
        Schema.load(tmp_path / "none.json")
    for text, found in (("{", "not valid JSON at line 1"), ("[]", "found a JSON list"),
                        ('{"a": 1}', "expected 'columns'")):  # fmt: skip
        path = tmp_path / "s.json"
        path.write_text(text)
        with pytest.raises(SchemaError, match=found):
            Schema.load(path)


SDV_COLUMNS = {
    "guest_email": {"sdtype": "email", "pii": True},
    "has_rewards": {"sdtype": "boolean"},
    "room_type": {"sdtype": "categorical"},
    "fee": {"sdtype": "numerical"},
    "nights": {"sdtype": "numerical", "computer_representation": "Int64"},
    "checkin": {"sdtype": "datetime", "datetime_format": "%d %b %Y"},
    "booking": {"sdtype": "id", "regex_format": "B-[0-9]{4}"},
}


@pytest.mark.parametrize(
    "metadata",
    [
        {"METADATA_SPEC_VERSION": "SINGLE_TABLE_V1", "columns": SDV_COLUMNS},
        {"METADATA_SPEC_VERSION": "V1", "tables": {"hotel": {"columns": SDV_COLUMNS}}},
    ],
)
def test_sdv_metadata(tmp_path, metadata):
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps(metadata))
    declared = Schema.load(path)
    kinds = {column.name: str(column.kind) for column in declared.columns}
    assert kinds == {
        "guest_email": "text", "has_rewards": "boolean", "room_type": "categorical",
        "fee": "float", "nights": "integer", "checkin": "date", "booking": "identifier",
    }  # fmt: skip
    data = tmp_path / "hotel.csv"
    header = ",".join(SDV_COLUMNS)
    rows = [
        f"u{i}@x.org,{i % 2 == 0},BASIC,{i}.5,{i},0{i} May 2024,B-00{i:02d}" for i in range(1, 9)
    ]
    data.write_text("\n".join([header, *rows]) + "\n")
    schema = infer_schema(data, declared=declared)
    assert schema.column("has_rewards").true_value == "True"
    assert schema.column("checkin").format == "%d %b %Y"
    assert schema.column("fee").decimals == 1
    assert schema.column("booking").pattern == "B-[0-9]{4}"


def test_sdv_metadata_errors():
    two = {"METADATA_SPEC_VERSION": "V1", "tables": {"a": {}, "b": {}}}
    with pytest.raises(SchemaError, match="2 tables"):
        Schema.from_json(json.dumps(two))
    odd = {"METADATA_SPEC_VERSION": "V1", "tables": {"a": {"columns": {"x": {"sdtype": 3}}}}}
    with pytest.raises(SchemaError, match="column 'x': found sdtype 3"):
        Schema.from_json(json.dumps(odd))


def test_column_lookup(schema):
    assert schema.column("age").kind is ColumnKind.INTEGER
    with pytest.raises(KeyError):
        schema.column("agee")
    with pytest.raises(SchemaError, match="nearest: 'age'"):
        schema.with_target("agee")
