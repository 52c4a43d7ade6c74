"""Rows of an answer: the bytes, values and types that the other ways of making rows give."""

import datetime
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.serving.formats import KINDS, encode, make_joiner, piece_format
from difflm_core.api import DiffLM
from difflm_core.client import Client
from difflm_core.data.schema import Schema
from difflm_core.data.source_form import from_stream, stream_schema
from difflm_core.data.writers import RecordWriter

SUFFIXES = {"csv": ".csv", "ndjson": ".jsonl", "parquet": ".parquet"}


@pytest.fixture(scope="module", params=["plain", "typed"])
def known(request, plain_model, typed_model):
    """Name of a model, and the model as a library."""
    uri = {"plain": plain_model, "typed": typed_model}[request.param]
    return request.param, DiffLM.from_pretrained(uri)


def read_arrow(response):
    return pa.ipc.open_stream(response.content).read_all()


@pytest.mark.parametrize("count", [1, 1025])
@pytest.mark.parametrize("format", SUFFIXES)
def test_files_are_those_of_the_library(server, known, tmp_path, format, count):
    name, model = known
    path = tmp_path / f"rows{SUFFIXES[format]}"
    model.sample_to(path, count, seed=5)
    response = server.generate(name, count=count, seed=5, format=format)
    assert response.content == path.read_bytes()
    assert response.headers["x-rows"] == str(count)


def test_json_has_the_values_of_the_lines(server, known):
    name, _ = known
    body = {"count": 1025, "seed": 5}
    rows = server.generate(name, **body).json()["rows"]
    lines = server.generate(name, **body, format="ndjson").text.split("\n")
    assert lines.pop() == ""
    assert rows == [json.loads(line) for line in lines]


@pytest.mark.parametrize("count", [1, 1025, 2048])
def test_arrow_has_the_values_and_types_of_parquet(server, known, count, tmp_path):
    name, model = known
    table = read_arrow(server.generate(name, count=count, seed=5, format="arrow"))
    model.sample_to(tmp_path / "rows.parquet", count, seed=5)
    expected = pq.read_table(tmp_path / "rows.parquet")
    assert table.num_rows == count
    found = from_stream(table)
    assert [field.type for field in found.schema] == [field.type for field in expected.schema]
    nullable = {column.name for column in model.schema.columns if column.nullable}
    assert {field.name for field in table.schema if field.nullable} == nullable
    assert table.to_pylist() == expected.to_pylist()


def test_the_table_of_types_shows_all_of_them(server):
    response = server.generate("typed", count=400, seed=5, format="arrow")
    table = read_arrow(response)
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "kind": "string",
        "day": "date32[day]",
        "at": "timestamp[ns]",
        "count": "int16",
        "size": "double",
        "good": "bool",
    }
    kinds = set(table["kind"].to_pylist())
    assert kinds == {'say "hi"', "one,\r\ntwo", "übér ✓", " lead", "plain", None}
    assert table["count"].null_count > 0
    assert isinstance(table["day"][0].as_py(), datetime.date)
    parquet = server.generate("typed", count=400, seed=5, format="parquet").content
    stored = pq.read_table(pa.BufferReader(parquet))
    assert pa.types.is_dictionary(stored.schema.field("kind").type)
    lines = server.generate("typed", count=400, seed=5, format="csv").text
    assert '"one,\r\ntwo"' in lines
    assert '"say ""hi"""' in lines
    rows = server.generate("typed", count=400, seed=5).json()["rows"]
    assert {row["kind"] for row in rows} == kinds
    assert {type(row["count"]) for row in rows} == {int, type(None)}
    assert rows[0]["day"] == table["day"][0].as_py().isoformat()


