import numpy as np
import pytest

from difflm_core.evaluation.documents.embedding import (
    DIMENSIONS,
    LatentSemanticEmbedder,
    spread,
    text_auc,
    unit_vectors,
)
from tests.unit.evaluation.documents.corpora import json_texts


def unit(rows) -> np.ndarray:
    vectors = np.asarray(rows, dtype=float)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def embedder() -> LatentSemanticEmbedder:
    return LatentSemanticEmbedder(json_texts(300, 1))


def test_vectors_have_length_one_and_depend_on_the_text_alone(embedder) -> None:
    texts = json_texts(20, 2)
    vectors = embedder(texts)
    assert vectors.shape == (20, DIMENSIONS)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(20))
    assert embedder(texts[3:4]) == pytest.approx(vectors[3:4])


def test_texts_of_one_topic_are_nearer(embedder) -> None:
    sport, other, money = embedder(
        ["match team score league", "league score match", "loan bank price share"]
    )
    assert sport @ other > 0.7 > 0.3 > sport @ money


def test_the_seed_decides() -> None:
    texts = json_texts(80, 1)
    first, second = (LatentSemanticEmbedder(texts, seed=4)(texts) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    "texts", [["one"], ["one", "two"], ["列", "行", "列行"], ["", ""], ["!", "?"], ["a", "a", "b"]]
)
def test_odd_corpora_have_vectors(texts) -> None:
    vectors = LatentSemanticEmbedder(texts)(texts)
    assert len(vectors) == len(texts)
    assert np.isfinite(vectors).all()


def test_any_embedder_gives_vectors_of_length_one() -> None:
    vectors = unit_vectors(
        lambda texts: np.array([[len(t), 0.0] for t in texts]), ["ab", "abcd", ""]
    )
    assert vectors.tolist() == [[1, 0], [1, 0], [0, 0]]


def test_diversity_by_hand() -> None:
    axes = np.eye(3)
    same = np.repeat(axes[:1], 3, axis=0)
    found = spread(axes, same, axes, seed=0)
    assert (found.diversity, found.real_diversity) == pytest.approx((1, 0), abs=1e-12)
    assert (found.vendi, found.real_vendi) == pytest.approx((3, 1))
    halves = spread(np.repeat(axes[:2], 2, axis=0), np.repeat(axes[:2], 2, axis=0), same, seed=0)
    assert halves.num_documents == 3


def test_precision_and_recall() -> None:
    rng = np.random.default_rng(0)

    def around(center, count=200):
        return unit(np.array(center) + 0.1 * rng.normal(size=(count, 3)))

    real = np.vstack([around([1, 0, 0]), around([0, 1, 0])])
    held = np.vstack([around([1, 0, 0]), around([0, 1, 0])])
    half = spread(around([1, 0, 0], 400), real, held, seed=0)
    assert half.precision > 0.9  # all lie among real ones
    assert 0.4 < half.recall < 0.6  # but among half of them only
    assert half.diversity < 0.5 * half.real_diversity
    alien = spread(around([0, 0, 1], 400), real, held, seed=0)
    assert (alien.precision, alien.recall) == (0, 0)
    assert min(alien.holdout_precision, alien.holdout_recall) > 0.9


def test_telling_apart() -> None:
    embedder = LatentSemanticEmbedder(json_texts(300, 1))
    real, fresh = (embedder.features(json_texts(200, seed)) for seed in (1, 2))
    changed = embedder.features([t.replace("rain", "hotel") for t in json_texts(200, 3)])
    assert text_auc(fresh, real, 0)[0] == pytest.approx(0.5, abs=0.1)
    assert text_auc(changed, real, 0)[0] > 0.6
    auc, deviation = text_auc(embedder.features(["rain wind"] * 200), real, 0)
    assert auc == pytest.approx(1)
    assert deviation == pytest.approx(0, abs=1e-9)
