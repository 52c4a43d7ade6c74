"""Rows as frames and as files, in the form that the library gives them."""

import io
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from difflm_core.client import ServiceError
from difflm_core.data.schema import Schema
from difflm_core.data.source_form import from_canonical, stream_schema, to_dataframe
from difflm_core.errors import ConfigError, StageError
from tests.unit.client import answering
from tests.unit.client.answering import (
    Service,
    problem,
    rows_of,
)


def test_a_frame_has_the_dtypes_of_the_library(monkeypatch):
    schema = Schema.model_validate_json(
        json.dumps(
            {
                "columns": [
                    {"name": "n", "kind": "integer", "nullable": True, "storage": "int32"},
                    {"name": "m", "kind": "integer", "nullable": False, "storage": "int64"},
                    {"name": "b", "kind": "boolean", "nullable": True, "storage": "bool"},
                    {"name": "t", "kind": "text", "nullable": True, "storage": "large_string"},
                    {
                        "name": "c",
                        "kind": "categorical",
                        "nullable": True,
                        "storage": "dictionary<string>",
                    },
                ]
            }
        )
    )
    canonical = pa.table(
        {
            "n": pa.array([1, None, 3], pa.int64()),
            "m": pa.array([1, 2, 3], pa.int64()),
            "b": [True, None, False],
            "t": ["x", None, "z"],
            "c": ["q", "p", None],
        }
    ).cast(schema.arrow_schema)
    expected = to_dataframe(canonical, schema)
    assert [str(dtype) for dtype in expected.dtypes] == [
        *("Int32", "int64", "boolean", "string", "category")
    ]
    wire = from_canonical(canonical, schema).cast(stream_schema(schema))
    service = Service()
    monkeypatch.setattr(answering, "rows_of", lambda first, count, seed: wire)
    with service.client() as client:
        frame = client.sample("adult", 3, seed=1)
    pd.testing.assert_frame_equal(frame, expected)


def test_categories_are_in_the_order_in_which_they_came(monkeypatch):
    values = ["b", "a", "b", "c", "a", "d"] * 3
    whole = pa.table({"c": pa.array(values).dictionary_encode()})

    def pieces(table, kind, batch_rows):
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, whole.schema) as writer:
            for start in range(0, 18, 3):  # a dictionary for each batch
                part = pa.array(values[start : start + 3]).dictionary_encode()
                writer.write_batch(pa.record_batch({"c": part}))
        return sink.getvalue()

    monkeypatch.setattr(answering, "encoded", pieces)
    service = Service()
    service.next = [service.cut(0.5)]
    with service.client() as client:
        frame = client.sample("adult", 18, seed=1)
    pd.testing.assert_frame_equal(frame, whole.to_pandas())


def test_a_parquet_file_has_the_rows_of_the_stream(tmp_path):
    path = tmp_path / "new" / "rows.parquet"
    service = Service()
    service.next = [None, service.cut(0.5)]
    with service.client(page_rows=40_960) as client:
        client.sample_to(path, "adult", 70_000, seed=2)
    assert pq.read_table(path).equals(rows_of(0, 70_000, 2))
    groups = pq.ParquetFile(path).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [65_536, 4_464]
    assert [entry.name for entry in path.parent.iterdir()] == ["rows.parquet"]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.jsonl"])
def test_a_failure_leaves_what_was_there(tmp_path, name):
    path = tmp_path / name
    path.write_text("old")
    service = Service()
    service.next = [None, problem(403, "forbidden", "Not this model.")]
    with service.client(page_rows=1024) as client, pytest.raises(ServiceError):
        client.sample_to(path, "adult", 3000, seed=2)
    assert len(service.pages) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert path.read_text() == "old"


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with Service().client() as client, pytest.raises(StageError) as caught:
        client.sample_to(tmp_path / "file" / "rows.csv", "adult", 10)
    assert "writing failed: " in str(caught.value)


def test_a_file_of_another_kind():
    with Service().client() as client, pytest.raises(ConfigError) as caught:
        client.sample_to("rows.xlsx", "adult", 10)
    assert str(caught.value) == (
        "rows.xlsx: found ending '.xlsx', expected one of .parquet, .csv, .jsonl; rename it"
    )


def test_lines_are_counted(tmp_path):
    service = Service()
    service.next = [lambda body: service.answer(body, count=9)] * 2 + [
        lambda body: service.answer(body, count=11)
    ]
    with service.client() as client, pytest.raises(ServiceError, match="10 and holds 11"):
        client.sample_to(tmp_path / "rows.csv", "adult", 10)
    assert len(service.pages) == 3
    assert list(tmp_path.iterdir()) == []
