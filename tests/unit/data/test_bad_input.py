"""Every bad input gives right behaviour or one clear error: file, column, found, expected, fix."""

import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from difflm_core.data.canonical import to_canonical
from difflm_core.data.inference import infer_schema
from difflm_core.data.readers import open_source
from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.data.splits import plan_splits
from difflm_core.errors import DataError, DiffLMError, SchemaError


@pytest.fixture
def write(tmp_path):
    def make(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def message_of(error, *pieces):
    """The one-line message, which must hold all pieces."""
    text = str(error.value)
    for piece in pieces:
        assert piece in text, text
    assert "\n" not in text
    return text


def test_missing_file(tmp_path, write):
    write("a\n1\n", "adult.csv")
    with pytest.raises(DataError) as error:
        open_source(tmp_path / "adlt.csv")
    message_of(error, "adlt.csv", "no such file", "nearest: 'adult.csv'")


def test_glob_without_match(tmp_path):
    with pytest.raises(DataError) as error:
        open_source(str(tmp_path / "*.csv"))
    message_of(error, "no file matches", "check the path")


def test_directory_without_data(tmp_path, write):
    write("hello", "README.md")
    with pytest.raises(DataError) as error:
        open_source(tmp_path)
    message_of(error, "the directory has no data files", ".parquet")


def test_directory_of_mixed_formats(tmp_path, write):
    write("a\n1\n", "a.csv")
    write('{"a": 1}\n', "b.jsonl")
    with pytest.raises(DataError) as error:
        open_source(tmp_path)
    message_of(error, "different formats", "a.csv", "b.jsonl")


@pytest.mark.parametrize(
    ("content", "name"),
    [("", "e.csv"), ("\n\n", "e.csv"), ("", "e.jsonl"), ("a,b\n", "e.csv"), ("a", "e.csv")],
)
def test_empty_table(write, content, name):
    with pytest.raises(DataError) as error:
        infer_schema(write(content, name))
    message_of(error, name, "expected", "at least one")


def test_empty_tables_in_memory(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        infer_schema(pd.DataFrame({"a": pd.Series([], dtype="int64")}))
    with pytest.raises(DataError, match="no columns"):
        infer_schema(pd.DataFrame())
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"e\.parquet: the table has no rows"):
        infer_schema(tmp_path / "e.parquet")


def test_one_column(write):
    schema = infer_schema(write("color\n" + "red\nblue\n" * 10))
    assert schema.names == ("color",)
    assert schema.column("color").kind is ColumnKind.CATEGORICAL


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_too_few_rows_to_split(rows):
    with pytest.raises(DataError) as error:
        plan_splits(rows, valid_fraction=0.1, test_fraction=0.1, seed=0, source="t.csv")
    message_of(error, "t.csv", f"found {rows} row", "expected at least 4", "valid_fraction")


def test_one_row_has_a_schema(write):
    schema = infer_schema(write("a,b\n1,x\n"))
    assert {column.kind for column in schema.columns} == {ColumnKind.CONSTANT}
    assert schema.column("b").value == "x"


def test_all_missing_and_constant_columns(write):
    path = write("id_like,gone,same\n1,,k\n2,,k\n2,,k\n")
    schema = infer_schema(path)
    assert schema.column("gone").kind is ColumnKind.CONSTANT
    assert schema.column("gone").value is None
    assert schema.column("gone").nullable
    assert schema.column("same").value == "k"
    batch = next(open_source(path).canonical_batches(schema))
    assert batch.column("gone").null_count == 3


def test_duplicate_column_names(write):
    with pytest.raises(DataError) as error:
        open_source(write("age,job,age\n1,x,2\n"))
    message_of(error, "'age'", "more than once", "columns 1 and 3", "rename")
    with pytest.raises(DataError, match="appears more than once"):
        open_source(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_empty_column_name(write):
    with pytest.raises(DataError) as error:
        open_source(write(",job\n0,x\n1,y\n"))
    message_of(error, "column 1 has an empty name", "index=False", "column_names")


def test_odd_column_names(write):
    path = write('"first name","say ""hi""",größe,a.b\n' + "x,1,2.5,u\ny,2,3.5,v\ny,2,3.25,v\n")
    schema = infer_schema(path)
    assert schema.names == ("first name", 'say "hi"', "größe", "a.b")
    assert Schema.from_json(schema.to_json()) == schema


def test_few_strings_among_numbers(write):
    rows = "".join(f"{i * 0.37:.2f}\n" for i in range(1000)) + "secret7\noops\n"
    with pytest.raises(DataError) as error:
        infer_schema(write("pay\n" + rows))
    text = message_of(
        error, "'pay'", "1000 numbers and 2 cells", "missing_values", "declare the column"
    )
    assert "secret7" not in text


def test_codes_with_letters_are_categories(write):
    rows = "".join(f"{250 + i % 40}.{i % 7}\nV{i % 9}\n" for i in range(2000))
    assert infer_schema(write("diag\n" + rows)).column("diag").kind is ColumnKind.CATEGORICAL


def test_mixed_python_objects():
    frame = pd.DataFrame({"m": ([1, "one", 2.5] * 20)})
    schema = infer_schema(frame)
    assert schema.column("m").kind is ColumnKind.CATEGORICAL
    assert to_canonical(frame, schema).column("m").to_pylist()[:3] == ["1", "one", "2.5"]


def test_nested_python_objects():
    with pytest.raises(DataError) as error:
        open_source(pd.DataFrame({"m": [[1], [2]]}))
    message_of(error, "'m'", "list", "flatten")


def test_hundred_thousand_strings(write):
    words = "".join(f"street {(i * 7919) % 100003} of town{i % 977}\n" for i in range(100_000))
    column = infer_schema(write("where\n" + words)).column("where")
    assert column.kind is ColumnKind.TEXT
    assert column.distinct == pytest.approx(100_000, rel=0.03)
    assert "too many for categories" in (column.note or "")


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_numbers(value):
    with pytest.raises(DataError) as error:
        infer_schema(pd.DataFrame({"x": [1.5, value, 2.5, value]}))
    message_of(error, "'x'", "found 2 infinite values", "expected finite", "missing_values")


def test_infinite_text(write):
    path = write("x\n1.5\ninf\n2.5\n")
    with pytest.raises(DataError) as error:
        infer_schema(path)
    message_of(error, "'x'", "found 1 infinite value", "expected finite")
    column = infer_schema(path, missing_values=["inf"]).column("x")
    assert (column.kind, column.nullable) == (ColumnKind.FLOAT, True)


def test_infinite_number_in_known_schema():
    schema = Schema(columns=(Column(name="x", kind=ColumnKind.FLOAT, storage="double"),))
    with pytest.raises(DataError) as error:
        to_canonical(pa.table({"x": [0.5, 1.0, np.inf]}), schema, source="late.parquet")
    message_of(error, "late.parquet", "'x'", "1 infinite", "first in row 3")


def test_nan_is_missing():
    frame = pd.DataFrame({"x": [1.5, np.nan, 2.25], "n": [1.0, np.nan, 3.0]})
    schema = infer_schema(frame)
    assert schema.column("x").nullable
    assert schema.column("n").kind is ColumnKind.INTEGER
    assert schema.column("n").storage == "double"
    assert to_canonical(frame, schema).column("x").to_pylist() == [1.5, None, 2.25]


def test_integers_beyond_2_to_53(write):
    numbers = [2**53 + 1, 2**62 + 3, -(2**63), 2**63 - 1]
    path = write("n\n" + "".join(f"{n}\n" for n in numbers))
    schema = infer_schema(path)
    assert schema.column("n").kind is ColumnKind.INTEGER
    batch = next(open_source(path).canonical_batches(schema))
    assert batch.column("n").to_pylist() == numbers


def test_integers_beyond_int64(write):
    numbers = [str(10**25 + 7 * i) for i in range(40)]
    path = write("n\n" + "\n".join(numbers) + "\n")
    schema = infer_schema(path)
    assert schema.column("n").arrow_type == pa.string()
    batch = next(open_source(path).canonical_batches(schema))
    assert batch.column("n").to_pylist() == numbers
    declared = Schema(columns=(Column(name="n", kind=ColumnKind.INTEGER),))
    with pytest.raises(DataError, match="at most 64 bits"):
        next(open_source(path).canonical_batches(declared))


def test_dates_before_1677(write):
    path = write("born\n1066-10-14\n0800-12-25\n9999-12-31\n1492-10-12\n")
    schema = infer_schema(path)
    assert (schema.column("born").kind, schema.column("born").format) == ("date", "%Y-%m-%d")
    batch = next(open_source(path).canonical_batches(schema))
    assert [str(day) for day in batch.column("born").to_pylist()] == [
        "1066-10-14",
        "0800-12-25",
        "9999-12-31",
        "1492-10-12",
    ]


def test_absent_target(write):
    with pytest.raises(SchemaError) as error:
        infer_schema(write("age,income\n1,x\n2,y\n"), target="incom")
    message_of(error, "table.csv", "target column 'incom' does not exist", "nearest: 'income'")


def test_truncated_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError) as error:
        open_source(path)
    message_of(error, "t.parquet", "damaged or truncated Parquet", "expected a complete one")


def test_damaged_parquet_page(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": np.random.default_rng(0).random(20_000)}), path)
    data = bytearray(path.read_bytes())
    data[10:4000] = b"\xff" * 3990
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="damaged or truncated Parquet"):
        infer_schema(path)


@pytest.mark.parametrize("name", ["t.csv.gz", "t.jsonl.gz"])
def test_truncated_gzip(write, name):
    text = "a,b\n" + "".join(f"{i},{i * i}\n" for i in range(50_000))
    if "jsonl" in name:
        text = "".join(f'{{"a": {i}, "b": {i * i}}}\n' for i in range(50_000))
    data = gzip.compress(text.encode())
    with pytest.raises(DataError) as error:
        infer_schema(write(data[: len(data) // 2], name))
    message_of(error, name, "damaged or truncated gzip", "copy it again")


def test_not_gzip_at_all(write):
    with pytest.raises(DataError, match="damaged or truncated gzip"):
        infer_schema(write("a,b\n1,2\n", "t.csv.gz"))


def test_ragged_row(write):
    with pytest.raises(DataError) as error:
        infer_schema(write("a,b,c\n1,2,3\n4,5,6\nprivate,8\n"))
    text = message_of(error, "row 3", "has 2 fields, expected 3", "quotes")
    assert "private" not in text


def test_quote_that_is_never_closed(write):
    with pytest.raises(DataError) as error:
        infer_schema(write('a,b\n1,x\n2,"y\n3,z\n'))
    message_of(error, "row 2", "never closed", "close or remove")
    assert infer_schema(write('a,b\n1,x\n2,"y\n3,z"\n')).column("b").distinct == 2


def test_numbers_with_units_are_not_identifiers(write):
    for form in ("{}%", "${},000.50", "{},5", "{} kg"):
        rows = "".join('"' + form.format(i) + '"\n' for i in range(1, 100))
        column = infer_schema(write("pay\n" + rows)).column("pay")
        assert column.kind is ColumnKind.TEXT, form
        assert "plain numbers" in column.note


def test_empty_list_of_files():
    with pytest.raises(DataError, match="empty list of files"):
        open_source([])


def test_wrong_encoding(write):
    content = "name,n\n" + "x,1\n" * 3 + "Müller,2\n"
    path = write(content.encode("latin-1"))
    with pytest.raises(DataError) as error:
        infer_schema(path)
    message_of(error, "byte 0xfc", "line 5", "expected utf-8", "encoding='latin-1'")
    schema = infer_schema(path, encoding="latin-1")
    assert schema.names == ("name", "n")


def test_wrong_encoding_far_into_the_file(write):
    content = b"name,n\n" + b"abcdefgh,1\n" * 60_000 + b"M\xfcller,2\n"
    with pytest.raises(DataError) as error:
        infer_schema(write(content))
    message_of(error, "byte 0xfc", "line 60002")


def test_unknown_encoding(write):
    with pytest.raises(DataError, match="found encoding 'utf-88'"):
        open_source(write("a\n1\n"), encoding="utf-88")


def test_binary_file(write):
    with pytest.raises(DataError, match="found binary data"):
        open_source(write(b"\x89PNG\0\0\0", "t.csv"))


def test_header_that_is_data(write):
    with pytest.raises(DataError) as error:
        open_source(write("28.7,16.0,g\n31.6,11.7,g\n"))
    message_of(error, "looks like data", "2 of 3", "column_names", "header=True")


def test_wrong_number_of_column_names(write):
    with pytest.raises(DataError, match="column_names has 2 names, the first row has 3 fields"):
        open_source(write("1,2,3\n"), column_names=["a", "b"])


def test_nested_json(write):
    with pytest.raises(DataError) as error:
        open_source(write('{"a": 1}\n{"a": {"b": 2}}\n', "t.jsonl"))
    message_of(error, "line 2", "'a'", "nested object", "flatten")


@pytest.mark.parametrize(
    ("line", "found"), [("{oops", "line 2: not valid JSON"), ("[1]", "line 2: found a JSON list")]
)
def test_bad_json_line(write, line, found):
    with pytest.raises(DataError, match=found):
        open_source(write('{"a": 1}\n' + line + "\n", "t.jsonl"))


def test_files_that_disagree(tmp_path, write):
    write("a,b\n1,2\n", "1.csv")
    write("a,c\n1,2\n", "2.csv")
    with pytest.raises(DataError) as error:
        open_source(tmp_path)
    message_of(error, "2.csv", "lacks column 'b'", "1.csv")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": ["x"]}), tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"2\.parquet, column 'a': found type string"):
        open_source(str(tmp_path / "*.parquet"))


def test_value_that_does_not_fit_a_known_schema(write):
    path = write("day,n,ok\n2024-01-05,1,true\n2024-01-06,2,false\n2024-13-07,3,true\n")
    columns = (
        Column(name="day", kind=ColumnKind.DATE, format="%Y-%m-%d"),
        Column(name="n", kind=ColumnKind.INTEGER),
        Column(name="ok", kind=ColumnKind.BOOLEAN, true_value="yes", false_value="no"),
    )
    for at, expected in ((0, "%Y-%m-%d"), (2, "'yes' or 'no'")):
        schema = Schema(columns=(columns[at],))
        with pytest.raises(DataError) as error:
            list(open_source(path).canonical_batches(schema))
        message_of(error, "table.csv", columns[at].name, expected, "first in row")
    with pytest.raises(DataError, match=r"found 1 value such as .*first in row 3"):
        list(open_source(path).canonical_batches(Schema(columns=columns[:1])))


def test_row_numbers_count_through_batches():
    schema = Schema(columns=(Column(name="n", kind=ColumnKind.INTEGER),))
    table = pa.table({"n": ["1"] * 70_000 + ["x9"]})
    with pytest.raises(DataError, match="first in row 70001"):
        list(open_source(table).canonical_batches(schema))


@pytest.mark.parametrize("storage", [pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_row_numbers_where_spellings_repeat(storage):
    days = ["2024-01-05", "2024-01-06"] * 20 + ["2024-01-32", "2024-01-05", "2024-01-32"]
    schema = Schema(columns=(Column(name="day", kind=ColumnKind.DATE, format="%Y-%m-%d"),))
    with pytest.raises(DataError) as error:
        to_canonical(pa.table({"day": pa.array(days).cast(storage)}), schema, first_row=100)
    message_of(error, "found 2 values such as text of the form '9999-99-99'", "row 141")


def test_missing_value_in_a_column_that_may_not():
    schema = Schema(columns=(Column(name="n", kind=ColumnKind.INTEGER, storage="int64"),))
    with pytest.raises(DataError) as error:
        to_canonical(pa.table({"n": [1, None, None]}), schema)
    message_of(error, "found 2 missing values", "row 2", "nullable")


def test_value_outside_the_declared_range():
    column = Column(name="n", kind=ColumnKind.INTEGER, storage="int64", minimum=0, maximum=9)
    with pytest.raises(DataError) as error:
        to_canonical(pa.table({"n": [1, 12]}), Schema(columns=(column,)))
    message_of(error, "'n'", "at most 9", "row 2", "widen")


def test_column_that_is_absent():
    schema = Schema(columns=(Column(name="age", kind=ColumnKind.INTEGER),))
    with pytest.raises(SchemaError, match=r"column 'age' does not exist; nearest: 'Age'"):
        to_canonical(pa.table({"Age": [1]}), schema)


def test_unsupported_types():
    with pytest.raises(DataError, match=r"column 'b': found type list"):
        open_source(pa.table({"a": [1], "b": [[1]]}))
    with pytest.raises(DataError, match="expected a path, a pandas DataFrame"):
        open_source(3)


def test_every_error_is_one_of_ours():
    assert issubclass(DataError, DiffLMError)
    assert issubclass(SchemaError, DiffLMError)
