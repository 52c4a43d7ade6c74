"""Classifier two-sample test: can a model tell synthetic rows from real ones?

Cross-validated ROC AUC of gradient-boosted trees (Lopez-Paz and Oquab 2017, "Revisiting
classifier two-sample tests"): 0.5 = indistinguishable. Clearly below 0.5 means that synthetic
rows repeat training rows (a copy in another fold carries the opposite label). A logistic
regression on the same folds is the second, weaker witness, as in SDMetrics' LogisticDetection.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from difflm_core.evaluation.learners import make_estimator, num_threads
from difflm_core.evaluation.results import Detection, DetectorImportance, NotComputableError
from difflm_core.evaluation.tables import Prepared, Role, Split, seeded_rows

NUM_FOLDS = 5
MIN_ROWS = 20
MAX_ONE_HOT = 200

Labels = NDArray[np.int64]


def detect(prepared: Prepared, seed: int, *, max_rows: int, holdout: bool = True) -> Detection:
    """Two-sample test of the synthetic against the training rows (equal sizes).

    Args:
        prepared: encoded tables.
        seed: seed of the row choice and the folds.
        max_rows: at most this many rows of each.
        holdout: also test the real holdout against the training rows (the noise floor).

    Raises:
        NotComputableError: no usable column, or fewer than 20 rows on a side.
    """
    synthetic, train = equal_sizes(prepared.synthetic, prepared.train, seed, max_rows)
    if not prepared.used:
        raise NotComputableError("no numerical or categorical column")
    if train.num_rows < MIN_ROWS:
        raise NotComputableError(
            f"{train.num_rows} rows of each kind, at least {MIN_ROWS} are needed"
        )
    scores, gains = tree_auc(prepared, synthetic, train, seed)
    logistic = _logistic_auc(prepared, synthetic, train, seed)
    floor: float | None = None
    if holdout and prepared.test.num_rows >= MIN_ROWS:
        test, other = equal_sizes(prepared.test, prepared.train, seed, max_rows)
        floor = float(np.mean(tree_auc(prepared, test, other, seed)[0]))
    total = gains.sum() or 1.0
    importances = [
        DetectorImportance(name, float(gain / total))
        for name, gain in zip(prepared.used, gains, strict=True)
    ]
    return Detection(
        auc=float(np.mean(scores)),
        auc_sd=float(np.std(scores, ddof=1)),
        logistic_auc=float(np.mean(logistic)),
        logistic_auc_sd=float(np.std(logistic, ddof=1)),
        holdout_auc=floor,
        num_rows_each=train.num_rows,
        num_folds=NUM_FOLDS,
        importances=tuple(sorted(importances, key=lambda item: -item.share)),
    )


def equal_sizes(first: Split, second: Split, seed: int, max_rows: int) -> tuple[Split, Split]:
    """Seeded samples of the two splits with the same number of rows."""
    size = min(first.num_rows, second.num_rows, max_rows)
    return (
        first.take(seeded_rows(first.num_rows, size, seed)),
        second.take(seeded_rows(second.num_rows, size, seed + 1)),
    )


def tree_auc(
    prepared: Prepared, positive: Split, negative: Split, seed: int
) -> tuple[list[float], NDArray[np.float64]]:
    """AUC of each fold, and the summed gain of each used column."""
    features = pd.concat(
        [prepared.features(positive), prepared.features(negative)], ignore_index=True
    )
    labels = _labels(positive, negative)
    gains = np.zeros(features.shape[1])
    scores: list[float] = []
    for fit_rows, test_rows in _folds(labels, seed):
        model = make_estimator("xgboost", "binary", seed, num_threads(features.size))
        model.fit(features.iloc[fit_rows], labels[fit_rows])
        predicted = model.predict_proba(features.iloc[test_rows])[:, 1]
        scores.append(float(roc_auc_score(labels[test_rows], predicted)))
        found = model.get_booster().get_score(importance_type="total_gain")
        for name, gain in found.items():
            gains[int(str(name)[1:])] += float(np.sum(gain))
    return scores, gains


def one_hot(prepared: Prepared, split: Split, reference: Split) -> sparse.csr_matrix:
    """Robustly scaled numbers with missing flags, and one-hot categories (the commonest 200)."""
    blocks: list[sparse.csr_matrix] = []
    for name in prepared.used:
        if prepared.roles[name] is Role.NUMERICAL:
            blocks.append(sparse.csr_matrix(_scaled(split.numbers[name], reference.numbers[name])))
            continue
        counts = np.bincount(
            reference.codes[name][reference.codes[name] >= 0],
            minlength=len(prepared.categories[name]),
        )
        rank = np.full(len(counts) + 1, MAX_ONE_HOT)
        common = np.argsort(-counts, kind="stable")[:MAX_ONE_HOT]
        rank[common] = np.arange(len(common))  # all others share one column
        rank[-1] = MAX_ONE_HOT + 1  # code -1: missing
        columns = rank[split.codes[name]]
        shape = (split.num_rows, MAX_ONE_HOT + 2)
        ones = np.ones(split.num_rows)
        block = sparse.csr_matrix((ones, (np.arange(split.num_rows), columns)), shape=shape)
        blocks.append(block)
    stacked = sparse.csr_matrix(sparse.hstack(blocks, format="csr"))
    return stacked


def _scaled(values: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    known = reference[~np.isnan(reference)]
    if len(known) == 0:
        return np.isnan(values)[:, None].astype(np.float64)
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75])
    scale = (high - low) or known.std() or 1.0
    scaled = np.clip((values - middle) / scale, -10.0, 10.0)
    missing = np.isnan(values)
    return np.column_stack([np.where(missing, 0.0, scaled), missing])


def _logistic_auc(prepared: Prepared, positive: Split, negative: Split, seed: int) -> list[float]:
    features: Any = sparse.vstack(
        [one_hot(prepared, positive, negative), one_hot(prepared, negative, negative)],
        format="csr",
    )
    labels = _labels(positive, negative)
    scores: list[float] = []
    for fit_rows, test_rows in _folds(labels, seed):
        model = LogisticRegression(max_iter=100)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unconverged witness is still a witness
            model.fit(features[fit_rows], labels[fit_rows])
        predicted = model.decision_function(features[test_rows])
        scores.append(float(roc_auc_score(labels[test_rows], predicted)))
    return scores


def _labels(positive: Split, negative: Split) -> Labels:
    return np.repeat(np.array([1, 0], dtype=np.int64), [positive.num_rows, negative.num_rows])


def _folds(labels: Labels, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    splitter = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros((len(labels), 1)), labels))
