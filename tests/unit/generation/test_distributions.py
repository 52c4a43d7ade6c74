"""What a model tells of its training table is what that table holds."""

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difflm_core.codec.fields import CodecOptions
from difflm_core.codec.masses import column_mass
from difflm_core.codec.records import RecordCodec
from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.generation.distributions import training_distributions
from tests.people import make_people


def fit(kind, values, **declared):
    column = Column(name="x", kind=kind, nullable=None in values, **declared)
    schema = Schema(columns=(column,))
    sample = pa.table({"x": pa.array(values, column.arrow_type)})
    return RecordCodec.fit(schema, sample, CodecOptions(digit_base=16))


def distribution(kind, values, **declared):
    (found,) = training_distributions(fit(kind, values, **declared))
    return found


def histogram(values, edges):
    """Shares of bins that hold their lower bound, the outer ones with the tails."""
    place = np.searchsorted(np.array(edges[1:-1]), np.array(values), side="right")
    return np.bincount(place, minlength=len(edges) - 1) / len(values)


def total_variation(found, values):
    present = [value for value in values if value is not None]
    if found.labels is not None:
        real = [present.count(label) / len(present) for label in found.labels]
    else:
        real = histogram(present, found.edges)
    return float(np.abs(np.array(found.shares) - real).sum() / 2)


def test_categories_are_labels_with_the_most_frequent_first():
    found = distribution(ColumnKind.CATEGORICAL, ["b"] * 5 + ["a"] * 3 + [None] * 2)
    assert (found.labels, found.edges) == (("b", "a"), None)
    assert found.shares == pytest.approx((5 / 8, 3 / 8))
    assert found.missing == pytest.approx(0.2)


def test_rare_categories_are_left_out():
    values = [f"c{k}" for k in range(40) for _ in range(k + 1)]
    found = distribution(ColumnKind.CATEGORICAL, values)
    assert found.labels == tuple(f"c{k}" for k in range(39, 9, -1))
    assert sum(found.shares) == pytest.approx(sum(range(11, 41)) / sum(range(1, 41)))


def test_truth_values_are_labels():
    found = distribution(ColumnKind.BOOLEAN, [True, False, True, True])
    assert (found.labels, found.shares) == ((True, False), (0.75, 0.25))


def test_a_few_numbers_are_labels_in_their_order():
    found = distribution(ColumnKind.INTEGER, [7, 1, 1, 3] * 5)
    assert (found.labels, found.shares) == ((1, 3, 7), (0.5, 0.25, 0.25))
    found = distribution(ColumnKind.FLOAT, [0.5, 1.25] * 4, decimals=2)
    assert found.labels == (0.5, 1.25)


def test_a_few_dates_are_labels_in_json_form():
    days = [datetime.date(2024, 1, 31), datetime.date(2023, 5, 1)] * 4
    found = distribution(ColumnKind.DATE, days)
    assert found.labels == ("2023-05-01", "2024-01-31")


def test_many_integers_are_bins_of_whole_numbers():
    values = np.random.default_rng(0).binomial(400, 0.5, 4000).tolist()
    found = distribution(ColumnKind.INTEGER, values)
    widths = set(np.diff(found.edges))
    assert len(widths) == 1
    assert all(isinstance(edge, int) for edge in found.edges)
    assert 15 <= len(found.shares) <= 30
    assert sum(found.shares) == pytest.approx(1)
    assert total_variation(found, values) < 0.01


def test_many_floats_are_bins_between_the_outer_quantiles():
    values = np.random.default_rng(0).normal(size=4000).tolist()
    found = distribution(ColumnKind.FLOAT, values)
    assert len(found.shares) == 30
    assert found.edges[0] == pytest.approx(np.quantile(values, 0.005), abs=0.02)
    assert found.edges[-1] == pytest.approx(np.quantile(values, 0.995), abs=0.02)
    assert total_variation(found, values) < 0.01


def test_a_value_that_most_rows_hold_is_in_its_bin():
    rng = np.random.default_rng(0)
    values = np.where(rng.random(4000) < 0.9, 0.0, rng.lognormal(7, 1, 4000)).tolist()
    found = distribution(ColumnKind.FLOAT, values)
    assert found.edges[0] == 0.0
    assert found.shares[0] > 0.9
    assert total_variation(found, values) < 0.01


