"""The record codec over random schemas and tables: lossless, closed, deterministic."""

import datetime as dt
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


def rng(seed=0):
    return np.random.default_rng(seed)


def round_trip(codec, table, seed=0):
    batch = codec.encode(table, rng(seed))
    assert codec.grammar.accepts(batch.ids).all()
    assert ((batch.residuals >= 0) & (batch.residuals < 1)).all()
    decoded = codec.decode(batch.ids, batch.residuals)
    assert decoded.valid.all()
    assert not decoded.rejections
    return decoded.records


def tolerance(numbers, whole):
    """1e-12 of the distance to the neighbours that are ranked, and two units in the last place.

    Values with a token of their own come back exactly.
    """
    ranked = np.setdiff1d(numbers, whole)
    if not ranked.size:
        return 0.0
    gaps = np.diff(ranked, prepend=ranked[0], append=ranked[-1])
    index = np.minimum(np.searchsorted(ranked, numbers), ranked.size - 1)
    near = 1e-12 * np.maximum(gaps[:-1], gaps[1:])[index] + 2 * np.spacing(np.abs(numbers))
    return np.where(np.isin(numbers, whole), 0.0, near)


def assert_same(decoded, table, codec):
    schema = codec.schema
    assert decoded.schema == schema.arrow_schema
    for column in schema.columns:
        real = table.column(column.name).combine_chunks()
        made = decoded.column(column.name)
        if column.kind is K.IDENTIFIER:
            assert made.null_count == len(made)
        elif column.kind is K.FLOAT and column.decimals in (None, 18):
            assert made.is_null().equals(real.is_null())
            x, y = (np.asarray(array.drop_null()) for array in (real, made))
            if x.size:
                assert (np.abs(x - y) <= tolerance(x, codec.fields[column.name].whole)).all()
        else:
            assert made.equals(real)


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


def big_table(num_rows=5000):
    g = rng(1)
    ints = g.integers(-(2**63), 2**63 - 1, num_rows, endpoint=True)
    ints[:2] = -(2**63), 2**63 - 1
    micros = g.integers(-(6 * 10**16), 2 * 10**17, num_rows)
    columns = {
        "wide": (K.INTEGER, pa.array(ints), {}),
        "narrow": (K.INTEGER, pa.array(g.integers(0, 3000, num_rows)), {}),
        "heavy": (K.INTEGER, pa.array(np.where(g.random(num_rows) < 0.9, 0, ints >> 40)), {}),
        "price": (K.FLOAT, pa.array(np.round(g.lognormal(3, 2, num_rows), 2)), {"decimals": 2}),
        "real": (K.FLOAT, pa.array(g.lognormal(0, 9, num_rows)), {}),
        "city": (K.CATEGORICAL, pa.array([f"city {i}" for i in range(num_rows)]), {}),
        "zip": (K.CATEGORICAL, pa.array([f"{i:05d}" for i in g.zipf(1.2, num_rows) % 9999]), {}),
        "moment": (K.DATETIME, pa.array(micros, pa.timestamp("us")), {}),
        "clock": (K.TIME, pa.array(g.integers(0, 86_400, num_rows) * 10**6, pa.time64("us")), {}),
        "day": (K.DATE, pa.array(g.integers(-719162, 2932896, num_rows).astype("i4")), {}),
    }
    schema = Schema(
        columns=tuple(Column(name=n, kind=kind, **more) for n, (kind, _, more) in columns.items())
    )
    arrays = [
        array.cast(c.arrow_type)
        for c, (_, array, _) in zip(schema.columns, columns.values(), strict=True)
    ]
    return schema, pa.Table.from_arrays(arrays, schema=schema.arrow_schema)


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


def test_the_text_of_every_row_survives_when_the_longest_fits():
    texts = [f"row {i}: " + "é🙂\n" * (i % 7) for i in range(300)] + [""]
    schema, table = one_column(K.TEXT, texts)
    codec = RecordCodec.fit(schema, table, CodecOptions(max_text_tokens=500))
    assert round_trip(codec, table).column("x").to_pylist() == texts


def test_a_long_text_is_cut_after_a_whole_character():
    schema, table = one_column(K.TEXT, ["🙂" * 40, "abc"])
    codec = RecordCodec.fit(schema, table, CodecOptions(max_text_tokens=9, text_vocab_size=256))
    assert round_trip(codec, table).column("x").to_pylist() == ["🙂🙂", "abc"]


def test_empty_and_missing_texts_stay_apart():
    schema, table = one_column(K.TEXT, ["", None, ""], nullable=True)
    codec = RecordCodec.fit(schema, table)
    assert round_trip(codec, table).column("x").to_pylist() == ["", None, ""]


