"""Canonical types and back: exact over random schemas, storages and file formats."""

import datetime as dt

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difflm_core.data.canonical import from_canonical, to_canonical
from difflm_core.data.inference import infer_schema
from difflm_core.data.readers import open_source
from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.data.source_form import source_schema, to_dataframe
from difflm_core.data.writers import RecordWriter

K = ColumnKind
TEXT = "text"

words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), include_characters="\n"),
    min_size=1,
    max_size=12,
).filter(lambda text: text.strip() == text and text not in ("?", ""))
days = st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31))
moments = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59))


def rounded(decimals, limit=10**9):
    return st.integers(-limit * 10**decimals, limit * 10**decimals).map(
        lambda n: round(n / 10**decimals, decimals)
    )


def seconds(moment):
    return moment.replace(microsecond=0)


# (fields of the column, strategy of its values)
COLUMNS = [
    ({"kind": K.CATEGORICAL, "storage": TEXT}, words),
    ({"kind": K.CATEGORICAL, "storage": "dictionary<string>"}, words),
    ({"kind": K.CATEGORICAL, "storage": "dictionary<int64>"}, st.integers(-9, 9).map(str)),
    ({"kind": K.TEXT, "storage": "large_string"}, words),
    ({"kind": K.IDENTIFIER, "storage": TEXT, "pattern": "A-{from 1}"}, words),
    ({"kind": K.IDENTIFIER, "storage": "int32"}, st.integers(0, 2**31 - 1).map(str)),
    ({"kind": K.INTEGER, "storage": TEXT}, st.integers(-(2**63), 2**63 - 1)),
    ({"kind": K.INTEGER, "storage": TEXT, "decimals": 1, "number_style": "fixed"},
     st.integers(-(2**63), 2**63 - 1)),
    ({"kind": K.INTEGER, "storage": "double"}, st.integers(-(2**53), 2**53)),
    ({"kind": K.INTEGER, "storage": "uint8"}, st.integers(0, 255)),
    ({"kind": K.FLOAT, "storage": TEXT, "decimals": 3, "number_style": "plain"}, rounded(3)),
    ({"kind": K.FLOAT, "storage": TEXT, "decimals": 9, "number_style": "point"}, rounded(9, 1000)),
    ({"kind": K.FLOAT, "storage": TEXT, "decimals": 2, "number_style": "fixed"}, rounded(2)),
    ({"kind": K.FLOAT, "storage": TEXT},
     st.floats(allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0)),
    ({"kind": K.FLOAT, "storage": "float"},
     st.floats(width=32, allow_nan=False, allow_infinity=False)),
    ({"kind": K.FLOAT, "storage": "decimal128(18, 2)", "decimals": 2}, rounded(2)),
    ({"kind": K.BOOLEAN, "storage": TEXT, "true_value": "Y", "false_value": "N"}, st.booleans()),
    ({"kind": K.BOOLEAN, "storage": "bool"}, st.booleans()),
    ({"kind": K.DATE, "storage": TEXT, "format": "%-d.%-m.%Y"}, days),
    ({"kind": K.DATE, "storage": TEXT, "format": "%d %B %Y"}, days),
    ({"kind": K.DATE, "storage": "int64", "format": "%Y%m%d"}, days.filter(lambda d: d.year > 999)),
    ({"kind": K.DATE, "storage": "date32[day]"}, days),
    ({"kind": K.DATETIME, "storage": TEXT, "format": "%Y-%m-%d %H:%M:%S"}, moments.map(seconds)),
    ({"kind": K.DATETIME, "storage": TEXT, "format": "%m/%d/%Y %I:%M:%S.%f %p"}, moments),
    ({"kind": K.DATETIME, "storage": "timestamp[us]"}, moments),
    ({"kind": K.DATETIME, "storage": "timestamp[us, tz=Europe/Paris]"}, moments),
    ({"kind": K.TIME, "storage": TEXT, "format": "%-I:%M %p"},
     st.times().map(lambda t: t.replace(second=0, microsecond=0))),
    ({"kind": K.TIME, "storage": "time64[us]"}, st.times()),
]  # fmt: skip


@st.composite
def records(draw):
    """A random schema, and a canonical table of it."""
    chosen = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=5))
    num_rows = draw(st.integers(1, 12))
    columns, arrays = [], []
    for number, (fields, values) in enumerate(chosen):
        nullable = draw(st.booleans())
        spelling = draw(st.sampled_from([(), ("?",), ("", "?")])) if nullable else ()
        column = Column(
            name=f"{draw(words)} {number}", nullable=nullable, missing_values=spelling, **fields
        )
        cell = st.one_of(st.none(), values) if nullable else values
        cells = draw(st.lists(cell, min_size=num_rows, max_size=num_rows))
        columns.append(column)
        arrays.append(pa.array(cells, column.arrow_type))
    schema = Schema(columns=tuple(columns))
    return schema, pa.table(arrays, schema=schema.arrow_schema)


