"""Aggregates for the plots: histograms, association matrices, a projection. Never rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from difflm_core.evaluation.results import ColumnHistogram, FigureData, ProjectionDensity
from difflm_core.evaluation.tables import Prepared, Role, Split

NUM_BINS = 30
MAX_LABELS = 12
MAX_MATRIX_COLUMNS = 40
GRID = 60
MAX_ONE_HOT = 20
MAX_DISTRIBUTIONS = 200

Floats = NDArray[np.float64]


def add_figures(figures: FigureData, prepared: Prepared) -> None:
    """Fill in distributions, associations and the projection."""
    for name in prepared.used[:MAX_DISTRIBUTIONS]:
        histogram = column_histogram(prepared, name)
        if histogram is not None:
            figures.distributions.append(histogram)
    names = prepared.used[:MAX_MATRIX_COLUMNS]
    if len(names) >= 2:
        figures.association_names = list(names)
        figures.association_real = associations(prepared, prepared.train, names)
        figures.association_synthetic = associations(prepared, prepared.synthetic, names)
    figures.projection = projection(prepared)


def column_histogram(prepared: Prepared, name: str) -> ColumnHistogram | None:
    """Shares per bin; None for a column without real values."""
    if prepared.roles[name] is Role.NUMERICAL:
        real, made = (s.numbers[name] for s in (prepared.train, prepared.synthetic))
        known = real[~np.isnan(real)]
        if len(known) == 0:
            return None
        low, high = np.quantile(known, [0.005, 0.995])
        if low == high:
            low, high = known.min(), known.max()
        edges = np.linspace(low, high, NUM_BINS + 1) if low < high else np.array([low, low + 1.0])
        shares = [_binned(values, edges) for values in (real, made)]
        return ColumnHistogram(name, "numerical", edges, (), shares[0], shares[1])
    size = len(prepared.categories[name])
    counts = [_category_shares(s.codes[name], size) for s in (prepared.train, prepared.synthetic)]
    if size == 0 or counts[0].sum() == 0:
        return None
    order = np.argsort(-counts[0], kind="stable")
    top = order[:MAX_LABELS]
    labels = [prepared.categories[name][index] for index in top]
    shares = [share[top] for share in counts]
    if size > MAX_LABELS:
        labels.append(f"{size - MAX_LABELS} others")
        shares = [
            np.append(s, c[order[MAX_LABELS:]].sum()) for s, c in zip(shares, counts, strict=True)
        ]
    return ColumnHistogram(name, "categorical", None, tuple(labels), shares[0], shares[1])


def associations(prepared: Prepared, split: Split, names: list[str]) -> Floats:
    """Strength of association of each pair in [0, 1]; NaN where undefined.

    Two numbers: absolute Pearson correlation. Otherwise Cramer's V with numbers in ten quantile
    bins of the training table.
    """
    binned = {name: _discrete(prepared, split, name) for name in names}
    size = len(names)
    matrix = np.full((size, size), np.nan)
    for row, first in enumerate(names):
        matrix[row, row] = 1.0
        for column in range(row):
            second = names[column]
            if prepared.roles[first] is prepared.roles[second] is Role.NUMERICAL:
                value = _pearson(split.numbers[first], split.numbers[second])
            else:
                value = cramers_v(binned[first], binned[second])
            matrix[row, column] = matrix[column, row] = value
    return matrix


def cramers_v(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Cramer's V of two code arrays (codes from 0)."""
    if len(first) == 0:
        return float("nan")
    width = int(second.max()) + 1
    table = np.bincount(first * width + second, minlength=(int(first.max()) + 1) * width)
    table = table.reshape(-1, width).astype(np.float64)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if min(table.shape) < 2:
        return float("nan")
    total = table.sum()
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / total
    chi_squared = ((table - expected) ** 2 / expected).sum()
    return float(min(1.0, np.sqrt(chi_squared / total / (min(table.shape) - 1))))


def projection(prepared: Prepared) -> ProjectionDensity | None:
    """Density of both tables over the first two principal components of the real rows."""
    real = _embed(prepared, prepared.train)
    made = _embed(prepared, prepared.synthetic)
    if real.shape[1] < 2 or len(real) < 3:
        return None
    center, scale = real.mean(axis=0), real.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    real, made = (real - center) / scale, (made - center) / scale
    variances, axes = np.linalg.eigh(real.T @ real / len(real))
    if variances[-2] <= 0:
        return None
    axes = axes[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    points = [rows @ axes for rows in (real, made)]
    edges = [_edges(points[0][:, axis]) for axis in (0, 1)]
    counts = [np.histogram2d(p[:, 0], p[:, 1], bins=(edges[0], edges[1]))[0] for p in points]
    explained = variances[::-1][:2] / variances.sum()
    return ProjectionDensity(
        edges[0], edges[1], counts[0], counts[1], (float(explained[0]), float(explained[1]))
    )


def _edges(values: Floats) -> Floats:
    low, high = np.quantile(values, [0.002, 0.998])
    margin = 0.05 * (high - low) or 1.0
    return np.linspace(low - margin, high + margin, GRID + 1)


def _embed(prepared: Prepared, split: Split) -> Floats:
    """Ranks of numbers and one-hot common categories."""
    blocks: list[Floats] = []
    for name in prepared.used:
        if prepared.roles[name] is Role.NUMERICAL:
            known = np.sort(prepared.train.numbers[name])
            known = known[~np.isnan(known)]
            values = split.numbers[name]
            if len(known) == 0:
                continue
            low = np.searchsorted(known, values, side="left")
            ranks = (low + np.searchsorted(known, values, side="right")) / (2 * len(known))
            blocks.append(np.where(np.isnan(values), 0.5, ranks)[:, None])
            continue
        shares = _category_shares(prepared.train.codes[name], len(prepared.categories[name]))
        for code in np.argsort(-shares, kind="stable")[:MAX_ONE_HOT]:
            blocks.append((split.codes[name] == code).astype(np.float64)[:, None])
    return np.hstack(blocks) if blocks else np.zeros((split.num_rows, 0))


def _discrete(prepared: Prepared, split: Split, name: str) -> NDArray[np.int64]:
    if prepared.roles[name] is Role.CATEGORICAL:
        return split.codes[name].astype(np.int64) + 1
    known = prepared.train.numbers[name]
    known = known[~np.isnan(known)]
    if len(known) == 0:
        return np.zeros(split.num_rows, dtype=np.int64)
    cuts = np.unique(np.quantile(known, np.linspace(0.1, 0.9, 9)))
    values = split.numbers[name]
    return np.where(np.isnan(values), 0, 1 + np.searchsorted(cuts, values)).astype(np.int64)


def _pearson(first: Floats, second: Floats) -> float:
    known = ~(np.isnan(first) | np.isnan(second))
    first, second = first[known], second[known]
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(abs(np.corrcoef(first, second)[0, 1]))


def _binned(values: Floats, edges: Floats) -> Floats:
    known = values[~np.isnan(values)]
    counts = np.histogram(np.clip(known, edges[0], edges[-1]), edges)[0]
    return counts / max(1, len(known))


def _category_shares(codes: NDArray[np.int32], size: int) -> Floats:
    known = codes[codes >= 0]
    return np.bincount(known, minlength=size) / max(1, len(known))
