"""What the measures of documents say: plain, frozen dataclasses, as `evaluation.results`."""

from __future__ import annotations

from dataclasses import dataclass, field

from difflm_core.evaluation.documents.embedding import Spread
from difflm_core.evaluation.documents.similarity import AverageSimilarity
from difflm_core.evaluation.results import Array, NotComputed


@dataclass(frozen=True, slots=True)
class DocumentValidity:
    """Documents that could not be real.

    Attributes:
        num_invalid: Documents that break the schema, or do not parse.
        reasons: Number of these by reason.
        rejected: Number of tries that generation rejected, by reason.
        num_documents: Documents in all.
    """

    num_invalid: int
    reasons: dict[str, int]
    rejected: dict[str, int]
    num_documents: int

    @property
    def valid_share(self) -> float:
        """Share of valid documents."""
        return 1.0 - self.num_invalid / max(1, self.num_documents)

    @property
    def first_try_share(self) -> float:
        """Share of tries that gave a valid document."""
        tries = self.num_documents + sum(self.rejected.values())
        return (self.num_documents - self.num_invalid) / max(1, tries)


@dataclass(frozen=True, slots=True)
class Repetition:
    """Documents that repeat each other, or the training documents.

    Attributes:
        duplicate_share: Synthetic documents that equal an earlier one, among the first of both
            sides in equal numbers.
        real_duplicate_share: The same among training documents.
        copy_rate: Synthetic documents that equal a training one.
        holdout_copy_rate: Test documents that do so.
        near_copy_rate: Synthetic documents nearly equal to a training one (Jaccard similarity).
        holdout_near_copy_rate: Test documents that are.
        nearest_median: Similarity of a synthetic document to its nearest training one, median.
        holdout_nearest_median: The same of a test document.
        inner_near_rate: Synthetic documents nearly equal to another synthetic one.
        real_inner_near_rate: Training documents nearly equal to another, among as many.
        threshold: Similarity from which on documents are near copies.
    """

    duplicate_share: float
    real_duplicate_share: float
    copy_rate: float
    holdout_copy_rate: float
    near_copy_rate: float
    holdout_near_copy_rate: float
    nearest_median: float
    holdout_nearest_median: float
    inner_near_rate: float
    real_inner_near_rate: float
    threshold: float


@dataclass(frozen=True, slots=True)
class TextDetection:
    """A linear model on words and runs of characters tells documents apart: AUC, 0.5 = not at all.

    Attributes:
        auc: Synthetic from training documents.
        auc_sd: Deviation over folds.
        holdout_auc: Test from training documents.
    """

    auc: float
    auc_sd: float
    holdout_auc: float


@dataclass(frozen=True, slots=True)
class LanguageUsefulness:
    """Bits per character of real test documents, by a small model of characters.

    Attributes:
        real: Trained on training documents.
        synthetic: Trained on as many characters of synthetic ones.
        both: Trained on both.
        real_sd: Deviation over samples.
        synthetic_sd: The same.
        both_sd: The same.
        num_characters: Characters that each is trained on.
    """

    real: float
    synthetic: float
    both: float
    real_sd: float
    synthetic_sd: float
    both_sd: float
    num_characters: int

    @property
    def loss_percent(self) -> float:
        """How much more bits synthetic documents cost than real ones."""
        return 100.0 * (self.synthetic / self.real - 1.0)


@dataclass(frozen=True, slots=True)
class FieldUsefulness:
    """A model of words predicts one field of real test documents from the rest.

    Attributes:
        path: The field.
        real: Accuracy, trained on training documents.
        synthetic: Accuracy, trained on as many synthetic ones.
        majority: Accuracy of the most frequent value.
        num_values: Distinct values.
    """

    path: str
    real: float
    synthetic: float
    majority: float
    num_values: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """Listed values (categories) of the schema that occur.

    Attributes:
        path: The place with the most listed values.
        share: Share of its training values that occur among the synthetic documents.
        holdout_share: Share that occurs among as many test documents.
        distance: Total variation distance of its distribution from the real one.
        holdout_distance: The same of the test documents.
    """

    path: str
    share: float
    holdout_share: float
    distance: float
    holdout_distance: float


@dataclass(frozen=True, slots=True)
class ArgumentQuality:
    """Whether tools describe their arguments correctly.

    Attributes:
        share: Synthetic arguments without a problem.
        real_share: Training arguments without one.
        num_tools: Synthetic records that are tools.
        problems: Number of each problem among the synthetic ones.
    """

    share: float
    real_share: float
    num_tools: int
    problems: dict[str, int]


@dataclass(frozen=True, slots=True)
class DocumentMeasures:
    """All measures of documents as texts."""

    kind: str
    validity: DocumentValidity
    repetition: Repetition
    spread: Spread | NotComputed
    detection: TextDetection | NotComputed
    language: LanguageUsefulness | NotComputed
    field_use: FieldUsefulness | NotComputed
    coverage: Coverage | NotComputed
    arguments: ArgumentQuality | NotComputed
    similarity: AverageSimilarity | NotComputed
    holdout_similarity: AverageSimilarity | NotComputed
    embedder: str


@dataclass(slots=True)
class DocumentFigures:
    """Aggregates and examples for the plots; not part of the JSON.

    Attributes:
        nearest_edges: Edges of the histogram of similarities.
        nearest: Shares by kind of documents.
        examples: A few synthetic documents, none of them near a training one.
    """

    nearest_edges: Array | None = None
    nearest: dict[str, Array] = field(default_factory=dict[str, Array])
    examples: tuple[str, ...] = ()
