"""All measures of a corpus of documents, in the order of the report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from difflm_core.data.schema import DataKind, Schema
from difflm_core.evaluation.documents.code_features import code_features
from difflm_core.evaluation.documents.embedding import (
    MAX_DOCUMENTS,
    Embedder,
    LatentSemanticEmbedder,
    spread,
    text_auc,
    unit_vectors,
)
from difflm_core.evaluation.documents.features import Features, JsonFeatures
from difflm_core.evaluation.documents.language_model import CharacterModel
from difflm_core.evaluation.documents.parsing import read_json, validator_of
from difflm_core.evaluation.documents.results import (
    ArgumentQuality,
    Coverage,
    DocumentFigures,
    DocumentMeasures,
    DocumentValidity,
    FieldUsefulness,
    LanguageUsefulness,
    Repetition,
    TextDetection,
)
from difflm_core.evaluation.documents.shingles import NEAR_COPY, ShingleIndex
from difflm_core.evaluation.documents.similarity import AverageSimilarity, average_similarity
from difflm_core.evaluation.documents.tools import check_arguments
from difflm_core.evaluation.parts import PartRunner
from difflm_core.evaluation.results import NotComputableError

# Characters that the models of characters are trained on, and tested on, at most.
MAX_CHARACTERS = 1_000_000
MIN_DOCUMENTS = 20
MAX_FIELD_VALUES = 100
NUM_EXAMPLES = 3
NEAREST_EDGES = np.linspace(0.0, 1.0, 21)
_MAX_EXAMPLE = 1500
_CHUNK = 5000

Floats = NDArray[np.float64]


class Corpora:
    """Synthetic, training and test documents, and what is derived from them once.

    Attributes:
        schema: Of the documents.
        synthetic: Synthetic documents.
        train: Training documents.
        test: Test documents.
        seed: Of samples, folds and embeddings.
    """

    def __init__(
        self,
        schema: Schema,
        synthetic: Sequence[str],
        train: Sequence[str],
        test: Sequence[str],
        *,
        seed: int,
        max_documents: int,
        embed: Embedder | None = None,
    ) -> None:
        """Take at most `max_documents` of each side, at random."""
        generator = np.random.default_rng(seed)

        def some(texts: Sequence[str]) -> list[str]:
            if len(texts) <= max_documents:
                return list(texts)
            chosen = np.sort(generator.permutation(len(texts))[:max_documents])
            return [texts[int(index)] for index in chosen]

        self.schema = schema
        self.json_schema: Mapping[str, Any] = schema.columns[0].json_schema or {}
        self.all_synthetic, self.all_train = synthetic, train
        self.synthetic, self.train, self.test = some(synthetic), some(train), some(test)
        self.seed = seed
        everything = [*self.synthetic, *self.train, *self.test]
        self.default_embedder = LatentSemanticEmbedder(everything, seed)
        self.embed: Embedder = embed or self.default_embedder
        sides = (self.synthetic, self.train, self.test)
        self.vectors = [unit_vectors(self.embed, side) for side in sides]
        self.validate = validator_of(schema)

    @property
    def is_json(self) -> bool:
        """Whether the documents are JSON."""
        return self.schema.data_kind is DataKind.JSON


def document_features(schema: Schema, texts: Sequence[str]) -> list[Features]:
    """The features of documents."""
    if schema.data_kind is DataKind.CODE:
        return [code_features(text) for text in texts]
    features = JsonFeatures(schema.columns[0].json_schema or {})
    return [features.of(text) for text in texts]


def measure_documents(
    corpora: Corpora, rejected: Mapping[str, int], figures: DocumentFigures, run: PartRunner
) -> DocumentMeasures:
    """All measures of documents as texts.

    Args:
        corpora: The documents.
        rejected: Tries that generation rejected, by reason.
        figures: Filled in.
        run: Runs and times the parts.
    """
    repetition = _repetition(corpora, figures)
    return DocumentMeasures(
        kind=corpora.schema.data_kind.value,
        validity=_validity(corpora, rejected),
        repetition=repetition,
        spread=run.part("spread", lambda: _spread(corpora)),
        detection=run.part("text detection", lambda: _detection(corpora)),
        language=run.part("language model", lambda: _language(corpora)),
        field_use=run.part("field", lambda: _field_use(corpora)),
        coverage=run.part("coverage", lambda: _coverage(corpora)),
        arguments=run.part("arguments", lambda: _arguments(corpora)),
        similarity=run.part("similarity", lambda: _similarity(corpora, corpora.synthetic)),
        holdout_similarity=run.part(
            "similarity of real documents", lambda: _similarity(corpora, corpora.train)
        ),
        embedder=getattr(corpora.embed, "name", type(corpora.embed).__name__),
    )


def _require_enough(corpora: Corpora) -> None:
    smallest = min(len(corpora.synthetic), len(corpora.train), len(corpora.test))
    if smallest < MIN_DOCUMENTS:
        raise NotComputableError(f"a side has {smallest} documents, fewer than {MIN_DOCUMENTS}")


def _validity(corpora: Corpora, rejected: Mapping[str, int]) -> DocumentValidity:
    reasons = Counter(
        reason for text in corpora.all_synthetic if (reason := corpora.validate(text)) is not None
    )
    return DocumentValidity(
        num_invalid=reasons.total(),
        reasons=dict(reasons),
        rejected=dict(rejected),
        num_documents=len(corpora.all_synthetic),
    )


def _repetition(corpora: Corpora, figures: DocumentFigures) -> Repetition:
    train = set(corpora.all_train)
    index = ShingleIndex.of(corpora.train)
    nearest = {
        # A copy is as near as can be, also of a document that is not in the sample.
        name: np.maximum(index.nearest(side), [text in train for text in side])
        for name, side in (("synthetic", corpora.synthetic), ("test", corpora.test))
    }
    size = min(len(corpora.synthetic), len(corpora.train))
    inner = ShingleIndex.of(corpora.synthetic[:size]).nearest(corpora.synthetic[:size], same=True)
    real_inner = ShingleIndex.of(corpora.train[:size]).nearest(corpora.train[:size], same=True)
    figures.nearest_edges = NEAREST_EDGES
    figures.nearest = {
        name: np.histogram(values, NEAREST_EDGES)[0] / max(1, len(values))
        for name, values in nearest.items()
    }
    figures.examples = _examples(corpora, nearest["synthetic"])
    num_compared = min(len(corpora.all_synthetic), len(corpora.all_train))
    return Repetition(
        duplicate_share=_duplicate_share(corpora.all_synthetic[:num_compared]),
        real_duplicate_share=_duplicate_share(corpora.all_train[:num_compared]),
        copy_rate=_share(text in train for text in corpora.all_synthetic),
        holdout_copy_rate=_share(text in train for text in corpora.test),
        near_copy_rate=float((nearest["synthetic"] >= NEAR_COPY).mean()),
        holdout_near_copy_rate=float((nearest["test"] >= NEAR_COPY).mean()),
        nearest_median=float(np.median(nearest["synthetic"])),
        holdout_nearest_median=float(np.median(nearest["test"])),
        inner_near_rate=float((inner >= NEAR_COPY).mean()),
        real_inner_near_rate=float((real_inner >= NEAR_COPY).mean()),
        threshold=NEAR_COPY,
    )


def _examples(corpora: Corpora, nearest: Floats) -> tuple[str, ...]:
    """A few valid synthetic documents that are far from every training document."""
    far = (
        text
        for text, alike in zip(corpora.synthetic, nearest, strict=True)
        if alike < NEAR_COPY / 2 and len(text) < _MAX_EXAMPLE and corpora.validate(text) is None
    )
    found = list(islice(far, 10 * NUM_EXAMPLES))
    if len(corpora.all_train) > len(corpora.train):  # the others were not looked at yet
        for begin in range(0, len(corpora.all_train), _CHUNK):
            index = ShingleIndex.of(corpora.all_train[begin : begin + _CHUNK])
            kept = index.nearest(found) < NEAR_COPY / 2
            found = [text for text, far in zip(found, kept, strict=True) if far]
    return tuple(found[:NUM_EXAMPLES])


def _duplicate_share(texts: Sequence[str]) -> float:
    return 1.0 - len(set(texts)) / max(1, len(texts))


def _share(found: Any) -> float:
    values = list(found)
    return sum(values) / max(1, len(values))


def _spread(corpora: Corpora) -> Any:
    _require_enough(corpora)
    made, real, held = corpora.vectors
    return spread(made, real, held, corpora.seed)


def _detection(corpora: Corpora) -> TextDetection:
    _require_enough(corpora)
    made, real, held = (
        corpora.default_embedder.features(side[:MAX_DOCUMENTS])
        for side in (corpora.synthetic, corpora.train, corpora.test)
    )
    auc, deviation = text_auc(made, real, corpora.seed)
    holdout, _ = text_auc(held, real, corpora.seed)
    return TextDetection(auc, deviation, holdout)


def _language(corpora: Corpora, num_samples: int = 3) -> LanguageUsefulness:
    _require_enough(corpora)
    test = _cut(corpora.test, MAX_CHARACTERS // 2, np.random.default_rng(corpora.seed))
    total = min(sum(map(len, corpora.synthetic)), sum(map(len, corpora.train)))
    size = min(MAX_CHARACTERS, int(0.9 * total))  # so that samples differ
    if not size or not any(test):
        raise NotComputableError("the documents of a side are empty")
    found: dict[str, list[float]] = {"real": [], "synthetic": [], "both": []}
    for sample in range(num_samples):
        generator = np.random.default_rng([corpora.seed, sample])
        real = _cut(corpora.train, size, generator)
        made = _cut(corpora.synthetic, size, generator)
        for name, texts in (("real", real), ("synthetic", made), ("both", [*real, *made])):
            found[name].append(CharacterModel(texts).bits_per_character(test))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    deviations = {f"{name}_sd": float(np.std(values)) for name, values in found.items()}
    return LanguageUsefulness(**means, **deviations, num_characters=size)


def _cut(texts: Sequence[str], size: int, generator: np.random.Generator) -> list[str]:
    """Whole documents at random, up to about `size` characters."""
    chosen: list[str] = []
    left = size
    for index in generator.permutation(len(texts)):
        if left <= 0:
            break
        text = texts[int(index)]
        chosen.append(text)
        left -= len(text)
    return chosen


def _field_use(corpora: Corpora) -> FieldUsefulness:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    path = corpora.schema.target
    if path is None or not corpora.is_json:
        raise NotComputableError("no field to predict (data.target)")
    _require_enough(corpora)
    sides = {
        name: _without_field(texts, path)
        for name, texts in (
            ("real", corpora.train),
            ("synthetic", corpora.synthetic),
            ("test", corpora.test),
        )
    }
    num_values = len(set(sides["real"][1]))
    if num_values > MAX_FIELD_VALUES:
        raise NotComputableError(f"{path!r} has {num_values} values, too many to predict")
    size = min(len(sides["real"][0]), len(sides["synthetic"][0]))
    if size < MIN_DOCUMENTS or len(set(sides["synthetic"][1][:size])) < 2:
        raise NotComputableError(f"too few documents have the field {path!r}")
    texts, truth = sides["test"]
    if not texts or num_values < 2:
        raise NotComputableError(f"{path!r} has nothing to predict in the test documents")
    scores: dict[str, float] = {}
    for name in ("real", "synthetic"):
        model = make_pipeline(
            TfidfVectorizer(sublinear_tf=True, max_features=50_000),
            LogisticRegression(C=10.0, max_iter=200),
        )
        model.fit(sides[name][0][:size], sides[name][1][:size])
        scores[name] = float(np.mean(model.predict(texts) == np.array(truth)))
    most = Counter(sides["real"][1]).most_common(1)[0][0]
    return FieldUsefulness(
        path=path,
        real=scores["real"],
        synthetic=scores["synthetic"],
        majority=_share(value == most for value in truth),
        num_values=num_values,
    )


def _without_field(texts: Sequence[str], path: str) -> tuple[list[str], list[str]]:
    """Documents without a field, and its values; documents that lack it are left out."""
    rest: list[str] = []
    values: list[str] = []
    *parents, last = path.split(".")
    for text in texts:
        document = read_json(text)
        place: Any = document
        for key in parents:
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, dict) and last in place:
            values.append(json.dumps(place.pop(last)))
            rest.append(json.dumps(document, ensure_ascii=False))
    return rest, values


def _coverage(corpora: Corpora) -> Coverage:
    """Of the listed place with the most values among those in every part of the documents."""
    if not corpora.is_json:
        raise NotComputableError("code has no listed values")
    features = JsonFeatures(corpora.json_schema)
    sides = [[features.of(t) for t in side] for side in (corpora.synthetic, corpora.train)]
    held = [features.of(text) for text in corpora.test]
    counts: dict[str, Counter[str]] = {}
    for row in sides[1]:
        for name, value in row.items():
            if isinstance(value, str) and not name.endswith((" (present)", " (type)")):
                counts.setdefault(name, Counter())[value] += 1
    if not counts:
        raise NotComputableError("the schema lists no values")
    path = max(counts, key=lambda name: len(counts[name]))
    real = counts[path]

    def shares(rows: Sequence[Features]) -> Counter[str]:
        return Counter(row[path] for row in rows if isinstance(row.get(path), str))

    size = min(len(sides[0]), len(held))  # more documents have more values
    made, test = shares(sides[0][:size]), shares(held[:size])
    return Coverage(
        path=path,
        share=len(made.keys() & real.keys()) / len(real),
        holdout_share=len(test.keys() & real.keys()) / len(real),
        distance=_total_variation(made, real),
        holdout_distance=_total_variation(test, real),
    )


def _total_variation(first: Counter[str], second: Counter[str]) -> float:
    totals = max(1, first.total()), max(1, second.total())
    keys = first.keys() | second.keys()
    return 0.5 * sum(abs(first[key] / totals[0] - second[key] / totals[1]) for key in keys)


def _arguments(corpora: Corpora) -> ArgumentQuality:
    if not corpora.is_json:
        raise NotComputableError("code is no tool description")
    made = check_arguments([read_json(text) for text in corpora.synthetic])
    real = check_arguments([read_json(text) for text in corpora.train])
    for name, check in (("real", real), ("synthetic", made)):
        if not check.num_tools:
            raise NotComputableError(f"the {name} documents are no tool descriptions")
    return ArgumentQuality(made.share, real.share, made.num_tools, dict(made.problems))


def _similarity(corpora: Corpora, generated: Sequence[str]) -> AverageSimilarity:
    if not corpora.is_json:
        raise NotComputableError("code has no fields")
    _require_enough(corpora)
    return average_similarity(
        generated,
        corpora.test,
        embed=corpora.embed,
        is_valid=lambda text: corpora.validate(text) is None,
        seed=corpora.seed,
    )
