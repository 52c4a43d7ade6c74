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


def edited(schema, edit):
    content = json.loads(schema.to_json())
    edit(content)
    return json.dumps(content)


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
    ("edit", "pieces"),
    [
        (lambda c: c["columns"][0].update(kind="integr"), ["column 'age'", "kind is 'integr'", "'integer'"]),
        (lambda c: c["columns"][0].update(mini=0), ["column 'age'", "key 'mini'", "nearest: 'minimum'"]),
        (lambda c: c["columns"][0].update(maximum=-1), ["column 'age'", "above maximum"]),
        (lambda c: c["columns"][0].update(minimum="a"), ["column 'age'", "needs a number"]),
        (lambda c: c["columns"][1].update(format="%d/%Q"), ["column 'born'", "'%Q'", "known parts"]),
        (lambda c: c["columns"][1].update(format="%H:%M"), ["column 'born'", "describes a time"]),
        (lambda c: c["columns"][1].update(pattern="x"), ["column 'born'", "pattern does not apply"]),
        (lambda c: c["columns"][2].update(storage="int65"), ["column 'income'", "'int65'", "'int64'"]),
        (lambda c: c["columns"][2].pop("kind"), ["column 'income'", "'kind' is absent"]),
        (lambda c: c["columns"][2].update(name="age"), ["'age' appears twice"]),
        (lambda c: c.update(target="incme"), ["target column 'incme'", "nearest: 'income'"]),
        (lambda c: c.update(tarjet="x"), ["key 'tarjet'", "nearest: 'target'"]),
        (lambda c: c.update(format_version=9), ["format_version is 9", "reads 1"]),
        (lambda c: c.update(columns=[]), ["no columns"]),
    ],
)  # fmt: skip
def test_wrong_edits_are_explained(tmp_path, schema, edit, pieces):
    path = tmp_path / "schema.json"
    path.write_text(edited(schema, edit))
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
