"""A table cut into pieces is the same table, however its text is written."""

import csv
import io
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difflm_core.data import delimited, jsonlines, parquet_files
from difflm_core.data.readers import open_source
from difflm_core.errors import DataError

cell = st.text(st.sampled_from('ab,"\n\r é'), max_size=5)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(delimited, "PIECE_BYTES", 40)
    monkeypatch.setattr(jsonlines, "PIECE_BYTES", 40)
    monkeypatch.setattr(parquet_files, "PIECE_CELLS", 12)


def rows_of(sources):
    return [row for source in sources for batch in source.batches() for row in batch.to_pylist()]


def assert_same(path, at_least=2):
    source = open_source(path)
    pieces = source.pieces()
    assert len(pieces) >= at_least
    assert rows_of(pieces) == rows_of([source])
    return pieces


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(cell, cell), min_size=30, max_size=60),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    ending=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(["utf-8", "utf-8-sig"]),
    block=st.sampled_from([7, 64, 4096]),
)
def test_quoted_text_is_cut_between_records(tmp_path_factory, rows, quoting, ending, mark, block):
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=ending, quoting=quoting)
    writer.writerow(("left", "right"))
    for row in rows:  # the writer leaves a bare carriage return without quotes, which ends a line
        minimal = quoting == csv.QUOTE_MINIMAL
        writer.writerow([value.replace("\r", "") if minimal else value for value in row])
    path = tmp_path_factory.mktemp("text") / "t.csv"
    path.write_bytes(text.getvalue().encode(mark))
    source = open_source(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "_BLOCK_BYTES", block)
        pieces = source.pieces()
    assert len(pieces) > 1
    assert rows_of(pieces) == rows_of([source])


def test_many_pieces_of_plain_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "".join(f"{i},word {i}\n" for i in range(100)))
    assert_same(path, at_least=20)


def test_a_quote_within_a_field_ends_the_cutting_not_the_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "_BLOCK_BYTES", 64)
    path = tmp_path / "t.csv"
    inches = ['5" pipe', '"two\nlines"', '6" pipe']
    path.write_text(
        "x,y\n" + "".join(f"{i},plain\n" for i in range(20))
        + "".join(f"{i},{inches[i % 3]}\n" for i in range(30))
    )  # fmt: skip
    pieces = assert_same(path)
    assert len(pieces) < 10


def test_text_in_another_encoding_or_compressed_is_one_piece(tmp_path):
    text = "x,y\n" + "".join(f"{i},\xe9\n" for i in range(100))
    path = tmp_path / "t.csv"
    path.write_text(text, "latin-1")
    assert len(open_source(path, encoding="latin-1").pieces()) == 1
    packed = tmp_path / "t.csv.gz"
    with pa.CompressedOutputStream(str(packed), "gzip") as stream:
        stream.write(text.encode())
    assert_same(packed, at_least=1)


def test_lines_to_skip_and_files_without_a_header(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("made today\n" + "".join(f"{i},word\n" for i in range(50)))
    source = open_source(path, skip_lines=1, header=False)
    assert len(source.pieces()) > 3
    assert rows_of(source.pieces()) == rows_of([source])
    assert len(rows_of([source])) == 50


def test_json_lines_are_cut_between_lines_and_share_their_types(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"a": {i}, "b": "é{i}"}}\n' for i in range(40)) + '{"a": 0.5}\n')
    pieces = assert_same(path, at_least=10)
    assert {str(piece.schema.field("a").type) for piece in pieces} == {"double"}


def test_parquet_is_cut_between_row_groups(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": range(30), "b": range(30)}), path, row_group_size=3)
    assert len(assert_same(path)) == 5  # of six rows, so twelve cells, each


def test_pieces_of_several_files_keep_the_order(tmp_path):
    for number in range(3):
        rows = "".join(f"{number},{i}\n" for i in range(20))
        (tmp_path / f"{number}.csv").write_text("file,i\n" + rows)
    assert_same(tmp_path, at_least=6)


def test_pieces_travel_between_processes(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "".join(f"{i},word {i}\n" for i in range(100)))
    pieces = open_source(path).pieces()
    assert rows_of(pickle.loads(pickle.dumps(pieces))) == rows_of(pieces)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("70,a,b\n", "row 71 has 3 fields, expected 2"),
        ('70,"a\n', "row 71 has a quote that is opened and never closed"),
    ],
)
def test_errors_count_the_rows_of_the_whole_file(tmp_path, bad, message):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "".join(f"{i},word\n" for i in range(70)) + bad)
    with pytest.raises(DataError, match=message) as whole:
        rows_of([open_source(path)])
    with pytest.raises(DataError) as piecewise:
        rows_of(open_source(path).pieces())
    assert str(piecewise.value) == str(whole.value)