def test_an_unseen_category_is_missing_when_it_may_be():
    schema, table = one_column(K.CATEGORICAL, ["a", "b", "b", None], nullable=True)
    codec = RecordCodec.fit(schema, table)
    _, other = one_column(K.CATEGORICAL, ["b", "new", None, "a"])
    assert round_trip(codec, other).column("x").to_pylist() == ["b", None, None, "a"]


@pytest.mark.parametrize("max_category_tokens", [512, 1])
def test_an_unseen_category_is_the_most_frequent_one_otherwise(max_category_tokens):
    schema, table = one_column(K.CATEGORICAL, ["a", "b", "b", "c"])
    options = CodecOptions(max_category_tokens=max_category_tokens, frequent_mass=0.9)
    codec = RecordCodec.fit(schema, table, options)
    _, other = one_column(K.CATEGORICAL, ["a", "new", "c"])
    assert round_trip(codec, other).column("x").to_pylist() == ["a", "b", "c"]


def test_both_truth_values_are_known_even_if_one_was_not_seen():
    schema, table = one_column(K.BOOLEAN, [True] * 5)
    codec = RecordCodec.fit(schema, table)
    _, other = one_column(K.BOOLEAN, [False, True])
    assert round_trip(codec, other).column("x").to_pylist() == [False, True]


@pytest.mark.parametrize(
    ("seen", "unseen", "expected"),
    [
        ([1, 1, 2, 2, 9, 9], [-5, 4, 6, 99], [1, 2, 9, 9]),  # values with their own token
        ([0] * 900 + list(range(100, 200)), [-7, 1, 60, 150, 500], [0, 0, 100, 150, 199]),
        ([10, 10, 20, 20, 70], [14, 16, 30, 90], [10, 20, 20, 70]),  # atoms between gaps
    ],
)
def test_an_unseen_number_takes_the_nearest_that_can_be_expressed(seen, unseen, expected):
    options = CodecOptions(max_value_tokens=3 if len(seen) != 5 else 1, frequent_mass=0.45)
    schema, table = one_column(K.INTEGER, seen)
    codec = RecordCodec.fit(schema, table, options)
    _, other = one_column(K.INTEGER, unseen)
    assert round_trip(codec, other).column("x").to_pylist() == expected


def test_anything_else_can_be_encoded_and_is_clipped_to_what_was_seen():
    schema, table = big_table(500)
    codec = RecordCodec.fit(schema, table)
    extreme = {
        "wide": [-(2**63), 2**63 - 1],
        "narrow": [-(2**63), 2**63 - 1],
        "heavy": [-(2**63), 2**63 - 1],
        "price": [-1e308, 1e308],
        "real": [-1e308, 1e308],
        "city": ["", "x"],
        "zip": ["", "x"],
        "moment": [dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31)],
        "clock": [dt.time(0, 0, 0, 1), dt.time(23, 59, 59, 999_999)],
        "day": [dt.date(1, 1, 1), dt.date(9999, 12, 31)],
    }
    other = pa.Table.from_pydict(extreme, schema=schema.arrow_schema)
    decoded = round_trip(codec, other)
    for column in schema.columns:
        if column.kind is not K.CATEGORICAL:
            seen = pc.min_max(table.column(column.name))
            made = decoded.column(column.name).to_pylist()
            if column.name == "real":
                assert made == pytest.approx(list(seen.as_py().values()), rel=1e-9)
            else:
                assert made == list(seen.as_py().values())


def test_floats_of_the_whole_range_stay_finite():
    values = [-1.7e308, 1.7e308, 5e-324, -5e-324, 0.0, 1.0]
    schema, table = one_column(K.FLOAT, values)
    codec = RecordCodec.fit(schema, table)
    made = np.asarray(round_trip(codec, table).column("x"))
    np.testing.assert_allclose(made, values, rtol=1e-9, atol=1e300)
    ids = random_ids(codec.grammar, 1000, rng())
    made = np.asarray(codec.decode(ids, rng().random((1000, 1))).records.column("x"))
    assert np.isfinite(made).all()
    assert made.min() >= -1.7e308
    assert made.max() <= 1.7e308


