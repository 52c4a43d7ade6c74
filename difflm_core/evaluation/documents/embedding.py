"""Documents as vectors, and how two sets of vectors differ.

The default embedding needs no download: TF-IDF of words and of runs of characters, reduced by a
singular value decomposition that is fitted to all sides alike (latent semantic analysis,
Deerwester et al. 1990). A real encoder may be passed in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 64
NEIGHBOURS = 5
# Most documents of each side in measures whose cost grows with the square.
MAX_DOCUMENTS = 2000
_WORDS = r"[A-Za-z]+|\d+"

Floats = NDArray[np.float64]


class Embedder(Protocol):
    """Turns documents into vectors; their lengths do not matter."""

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Vectors of shape [N, D]."""
        ...


class LatentSemanticEmbedder:
    """The default embedding.

    Attributes:
        name: How reports call it.
    """

    name = "latent semantic analysis of words and characters"

    def __init__(self, texts: Sequence[str], seed: int = 0) -> None:
        """Fit to the documents of all sides, so that none is at home more than another."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_union

        common: dict[str, Any] = {"min_df": 2, "max_features": 20_000, "sublinear_tf": True}
        words = TfidfVectorizer(token_pattern=_WORDS, **common)
        runs = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), **common)
        self._features: Any = make_union(words, runs)
        try:
            matrix: Any = self._features.fit_transform(texts)
        except ValueError:  # no word of Latin letters or digits, or none that two texts share
            self._features = _Characters()
            matrix = self._features.transform(texts)
        size = min(DIMENSIONS, min(matrix.shape) - 1)
        self._reduce: Any = TruncatedSVD(max(1, size), random_state=seed)
        with np.errstate(invalid="ignore"):  # equal texts have no variance to explain
            self._reduce.fit(matrix)

    def features(self, texts: Sequence[str]) -> Any:
        """The sparse TF-IDF features."""
        return self._features.transform(texts)

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Vectors of length 1, shape [N, D]."""
        return _unit(self._reduce.transform(self._features.transform(texts)))


class _Characters:
    """Features of corpora without words in common: hashed characters and pairs of them."""

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self._hashing: Any = HashingVectorizer(
            analyzer="char", ngram_range=(1, 2), n_features=4096, alternate_sign=False
        )

    def transform(self, texts: Sequence[str]) -> Any:
        """The sparse features."""
        return self._hashing.transform(texts)


def unit_vectors(embed: Embedder, texts: Sequence[str]) -> Floats:
    """Vectors of any embedder at length 1, as all measures need them; shape [N, D]."""
    return _unit(np.asarray(embed(texts), dtype=np.float64))


def _unit(vectors: Floats) -> Floats:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True, slots=True)
class Spread:
    """How far documents lie apart, and where they lie.

    Attributes:
        diversity: Mean cosine distance between two synthetic documents.
        real_diversity: The same between two training documents.
        vendi: Vendi score of the synthetic documents (Friedman and Dieng 2023): how many different
            documents they are worth.
        real_vendi: Of as many training documents.
        precision: Share of synthetic documents that lie among real ones (Kynkäänniemi et al. 2019).
        recall: Share of real documents that lie among synthetic ones.
        holdout_precision: Precision of the test documents.
        holdout_recall: Recall of the test documents.
        num_documents: Documents of each side.
    """

    diversity: float
    real_diversity: float
    vendi: float
    real_vendi: float
    precision: float
    recall: float
    holdout_precision: float
    holdout_recall: float
    num_documents: int


def spread(synthetic: Floats, train: Floats, test: Floats, seed: int) -> Spread:
    """Compare vectors of synthetic documents with those of real ones, in equal numbers."""
    generator = np.random.default_rng(seed)
    size = min(len(synthetic), len(train), len(test), MAX_DOCUMENTS)

    def some(vectors: Floats) -> Floats:
        return vectors[generator.permutation(len(vectors))[:size]]

    made, real, held = some(synthetic), some(train), some(test)
    precision, recall = _precision_recall(made, real)
    held_precision, held_recall = _precision_recall(held, real)
    return Spread(
        diversity=_mean_distance(made),
        real_diversity=_mean_distance(real),
        vendi=_vendi(made),
        real_vendi=_vendi(real),
        precision=precision,
        recall=recall,
        holdout_precision=held_precision,
        holdout_recall=held_recall,
        num_documents=size,
    )


def _mean_distance(vectors: Floats) -> float:
    """Mean cosine distance of two different vectors of length 1."""
    count = len(vectors)
    if count < 2:
        return 0.0
    total = float(np.square(vectors.sum(axis=0)).sum()) - float(np.square(vectors).sum())
    return 1.0 - total / (count * (count - 1))


def _vendi(vectors: Floats) -> float:
    """Exponential of the entropy of the eigenvalues of the similarity matrix over its size."""
    values = np.linalg.eigvalsh(vectors.T @ vectors / len(vectors))
    values = values[values > 1e-12]
    values = values / values.sum()
    return float(np.exp(-(values * np.log(values)).sum()))


def _precision_recall(made: Floats, real: Floats) -> tuple[float, float]:
    """Share of each side within the other side's balls to their k-th neighbours."""
    from sklearn.neighbors import NearestNeighbors

    def radii(vectors: Floats) -> Floats:
        k = min(NEIGHBOURS, len(vectors) - 1)
        found, _ = NearestNeighbors(n_neighbors=k + 1).fit(vectors).kneighbors(vectors)
        return found[:, -1]

    if min(len(made), len(real)) < 2:
        return float("nan"), float("nan")
    squares = np.square(made).sum(axis=1)[:, None] + np.square(real).sum(axis=1)
    distances = np.sqrt(np.maximum(squares - 2 * made @ real.T, 0))
    inside_real = (distances <= radii(real)[None]).any(axis=1)
    inside_made = (distances <= radii(made)[:, None]).any(axis=0)
    return float(inside_real.mean()), float(inside_made.mean())


def text_auc(first: Any, second: Any, seed: int) -> tuple[float, float]:
    """How well a linear model tells two sets of documents apart: AUC over 5 folds, and deviation.

    Args:
        first: Sparse features of one set.
        second: Of the other, in about equal numbers.
        seed: Of the folds.
    """
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    size = min(first.shape[0], second.shape[0], MAX_DOCUMENTS)
    generator = np.random.default_rng(seed)
    parts = [m[generator.permutation(m.shape[0])[:size]] for m in (first, second)]
    features = sparse.vstack(parts).tocsr()
    labels = np.repeat([0, 1], size)
    folds = StratifiedKFold(min(5, size), shuffle=True, random_state=seed)
    scores = cross_val_score(
        LogisticRegression(max_iter=300), features, labels, cv=folds, scoring="roc_auc"
    )
    return float(scores.mean()), float(scores.std())