@pytest.mark.parametrize(
    ("kind", "start", "step"),
    [
        (ColumnKind.DATE, datetime.date(9999, 11, 1), datetime.timedelta(days=1)),
        (ColumnKind.DATETIME, datetime.datetime(2020, 1, 1), datetime.timedelta(minutes=90)),
    ],
)
def test_dates_are_bins_in_iso_form(kind, start, step):
    values = [start + k * step for k in range(60) for _ in range(5)] + [None] * 100
    found = distribution(kind, values)
    assert found.labels is None
    parsed = [type(start).fromisoformat(edge) for edge in found.edges]
    assert parsed == sorted(parsed)
    assert sum(found.shares) == pytest.approx(1)
    assert found.shares[:-1] == pytest.approx((1 / 30,) * 29)
    assert found.missing == pytest.approx(0.25)


def test_times_of_a_whole_day_end_with_it():
    values = [datetime.time(k // 60, k % 60) for k in range(24 * 60)]
    found = distribution(ColumnKind.TIME, values)
    assert found.edges[0] < "00:10"
    assert found.edges[-1] <= "23:59:59.999999"
    assert total_variation(found, [value.isoformat() for value in values]) < 0.01


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-(2**60), 2**60), min_size=1, max_size=80),
    repeats=st.lists(st.integers(1, 40), min_size=80, max_size=80),
)
def test_any_integers_have_shares_that_add_up(values, repeats):
    rows = [v for v, n in zip(values, repeats, strict=False) for _ in range(n)]
    found = distribution(ColumnKind.INTEGER, rows)
    assert sum(found.shares) == pytest.approx(1)
    assert min(found.shares) >= 0
    if found.edges is not None:
        assert list(found.edges) == sorted(set(found.edges))
        assert len(found.edges) == len(found.shares) + 1 <= 31


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=1, max_size=120)
)
def test_any_floats_have_shares_that_add_up(values):
    found = distribution(ColumnKind.FLOAT, values)
    assert sum(found.shares) == pytest.approx(1)
    assert min(found.shares) >= 0
    if found.edges is not None:
        assert list(found.edges) == sorted(found.edges)


def test_free_text_and_identifiers_have_none_and_a_constant_has_one_label():
    frame = make_people(300)
    frame["land"] = "Norway"
    columns = (
        Column(name="person", kind=ColumnKind.IDENTIFIER),
        Column(name="note", kind=ColumnKind.TEXT),
        Column(name="land", kind=ColumnKind.CONSTANT, value="Norway"),
        Column(name="age", kind=ColumnKind.INTEGER),
    )
    schema = Schema(columns=columns)
    sample = pa.Table.from_pandas(frame[[c.name for c in columns]]).cast(schema.arrow_schema)
    codec = RecordCodec.fit(schema, sample)
    land, age = training_distributions(codec)
    assert (land.name, land.labels, land.shares, land.missing) == ("land", ("Norway",), (1.0,), 0)
    assert total_variation(age, frame["age"].tolist()) < 0.01
    assert column_mass(codec, "note") is None


def test_a_saved_codec_tells_the_same(tmp_path):
    frame = make_people(300)
    values = [None if pd.isna(v) else v for v in frame["pay"]]
    codec = fit(ColumnKind.FLOAT, values, decimals=2)
    codec.save(tmp_path)
    assert training_distributions(RecordCodec.load(tmp_path)) == training_distributions(codec)
    (found,) = training_distributions(codec)
    assert total_variation(found, values) < 0.03  # 257 values that occur once, in 30 bins
    assert found.missing == pytest.approx(frame["pay"].isna().mean())


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.integers(-50, 50), min_size=1, max_size=60),
    bounds=st.tuples(st.integers(-60, 60), st.integers(-60, 60)),
)
def test_the_share_between_two_numbers_is_that_of_the_rows(values, bounds):
    rows = values * 3  # each repeats, so each is an atom
    mass = column_mass(fit(ColumnKind.INTEGER, rows), "x")
    low, high = min(bounds), max(bounds)
    low_number, high_number = mass.form.bound(low, up=True), mass.form.bound(high, up=False)
    expected = sum(low <= value <= high for value in rows) / len(rows)
    if low_number > high_number:
        assert expected == 0
    else:
        assert mass.share_between(low_number, high_number) == pytest.approx(expected)
        assert mass.holds(low_number, high_number) >= (expected > 0)
