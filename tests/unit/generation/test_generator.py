"""Exactly as many records as asked for, the same ones however they are computed."""

import re
import threading
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from difflm_core.codec.base import Decoded
from difflm_core.data import writers
from difflm_core.data.identifiers import IdentifierPattern
from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.data.writers import RecordWriter
from difflm_core.device import Compute
from difflm_core.errors import DataError, StageError
from difflm_core.generation.bundle import load_generator
from difflm_core.generation.drawing import (
    BLANK,
    ZERO_BYTE,
    Drawing,
    SamplingOptions,
    Span,
    without_unwritable_texts,
)
from difflm_core.generation.generator import Generator, NoLatents, PriorLatents

OPTIONS = SamplingOptions(seed=3, batch_rows=20, max_attempts=300)


@pytest.fixture(scope="module")
def generator(people_run):
    return load_generator(people_run / "generator", Compute(torch.device("cpu")))


def rows(generator, num_rows, options=OPTIONS, **more):
    return pa.Table.from_batches(list(generator.batches(num_rows, options, **more)))


@pytest.mark.parametrize("num_rows", [1, 19, 20, 21, 50])
def test_exactly_as_many_rows_as_asked_for(generator, num_rows):
    batches = list(generator.batches(num_rows, OPTIONS))
    assert sum(batch.num_rows for batch in batches) == num_rows
    assert all(batch.num_rows == 20 for batch in batches[:-1])
    assert batches[0].schema == generator.codec.schema.arrow_schema


def test_rows_do_not_depend_on_threads_or_on_where_a_shard_begins(generator):
    whole = rows(generator, 70, num_threads=1)
    assert whole.equals(rows(generator, 70, num_threads=3))
    assert whole.slice(40).equals(rows(generator, 30, start=40))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_rows_do_not_depend_on_who_shares_a_batch(people_run, precision):
    generator = load_generator(people_run / "generator", Compute(torch.device("cpu"), precision))
    sizes = [1, 17, 1, 20, 3, 9, 20, 2]
    asked = [
        Span(
            20 * index,
            20 * index + size,
            replace(OPTIONS, seed=index, temperature=1 - index / 20, top_p=1 - (index % 3) / 10),
        )
        for index, size in enumerate(sizes)
    ]
    together = [Drawing(span, generator.codec) for span in asked]
    while lacking := [drawing for drawing in together if drawing.num_missing]:
        generator.advance(lacking)
    for span, drawing in zip(asked, together, strict=True):
        alone = generator.batches(span.num_rows, span.options, start=span.begin)
        assert drawing.records().equals(next(alone))


def test_threads_of_torch_are_as_before(generator):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        rows(generator, 40)
        assert torch.get_num_threads() == 2
        stopped = generator.batches(60, OPTIONS)
        next(stopped)
        stopped.close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_another_seed_gives_other_rows(generator):
    first = rows(generator, 20)
    assert first.equals(rows(generator, 20))
    other = rows(generator, 20, SamplingOptions(seed=4, batch_rows=20, max_attempts=300))
    assert not first.equals(other)


def test_identifiers_are_unique_and_in_pattern(generator):
    names = [
        name
        for start in (0, 60)
        for name in rows(generator, 60, start=start).column("person").to_pylist()
    ]
    assert len(set(names)) == 120
    assert all(re.fullmatch(r"P-\d{5}", name) for name in names)


def test_values_are_of_the_kinds_and_ranges_of_the_table(generator):
    table = rows(generator, 200)
    assert set(table.column("job").to_pylist()) == {"clerk", "cook", "pilot", "nurse", None}
    assert set(table.column("label").to_pylist()) == {True, False}
    ages = table.column("age").to_pylist()
    assert min(ages) >= 18
    assert max(ages) < 80
    assert table.column("pay").null_count > 0
    assert table.column("joined").null_count == 0
    assert all(text.strip() for text in table.column("note").to_pylist())


def test_rejections_are_counted_by_column_and_reason(generator):
    rejections = Counter()
    rows(generator, 100, rejections=rejections)
    assert rejections["note", "not valid UTF-8"] > 10
    assert {column for column, _ in rejections} == {"note"}