@pytest.mark.parametrize(
    ("kind", "fields", "values"),
    [
        (K.FLOAT, {}, rng(0).normal(size=2000).tolist()),
        (K.FLOAT, {}, rng(0).normal(size=20).tolist()),
        (K.FLOAT, {"decimals": 6}, np.round(rng(0).normal(size=2000), 6).tolist()),
        (K.INTEGER, {}, rng(0).integers(-(2**63), 2**63 - 1, 2000).tolist()),
        (K.INTEGER, {}, rng(0).integers(0, 10**9, 10).tolist()),
        (K.DATETIME, {}, rng(0).integers(0, 2 * 10**15, 300).tolist()),
    ],
)
def test_numbers_are_new_rather_than_copies(kind, fields, values):
    schema, table = one_column(kind, values, **fields)
    codec = RecordCodec.fit(schema, table)
    ids = random_ids(codec.grammar, 5000, rng(1))
    made = codec.decode(ids, rng(2).random((5000, 1))).records.column("x")
    copied = pc.is_in(made, value_set=table.column("x").combine_chunks())
    assert pc.mean(copied.cast(pa.int8())).as_py() < 0.02
    assert len(made.unique()) > 4000


def test_decoded_numbers_follow_the_distribution():
    values = np.concatenate([rng(0).normal(size=4000), np.full(1000, 0.5)])
    schema, table = one_column(K.FLOAT, values)
    codec = RecordCodec.fit(schema, table)
    ids = codec.encode(table, rng(0)).ids
    made = np.asarray(codec.decode(ids, rng(2).random((5000, 1))).records.column("x"))
    levels = np.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(np.quantile(made, levels), np.quantile(values, levels), atol=0.01)
    assert (made == 0.5).sum() == 1000


def test_numbers_keep_the_step_of_the_data():
    prices = (rng(0).integers(1, 4000, 3000) * 25) / 100
    schema, table = one_column(K.FLOAT, prices, decimals=2)
    codec = RecordCodec.fit(schema, table)
    assert codec.fields["x"].form.step == 25
    made = np.asarray(
        codec.decode(
            random_ids(codec.grammar, 3000, rng()), rng(1).random((3000, 1))
        ).records.column("x")
    )
    np.testing.assert_array_equal(made * 4, np.rint(made * 4))
    assert_same(round_trip(codec, table), table, codec)


def test_a_fixed_spelling_of_integers_does_not_change_their_value():
    column = {"decimals": 2, "number_style": "fixed"}
    schema, table = one_column(K.INTEGER, [2, 5, 7, 2], **column)
    assert round_trip(RecordCodec.fit(schema, table), table).column("x").to_pylist() == [2, 5, 7, 2]


@pytest.mark.parametrize(
    ("kind", "bounds", "values"),
    [
        (K.INTEGER, {"minimum": 10.5, "maximum": 20}, range(100)),
        (K.INTEGER, {"minimum": 11, "maximum": 1e300}, range(100)),
        (K.FLOAT, {"minimum": 0.07, "maximum": 0.29, "decimals": 2}, [i / 100 for i in range(99)]),
        (K.FLOAT, {"minimum": 0.07, "maximum": 0.29}, rng(0).random(300)),
        (K.FLOAT, {"minimum": 0.074, "maximum": 0.296, "decimals": 18}, rng(0).random(300)),
        (
            K.DATE,
            {"minimum": "2024-01-31", "maximum": "2024-02-29"},
            [dt.date(2024, 1, 1) + dt.timedelta(i) for i in range(100)],
        ),
        (
            K.DATETIME,
            {"minimum": "2024-01-02T03:04:05", "maximum": "2024-01-03 00:00:00.5"},
            [dt.datetime(2024, 1, 1) + dt.timedelta(seconds=1800 * i) for i in range(200)],
        ),
        (
            K.TIME,
            {"minimum": "08:30:00", "maximum": "17:00:00"},
            [dt.time(i // 60, i % 60) for i in range(0, 1440, 7)],
        ),
    ],
)
def test_decoded_values_keep_the_declared_range(kind, bounds, values):
    schema, table = one_column(kind, list(values), **bounds)
    codec = RecordCodec.fit(schema, table)
    ids, residuals = random_ids(codec.grammar, 2000, rng()), rng(1).random((2000, 1))
    made = codec.decode(ids, residuals).records.column("x")
    parse = {
        K.DATE: dt.date.fromisoformat,
        K.TIME: dt.time.fromisoformat,
        K.DATETIME: dt.datetime.fromisoformat,
    }.get(kind, float)
    low, high = parse(bounds["minimum"]), parse(bounds["maximum"])
    assert pc.all(pc.greater_equal(made, low)).as_py()
    assert pc.all(pc.less_equal(made, high)).as_py()
    assert len(made.unique()) > 8


def test_a_bound_that_is_no_date_is_explained():
    schema, table = one_column(K.DATE, [dt.date(2024, 1, 1)], minimum="yesterday")
    codec = RecordCodec.fit(schema, table)
    with pytest.raises(SchemaError, match=r"'x'.*'yesterday'.*schema\.json"):
        round_trip(codec, table)


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
