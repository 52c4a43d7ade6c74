"""The averaged similarity score: by hand, and what always holds."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difflm_core.evaluation.documents.similarity import (
    average_similarity,
    field_f1,
    leaves,
    token_f1,
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.sampled_from([0.5, 1.0, -2.0]),
    st.text('ab 列é\n"', max_size=6),
)
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text("ab/[~", max_size=2), inner, max_size=3),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(documents)
def test_a_document_equals_itself(document) -> None:
    assert field_f1(document, document) == pytest.approx(1)
    assert field_f1(document, json.loads(json.dumps(document))) == pytest.approx(1)


@settings(deadline=None, max_examples=300)
@given(documents, documents)
def test_sides_can_be_exchanged_and_bounds_hold(first, second) -> None:
    score = field_f1(first, second)
    assert 0 <= score <= 1 + 1e-12
    assert score == pytest.approx(field_f1(second, first))


@settings(deadline=None)
@given(st.lists(documents, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_a_list_does_not_matter(items, random) -> None:
    other = list(items)
    random.shuffle(other)
    assert field_f1({"a": items}, {"a": other}) == pytest.approx(1)


@pytest.mark.parametrize(
    ("first", "second", "score"),
    [
        ({}, {}, 1),
        ([], [], 1),
        ({}, [], 0),
        ({}, {"a": 1}, 0),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, 1 / 2),
        ({"a": 1, "b": 2}, {"a": 1}, 2 / 3),  # 2 * 1 / (2 + 1)
        ({"a": "3"}, {"a": 3}, 0),
        ({"a": 1}, {"a": True}, 0),
        ({"a": 1}, {"a": 1.0}, 1),
        ({"a": None}, {}, 0),
        ({"a": None}, {"a": "null"}, 0),
        ([1, 1, 2], [1, 2, 2], 2 / 3),  # a multiset: 1 and 2 once each
        ([1], [1, 1, 1], 1 / 2),
        ({"a": {"b": 1}}, {"a": [{"b": 1}]}, 0),
        ({"a/b": 1}, {"a": {"b": 1}}, 0),
        ({"a[]": 1}, {"a": [1]}, 0),
        ([{"x": 1}, {"x": 2}], [{"x": 2}, {"x": 1}], 1),
        ({"a": "the red hotel"}, {"a": "the blue hotel"}, 2 / 3),
        ({"a": "Ünïcode"}, {"a": "ünïcode"}, 1),
        ({"a": "one\ntwo"}, {"a": "one two"}, 1),
        ({"a": "%"}, {"a": "$"}, 0),
        # "a b" with "a" and "c" with "c d": 2/3 each, of two leaves on each side.
        ({"l": ["a b", "c"]}, {"l": ["c d", "a"]}, (2 / 3 + 2 / 3) / 2),
        # Greedily, "x y" would take "x y z" (4/5) and leave "x" without any.
        ({"l": ["x y", "z z z"]}, {"l": ["x y z", "x"]}, (2 / 3 + 1 / 3) / 2),
    ],
)
def test_fields_by_hand(first, second, score) -> None:
    assert field_f1(first, second) == pytest.approx(score)


def test_leaves_are_paths_and_values() -> None:
    document = {"a": [1, {"b": "x"}], "c": {}, "d": []}
    assert Counter(leaves(document)) == Counter(
        [("/a[]", "1"), ("/a[]/b", '"x"'), ("/c", "{}"), ("/d[]", "")]
    )


@pytest.mark.parametrize(
    ("first", "second", "score"),
    [("a b", "b a", 1), ("a a b", "a b b", 2 / 3), ("", "", 0), ("a", "", 0), ("A", "a", 1)],
)
def test_words_by_hand(first, second, score) -> None:
    assert token_f1(first, second) == pytest.approx(score)


def letters(texts) -> np.ndarray:
    """An embedding whose cosine is known: counts of the letters x and y."""
    return np.array([[text.count("x"), text.count("y")] for text in texts], dtype=float)


def score(generated: list[str], references: list[str], valid: bool = True):
    return average_similarity(generated, references, embed=letters, is_valid=lambda text: valid)


def test_the_score_is_the_mean_of_its_parts() -> None:
    # Vectors (1, 0) and (0, 1): cosine 0, that is 1/2; no leaf in common; valid.
    found = score(['{"a":"x"}'], ['{"a":"y"}'])
    assert (found.embedding, found.fields, found.validity) == pytest.approx((0.5, 0, 1))
    assert found.score == pytest.approx(0.5)
    # (1, 1) and (1, 0): cosine 1/sqrt(2); "x y" against "x": F1 2/3.
    found = score(['{"a":"x y"}'], ['{"a":"x"}'], valid=False)
    embedding = (1 + 2**-0.5) / 2
    assert found.score == pytest.approx((embedding + 2 / 3 + 0) / 3)


def test_equal_corpora_score_one_in_any_order() -> None:
    texts = [json.dumps({"a": f"x{'y' * i}", "n": i}) for i in range(30)]
    found = score(texts, texts[::-1])
    assert (found.score, found.num_pairs) == (pytest.approx(1), 30)


def test_pairs_are_one_to_one() -> None:
    # Thirty copies of one document cannot all be paired with its one reference.
    texts = [json.dumps({"a": f"x{i}"}) for i in range(30)]
    found = score(texts[:1] * 30, texts)
    assert found.fields == pytest.approx(1 / 30)


def test_what_is_no_json_has_no_fields() -> None:
    found = score(['{"a":"x'], ['{"a":"x"}'], valid=False)
    assert (found.embedding, found.fields, found.validity) == pytest.approx((1, 0, 0))
    assert score(["{", '{"'], ["[", "x"]).fields == 0


def test_no_documents_no_pairs() -> None:
    assert score([], ["{}"]).num_pairs == 0
