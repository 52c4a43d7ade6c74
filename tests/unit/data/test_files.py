"""Reading and writing files."""

import bz2
import gzip
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from difflm_core.data.inference import infer_schema
from difflm_core.data.readers import open_source
from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.data.writers import ROW_GROUP_ROWS, RecordWriter
from difflm_core.errors import ConfigError, SchemaError, StageError


def read(source, **options):
    opened = open_source(source, **options)
    return pa.Table.from_batches(opened.batches(), schema=opened.schema)


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (b"a,b\n1,x\n2,y\n", {}),
        (b"\xef\xbb\xbfa,b\r\n1,x\r\n2,y\r\n", {}),
        (b"a;b\n1;x\n2;y\n", {}),
        (b"a|b\n1|x\n2|y", {}),
        (b"a\tb\n1\tx\n2\ty\n", {}),
        (b"1, x\n2, y\n\n", {"column_names": ["a", "b"]}),
        (b"a,b\n1,x\n2,y\n", {"column_names": ["a", "b"]}),
        (b"|comment\na,b\n1,x\n2,y\n", {"skip_lines": 1}),
        ("a,b\n1,x\n2,y\n".encode("utf-16"), {}),
        (b"a~b\n1~x\n2~y\n", {"delimiter": "~"}),
    ],
)
def test_dialects(tmp_path, content, options):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    assert read(path, **options).to_pydict() == {"a": ["1", "2"], "b": ["x", "y"]}


