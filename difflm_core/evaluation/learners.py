"""The downstream models of the evaluation: gradient-boosted trees with fixed settings.

The settings are those of the project's own measurements (200 trees, depth 6, learning rate 0.1,
native categories), so that nothing is tuned on anything and scores compare across runs.
"""

from __future__ import annotations

import warnings
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import xgboost
from numpy.typing import NDArray

NUM_TREES = 200
MAX_DEPTH = 6
LEARNING_RATE = 0.1
SINGLE_THREAD_CELLS = 4_000_000
LEARNERS = ("xgboost", "lightgbm")

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def num_threads(num_cells: int) -> int:
    """One thread for small tables, all cores (-1) for large ones.

    Threads gain nothing on small tables, and on a machine that does other work beside this the
    learners' busy-waiting threads make a fit of 0.2 s take 10 s (measured). The choice depends on
    the data alone, so that a repeated evaluation gives the same figures.
    """
    return 1 if num_cells < SINGLE_THREAD_CELLS else -1


def make_estimator(learner: str, task: str, seed: int, threads: int) -> Any:
    """Return an unfitted estimator; `task` is binary, multiclass or regression."""
    if learner == "xgboost":
        settings: dict[str, Any] = {
            "n_estimators": NUM_TREES,
            "max_depth": MAX_DEPTH,
            "learning_rate": LEARNING_RATE,
            "tree_method": "hist",
            "enable_categorical": True,
            "random_state": seed,
            "n_jobs": threads,
            "verbosity": 0,
        }
        kind = xgboost.XGBRegressor if task == "regression" else xgboost.XGBClassifier
        return kind(**settings)
    if learner == "lightgbm":
        settings = {
            "n_estimators": NUM_TREES,
            "num_leaves": 31,
            "learning_rate": LEARNING_RATE,
            "random_state": seed,
            "deterministic": True,
            "force_row_wise": True,
            "n_jobs": threads,
            "verbosity": -1,
        }
        kind = lightgbm.LGBMRegressor if task == "regression" else lightgbm.LGBMClassifier
        return kind(**settings)
    raise ValueError(f"unknown learner {learner!r}; expected one of {LEARNERS}")


def fit_classifier(
    learner: str,
    train_features: pd.DataFrame,
    labels: Labels,
    test_features: pd.DataFrame,
    num_classes: int,
    seed: int,
) -> Floats:
    """Fit on labels in 0..num_classes-1 and return test probabilities (rows, num_classes).

    A class that the training rows lack gets probability 0; one lone class gets 1.
    """
    present = np.unique(labels)
    probabilities = np.zeros((len(test_features), num_classes))
    if len(present) == 1:
        probabilities[:, present[0]] = 1.0
        return probabilities
    task = "binary" if len(present) == 2 else "multiclass"
    model = make_estimator(learner, task, seed, num_threads(train_features.size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(train_features, np.searchsorted(present, labels))
        probabilities[:, present] = model.predict_proba(test_features)
    return probabilities


def fit_regressor(
    learner: str,
    train_features: pd.DataFrame,
    values: Floats,
    test_features: pd.DataFrame,
    seed: int,
) -> Floats:
    """Fit on numbers and return the predictions for the test rows."""
    if np.ptp(values) == 0:
        return np.full(len(test_features), values[0])
    model = make_estimator(learner, "regression", seed, num_threads(train_features.size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(train_features, values)
        return np.asarray(model.predict(test_features), dtype=np.float64)
