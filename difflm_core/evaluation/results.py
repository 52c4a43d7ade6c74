"""What an evaluation says: a tree of plain, frozen dataclasses that turns into JSON.

Every part that can be undefined (a table of five rows has no cross-validated AUC) is either its
result or a `NotComputed` with the reason, never a missing key and never a made-up number.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPORT_FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class NotComputed:
    """Stands where a result could not be had, with the reason in plain words."""

    not_computed: str


class NotComputableError(Exception):
    """A metric is undefined on this data; carries the reason (never leaves the package)."""


@dataclass(frozen=True, slots=True)
class ColumnSummary:
    """How one column was treated: its kind and its role in the metrics."""

    name: str
    kind: str
    role: str


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """Sizes of what was compared; `num_*_used` are the rows that the costly metrics saw."""

    num_synthetic: int
    num_train: int
    num_test: int
    num_valid: int | None
    num_rejected: int | None
    num_synthetic_used: int
    num_train_used: int
    num_test_used: int
    sample_rows: int
    columns: tuple[ColumnSummary, ...]


@dataclass(frozen=True, slots=True)
class ColumnFidelity:
    """One column: shape error in percent (None with a reason), and the share of missing values."""

    name: str
    metric: str
    shape_error: float | None
    holdout_shape_error: float | None
    missing_rate_real: float
    missing_rate_synthetic: float
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class PairFidelity:
    """One pair of columns: trend error in percent.

    `report_error` is the figure of SDMetrics' QualityReport, which bins each table's numbers over
    their own range.
    """

    first: str
    second: str
    metric: str
    trend_error: float | None
    report_error: float | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    """Alpha-precision, beta-recall and authenticity, each in [0, 1]."""

    alpha_precision: float
    beta_recall: float
    authenticity: float
    num_rows: int


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How alike the distributions are; errors in percent, against the training table.

    `holdout_*` is the same figure for the real holdout: the noise floor. `report_trend_error` is
    the trend error of SDMetrics' QualityReport (see `evaluation.fidelity`).
    """

    shape_error: float | None
    trend_error: float | None
    report_trend_error: float | None
    holdout_shape_error: float | None
    holdout_trend_error: float | None
    holdout_report_trend_error: float | None
    columns: tuple[ColumnFidelity, ...]
    pairs: tuple[PairFidelity, ...]
    num_pairs_total: int
    precision_recall: PrecisionRecall | NotComputed


@dataclass(frozen=True, slots=True)
class DetectorImportance:
    """Share of the detector's total gain that one column gives."""

    name: str
    share: float


@dataclass(frozen=True, slots=True)
class Detection:
    """Classifier two-sample test: cross-validated AUC of telling synthetic from real rows."""

    auc: float
    auc_sd: float
    logistic_auc: float
    logistic_auc_sd: float
    holdout_auc: float | None
    num_rows_each: int
    num_folds: int
    importances: tuple[DetectorImportance, ...]


@dataclass(frozen=True, slots=True)
class LearnerScore:
    """One downstream model, trained on one source of rows and scored on the real test rows.

    `metrics` come from one fit on all rows; `sd` is the deviation over refits, each of which
    leaves out another random tenth of the training rows.
    """

    learner: str
    scorer: str
    source: str
    metrics: dict[str, float]
    sd: dict[str, float]
    num_train_rows: int
    selected: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Utility:
    """Train on synthetic, test on real, beside train on real, test on real."""

    task: str
    target: str
    primary_metric: str
    higher_is_better: bool
    num_classes: int | None
    positive_class: str | None
    real: float
    synthetic: float
    gap_percent: float
    gap_percent_low: float
    gap_percent_high: float
    scores: tuple[LearnerScore, ...]
    paper_real: float | None
    paper_synthetic: float | None
    num_missing_target: dict[str, int]
    num_test_rows: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ColumnValidity:
    """Values of one synthetic column that break the schema, by reason."""

    name: str
    num_wrong_type: int
    num_missing_not_allowed: int
    num_out_of_range: int
    num_unseen_category: int
    num_bad_pattern: int
    num_duplicate_identifier: int


@dataclass(frozen=True, slots=True)
class Validity:
    """Rows and values of the synthetic table that could not be real."""

    num_rows: int
    num_invalid_rows: int
    columns: tuple[ColumnValidity, ...]
    num_rejected: int | None
    rejection_rate: float | None


@dataclass(frozen=True, slots=True)
class ColumnDiversity:
    """One column: share of the real values that the synthetic data also has."""

    name: str
    num_categories_real: int | None
    coverage: float | None
    rare_coverage: float | None
    range_coverage: float | None
    entropy_ratio: float | None


