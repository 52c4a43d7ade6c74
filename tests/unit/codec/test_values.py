"""Single values through the record codec: what comes back, what is near, what is new."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from difflm_core.codec.fields import CodecOptions
from difflm_core.codec.records import RecordCodec
from difflm_core.data.schema import ColumnKind
from difflm_core.errors import SchemaError
from tests.unit.codec.round_trips import assert_same, big_table, rng, round_trip
from tests.unit.codec.tables import one_column, random_ids

K = ColumnKind


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
