"""Copies and near-copies: how alike a document is to its nearest one in another corpus.

Documents are sets of runs of words (shingles; Broder 1997), compared by Jaccard similarity. Runs
that stand in very many documents are the format's, not the content's, and do not count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

WORDS_PER_SHINGLE = 3
NEAR_COPY = 0.8
# Shingles in more than this share of the reference documents are of the format.
COMMON_SHARE = 0.05
_CHUNK = 512
_WORD = re.compile(r"\w+|[^\w\s]")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ShingleIndex:
    """Shingles of reference documents.

    Attributes:
        matrix: Which document has which shingle, [N, S], binary.
        sizes: Shingles of each document, [N].
        numbers: Column of each shingle.
        common: Shingles that do not count.
        whole: How many documents have just these shingles, by a hash of them all.
    """

    matrix: Any
    sizes: NDArray[np.int64]
    numbers: dict[int, int]
    common: frozenset[int]
    whole: Counter[int]

    @classmethod
    def of(cls, texts: Sequence[str]) -> ShingleIndex:
        """Index reference documents."""
        sets = [shingles(text) for text in texts]
        counts: dict[int, int] = {}
        for found in sets:
            for shingle in found:
                counts[shingle] = counts.get(shingle, 0) + 1
        limit = max(8, COMMON_SHARE * len(texts))
        common = frozenset(shingle for shingle, count in counts.items() if count > limit)
        kept = [shingle for shingle in counts if shingle not in common]
        numbers = {shingle: index for index, shingle in enumerate(kept)}
        whole = Counter(hash(frozenset(found)) for found in sets)
        sets = [found - common for found in sets]
        return cls(_matrix(sets, numbers), _sizes(sets), numbers, common, whole)

    def nearest(self, texts: Sequence[str], *, same: bool = False) -> Floats:
        """Similarity of each document to its nearest reference, in [0, 1].

        Args:
            texts: The documents.
            same: They are the reference documents themselves, each of which is not its own
                neighbour.
        """
        sets = [shingles(text) for text in texts]
        # Also where every run is of the format, an equal document is as near as can be.
        needed = 2 if same else 1
        equal = np.array([self.whole[hash(frozenset(found))] >= needed for found in sets])
        sets = [found - self.common for found in sets]
        mine, sizes = _matrix(sets, self.numbers), _sizes(sets)
        best = np.zeros(len(texts))
        for begin in range(0, len(texts), _CHUNK):
            shared = (mine[begin : begin + _CHUNK] @ self.matrix.T).tocoo()
            rows, columns = shared.row + begin, shared.col
            union = sizes[rows] + self.sizes[columns] - shared.data
            alike = shared.data / np.maximum(union, 1)
            if same:
                alike = np.where(rows == columns, 0.0, alike)
            np.maximum.at(best, rows, alike)
        return np.where(equal, 1.0, best)


def shingles(text: str) -> set[int]:
    """Hashes of the runs of words of a document; a short one is a single run."""
    words = _WORD.findall(text)
    count = max(1, len(words) - WORDS_PER_SHINGLE + 1)
    return {hash(tuple(words[start : start + WORDS_PER_SHINGLE])) for start in range(count)}


def _matrix(sets: Sequence[set[int]], numbers: dict[int, int]) -> Any:
    columns: list[int] = []
    offsets = [0]
    for found in sets:
        columns += [numbers[shingle] for shingle in found if shingle in numbers]
        offsets.append(len(columns))
    data = np.ones(len(columns), dtype=np.int32)
    shape = (len(sets), max(1, len(numbers)))
    return sparse.csr_matrix((data, np.array(columns, dtype=np.int64), offsets), shape=shape)


def _sizes(sets: Sequence[set[int]]) -> NDArray[np.int64]:
    return np.array([len(found) for found in sets], dtype=np.int64)
