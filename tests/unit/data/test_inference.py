import json
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from difflm_core.data.inference import begin_profile, decide_schema, infer_schema
from difflm_core.data.readers import open_source
from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.errors import SchemaError

K = ColumnKind


def column_of(values, name="v", **options):
    """Schema column inferred for texts, as a CSV file would give them, by one reader or three."""
    table = pa.table({name: pa.array(values, pa.string())})
    column = infer_schema(table, **options).column(name)
    assert column == inferred_by(3, table, **options).column(name)
    return column


def inferred_by(num_readers, table, target=None, declared=None, missing_values=()):
    """Schema decided from the profiles of as many parts, sent from process to process."""
    source = open_source(table)
    options = {"target": target, "declared": declared}
    whole = begin_profile(source, target, declared, missing_values)
    size = -(-table.num_rows // num_readers)
    for start in range(0, table.num_rows, size):
        part = begin_profile(source, target, declared, missing_values)
        for batch in table.slice(start, size).to_batches():
            part.add(batch)
        sent = begin_profile(source, target, declared, missing_values)
        sent.load(json.loads(json.dumps(part.to_json())))
        whole.merge(sent)
    return decide_schema(source, whole, **options)


@pytest.mark.parametrize(
    ("values", "kind", "form"),
    [
        (["1", "2", "2", "-7"], K.INTEGER, {}),
        (["39.0", "40.0", "40.0"], K.INTEGER, {"decimals": 1, "number_style": "fixed"}),
        (["0.5", "2", "2.25"], K.FLOAT, {"decimals": 2, "number_style": "plain"}),
        (["0.5", "2.0", "2.25"], K.FLOAT, {"decimals": 2, "number_style": "point"}),
        (["0.50", "2.00", "2.25"], K.FLOAT, {"decimals": 2, "number_style": "fixed"}),
        (["1e-3", "2.5E-05", "1"], K.FLOAT, {"decimals": 6}),
        (["007", "012", "007", "113"], K.CATEGORICAL, {}),
        (["TRUE", "FALSE", "TRUE"], K.BOOLEAN, {"true_value": "TRUE", "false_value": "FALSE"}),
        (["no", "yes", "no"], K.BOOLEAN, {"true_value": "yes", "false_value": "no"}),
        (["N", "Y", "Y", "n"], K.BOOLEAN, {"true_value": "Y", "false_value": "N"}),
        (["0", "1", "1"], K.INTEGER, {}),
        (["M", "F", "F"], K.CATEGORICAL, {}),
        (["a", "a", "a"], K.CONSTANT, {"value": "a", "nullable": False}),
        (["2024-01-05", "2023-12-31"], K.DATE, {"format": "%Y-%m-%d"}),
        (["31/12/2023", "05/01/2024"], K.DATE, {"format": "%d/%m/%Y"}),
        (["12/31/2023", "01/05/2024"], K.DATE, {"format": "%m/%d/%Y"}),
        (["12/31/2023", "1/5/2024"], K.DATE, {"format": "%-m/%-d/%Y"}),
        (["31.12.2023", "5.1.2024"], K.DATE, {"format": "%-d.%-m.%Y"}),
        (["05-Jan-24", "31-Dec-23"], K.DATE, {"format": "%d-%b-%y"}),
        (["2024-01-05 10:00:00", "2023-12-31 23:59:59"], K.DATETIME,
         {"format": "%Y-%m-%d %H:%M:%S"}),
        (["2024-01-05T10:00:00.250Z", "2023-12-31T23:59:59.5Z"], K.DATETIME,
         {"format": "%Y-%m-%dT%H:%M:%S.%fZ"}),
        (["1/5/2024 1:05 PM", "12/31/2023 11:59 AM"], K.DATETIME,
         {"format": "%-m/%-d/%Y %-I:%M %p"}),
        (["10:00", "23:59"], K.TIME, {"format": "%H:%M"}),
        (["20240105", "20231231", "20230228", "20240229", "20201111"], K.DATE,
         {"format": "%Y%m%d"}),
    ],
)  # fmt: skip
def test_kind_and_form(values, kind, form):
    column = column_of(values)
    assert column.kind is kind
    for name, expected in form.items():
        assert getattr(column, name) == expected, name


def test_order_of_day_and_month_by_evidence():
    days = [f"{day:02d}/03/2024" for day in range(1, 13)]
    assert column_of(days).format == "%d/%m/%Y"
    assert column_of([f"03/{day:02d}/2024" for day in range(1, 13)]).format == "%m/%d/%Y"
    ambiguous = column_of(["01/02/2024", "02/01/2024", "03/03/2024"])
    assert ambiguous.format == "%m/%d/%Y"
    assert "month first" in ambiguous.note
    assert "%d/%m/%Y" in ambiguous.note


def test_eight_digit_numbers_that_are_no_dates():
    assert column_of(["20240105", "20231399", "20230228", "20240229", "20201111"] * 2).kind == (
        K.INTEGER
    )


@pytest.mark.parametrize("spelling", ["NA", "?", "-", "None", "unknown", "N/A"])
@pytest.mark.parametrize(
    "values", [["1", "2", "3"], ["2024-01-05", "2023-12-31", "2023-12-30"], ["yes", "no", "no"]]
)
def test_missing_spelling_is_evident_in_a_typed_column(spelling, values):
    clean, column = column_of(values), column_of([*values, spelling])
    assert column.kind is clean.kind
    assert column.missing_values == (spelling,)
    assert column.nullable
    assert column.distinct == clean.distinct


@pytest.mark.parametrize(
    ("spelling", "is_missing"),
    [("?", True), ("N/A", True), ("NaN", True), ("NA", False), ("None", False), ("-", False)],
)
def test_missing_spelling_among_categories(spelling, is_missing):
    column = column_of(["DE", "FR", "FR", spelling])
    assert column.kind is K.CATEGORICAL
    assert column.missing_values == ((spelling,) if is_missing else ())
    assert column.nullable is is_missing
    assert (column.note is None) is is_missing  # A kept word is pointed out.


def test_declared_missing_spelling():
    column = column_of(["DE", "FR", "FR", "NA", ""], missing_values=["NA"])
    assert column.missing_values == ("NA",)
    assert column.distinct == 2
    numbers = infer_schema(pa.table({"n": [1, -999, 7, -999]}), missing_values=["-999"])
    assert numbers.column("n").missing_values == ("-999",)


def test_most_frequent_missing_spelling_comes_first():
    column = column_of(["1", "", "", "NA", "5"])
    assert column.missing_values == ("", "NA")


def test_numeric_missing_words_do_not_make_a_number():
    assert column_of(["?", "?", "?"]).kind is K.CONSTANT


@pytest.mark.parametrize(
    ("name", "values", "pattern"),
    [
        ("No", [str(i) for i in range(1, 101)], "{from 101}"),
        ("row", [str(i) for i in range(0, 50)], "{from 50}"),
        ("invoice_id", [str(i) for i in range(1000, 1100, 2)], "{from 1100, step 2}"),
        ("customer", [f"CUST-{i:06d}" for i in range(1, 51)], "CUST\\-{from 51, 6 digits}"),
        ("user_id", [f"user{i}" for i in (5, 3, 9, 12, 30)], "user{from 31}"),
        ("key", [str(uuid.UUID(int=i * 10**33)) for i in range(1, 40)], "{uuid4}"),
    ],
)
def test_identifiers(name, values, pattern):
    column = column_of(values, name)
    assert column.kind is K.IDENTIFIER
    assert column.pattern == pattern


def test_random_codes():
    random = np.random.default_rng(0)
    codes = [
        "".join(random.choice(list("ABCDEFGHKLMN"), 2)) + f"{random.integers(10**6):06d}"
        for _ in range(300)
    ]
    column = column_of(codes, "code")
    assert column.kind is K.IDENTIFIER
    assert column.pattern == "[A-Z]{2}\\d{6}"


def test_unique_numbers_are_not_identifiers_without_a_reason():
    random = np.random.default_rng(0)
    incomes = random.choice(10**6, 300, replace=False)
    assert column_of([str(n) for n in incomes], "income").kind is K.INTEGER
    assert column_of([str(n) for n in incomes], "paid").kind is K.INTEGER
    assert column_of([str(n) for n in incomes], "account_id").kind is K.IDENTIFIER
    assert column_of([str(n) for n in incomes], "AccountID").kind is K.IDENTIFIER
    assert column_of([str(year) for year in range(1990, 2020)], "year").kind is K.INTEGER


def test_names_are_text_and_prose_is_text():
    random = np.random.default_rng(0)
    names = [f"{a} {b}" for a in "Ann Bob Cyd Dan Eve Fay Gus".split() for b in
             "Ash Birch Cedar Date Elm Fir Gum Holly Ivy".split()]  # fmt: skip
    assert column_of(names).kind is K.TEXT
    words = "the quick brown fox jumps over a lazy dog and runs away".split()
    prose = [" ".join(random.choice(words, 12)) for _ in range(40)]
    assert column_of(prose).kind is K.TEXT


def test_pandas_types():
    frame = pd.DataFrame(
        {
            "i": [1, 2, 2],
            "f": [0.5, 1.25, np.nan],
            "b": [True, False, True],
            "t": pd.to_datetime(["2024-01-01", None, "2024-01-03"]),
            "c": pd.Categorical(["x", "y", "x"]),
            "ic": pd.Categorical([1, 2, 1]),
            "n": pd.array([1, None, 1], "Int64"),
        }
    )
    schema = infer_schema(frame)
    kinds = {column.name: str(column.kind) for column in schema.columns}
    assert kinds == {
        "i": "integer", "f": "float", "b": "boolean", "t": "datetime", "c": "categorical",
        "ic": "categorical", "n": "integer",
    }  # fmt: skip
    assert schema.column("f").decimals == 2
    assert schema.column("ic").storage == "dictionary<int64>"


def test_decimals_of_binary_floats():
    exact = infer_schema(pa.table({"x": [0.1, 1 / 3]})).column("x")
    assert exact.decimals is None
    single = infer_schema(pa.table({"x": pa.array([0.1, 28.7967], pa.float32())})).column("x")
    assert single.decimals == 4


def test_inference_does_not_depend_on_batches():
    table = pa.table(
        {
            "id": [f"A{i:05d}" for i in range(5_000)],
            "x": [f"{i % 97}.{i % 10}" for i in range(5_000)],
            "c": [["a", "b", "?"][i % 3] for i in range(5_000)],
        }
    )
    pieces = pa.Table.from_batches(table.to_batches(max_chunksize=700))
    assert infer_schema(table) == infer_schema(pieces)


def test_declared_fields_win_and_the_data_gives_the_rest():
    table = pa.table({"zip": ["10115", "80331", "80331"], "x": ["1", "?", "3"]})
    declared = Schema(target="zip", columns=(Column(name="zip", kind=K.CATEGORICAL),))
    schema = infer_schema(table, declared=declared)
    assert schema.target == "zip"
    assert infer_schema(table, declared=declared, target="x").target == "x"
    assert schema.column("zip").kind is K.CATEGORICAL
    assert schema.column("zip").storage == "string"
    assert schema.column("x").missing_values == ("?",)
    unknown = Schema(columns=(Column(name="zap", kind=K.CATEGORICAL),))
    with pytest.raises(SchemaError, match=r"declared column 'zap' does not exist; nearest: 'zip'"):
        infer_schema(table, declared=unknown)


@pytest.mark.parametrize("num_readers", [1, 4])
def test_the_number_of_different_values_is_an_estimate_where_there_are_many(num_readers):
    values = [f"{'even' if i % 2 else 'odd'} words {i % 15_000}" for i in range(20_000)]
    schema = inferred_by(num_readers, pa.table({"v": values}))
    assert schema.column("v").distinct == pytest.approx(15_000, rel=0.03)


def test_readers_agree_on_columns_that_are_stored_with_a_type():
    numbers = np.random.default_rng(0)
    table = pa.table({
        "row": np.arange(500),
        "count": numbers.integers(0, 9, 500),
        "amount": numbers.normal(size=500).round(2),
        "far": [*[0.5] * 499, 1e300],
        "flag": numbers.random(500) < 0.5,
        "day": pa.array(numbers.integers(0, 20_000, 500), pa.int32()).cast(pa.date32()),
        "empty": pa.nulls(500, pa.float64()),
        "code": [f"CUST-{i:06d}" for i in range(7, 507)],
        "late": [None] * 400 + ["x", "y"] * 50,
        "group": pd.Categorical(["a", "b"] * 250),
    })  # fmt: skip
    schema = infer_schema(table)
    assert schema.column("code").pattern == r"CUST\-{from 507, 6 digits}"
    for num_readers in (2, 7, 500):
        assert inferred_by(num_readers, table) == schema