@pytest.mark.parametrize("format", ["ndjson", "arrow"])
def test_pages_are_the_table(server, known, format):
    name, _ = known
    whole = server.generate(name, count=2500, seed=3, format=format)
    pages = [
        server.generate(name, count=count, first=first, seed=3, format=format)
        for first, count in ((0, 1024), (1024, 1024), (2048, 452))
    ]
    if format == "ndjson":
        assert b"".join(page.content for page in pages) == whole.content
    else:
        tables = [read_arrow(page) for page in pages]
        assert pa.concat_tables(tables).to_pylist() == read_arrow(whole).to_pylist()


def test_a_very_late_page(server):
    late = server.generate("typed", count=2, first=2**50, seed=3).json()["rows"]
    assert len(late) == 2
    assert late != server.generate("typed", count=2, seed=3).json()["rows"]


def test_large_parquet_has_the_row_groups_of_a_file(tmp_path):
    schema = Schema.model_validate({"columns": [{"name": "n", "kind": "integer"}]})
    numbers = pa.array(range(66_000), schema.arrow_schema.field("n").type)
    table = pa.table({"n": numbers}, schema=schema.arrow_schema)
    joiner = make_joiner("parquet", schema, {})
    data = joiner.begin()
    for batch in table.to_batches(max_chunksize=1024):
        data += joiner.add(encode(batch, schema, piece_format("parquet")))
    data += joiner.end()
    with RecordWriter(tmp_path / "n.parquet", schema) as writer:
        writer.write(table)
    assert data == (tmp_path / "n.parquet").read_bytes()
    assert pq.ParquetFile(pa.BufferReader(data)).num_row_groups == 2


def test_every_format_is_a_kind(server):
    assert list(KINDS) == server.client.get("/v1/limits").json()["formats"]


def test_arrow_without_dictionaries(typed_model):
    schema = DiffLM.from_pretrained(typed_model).schema
    assert not any(pa.types.is_dictionary(field.type) for field in stream_schema(schema))


def test_the_same_rows_every_way(server, known, difflm, tmp_path):
    name, model = known
    uri = server.service.registry.models[name].ref.uri
    expected = model.sample(1030, seed=11)
    table = read_arrow(server.generate(name, count=1030, seed=11, format="arrow"))
    assert table.num_rows == 1030
    with Client(server.url) as client:
        pd.testing.assert_frame_equal(client.sample(name, 1030, seed=11), expected)
        client.sample_to(tmp_path / "client.csv", name, 1030, seed=11)
    answer = server.generate(name, count=1030, seed=11, format="csv").content
    path = tmp_path / "cli.csv"
    code, _, err = difflm("sample", uri, "-n", "1030", "--seed", "11", "--output", str(path))
    assert (code, err.count("rror")) == (0, 0)
    assert path.read_bytes() == answer == (tmp_path / "client.csv").read_bytes()


@pytest.mark.parametrize("setting", [{"temperature": 0.5}, {"top_p": 0.3}])
def test_how_freely_rows_are_drawn(server, known, tmp_path, setting):
    name, model = known
    model.sample_to(tmp_path / "rows.csv", 20, seed=2, **setting)
    answer = server.generate(name, count=20, seed=2, format="csv", **setting)
    assert answer.content == (tmp_path / "rows.csv").read_bytes()
    assert answer.content != server.generate(name, count=20, seed=2, format="csv").content


def test_the_smallest_freedom_is_none(server, typed_model):
    model = DiffLM.from_pretrained(typed_model)
    for setting in ({"temperature": 5e-324}, {"top_p": 5e-324}):
        response = server.generate("typed", count=20, seed=2, **setting)
        assert len(response.json()["rows"]) == 20
        assert len(model.sample(20, seed=2, **setting)) == 20


def test_an_answer_tells_the_seed_that_repeats_it(server):
    first, second = (server.generate("plain", count=4) for _ in range(2))
    assert first.headers["x-seed"] != second.headers["x-seed"]
    assert first.json()["rows"] != second.json()["rows"]
    assert first.json()["seed"] == int(first.headers["x-seed"])
    again = server.generate("plain", count=4, seed=int(first.headers["x-seed"]))
    assert again.content == first.content
