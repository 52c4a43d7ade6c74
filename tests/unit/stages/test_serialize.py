"""Serialization in pieces: the same corpus by any number of workers, whatever is interrupted."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from difflm_core.artifacts import Corpus
from difflm_core.codec.records import RecordCodec
from difflm_core.config import CodecConfig, DataConfig, RuntimeConfig, SerializeConfig
from difflm_core.data import delimited
from difflm_core.data.inference import infer_schema
from difflm_core.data.schema import Schema
from difflm_core.errors import DataError, SchemaError
from difflm_core.stage import run_stage
from difflm_core.stages import dealing
from difflm_core.stages.serialize import STAGE
from tests.unit.stage_runs import CountingLauncher

ROWS = 3_000


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(delimited, "PIECE_BYTES", 8_000)
    monkeypatch.setattr(delimited, "_BLOCK_BYTES", 4_096)
    monkeypatch.setattr(dealing, "GROUP_PIECES", 4)


@pytest.fixture
def table(tmp_path):
    """A CSV of rows in order, of some ten pieces: nothing in it is mixed already."""
    numbers = np.random.default_rng(0)
    frame = pd.DataFrame({
        "place": np.arange(ROWS) * 2 + numbers.integers(0, 2, ROWS),
        "group": np.repeat(["a", "b", "c"], ROWS // 3),
        "amount": numbers.normal(size=ROWS).round(3),
        "note": numbers.choice(["plain", 'quoted, "so"', "two\nlines", ""], ROWS),
    })  # fmt: skip
    frame.loc[1_234, "group"] = "rare"
    frame.loc[2_345, "amount"] = 99.5
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False)
    return path


def serialized(table, folder, launcher=None, workers=1, data=None, **codec):
    cfg = SerializeConfig(
        data=DataConfig(source=str(table), **(data or {})),
        codec=CodecConfig(**{"shard_rows": 200, **codec}),
    )
    runtime = RuntimeConfig(num_workers=workers, threads=1)
    return run_stage(STAGE, cfg, {}, str(folder), launcher, runtime=runtime)


def records(corpus, split):
    return [pq.read_table(corpus.path(e.path)) for e in corpus.files(split, ".parquet")]


def test_every_row_is_dealt_once_and_every_shard_is_a_fair_sample(table, tmp_path):
    corpus = serialized(table, tmp_path / "corpus")
    shards = {split: records(corpus, split) for split in ("train", "valid", "test")}
    rows = pa.concat_tables([shard for split in shards.values() for shard in split]).to_pandas()
    source = pd.read_csv(table, keep_default_na=False)
    assert sorted(rows["place"]) == list(source["place"])
    again = rows.set_index("place").loc[source["place"]]
    assert list(again["amount"]) == list(source["amount"])
    assert list(again["note"].fillna("")) == list(source["note"])
    train = shards["train"]
    assert 8 < len(train) < 16
    for shard in train:
        assert 120 < shard.num_rows < 320
    # A shard mixes the pieces of its group, here a handful of the ten, from all over the table.
    spread = [np.ptp(shard["place"].to_numpy()) for shard in train]
    assert min(spread) > ROWS
    assert not any(str(part).startswith("work") for part in (tmp_path / "corpus").iterdir())


def test_the_schema_is_the_one_that_one_reader_infers(table, tmp_path):
    serialized(table, tmp_path / "corpus")
    assert Schema.load(tmp_path / "corpus" / "schema.json") == infer_schema(table)


def test_any_number_of_workers_writes_the_same_corpus(table, tmp_path):
    alone = serialized(table, tmp_path / "alone")
    together = serialized(table, tmp_path / "together", workers=3)
    assert together.manifest.content_hash == alone.manifest.content_hash


def test_what_a_worker_holds_at_a_time_changes_nothing(table, tmp_path, monkeypatch):
    whole = serialized(table, tmp_path / "whole", fit_rows=500)
    monkeypatch.setattr(dealing, "CHUNK_CELLS", 40)
    monkeypatch.setattr(delimited, "_BLOCK_BYTES", 512)  # batches of a few rows
    chunked = serialized(table, tmp_path / "chunked", fit_rows=500)
    assert chunked.manifest.content_hash == whole.manifest.content_hash


def test_an_interrupted_run_continues(table, tmp_path, monkeypatch):
    whole = serialized(table, tmp_path / "whole")
    gather = dealing._read_batches
    calls = []

    def fail_late(*args):
        calls.append(args)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return gather(*args)

    monkeypatch.setattr(dealing, "_read_batches", fail_late)
    with pytest.raises(KeyboardInterrupt):
        serialized(table, tmp_path / "stopped")
    monkeypatch.setattr(dealing, "_read_batches", gather)
    launcher = CountingLauncher()
    continued = serialized(table, tmp_path / "stopped", launcher)
    assert continued.manifest.content_hash == whole.manifest.content_hash
    num_shards = sum(len(records(continued, split)) for split in ("train", "valid", "test"))
    assert 0 < len(launcher.done) < num_shards


def test_the_codec_knows_what_its_sample_missed(table, tmp_path):
    corpus = serialized(table, tmp_path / "corpus", fit_rows=100, data={"test_fraction": 0.01})
    codec = RecordCodec.load(tmp_path / "corpus" / "codec")
    train = pa.concat_tables(records(corpus, "train"))
    rare = train.filter(pa.compute.is_in(train["group"], pa.array(["rare"])))
    far = train.filter(pa.compute.greater(train["amount"], 90.0))
    assert rare.num_rows == far.num_rows == 1
    for rows, name in ((rare, "group"), (far, "amount")):
        tokens = codec.encode(rows, np.random.default_rng(0))
        assert (
            codec.decode(tokens.ids, tokens.residuals).records[name].to_pylist()
            == rows[name].to_pylist()
        )


@pytest.mark.parametrize(("asked", "least", "most"), [(1_000, 900, 1_100), (10**6, 2_500, 2_850)])
def test_a_sample_has_about_the_size_that_was_asked_for(
    table, tmp_path, monkeypatch, asked, least, most
):
    fit, samples = RecordCodec.fit, []

    def keep(schema, sample, options, values):
        samples.append((sample, values))
        return fit(schema, sample, options, values)

    monkeypatch.setattr(RecordCodec, "fit", keep)
    corpus = serialized(table, tmp_path / "corpus", fit_rows=asked)
    ((sample, values),) = samples
    assert least <= sample.num_rows <= most
    assert (values.num_rows == 0) == (asked > ROWS)
    train = set(pa.concat_tables(records(corpus, "train"))["place"].to_pylist())
    places = sample["place"].to_pylist()
    assert places == sorted(places)
    assert set(places) <= train


def test_refused_data_leaves_nothing_and_counts_rows_of_the_file(table, tmp_path):
    schema = infer_schema(table)
    columns = [c.model_copy(update={"maximum": 50.0}) if c.name == "amount" else c
               for c in schema.columns]  # fmt: skip
    schema.model_copy(update={"columns": tuple(columns)}).save(tmp_path / "narrow.json")
    with pytest.raises(DataError, match="first in row 2346; expected at most 50"):
        serialized(table, tmp_path / "out", data={"schema_path": str(tmp_path / "narrow.json")})
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(SchemaError, match="target"):
        serialized(table, tmp_path / "out", data={"target": "nobody"})
    assert Corpus.open(serialized(table, tmp_path / "out").uri)


def test_a_test_table_of_its_own_is_dealt_too(table, tmp_path):
    corpus = serialized(table, tmp_path / "corpus", data={"test_source": str(table)})
    assert (
        json.loads((tmp_path / "corpus" / "manifest.json").read_text())["summary"]["num_test"]
        == ROWS
    )
    assert sum(shard.num_rows for shard in records(corpus, "test")) == ROWS
