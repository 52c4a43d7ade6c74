"""Documents from files: their forms, their parts, and what is refused."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from difflm_core.data import readers
from difflm_core.data.document_form import canonical_code
from difflm_core.data.document_profile import DocumentProfile
from difflm_core.data.documents import open_documents
from difflm_core.data.json_schema import decide_document_schema
from difflm_core.data.schema import Column, ColumnKind, DataKind, Schema
from difflm_core.data.writers import RecordWriter
from difflm_core.errors import DataError
from tests.documents import make_tools, write_lines

JSON, CODE = DataKind.JSON, DataKind.CODE


def texts_of(source):
    return [text for batch in source.batches() for text in batch.column(0).to_pylist()]


def documents_of(source):
    return [json.loads(text) for text in texts_of(source)]


def schema_of(source, kind=JSON):
    profile = DocumentProfile(kind)
    for batch in source.batches():
        profile.add(batch)
    return decide_document_schema(source, profile)


def test_json_lines_are_read_nested(tmp_path):
    tools = make_tools(20)
    assert documents_of(open_documents(write_lines(tmp_path / "a.jsonl", tools), JSON)) == tools
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    assert documents_of(open_documents(str(tmp_path / "b.jsonl.gz"), JSON)) == tools


def test_json_files_are_arrays_or_one_document(tmp_path):
    (tmp_path / "many.json").write_text(json.dumps([{"a": 1}, {"a": 2}]))
    (tmp_path / "one.json").write_text('{"a": {"b": []}}')
    assert documents_of(open_documents(str(tmp_path / "many.json"), JSON)) == [{"a": 1}, {"a": 2}]
    assert documents_of(open_documents(str(tmp_path / "one.json"), JSON)) == [{"a": {"b": []}}]
    assert len(documents_of(open_documents(str(tmp_path), JSON))) == 3


def test_rows_of_tables_are_flat_documents(tmp_path):
    (tmp_path / "a.csv").write_text('name,note\nAnna,"hello, you"\nBen,\n')
    expected = [{"name": "Anna", "note": "hello, you"}, {"name": "Ben"}]
    assert documents_of(open_documents(str(tmp_path / "a.csv"), JSON)) == expected
    pq.write_table(pa.table({"n": [1, None], "x": [0.5, 2.0]}), tmp_path / "a.parquet")
    found = documents_of(open_documents(str(tmp_path / "a.parquet"), JSON))
    assert found == [{"n": 1, "x": 0.5}, {"x": 2.0}]


def test_a_field_is_a_part_of_each_record(tmp_path):
    records = [
        {"id": 1, "log": [{"state": {"day": "mon"}}, {"state": {}}, {"state": {"day": "tue"}}]},
        {"id": 2, "log": []},
    ]
    path = write_lines(tmp_path / "a.jsonl", records)
    found = documents_of(open_documents(path, JSON, field="log.state"))
    assert found == [{"day": "mon"}, {"day": "tue"}]
    with pytest.raises(
        DataError, match=r"line 1, data.field .logs.: key .logs. does not exist; nearest"
    ):
        texts_of(open_documents(path, JSON, field="logs"))
    with pytest.raises(DataError, match=r"data\.field 'id\.x': found a number"):
        texts_of(open_documents(path, JSON, field="id.x"))


def test_pieces_are_the_whole(tmp_path, monkeypatch):
    tools = make_tools(50)
    monkeypatch.setattr(readers, "PIECE_BYTES", 2000)
    monkeypatch.setattr("difflm_core.data.jsonlines.PIECE_BYTES", 2000)
    source = open_documents(write_lines(tmp_path / "a.jsonl", tools), JSON)
    pieces = source.pieces()
    assert len(pieces) > 3
    assert [document for piece in pieces for document in documents_of(piece)] == tools


def test_code_comes_from_files_and_fields(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("x = 1\r\nif x:   \r\n\ty = 2\r\n\r\n")
    (tmp_path / "src" / "notes.txt").write_text("not code")
    source = open_documents(str(tmp_path / "src"), CODE)
    schema = schema_of(source, CODE)
    (batch,) = source.canonical_batches(schema)
    assert batch.column("code").to_pylist() == ["x = 1\nif x:\n\ty = 2"]
    path = write_lines(tmp_path / "a.jsonl", [{"code": "x = 1"}, {"code": "  "}])
    assert texts_of(open_documents(path, CODE)) == ["x = 1"]
    path = write_lines(tmp_path / "b.jsonl", [{"answers": ["x = 1", "y = 2"]}])
    assert texts_of(open_documents(path, CODE, field="answers")) == ["x = 1", "y = 2"]
    with pytest.raises(DataError, match="found the fields 'answers', expected the code in one of"):
        texts_of(open_documents(path, CODE))
    path = write_lines(tmp_path / "c.jsonl", [{"code": 5}])
    with pytest.raises(DataError, match="found a number, expected code as text"):
        texts_of(open_documents(path, CODE))


def test_canonical_code_keeps_what_matters():
    assert canonical_code("\n\na = '''x \n'''\n\n") == "a = '''x\n'''"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}\n{"a": }\n', "line 2: not valid JSON"),
        ('{"a": 1, "a": 2}\n', "line 1: a key stands twice"),
        ('{"a": NaN}\n', "line 1: NaN is no JSON number"),
        ('{"a": "\\ud800"}\n', "half of a surrogate pair"),
        ('{"a": 1}\n{"a": 1e999}\n', "line 2: found a number that is infinite"),
        ("[1]\n", "expected one object per line"),
        ('{"a": ' + "[" * 40 + "]" * 40 + "}\n", "nested more than 24 levels"),
        ('{"a": ' + "[" * 20_000 + "]" * 20_000 + "}\n", "nested too deep"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path, text, expected):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=expected) as caught:
        texts_of(open_documents(str(path), JSON))
    assert "a.jsonl" in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_bytes(b'{"a": "\xff"}\n')
        with pytest.raises(DataError, match="found byte 0xff"):
            texts_of(open_documents(str(tmp_path / name), JSON))


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match="no such file or directory"):
        open_documents(str(tmp_path / "no.jsonl"), JSON)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"no data files; expected files ending in \.csv"):
        open_documents(str(tmp_path), JSON)
    (tmp_path / "a.py").write_text("")
    with pytest.raises(DataError, match=r"data\.kind is json; set"):
        open_documents(str(tmp_path / "a.py"), JSON)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv", ".jsonl.gz"])
def test_what_is_written_is_read_back(tmp_path, suffix):
    source = open_documents(write_lines(tmp_path / "a.jsonl", make_tools(30)), JSON)
    schema = schema_of(source)
    batches = list(source.canonical_batches(schema))
    path = str(tmp_path / f"out{suffix}")
    with RecordWriter(path, schema) as writer:
        for batch in batches:
            writer.write(batch)
    again = open_documents(path, JSON)
    assert list(again.canonical_batches(schema)) == batches
    if suffix == ".jsonl":
        lines = (tmp_path / "out.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == documents_of(source)


def test_a_given_schema_is_kept_to(tmp_path):
    schema = Schema(
        columns=(
            Column(
                name="document",
                kind=ColumnKind.JSON,
                json_schema={"type": "object", "properties": {"a": {"type": "integer"}}},
            ),
        )
    )
    source = open_documents(write_lines(tmp_path / "a.jsonl", [{"a": 1}, {"a": "secret"}]), JSON)
    with pytest.raises(DataError, match=r"at /properties/a/type: found text of 6 characters") as e:
        list(source.canonical_batches(schema))
    assert "secret" not in str(e.value)