thorough = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(records())
def test_source_form_is_inverted_exactly(case):
    schema, table = case
    source = from_canonical(table, schema)
    assert source.schema == source_schema(schema)
    for column in schema.columns:
        if column.storage != TEXT:
            assert str(source.schema.field(column.name).type).startswith(column.storage[:10])
    assert to_canonical(source, schema).equals(table)


@thorough
@given(records())
def test_text_form_is_inverted_exactly(case):
    schema, table = case
    assert to_canonical(from_canonical(table, schema, form="text"), schema).equals(table)


@settings(thorough, max_examples=40)
@given(case=records(), name=st.sampled_from(["t.csv", "t.tsv", "t.csv.gz"]))
def test_delimited_files_are_inverted_exactly(tmp_path_factory, case, name):
    schema, table = case
    schema = schema.model_copy(
        update={
            "columns": tuple(
                column.model_copy(update={"storage": TEXT}) for column in schema.columns
            )
        }
    )
    path = tmp_path_factory.mktemp("t") / name
    with RecordWriter(path, schema) as writer:
        writer.write(table)
    delimiter = "\t" if name == "t.tsv" else ","  # One cell is too little to find it.
    source = open_source(path, header=True, delimiter=delimiter)
    assert source.names == schema.names
    assert pa.Table.from_batches(source.canonical_batches(schema)).equals(table)


@settings(thorough, max_examples=40)
@given(records())
def test_schema_json_is_inverted_exactly(case):
    schema, _ = case
    assert Schema.from_json(schema.to_json()) == schema


def test_data_frame_comes_back_with_its_dtypes():
    frame = pd.DataFrame(
        {
            "i": np.array([1, 2, 2], "int32"),
            "n": [1.0, np.nan, 3.0],
            "f": [0.5, 1.25, np.nan],
            "b": [True, False, True],
            "t": pd.to_datetime(["2024-01-01", None, "2024-01-03"]),
            "c": pd.Categorical(["x", "y", "x"]),
            "g": pd.Categorical([1, 2, 1]),
            "N": pd.array([1, None, 1], "Int64"),
            "s": ["red", None, "blue"],
            "k": [7, 7, 7],
        }
    )
    schema = infer_schema(frame)
    back = to_dataframe(to_canonical(frame, schema), schema)
    pd.testing.assert_frame_equal(back, frame)


@pytest.mark.parametrize(
    ("style", "decimals", "expected"),
    [
        ("plain", 2, ["0", "-0.5", "2", "1234.56"]),
        ("point", 2, ["0.0", "-0.5", "2.0", "1234.56"]),
        ("fixed", 2, ["0.00", "-0.50", "2.00", "1234.56"]),
        ("plain", 9, ["0", "-0.5", "2", "1234.56"]),
        ("plain", None, ["0", "-0.5", "2", "1234.56"]),
        ("point", None, ["0.0", "-0.5", "2.0", "1234.56"]),
    ],
)
def test_spelling_of_floats(style, decimals, expected):
    column = Column(name="x", kind=K.FLOAT, number_style=style, decimals=decimals)
    table = pa.table({"x": [0.0, -0.5, 2.0, 1234.56]})
    text = from_canonical(table, Schema(columns=(column,)), form="text")
    assert text.column("x").to_pylist() == expected


def test_small_floats_have_no_exponent():
    column = Column(name="x", kind=K.FLOAT, number_style="plain", decimals=9)
    text = from_canonical(pa.table({"x": [1e-9, -3.5e-8]}), Schema(columns=(column,)), form="text")
    assert text.column("x").to_pylist() == ["0.000000001", "-0.000000035"]


def test_untyped_columns_get_natural_types():
    columns = (
        Column(name="n", kind=K.INTEGER),
        Column(name="d", kind=K.DATE, format="%d/%m/%Y"),
        Column(name="row", kind=K.IDENTIFIER, pattern="{from 5}"),
        Column(name="code", kind=K.IDENTIFIER, pattern="\\d{4}"),
        Column(name="one", kind=K.CONSTANT, value="7"),
    )
    assert source_schema(Schema(columns=columns)).types == [
        pa.int64(), pa.date32(), pa.int64(), pa.string(), pa.int64(),
    ]  # fmt: skip


def test_extra_columns_are_ignored_and_order_is_that_of_the_schema():
    schema = Schema(columns=(Column(name="b", kind=K.INTEGER), Column(name="a", kind=K.TEXT)))
    table = pa.table({"a": ["x"], "more": [1], "b": ["2"]})
    assert to_canonical(table, schema).to_pydict() == {"b": [2], "a": ["x"]}