class RejectAll:
    """A codec that accepts nothing."""

    def __init__(self, codec):
        self.codec = codec
        self.schema = codec.schema
        self.identifiers = codec.identifiers
        self.num_residuals = codec.num_residuals
        self.calls = []

    def decode(self, ids, residuals):
        self.calls.append(len(ids))
        decoded = self.codec.decode(ids, residuals)
        rejected = Counter({("note", "of no use"): len(ids)})
        return Decoded(decoded.records.slice(0, 0), decoded.valid & False, rejected)


def test_a_codec_that_rejects_everything_is_one_clear_error(generator):
    codec = RejectAll(generator.codec)
    stubborn = Generator(generator.vae, codec, generator.latents)
    options = SamplingOptions(batch_rows=20, max_attempts=4)
    with pytest.raises(StageError) as caught:
        list(stubborn.batches(7, options))
    assert str(caught.value) == (
        "7 records were rejected 4 times each ('note': of no use (28)). "
        "Train longer, lower the temperature, or raise max_attempts."
    )
    assert codec.calls == [7] * 4


def test_few_batches_are_in_memory(generator, monkeypatch):
    """However many rows are asked for, no more batches are begun than threads can chew."""
    begun, lock = [], threading.Lock()

    def numbered(generator, span):
        with lock:
            begun.append(span.begin)
        batch = pa.RecordBatch.from_pydict({"x": list(range(span.begin, span.end))})
        return SimpleNamespace(records=lambda: batch, rejections=Counter())

    monkeypatch.setattr("difflm_core.generation.generator.draw_alone", numbered)
    seen = []
    for count, batch in enumerate(generator.batches(90_000, OPTIONS, num_threads=2), start=1):
        seen += batch.column("x").to_pylist()
        assert len(begun) <= count + 4
        if count == 50:
            break
    assert seen == list(range(1000))


def test_a_low_temperature_and_a_small_nucleus_are_less_diverse(generator):
    def num_distinct(**more):
        options = SamplingOptions(seed=1, batch_rows=100, max_attempts=1000, **more)
        table = rows(generator, 200, options)
        return len(set(zip(*(table.column(n).to_pylist() for n in ("age", "job")), strict=True)))

    usual = num_distinct()
    assert num_distinct(temperature=0.05) < 0.5 * usual
    assert num_distinct(top_p=0.05) < 0.5 * usual
    assert num_distinct(temperature=3.0) > 0.9 * usual


@pytest.mark.parametrize("latents", [PriorLatents(4), NoLatents()])
def test_ablations_generate_too(generator, latents):
    ablated = Generator(generator.vae, generator.codec, latents)
    table = rows(ablated, 30)
    assert table.num_rows == 30
    assert not table.equals(rows(generator, 30))


def test_more_rows_than_identifiers_is_refused_before_work(generator, monkeypatch):
    monkeypatch.setattr(generator.codec, "identifiers", {"c": IdentifierPattern.parse("C[0-9]")})
    monkeypatch.setattr("difflm_core.generation.generator.draw_alone", None)
    with pytest.raises(DataError) as caught:
        next(generator.batches(21, OPTIONS))
    assert str(caught.value) == (
        r"identifier pattern 'C\\d' gives 10 different identifiers, 21 rows were asked for; "
        "widen the pattern in the schema, or ask for fewer rows"
    )


def test_texts_that_a_file_would_not_give_back_are_rejected():
    column = Column(
        name="note", kind=ColumnKind.TEXT, storage="text", nullable=True, missing_values=("n/a",)
    )
    schema = Schema(columns=(column,))
    texts = ["fine", "", " \t", "n/a", " n/a ", None, "a\0b", "N/A"]
    records = pa.RecordBatch.from_pydict({"note": texts}, schema=schema.arrow_schema)
    rejections = Counter()
    kept = without_unwritable_texts(records, schema, rejections)
    assert kept.column("note").to_pylist() == ["fine", None, "N/A"]
    assert rejections == {("note", BLANK): 4, ("note", ZERO_BYTE): 1}


def test_a_writer_keeps_few_rows_in_memory(generator, tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "ROW_GROUP_ROWS", 50)
    written = 0
    with RecordWriter(tmp_path / "out.parquet", generator.codec.schema) as writer:
        for batch in generator.batches(130, OPTIONS):
            writer.write(batch)
            written += batch.num_rows
            assert written - writer.num_rows < 50
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert groups == [50, 50, 30]
