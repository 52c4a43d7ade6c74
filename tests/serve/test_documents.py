"""A model of documents in the service: the documents of the library, in every format."""

import io
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from difflm_core.api import DiffLM
from difflm_core.client import Client
from difflm_core.stages.pipeline import run_pipeline
from tests.documents import documents_config
from tests.serve.servers import make_service, served


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    run_pipeline(documents_config(folder, runtime={"precision": "auto"}))
    return folder / "run"


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    with served(
        make_service({"tools": str(run / "generator")}), tmp_path_factory.mktemp("results")
    ) as running:
        yield running
        running.generators.worker.close()


def test_documents_are_lines_of_their_own(server, run, tmp_path):
    DiffLM.from_pretrained(run).sample_to(tmp_path / "out.jsonl", 100, seed=5)
    response = server.generate("tools", count=100, seed=5, format="ndjson")
    assert response.content == (tmp_path / "out.jsonl").read_bytes()
    tools = [json.loads(line) for line in response.text.splitlines()]
    assert all(tool["category"] for tool in tools)
    assert server.generate("tools", count=100, seed=5).json()["rows"] == tools


def test_other_formats_hold_their_texts(server, run):
    expected = DiffLM.from_pretrained(run).sample(10, seed=5)["document"].tolist()
    answers = {
        name: server.generate("tools", count=10, seed=5, format=name).content
        for name in ("csv", "parquet", "arrow")
    }
    assert pd.read_csv(io.BytesIO(answers["csv"]))["document"].tolist() == expected
    assert pq.read_table(io.BytesIO(answers["parquet"])).column(0).to_pylist() == expected
    assert pa.ipc.open_stream(answers["arrow"]).read_all().column(0).to_pylist() == expected


def test_the_model_is_described(server):
    details = server.client.get("/v1/models/tools").json()
    assert [column["kind"] for column in details["columns"]] == ["json"]
    assert details["columns"][0]["conditional"] is False
    assert "documents" in details["quality"]["headline"]
    assert server.client.get("/v1/models/tools/distributions").json() == {"columns": []}


def test_conditions_are_refused_with_a_reason(server):
    response = server.generate("tools", count=5, conditions={"category": "music"})
    assert response.status_code == 422
    assert "documents are made without conditions" in response.json()["detail"]


def test_the_client_reads_them(server):
    with Client(server.url) as client:
        frame = client.sample("tools", 20, seed=2)
    assert list(frame.columns) == ["document"]
    assert len(frame) == 20
