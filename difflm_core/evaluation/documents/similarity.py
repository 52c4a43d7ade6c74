"""How alike two JSON documents are, and the averaged similarity score of two corpora.

For a pair (a, b):

    similarity = (embedding + fields + validity) / 3

- embedding: cosine of the two texts' embeddings, mapped from [-1, 1] to [0, 1];
- fields: F1 of the leaves. A leaf is a path (keys, and `[]` for a list) and a value; equal leaves
  match whole, and what is left is matched one to one, path by path, so that the credit is largest:
  two texts by the F1 of their words, numbers or truth values that differ by nothing. Lists are
  compared as multisets. A text that is not JSON has no leaves, and an F1 of 0;
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

from difflm_core.evaluation.documents.embedding import Embedder, unit_vectors
from difflm_core.evaluation.documents.parsing import UNREADABLE, read_json

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
        return [leaf for key, v in fields.items() for leaf in leaves(v, f"{path}/{_escape(key)}")]
    if isinstance(document, list):
        items = cast("list[Any]", document)
        if not items:
            return [(f"{path}[]", "")]
        return [leaf for item in items for leaf in leaves(item, f"{path}[]")]
    if isinstance(document, float) and document.is_integer():
        document = int(document)  # 1.0 and 1 are one number
    return [(path, json.dumps(document, ensure_ascii=False))]


def _escape(key: str) -> str:
    """A key in which nothing looks like a border of a path (JSON Pointer's way)."""
    return key.replace("~", "~0").replace("/", "~1").replace("[", "~2")


def field_f1(first: Any, second: Any) -> float:
    """F1 of the leaves of two documents, with partial credit for texts; in [0, 1]."""
    return leaf_f1(Counter(leaves(first)), Counter(leaves(second)))


def leaf_f1(first: Counter[Leaf], second: Counter[Leaf]) -> float:
    """F1 of two multisets of leaves; see `field_f1`."""
    total = first.total() + second.total()
    if not total:
        return 0.0
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
    """Partial credit of the texts at one path, the largest that one to one gives."""
    from scipy.optimize import linear_sum_assignment

    sides = [
        [str(json.loads(spelled)) for spelled in side if spelled.startswith('"')]
        for side in (ours, theirs)
    ]
    if not sides[0] or not sides[1]:
        return 0.0
    credit = np.array([[token_f1(a, b) for b in sides[1]] for a in sides[0]])
    if credit.size == 1:
        return float(credit[0, 0])
    rows, columns = linear_sum_assignment(credit, maximize=True)
    return float(credit[rows, columns].sum())


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
    if not size:
        return AverageSimilarity(0.0, 0.0, 0.0, 0.0, 0)
    made = [generated[int(i)] for i in generator.permutation(len(generated))[:size]]
    real = [references[int(i)] for i in generator.permutation(len(references))[:size]]
    near = (np.clip(unit_vectors(embed, made) @ unit_vectors(embed, real).T, -1, 1) + 1) / 2
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
    document = read_json(text)
    return [] if document is UNREADABLE else leaves(document)
