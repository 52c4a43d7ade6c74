"""Splits and identifiers: functions of the row index, whatever the batches."""

import re
import uuid

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difflm_core.data.identifiers import IdentifierPattern, infer_codes, permute
from difflm_core.data.splits import plan_splits
from difflm_core.errors import DataError, SchemaError

quick = settings(max_examples=40, deadline=None)


@quick
@given(
    rows=st.integers(4, 3_000),
    valid=st.floats(0, 0.45),
    test=st.floats(0, 0.45),
    seed=st.integers(0, 2**63),
    size=st.integers(1, 900),
)
def test_splits_are_disjoint_exact_and_independent_of_batches(rows, valid, test, seed, size):
    plan = plan_splits(rows, valid_fraction=valid, test_fraction=test, seed=seed)
    whole = plan.assign(0, rows)
    pieces = [plan.assign(at, min(size, rows - at)) for at in range(0, rows, size)]
    assert np.array_equal(whole, np.concatenate(pieces))
    counts = np.bincount(whole, minlength=3).tolist()
    assert counts == list(plan.sizes.values())
    assert counts[0] >= 2
    assert (counts[1] > 0) == (valid > 0)
    assert (counts[2] > 0) == (test > 0)
    if rows > 100:
        assert counts[1] == max(1, round(rows * valid)) or valid == 0


def test_split_of_batches_covers_every_row_once():
    plan = plan_splits(1_000, valid_fraction=0.1, test_fraction=0.2, seed=7)
    batch = pa.record_batch({"i": list(range(300, 700))})
    parts = plan.split(batch, 300)
    rows = [i for part in parts.values() for i in part.column("i").to_pylist()]
    assert sorted(rows) == list(range(300, 700))


def test_splits_depend_on_the_seed_and_mix_the_rows():
    first, second = (
        plan_splits(10_000, valid_fraction=0.1, test_fraction=0.1, seed=seed).assign(0, 10_000)
        for seed in (0, 1)
    )
    assert (first != second).mean() > 0.2
    assert abs(int((first[:5_000] == 2).sum()) - 500) < 80


@quick
@given(size=st.integers(1, 5_000), key=st.integers(0, 2**63))
def test_permutation_is_a_bijection(size, key):
    index = np.arange(size, dtype=np.uint64)
    assert np.array_equal(np.sort(permute(index, size, np.uint64(key))), index)


PATTERNS = [
    "CUST-{from 51, 6 digits}",
    "{from 1100, step 2}",
    "{uuid4}",
    "[A-Z]{2}\\d{6}",
    "[A-Za-z0-9]{22}",
    "x[ab]{0,9}\\d?",
    "ID\\.\\d{4}[0-9a-f]{3}",
]


@pytest.mark.parametrize("text", PATTERNS)
def test_identifiers_are_unique_of_the_form_and_functions_of_the_row(text):
    pattern = IdentifierPattern.parse(text)
    assert IdentifierPattern.parse(pattern.text()) == pattern
    whole = pattern.generate(0, 2_000, seed=3)
    pieces = [pattern.generate(at, 500, seed=3) for at in range(0, 2_000, 500)]
    assert whole.equals(pa.concat_arrays(pieces))
    values = whole.to_pylist()
    assert len(set(values)) == 2_000
    assert all(re.fullmatch(pattern.regex(), value) for value in values)
    assert all(pattern.matches(whole).to_pylist())


def test_every_code_of_a_small_pattern_is_given_once():
    pattern = IdentifierPattern.parse("[ab]{1,3}\\d")
    assert pattern.capacity == (2 + 4 + 8) * 10
    assert len(set(pattern.generate(0, 140).to_pylist())) == 140
    with pytest.raises(DataError) as error:
        pattern.generate(100, 41)
    assert "gives 140 different identifiers, 141 rows" in str(error.value)
    assert "widen the pattern" in str(error.value)


def test_sequences_continue_after_the_data():
    assert IdentifierPattern.parse("A-{from 98, 3 digits}").generate(1, 3).to_pylist() == [
        "A-099", "A-100", "A-101",
    ]  # fmt: skip
    with pytest.raises(DataError, match="gives 902 different"):
        IdentifierPattern.parse("A-{from 98, 3 digits}").generate(0, 903)


def test_uuids_are_valid():
    values = IdentifierPattern.parse("{uuid4}").generate(10**9, 200).to_pylist()
    assert all(uuid.UUID(value).version == 4 for value in values)
    assert all(uuid.UUID(value).variant == uuid.RFC_4122 for value in values)


@pytest.mark.parametrize("text", ["", "a|b", "(ab)", "[abc", "a{3,1}", "{from 1}{from 2}", "a.*"])
def test_patterns_outside_the_language(text):
    with pytest.raises(SchemaError, match="pattern"):
        IdentifierPattern.parse(text)


def test_codes_without_a_common_form():
    assert infer_codes(["Ann Ash", "Bob Birch"]) is None
    assert infer_codes(["a-1", "b_22", "c/d"]) is None
