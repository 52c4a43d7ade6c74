"""Utility: a model trained on synthetic rows, tested on real rows, beside one trained on real.

The `strict` scorer: XGBoost and LightGBM with fixed settings (nothing is selected), every row
kept, categories encoded over the union of all tables. The `paper` scorer is in `paper.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, r2_score, roc_auc_score, roc_curve

from difflm_core.data.schema import ColumnKind
from difflm_core.evaluation.learners import LEARNERS, fit_classifier, fit_regressor
from difflm_core.evaluation.results import LearnerScore, NotComputableError, Utility
from difflm_core.evaluation.tables import Prepared, Role, Split

MIN_TRAIN_ROWS = 10
MIN_TEST_ROWS = 5
MAX_CLASSES = 50
NUM_BOOTSTRAP = 200
REFIT_SHARE = 0.9

Floats = NDArray[np.float64]
Predictions = dict[tuple[str, str], Floats]  # (learner, source) -> predictions on the test rows


@dataclass(frozen=True)
class Problem:
    """The prediction problem that the schema's target poses."""

    target: str
    task: str
    classes: tuple[str, ...]
    positive: int

    @property
    def primary_metric(self) -> str:
        """The figure of the headline."""
        return {"binary": "auc", "multiclass": "macro_auc", "regression": "rmse"}[self.task]


def find_problem(prepared: Prepared) -> Problem:
    """Derive the prediction problem.

    Raises:
        NotComputableError: no target, a target that cannot be predicted, or no feature.
    """
    target = prepared.schema.target
    if target is None:
        raise NotComputableError("the schema names no target column")
    role = prepared.roles[target]
    kind = prepared.schema.column(target).kind
    if role is Role.IGNORED or kind in (ColumnKind.TEXT, ColumnKind.IDENTIFIER):
        raise NotComputableError(f"the target is of kind {kind.value}, which is not predicted")
    if len(prepared.used) < 2:
        raise NotComputableError("no feature column beside the target")
    if role is Role.NUMERICAL:
        return Problem(target, "regression", (), 0)
    classes = prepared.categories[target]
    counts = np.bincount(_known(prepared.train.codes[target]), minlength=len(classes))
    if np.count_nonzero(counts) < 2:
        raise NotComputableError("the target has fewer than two classes in the training table")
    if len(classes) > MAX_CLASSES:
        raise NotComputableError(
            f"the target has {len(classes)} classes, the limit is {MAX_CLASSES}"
        )
    if len(classes) == 2:
        return Problem(target, "binary", classes, int(np.argmin(counts)))
    return Problem(target, "multiclass", classes, 0)


def with_target(split: Split, problem: Problem) -> tuple[Split, int]:
    """Drop the rows without a target and count them."""
    if problem.task == "regression":
        known = ~np.isnan(split.numbers[problem.target])
    else:
        known = split.codes[problem.target] >= 0
    rows = np.flatnonzero(known).astype(np.int64)
    return split.take(rows), split.num_rows - len(rows)


def labels_of(split: Split, problem: Problem) -> NDArray[np.int64] | Floats:
    """Class codes or target numbers."""
    if problem.task == "regression":
        return split.numbers[problem.target]
    return split.codes[problem.target].astype(np.int64)


def score_predictions(problem: Problem, labels: Floats, predicted: Floats) -> dict[str, float]:
    """All metrics of one set of test predictions (probabilities or numbers)."""
    if problem.task == "regression":
        error = predicted - labels
        return {
            "rmse": float(np.sqrt(np.mean(error**2))),
            "mae": float(np.mean(np.abs(error))),
            "r2": float(r2_score(labels, predicted)) if len(labels) > 1 else float("nan"),
        }
    hard = predicted.argmax(axis=1)
    accuracy = float(accuracy_score(labels, hard))
    if problem.task == "binary":
        truth = labels == problem.positive
        return {
            "auc": _auc(truth, predicted[:, problem.positive]),
            "f1": float(_f1(truth, hard == problem.positive, "binary")),
            "accuracy": accuracy,
        }
    return {
        "macro_auc": macro_auc(labels, predicted),
        "macro_f1": float(_f1(labels, hard, "macro")),
        "accuracy": accuracy,
    }


