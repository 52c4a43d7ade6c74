import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difflm_core.evaluation.documents.shingles import ShingleIndex, shingles
from tests.unit.evaluation.documents.corpora import json_texts


def test_runs_of_three_words() -> None:
    assert len(shingles("a b c d")) == 2
    assert shingles("a  b\nc d") == shingles("a b c d")
    assert len(shingles("a b a b a b")) == 2  # a set
    assert len(shingles("one")) == len(shingles("")) == 1
    assert shingles("f(x)") != shingles("f x")


def test_similarity_by_hand() -> None:
    index = ShingleIndex.of(["a b c d e", "p q r s t"])
    found = index.nearest(["a b c d e", "a b c d x", "u v w x y", "p q r z z z"])
    # abc bcd of abc bcd cde cdx; pqr of pqr qrs rst qrz rzz zzz
    assert found == pytest.approx([1, 2 / 4, 0, 1 / 6])


def test_a_document_is_not_its_own_neighbour() -> None:
    texts = ["a b c d e", "a b c d x", "u v w x y", "u v w x y"]
    assert ShingleIndex.of(texts).nearest(texts, same=True) == pytest.approx([0.5, 0.5, 1, 1])


def test_the_format_does_not_count() -> None:
    frame = "this format stands in every document of them all"
    texts = [f"{frame} {i} {i + 1000} {i + 2000}" for i in range(50)]
    assert ShingleIndex.of(texts).nearest([f"{frame} 7000 7001 7002"]) == pytest.approx([0])


def test_copies_are_found_where_all_is_format() -> None:
    index = ShingleIndex.of(["just this one text"] * 50)
    assert index.nearest(["just this one text", "just this other text"]) == pytest.approx([1, 0])


words = st.lists(st.sampled_from("abcd"), min_size=1, max_size=8).map(" ".join)


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=6), st.lists(words, min_size=1, max_size=6))
def test_it_is_jaccard(reference, texts) -> None:
    # At most eight documents have a shingle: none is of the format.
    expected = [
        max(len(shingles(t) & shingles(r)) / len(shingles(t) | shingles(r)) for r in reference)
        for t in texts
    ]
    assert ShingleIndex.of(reference).nearest(texts) == pytest.approx(expected)


def test_pieces_of_a_corpus_give_what_the_whole_gives(monkeypatch) -> None:
    index, texts = ShingleIndex.of(json_texts(60, 1)), json_texts(50, 2)
    whole = index.nearest(texts)
    monkeypatch.setattr("difflm_core.evaluation.documents.shingles._CHUNK", 7)
    assert np.array_equal(index.nearest(texts), whole)
