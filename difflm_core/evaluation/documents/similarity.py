"""How alike two JSON documents are, and the averaged similarity score of two corpora.

For a pair (a, b):

    similarity = (embedding + fields + validity) / 3

- embedding: cosine of the two texts' embeddings, mapped from [-1, 1] to [0, 1];
- fields: F1 of the leaves. A leaf is a path (keys, and `[]` for a list) and a value; equal leaves
  match whole, and what is left is matched path by path: two texts by the F1 of their words, two
  numbers or truth values that differ by nothing. Lists are compared as multisets;
- validity: 1 if `a`, the generated one, is valid against the schema, else 0.

For two corpora, generated documents are paired with references so that the sum of similarities is
largest (linear assignment), and the score is the mean over pairs.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from difflm_core.evaluation.documents.embedding import Embedder

# Documents of each side that are paired.
MAX_PAIRED = 400
# Candidates of each document whose fields are compared; all others keep the embedding alone.
CANDIDATES = 20

Leaf = tuple[str, str]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AverageSimilarity:
    """The averaged similarity score, and its parts.

    Attributes:
        score: Mean similarity of paired documents.
        embedding: Mean of the embedding part.
        fields: Mean of the field part.
        validity: Mean of the validity part.
        num_pairs: Pairs.
    """

    score: float
    embedding: float
    fields: float
    validity: float
    num_pairs: int


def leaves(document: Any, path: str = "") -> list[Leaf]:
    """Leaves of a document: path and spelled value; empty objects and lists are leaves."""
    if isinstance(document, dict):
        fields = cast("dict[str, Any]", document)
        if not fields:
            return [(path, "{}")]
        return [leaf for key, v in fields.items() for leaf in leaves(v, f"{path}/{key}")]
    if isinstance(document, list):
        items = cast("list[Any]", document)
        if not items:
            return [(f"{path}[]", "")]
        return [leaf for item in items for leaf in leaves(item, f"{path}[]")]
    return [(path, json.dumps(document, ensure_ascii=False))]


def field_f1(first: Any, second: Any) -> float:
    """F1 of the leaves of two documents, with partial credit for texts; in [0, 1]."""
    return leaf_f1(Counter(leaves(first)), Counter(leaves(second)))


def leaf_f1(first: Counter[Leaf], second: Counter[Leaf]) -> float:
    """F1 of two multisets of leaves; see `field_f1`."""
    total = first.total() + second.total()
    shared = first & second
    matched = float(shared.total())
    left: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, rest in enumerate((first - shared, second - shared)):
        for (path, value), count in rest.items():
            left[path][side].extend([value] * count)
    for ours, theirs in left.values():
        matched += _match_texts(ours, theirs)
    return 2.0 * matched / total


def _match_texts(ours: list[str], theirs: list[str]) -> float:
    """Partial credit of the texts at one path, greedily from the most alike."""
    pairs = sorted(
        (
            (-token_f1(a, b), i, j)
            for i, a in enumerate(ours)
            for j, b in enumerate(theirs)
            if a.startswith('"') and b.startswith('"')
        )
    )
    used: tuple[set[int], set[int]] = (set(), set())
    credit = 0.0
    for score, i, j in pairs:
        if i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            credit -= score
    return credit


def token_f1(first: str, second: str) -> float:
    """F1 of the words of two texts, regardless of case (Rajpurkar et al. 2016)."""
    words = [Counter(re.findall(r"\w+", text.lower())) for text in (first, second)]
    total = words[0].total() + words[1].total()
    return 2.0 * (words[0] & words[1]).total() / total if total else 0.0


def average_similarity(
    generated: Sequence[str],
    references: Sequence[str],
    *,
    embed: Embedder,
    is_valid: Callable[[str], bool],
    seed: int = 0,
) -> AverageSimilarity:
    """The averaged similarity score of generated documents against references.

    Args:
        generated: Generated documents.
        references: Real documents; a sample of `MAX_PAIRED` of each side is paired.
        embed: The embedding.
        is_valid: Whether a generated document is valid against the schema.
        seed: Of the samples.
    """
    from scipy.optimize import linear_sum_assignment

    generator = np.random.default_rng(seed)
    size = min(len(generated), len(references), MAX_PAIRED)
    made = [generated[int(i)] for i in generator.permutation(len(generated))[:size]]
    real = [references[int(i)] for i in generator.permutation(len(references))[:size]]
    near = (np.clip(embed(made) @ embed(real).T, -1, 1) + 1) / 2
    fields = np.zeros_like(near)
    ours = [Counter(_leaves_of(text)) for text in made]
    theirs = [Counter(_leaves_of(text)) for text in real]
    for row in range(size):
        for column in np.argsort(-near[row])[:CANDIDATES]:
            fields[row, column] = leaf_f1(ours[row], theirs[column])
    rows, columns = linear_sum_assignment(-(near + fields))
    for row, column in zip(rows, columns, strict=True):
        if not fields[row, column]:  # not among its candidates
            fields[row, column] = leaf_f1(ours[row], theirs[column])
    valid = np.array([is_valid(made[row]) for row in rows], dtype=float)
    embedding, field = near[rows, columns], fields[rows, columns]
    return AverageSimilarity(
        score=float(((embedding + field + valid) / 3).mean()),
        embedding=float(embedding.mean()),
        fields=float(field.mean()),
        validity=float(valid.mean()),
        num_pairs=size,
    )


def _leaves_of(text: str) -> list[Leaf]:
    try:
        return leaves(json.loads(text))
    except (ValueError, RecursionError):
        return [("", text)]