def macro_auc(labels: Floats, predicted: Floats) -> float:
    """Mean one-versus-rest AUC over the classes that the test rows have."""
    scores = [
        _auc(labels == label, predicted[:, label])
        for label in range(predicted.shape[1])
        if 0 < np.count_nonzero(labels == label) < len(labels)
    ]
    return float(np.mean(scores)) if scores else float("nan")


def strict_utility(
    prepared: Prepared,
    seed: int,
    *,
    num_seeds: int,
) -> tuple[Utility, dict[str, tuple[Floats, Floats]]]:
    """Score both learners on both sources.

    Returns:
        The result, and the ROC curves of the headline learner for the plot (binary only).

    Raises:
        NotComputableError: no usable target, or too few rows with one.
    """
    problem = find_problem(prepared)
    synthetic, lost_synthetic = with_target(prepared.synthetic, problem)
    train, lost_train = with_target(prepared.train, problem)
    test, lost_test = with_target(prepared.test, problem)
    for what, split, least in (
        ("synthetic", synthetic, MIN_TRAIN_ROWS),
        ("training", train, MIN_TRAIN_ROWS),
        ("test", test, MIN_TEST_ROWS),
    ):
        if split.num_rows < least:
            raise NotComputableError(
                f"{split.num_rows} {what} rows with a target, at least {least} are needed"
            )
    sources = {"synthetic": synthetic, "real": train}
    scores: list[LearnerScore] = []
    predictions: Predictions = {}
    for learner in LEARNERS:
        for source, split in sources.items():
            score, predicted = _learn(
                prepared, problem, learner, source, split, test, seed, num_seeds
            )
            scores.append(score)
            predictions[learner, source] = predicted
    labels = np.asarray(labels_of(test, problem), dtype=np.float64)
    lost = {"synthetic": lost_synthetic, "train": lost_train, "test": lost_test}
    result = _summarise(problem, labels, predictions, scores, lost, seed)
    return result, _roc_curves(problem, labels, predictions)


def relative_gap(problem: Problem, real: float, synthetic: float) -> float:
    """How much worse the synthetic rows are, in percent of the real figure (negative = worse)."""
    if real == 0 or not np.isfinite(real):
        return float("nan")
    change = 100.0 * (synthetic - real) / abs(real)
    return -change if problem.task == "regression" else change


def _learn(
    prepared: Prepared,
    problem: Problem,
    learner: str,
    source: str,
    split: Split,
    test: Split,
    seed: int,
    num_seeds: int,
) -> tuple[LearnerScore, Floats]:
    predicted = predict(prepared, problem, learner, split, test, seed)
    labels = np.asarray(labels_of(test, problem), dtype=np.float64)
    refits: list[dict[str, float]] = []
    for offset in range(num_seeds):
        rng = np.random.default_rng([seed, offset])
        size = max(1, int(REFIT_SHARE * split.num_rows))
        rows = np.sort(rng.choice(split.num_rows, size, replace=False)).astype(np.int64)
        again = predict(prepared, problem, learner, split.take(rows), test, seed + offset)
        refits.append(score_predictions(problem, labels, again))
    metrics = score_predictions(problem, labels, predicted)
    deviation = {
        name: float(np.std([refit[name] for refit in refits], ddof=1)) if num_seeds > 1 else 0.0
        for name in metrics
    }
    score = LearnerScore(learner, "strict", source, metrics, deviation, split.num_rows)
    return score, predicted