@dataclass(frozen=True, slots=True)
class Diversity:
    """Whether the synthetic data repeats itself or loses rare values."""

    duplicate_rate: float
    holdout_duplicate_rate: float
    train_duplicate_rate: float
    category_coverage: float | None
    rare_category_coverage: float | None
    mean_entropy_ratio: float | None
    columns: tuple[ColumnDiversity, ...]


@dataclass(frozen=True, slots=True)
class Copies:
    """Rows that repeat a training row, beside the same rate of a real holdout."""

    exact_count: int
    exact_rate: float
    holdout_exact_count: int
    holdout_exact_rate: float
    exact_count_new: int
    near_rate: float | None
    holdout_near_rate: float | None
    near_threshold: float | None


@dataclass(frozen=True, slots=True)
class Distances:
    """Distance to the closest record (DCR), normalised to [0, 1] per column."""

    synthetic_to_train_median: float
    synthetic_to_test_median: float
    test_to_train_median: float
    synthetic_to_train_p5: float
    test_to_train_p5: float
    share_closer_to_train: float
    share_low: float
    share_high: float
    nndr_synthetic_median: float
    nndr_test_median: float
    num_reference_rows: int
    num_query_rows: int


@dataclass(frozen=True, slots=True)
class Membership:
    """An attacker who has the synthetic rows guesses which real rows were trained on."""

    auc: float
    auc_low: float
    auc_high: float
    tpr_at_1_percent_fpr: float
    attack: str
    distance_auc: float
    density_auc: float | None
    num_members: int
    num_non_members: int


@dataclass(frozen=True, slots=True)
class TextCopies:
    """Verbatim copies of training texts in one free-text column."""

    name: str
    copy_rate: float
    holdout_copy_rate: float


@dataclass(frozen=True, slots=True)
class Privacy:
    """What the synthetic rows give away about the training rows."""

    copies: Copies
    distances: Distances | NotComputed
    membership: Membership | NotComputed
    texts: tuple[TextCopies, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the verdict: a figure, its traffic light and the sentence that explains it."""

    key: str
    title: str
    value: str
    light: str
    sentence: str
    rule: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The evaluation in plain words."""

    light: str
    headline: str
    findings: tuple[Finding, ...]


Array = NDArray[np.float64]


@dataclass(slots=True)
class FigureData:
    """Aggregates that the plots need; no row is in here. Not part of the JSON."""

    distributions: list[ColumnHistogram] = field(default_factory=lambda: [])
    association_names: list[str] = field(default_factory=list[str])
    association_real: Array | None = None
    association_synthetic: Array | None = None
    projection: ProjectionDensity | None = None
    roc_curves: dict[str, tuple[Array, Array]] = field(
        default_factory=dict[str, tuple[Array, Array]]
    )
    dcr_edges: Array | None = None
    dcr_counts: dict[str, Array] = field(default_factory=dict[str, Array])


@dataclass(frozen=True, slots=True)
class ColumnHistogram:
    """Shares of real and synthetic values per bin; `edges` for numbers, `labels` for categories."""

    name: str
    kind: str
    edges: Array | None
    labels: tuple[str, ...]
    real: Array
    synthetic: Array


@dataclass(frozen=True, slots=True)
class ProjectionDensity:
    """Counts of real and synthetic rows on a grid over the first two principal components."""

    x_edges: Array
    y_edges: Array
    real: Array
    synthetic: Array
    explained: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The whole evaluation: what `evaluate` returns and `write_report` writes.

    `seconds`, the duration of each part, is not written: equal evaluations give equal files.
    `documents` holds `DocumentMeasures` where the records are documents; all about columns is then
    about their features.
    """

    format_version: int
    scorer: str
    seed: int
    seconds: dict[str, float]
    dataset: DatasetSummary
    verdict: Verdict
    fidelity: Fidelity | NotComputed
    detection: Detection | NotComputed
    utility: Utility | NotComputed
    validity: Validity
    diversity: Diversity | NotComputed
    privacy: Privacy | NotComputed
    libraries: dict[str, str]
    documents: Any = None
    figures: FigureData = field(default_factory=FigureData, repr=False, compare=False)
    document_figures: Any = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form: stable keys, no figures, no durations, NaN and infinity as null."""
        tree = {
            item.name: to_plain(getattr(self, item.name))
            for item in dataclasses.fields(self)
            if item.name not in ("figures", "document_figures", "seconds")
        }
        if self.documents is None:
            del tree["documents"]
        return tree


def to_plain(value: object) -> Any:
    """Turn dataclasses, tuples and numpy scalars into what the json module writes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, (np.floating, float)):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