def test_nothing_is_lost_before_the_schema_is_known(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('zip,n,text\n007,12345678901234567890,"a ""b"", c\nd"\n,NA, e \n')
    assert read(path).to_pydict() == {
        "zip": ["007", ""],
        "n": ["12345678901234567890", "NA"],
        "text": ['a "b", c\nd', " e "],
    }


def test_compressed_files(tmp_path):
    text = b"a,b\n" + b"".join(b"%d,x\n" % i for i in range(1000))
    (tmp_path / "1.csv.gz").write_bytes(gzip.compress(text[:2000]) + gzip.compress(text[2000:]))
    (tmp_path / "2.csv.bz2").write_bytes(bz2.compress(text))
    with pa.CompressedOutputStream(str(tmp_path / "3.csv.zst"), "zstd") as stream:
        stream.write(text)
    for name in ("1.csv.gz", "2.csv.bz2", "3.csv.zst"):
        assert read(tmp_path / name).num_rows == 1000, name
    assert read(tmp_path).num_rows == 3000  # A directory of shards, in name order.
    assert read(str(tmp_path / "[12]*.csv.*")).num_rows == 2000
    assert read([tmp_path / "1.csv.gz", tmp_path / "3.csv.zst"]).num_rows == 2000


def test_fsspec_uri():
    import fsspec

    with fsspec.open("memory://bucket/t.csv.gz", "wb") as file:
        file.write(gzip.compress(b"a,b\n1,x\n2,y\n"))
    assert read("memory://bucket/t.csv.gz").num_rows == 2
    assert infer_schema("memory://bucket/*.csv.gz").names == ("a", "b")


def test_format_by_content(tmp_path):
    table = pa.table({"a": [1, 2]})
    pq.write_table(table, tmp_path / "no_ending")
    assert read(tmp_path / "no_ending").equals(table)
    (tmp_path / "t.data").write_text('{"a": 1}\n{"a": 2}\n')
    assert read(tmp_path / "t.data").equals(table)


def test_json_lines_types(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [
        {"i": 1, "f": 1, "b": True, "s": "007", "m": 1, "big": 2**70, "late": None},
        {"i": None, "f": 2.5, "b": False, "s": "x", "m": "one", "big": 1, "late": None},
        {"new": 5, "f": float("nan")},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    table = read(path)
    assert table.to_pydict() == {
        "i": [1, None, None],
        "f": [1.0, 2.5, None],
        "b": [True, False, None],
        "s": ["007", "x", None],
        "m": ["1", "one", None],
        "big": [str(2**70), "1", None],
        "late": [None, None, None],
        "new": [None, None, 5],
    }


def test_files_of_different_column_order_and_number_width(tmp_path):
    pq.write_table(pa.table({"a": pa.array([1], pa.int32()), "b": ["x"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": ["y"], "a": pa.array([2], pa.int64())}), tmp_path / "2.parquet")
    pq.write_table(pa.table({"a": pa.nulls(1), "b": ["z"]}), tmp_path / "3.parquet")
    assert read(tmp_path).to_pydict() == {"a": [1, 2, None], "b": ["x", "y", "z"]}


def test_chosen_columns(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n1,2,3\n")
    assert read_names(path, ["c", "a"]) == ("c", "a")
    with pytest.raises(SchemaError, match="'age' does not exist"):
        open_source(path, columns=["age"])


def read_names(path, columns):
    opened = open_source(path, columns=columns)
    assert next(opened.batches()).schema.names == columns
    return opened.names


def test_header_free_file_gets_names(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("1,x\n2,y\n")
    assert open_source(path, header=False).names == ("column_1", "column_2")


def test_sources_can_be_read_again():
    source = open_source(pd.DataFrame({"a": [1, 2]}))
    assert [b.num_rows for b in source.batches()] == [b.num_rows for b in source.batches()]


# Writing -------------------------------------------------------------------------------------

SCHEMA = Schema(
    columns=(
        Column(name="n", kind=ColumnKind.INTEGER, nullable=True, missing_values=("NA",)),
        Column(name="x", kind=ColumnKind.FLOAT, decimals=1, number_style="point"),
        Column(name="ok", kind=ColumnKind.BOOLEAN, true_value="TRUE", false_value="FALSE"),
        Column(name="d", kind=ColumnKind.DATE, format="%d/%m/%Y"),
        Column(name="who, me", kind=ColumnKind.CATEGORICAL),
    )
)


def rows(count):
    return pa.table(
        [
            pa.array([None if i % 3 == 0 else i for i in range(count)], pa.int64()),
            pa.array([i / 2 for i in range(count)], pa.float64()),
            pa.array([i % 2 == 0 for i in range(count)]),
            pa.array([i for i in range(count)], pa.int32()).cast(pa.date32()),
            pa.array(['say "hi"', "a,b", "plain"][i % 3] for i in range(count)),
        ],
        schema=SCHEMA.arrow_schema,
    )


def test_csv_is_in_source_form(tmp_path):
    with RecordWriter(tmp_path / "t.csv", SCHEMA) as writer:
        writer.write(rows(3))
    assert (tmp_path / "t.csv").read_text() == (
        'n,x,ok,d,"who, me"\n'
        'NA,0.0,TRUE,01/01/1970,"say ""hi"""\n'
        '1,0.5,FALSE,02/01/1970,"a,b"\n'
        "2,1.0,TRUE,03/01/1970,plain\n"
    )


def test_json_lines_have_types(tmp_path):
    with RecordWriter(tmp_path / "t.jsonl", SCHEMA) as writer:
        writer.write(rows(2))
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert lines[0] == {"n": None, "x": 0.0, "ok": True, "d": "01/01/1970", "who, me": 'say "hi"'}


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.csv.gz", "t.jsonl.zst", "t.tsv.bz2"])
def test_bytes_do_not_depend_on_batches(tmp_path, name):
    table = rows(ROW_GROUP_ROWS + 500)
    files = []
    for size in (10**6, 7_001):
        path = tmp_path / str(size) / name
        with RecordWriter(path, SCHEMA) as writer:
            for batch in table.to_batches(max_chunksize=size):
                writer.write(batch)
        assert writer.num_rows == table.num_rows
        files.append(path.read_bytes())
    assert files[0] == files[1]
    assert read(path).num_rows == table.num_rows


def test_parquet_types_and_row_groups(tmp_path):
    with RecordWriter(tmp_path / "t.parquet", SCHEMA) as writer:
        writer.write(rows(ROW_GROUP_ROWS + 1))
    file = pq.ParquetFile(tmp_path / "t.parquet")
    assert file.num_row_groups == 2
    assert file.schema_arrow.types == [
        pa.int64(), pa.float64(), pa.bool_(), pa.date32(), pa.string(),
    ]  # fmt: skip


def test_no_rows_still_make_a_file(tmp_path):
    for name in ("t.parquet", "t.csv"):
        with RecordWriter(tmp_path / name, SCHEMA):
            pass
        assert (tmp_path / name).exists()
    assert pq.read_table(tmp_path / "t.parquet").num_rows == 0


def test_failure_leaves_nothing(tmp_path):
    def fail_halfway():
        with RecordWriter(tmp_path / "t.parquet", SCHEMA) as writer:
            writer.write(rows(ROW_GROUP_ROWS))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_explained(tmp_path, monkeypatch):
    from difflm_core.data import writers

    def full(table, delimiter):
        raise OSError(28, "No space left on device")

    def write():
        with RecordWriter(tmp_path / "t.csv", SCHEMA) as writer:
            monkeypatch.setattr(writers, "delimited_lines", full)
            writer.write(rows(10))

    with pytest.raises(StageError) as error:
        write()
    assert "t.csv: writing failed: No space left on device" in str(error.value)
    assert "free space" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_unknown_output_endings(tmp_path):
    with pytest.raises(ConfigError, match=r"found ending '\.xlsx', expected one of \.parquet"):
        RecordWriter(tmp_path / "t.xlsx", SCHEMA)
    with pytest.raises(ConfigError, match="Parquet is compressed inside"):
        RecordWriter(tmp_path / "t.parquet.gz", SCHEMA)