def predict(
    prepared: Prepared, problem: Problem, learner: str, split: Split, test: Split, seed: int
) -> Floats:
    """Train on `split` and predict the test rows: probabilities (rows, classes) or numbers."""
    features = prepared.features(split, exclude=problem.target)
    test_features = prepared.features(test, exclude=problem.target)
    labels = labels_of(split, problem)
    if problem.task == "regression":
        return fit_regressor(learner, features, labels.astype(np.float64), test_features, seed)
    return fit_classifier(
        learner, features, labels.astype(np.int64), test_features, len(problem.classes), seed
    )


def _summarise(
    problem: Problem,
    labels: Floats,
    predictions: Predictions,
    scores: list[LearnerScore],
    lost: dict[str, int],
    seed: int,
) -> Utility:
    headline = {score.source: score for score in scores if score.learner == "xgboost"}
    metric = problem.primary_metric
    real, synthetic = headline["real"].metrics[metric], headline["synthetic"].metrics[metric]
    low, high = _gap_interval(
        problem, labels, predictions["xgboost", "real"], predictions["xgboost", "synthetic"], seed
    )
    return Utility(
        task=problem.task,
        target=problem.target,
        primary_metric=metric,
        higher_is_better=problem.task != "regression",
        num_classes=len(problem.classes) or None,
        positive_class=problem.classes[problem.positive] if problem.task == "binary" else None,
        real=real,
        synthetic=synthetic,
        gap_percent=relative_gap(problem, real, synthetic),
        gap_percent_low=low,
        gap_percent_high=high,
        scores=tuple(scores),
        paper_real=None,
        paper_synthetic=None,
        num_missing_target=lost,
        num_test_rows=len(labels),
        notes=(),
    )


def _gap_interval(
    problem: Problem, labels: Floats, real: Floats, synthetic: Floats, seed: int
) -> tuple[float, float]:
    """95 % interval of the gap: paired bootstrap over the test rows."""
    rng = np.random.default_rng([seed, 7])
    gaps: list[float] = []
    metric = problem.primary_metric
    repeats = NUM_BOOTSTRAP if len(labels) < 50_000 else NUM_BOOTSTRAP // 4
    for _ in range(repeats):
        rows = rng.integers(0, len(labels), len(labels))
        if problem.task != "regression" and len(np.unique(labels[rows])) < 2:
            continue
        pair = [_primary(problem, metric, labels[rows], each[rows]) for each in (real, synthetic)]
        gaps.append(relative_gap(problem, pair[0], pair[1]))
    finite = [gap for gap in gaps if np.isfinite(gap)]
    if not finite:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)


def _primary(problem: Problem, metric: str, labels: Floats, predicted: Floats) -> float:
    if metric == "rmse":
        return float(np.sqrt(np.mean((predicted - labels) ** 2)))
    if metric == "auc":
        return _auc(labels == problem.positive, predicted[:, problem.positive])
    return macro_auc(labels, predicted)


def _f1(truth: NDArray[Any], predicted: NDArray[Any], average: str) -> float:
    absent: Any = 0.0  # no prediction of a class scores 0
    return float(f1_score(truth, predicted, average=average, zero_division=absent))


def _auc(truth: NDArray[np.bool_], scores: Floats) -> float:
    if truth.all() or not truth.any():
        return float("nan")
    return float(roc_auc_score(truth, scores))


def _roc_curves(
    problem: Problem, labels: Floats, predictions: Predictions
) -> dict[str, tuple[Floats, Floats]]:
    if problem.task != "binary":
        return {}
    truth = labels == problem.positive
    if truth.all() or not truth.any():
        return {}
    grid = np.linspace(0.0, 1.0, 101)
    curves: dict[str, tuple[Floats, Floats]] = {}
    for source in ("real", "synthetic"):
        predicted = predictions["xgboost", source][:, problem.positive]
        false_rate, true_rate, _ = roc_curve(truth, predicted)
        curve = np.interp(grid, false_rate, true_rate)
        curve[0] = 0.0
        curves[source] = (grid, curve)
    return curves


def _known(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    return codes[codes >= 0]
