"""Alpha-precision, beta-recall and authenticity.

Alaa et al. 2022, "How Faithful is your Synthetic Data?", in the form that the TabSyn and TabDiff
papers report: synthcity's "naive" variant, without a learned embedding. Columns are min-max
scaled on the real rows, categories are one-hot; distances are Euclidean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from difflm_core.evaluation.detection import equal_sizes
from difflm_core.evaluation.neighbours import Points, nearest
from difflm_core.evaluation.results import NotComputableError, PrecisionRecall
from difflm_core.evaluation.tables import Prepared, Role, Split

NUM_LEVELS = 30
MIN_ROWS = 10
MAX_ONE_HOT = 256

Floats = NDArray[np.float64]


def precision_recall(prepared: Prepared, seed: int, *, max_rows: int) -> PrecisionRecall:
    """Score the synthetic against the training rows (equal numbers of rows, as the method needs).

    Alpha-precision: synthetic rows lie where real rows are typical. Beta-recall: real rows have a
    synthetic row nearer than their nearest real neighbour, over the typical synthetic region.
    Authenticity: share of synthetic rows that are not nearer to a real row than real rows are to
    each other.

    Raises:
        NotComputableError: no usable column, or fewer than 10 rows.
    """
    synthetic, real = equal_sizes(prepared.synthetic, prepared.train, seed, max_rows)
    if not prepared.used:
        raise NotComputableError("no numerical or categorical column")
    if real.num_rows < MIN_ROWS:
        raise NotComputableError(f"{real.num_rows} rows of each kind, at least {MIN_ROWS} needed")
    encoder = _Embedding(prepared, real)
    points_real, points_synthetic = encoder.points(real), encoder.points(synthetic)
    measured = np.ones(points_real.exact.shape[1], dtype=np.bool_)
    scale = np.sqrt(points_real.num_columns)
    real_to_real = nearest(points_real, points_real, measured, exclude_self=True)[0][:, 0] * scale
    to_synthetic, closest = nearest(points_real, points_synthetic, measured)
    real_to_synthetic, closest = to_synthetic[:, 0] * scale, closest[:, 0]
    levels = np.linspace(0.0, 1.0, NUM_LEVELS)
    center, synthetic_center = points_real.exact.mean(axis=0), points_synthetic.exact.mean(axis=0)
    radii = np.quantile(_norms(points_real.exact - center), levels)
    synthetic_to_center = _norms(points_synthetic.exact - center)
    closest_to_center = _norms(points_synthetic.exact[closest] - synthetic_center)
    closest_radii = np.quantile(closest_to_center, levels)
    covered = real_to_synthetic <= real_to_real
    precision = np.array([np.mean(synthetic_to_center <= radius) for radius in radii])
    recall = np.array([np.mean(covered & (closest_to_center <= r)) for r in closest_radii])
    return PrecisionRecall(
        alpha_precision=_one_minus_deviation(levels, precision),
        beta_recall=_one_minus_deviation(levels, recall),
        authenticity=float(np.mean(real_to_real[closest] < real_to_synthetic)),
        num_rows=real.num_rows,
    )


def _one_minus_deviation(levels: Floats, curve: Floats) -> float:
    return float(max(0.0, 1.0 - np.abs(levels - curve).sum() / levels.sum()))


def _norms(rows: Floats) -> Floats:
    return np.sqrt(np.einsum("rd,rd->r", rows, rows))


@dataclass(frozen=True)
class _Embedding:
    """Min-max scaled numbers (missing: the mean) and one-hot categories (the commonest 256)."""

    prepared: Prepared
    real: Split

    def points(self, split: Split) -> Points:
        blocks: list[Floats] = []
        for name in self.prepared.used:
            if self.prepared.roles[name] is Role.NUMERICAL:
                blocks.append(_min_max(split.numbers[name], self.real.numbers[name])[:, None])
            else:
                blocks.append(self._one_hot(name, split))
        exact = np.hstack(blocks)
        wide = np.zeros((split.num_rows, 0), np.int32)
        return Points(exact.astype(np.float32), exact, wide, exact.shape[1])

    def _one_hot(self, name: str, split: Split) -> Floats:
        codes, size = self.real.codes[name], len(self.prepared.categories[name])
        counts = np.bincount(codes + 1, minlength=size + 1)  # index 0: missing
        common = np.argsort(-counts, kind="stable")[:MAX_ONE_HOT]
        column = np.full(size + 1, len(common))  # all others share the last column
        column[common] = np.arange(len(common))
        hot = np.zeros((split.num_rows, len(common) + 1))
        hot[np.arange(split.num_rows), column[split.codes[name] + 1]] = 1.0
        return hot


def _min_max(values: Floats, real: Floats) -> Floats:
    known = real[~np.isnan(real)]
    if len(known) == 0:
        return np.zeros(len(values))
    low, span = known.min(), np.ptp(known) or 1.0
    return np.where(np.isnan(values), (known.mean() - low) / span, (values - low) / span)
