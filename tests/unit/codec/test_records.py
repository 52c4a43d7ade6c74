"""The record codec over random schemas and tables: lossless, closed, deterministic."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difflm_core.codec.fields import CodecOptions
from difflm_core.codec.records import RecordCodec
from difflm_core.codec.text_field import NOT_UTF8
from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.errors import ArtifactError, DataError, SchemaError
from tests.unit.codec.round_trips import assert_same, big_table, rng, round_trip
from tests.unit.codec.tables import one_column, random_ids, tables

K = ColumnKind
OPTIONS = st.sampled_from(
    [
        CodecOptions(),
        CodecOptions(digit_base=4, num_digits=3, max_value_tokens=3, max_category_tokens=2),
        CodecOptions(digit_base=10, num_digits=1, max_value_tokens=1, max_text_tokens=1000),
    ]
)
thorough = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@thorough
@given(tables(), OPTIONS, st.integers(0, 9))
def test_decoding_inverts_encoding(drawn, options, seed):
    schema, table = drawn
    codec = RecordCodec.fit(schema, table, options)
    assert_same(round_trip(codec, table, seed), table, codec)


@thorough
@given(tables(), OPTIONS, st.integers(0, 9))
def test_any_sentence_of_the_grammar_is_a_record_of_the_observed_range(drawn, options, seed):
    schema, table = drawn
    codec = RecordCodec.fit(schema, table, options)
    generator = rng(seed)
    ids = random_ids(codec.grammar, 200, generator)
    assert codec.grammar.accepts(ids).all()
    decoded = codec.decode(ids, generator.random((200, codec.num_residuals)))
    assert decoded.records.schema == schema.arrow_schema
    assert decoded.records.num_rows == decoded.valid.sum()
    assert sum(decoded.rejections.values()) == 200 - decoded.valid.sum()
    for (name, reason), _ in decoded.rejections.items():
        assert schema.column(name).kind is K.TEXT
        assert reason == NOT_UTF8
    decoded.records.validate(full=True)
    for column in schema.columns:
        real, made = table.column(column.name), decoded.records.column(column.name)
        if column.kind is K.IDENTIFIER or not len(made):
            continue
        assert not made.null_count or column.nullable or column.value is None
        if column.kind in (K.CATEGORICAL, K.CONSTANT):
            assert set(made.to_pylist()) <= {*real.to_pylist(), None}
        elif column.kind is not K.TEXT and column.kind is not K.BOOLEAN and made.drop_null():
            found, seen = pc.min_max(made), pc.min_max(real)
            assert found["min"].as_py() >= seen["min"].as_py()
            assert found["max"].as_py() <= seen["max"].as_py()


@thorough
@given(tables(max_rows=20), OPTIONS)
def test_a_saved_codec_behaves_the_same(tmp_path_factory, drawn, options):
    schema, table = drawn
    codec = RecordCodec.fit(schema, table, options)
    folder = tmp_path_factory.mktemp("codec")
    codec.save(folder)
    loaded = RecordCodec.load(folder)
    assert loaded.schema == codec.schema
    assert loaded.grammar.slots == codec.grammar.slots
    np.testing.assert_array_equal(loaded.vocab_order, codec.vocab_order)
    np.testing.assert_array_equal(loaded.slot_column, codec.slot_column)
    a, b = codec.encode(table, rng(3)), loaded.encode(table, rng(3))
    assert a.ids.tobytes() == b.ids.tobytes()
    assert a.residuals.tobytes() == b.residuals.tobytes()
    ids = random_ids(codec.grammar, 50, rng())
    residuals = rng(1).random((50, codec.num_residuals))
    records = [
        c.with_identifiers(c.decode(ids, residuals).records, start=7, seed=1)
        for c in (codec, loaded)
    ]
    assert records[0].equals(records[1])
    again = tmp_path_factory.mktemp("codec")
    loaded.save(again)
    for file in sorted(folder.iterdir()):
        assert file.read_bytes() == (again / file.name).read_bytes()


@thorough
@given(tables(max_rows=20), OPTIONS)
def test_encoding_is_a_function_of_its_generator(drawn, options):
    schema, table = drawn
    codec = RecordCodec.fit(schema, table, options)
    first = codec.encode(table, rng(5))
    np.random.default_rng(99).random(10)
    second = codec.encode(table.combine_chunks().to_batches()[0], rng(5))
    np.testing.assert_array_equal(first.ids, second.ids)
    np.testing.assert_array_equal(first.residuals, second.residuals)


def test_a_table_of_thousands_of_rows_comes_back_exactly():
    schema, table = big_table()
    codec = RecordCodec.fit(schema, table)
    for seed in range(3):
        assert_same(round_trip(codec, table, seed), table, codec)


def test_thousands_of_categories_each_have_cells_of_their_own():
    schema, table = big_table()
    codec = RecordCodec.fit(schema, table.select(schema.names))
    field = codec.fields["city"]
    assert field.num_digits == 3  # 64 ** 2 < 5000
    batch = codec.encode(table, rng())
    # The residual does not matter: digits alone tell the category.
    decoded = codec.decode(batch.ids, rng(1).random(batch.residuals.shape)).records
    for name in ("city", "zip"):
        assert decoded.column(name).equals(table.column(name).combine_chunks())


def identifier_codec():
    schema = Schema(
        columns=(
            Column(name="key", kind=K.IDENTIFIER, pattern=r"[A-Z]{2}\d{3}", nullable=True),
            Column(name="note", kind=K.TEXT),
            Column(name="number", kind=K.IDENTIFIER, pattern="N{from 101, 5 digits}"),
        )
    )
    rows = {"key": ["AA000", None], "note": ["x", "yy"], "number": ["N00099", "N00100"]}
    return RecordCodec.fit(schema, pa.Table.from_pydict(rows, schema=schema.arrow_schema))


def test_identifiers_are_a_function_of_the_output_row():
    codec = identifier_codec()
    ids = random_ids(codec.grammar, 600, rng())
    decoded = codec.decode(ids, np.zeros((600, 0)))
    assert 0 < decoded.records.num_rows < 600  # random bytes are often not UTF-8
    records = decoded.records
    whole = codec.with_identifiers(records, start=0, seed=3)
    assert whole.schema == codec.schema.arrow_schema
    parts = [
        codec.with_identifiers(records.slice(begin, 10), start=begin, seed=3)
        for begin in range(0, records.num_rows, 10)
    ]
    assert pa.Table.from_batches(parts).equals(pa.Table.from_batches([whole]))
    for name in ("key", "number"):
        assert len(whole.column(name).unique()) == records.num_rows
        assert whole.column(name).null_count == 0
    assert whole.column("number")[0].as_py() == "N00101"
    assert whole.column("note").equals(records.column("note"))
    other = codec.with_identifiers(records, start=0, seed=4)
    assert not other.column("key").equals(whole.column("key"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [(["17", "3"], "{from 18}"), (["A-1", "B-2"], r"[A-Z]\-\d"), (["one two"], "{from 1}")],
)
def test_an_identifier_without_pattern_gets_one(values, expected):
    schema = Schema(
        columns=(Column(name="id", kind=K.IDENTIFIER), Column(name="b", kind=K.BOOLEAN))
    )
    table = pa.table({"id": values, "b": [True] * len(values)}, schema=schema.arrow_schema)
    assert RecordCodec.fit(schema, table).identifiers["id"].text() == expected


def test_what_cannot_be_encoded_is_explained_without_showing_rows():
    schema, table = one_column(K.INTEGER, [4711, 2, 2, 3])
    codec = RecordCodec.fit(schema, table)
    _, other = one_column(K.INTEGER, [4711, None, None])
    with pytest.raises(DataError, match=r"'x': found 2 missing values.*nullable") as error:
        codec.encode(other, rng())
    assert "4711" not in str(error.value)
    schema, table = one_column(K.FLOAT, [1.0, 2.5])
    _, other = one_column(K.FLOAT, [1.0, float("nan")])
    with pytest.raises(DataError, match="NaN or infinite"):
        RecordCodec.fit(schema, table).encode(other, rng())
    with pytest.raises(DataError, match="no records"):
        RecordCodec.fit(schema, table.slice(0, 0))
    schema, table = one_column(K.CONSTANT, ["a"], value="a")
    with pytest.raises(SchemaError, match="nothing to learn: 'x' is constant"):
        RecordCodec.fit(schema, table)


def test_a_codec_of_another_format_is_refused(tmp_path):
    schema, table = one_column(K.INTEGER, [1, 2])
    RecordCodec.fit(schema, table).save(tmp_path)
    path = tmp_path / "codec.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(ArtifactError, match="format_version 99, expected 1"):
        RecordCodec.load(tmp_path)


def test_tokens_of_numbers_are_ordered_and_others_are_not():
    schema, table = big_table(500)
    codec = RecordCodec.fit(schema, table)
    start = 0
    for name, field in codec.fields.items():
        order = field.vocab_order()
        assert order.size == codec.vocab_order[start : start + order.size].size
        start += order.size
        if name == "city":
            assert np.isnan(order).all()
        else:
            first = order[: field.first_size]
            assert ((first >= 0) & (first <= 1)).all()
            whole = first[: field.whole.size]
            assert (np.diff(whole) > 0).all()
            assert (np.diff(first[field.whole.size :]) >= 0).all()
    assert start == codec.grammar.vocab_size
    # Numeric-looking categories are ordered as numbers, whatever else Python takes for one.
    schema, table = one_column(K.CATEGORICAL, ["10", "9", "10", "-1.5"])
    assert RecordCodec.fit(schema, table).fields["x"].form.categories == ("-1.5", "9", "10")
    schema, table = one_column(K.CATEGORICAL, ["10", "nan", "9"])
    assert np.isnan(RecordCodec.fit(schema, table).vocab_order).all()


def test_slots_know_their_column():
    codec = identifier_codec()
    assert set(codec.slot_column) == {1}
    schema, table = big_table(500)
    codec = RecordCodec.fit(schema, table)
    counts = np.bincount(codec.slot_column, minlength=len(schema.columns))
    assert counts.tolist() == [len(f.slots(0)) for f in codec.fields.values()]
