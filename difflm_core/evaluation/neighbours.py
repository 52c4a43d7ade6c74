"""Exact nearest neighbours of mixed rows, in bounded memory.

Rows become points whose squared Euclidean distance is the sum over the columns of
  numbers:     (difference of their ranks in the reference distribution)^2, each in [0, 1]
  categories:  0 if equal, 1 if not
  missing:     0 if both are, 1 if one is (for a number: 1 to 1.25)
a Gower-like distance (Gower 1971) in its quadratic form, which turns the search into matrix
products. Ranks instead of ranges keep a long tail from making all other values look alike.
Candidates come from float32 products per tile and are measured again in float64, so that exact
copies have distance exactly 0.

Shape legend: Q queries, R reference rows, D point dimensions.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from difflm_core.evaluation.tables import Prepared, Role, Split

MAX_WORKERS = 8
QUERY_TILE = 512
REFERENCE_TILE = 4096
MAX_ONE_HOT = 256

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """Encoded rows: `dense` (rows, D), and `wide` codes of columns with too many categories."""

    dense: NDArray[np.float32]
    exact: Floats
    wide: NDArray[np.int32]
    num_columns: int

    def __len__(self) -> int:
        return len(self.exact)

    def take(self, rows: NDArray[np.int64]) -> Points:
        """Return the given rows."""
        return Points(self.dense[rows], self.exact[rows], self.wide[rows], self.num_columns)


class Encoder:
    """Turns splits into `Points`; number ranks come from one reference split."""

    def __init__(self, prepared: Prepared, reference: Split) -> None:
        self._prepared = prepared
        self._sorted = {
            name: np.sort(values[~np.isnan(values)]) for name, values in reference.numbers.items()
        }

    def encode(self, split: Split) -> Points:
        """Encode a split. `exact` holds ranks, missing flags and category codes, column-wise."""
        dense: list[NDArray[np.float32]] = []
        exact: list[Floats] = []
        wide: list[NDArray[np.int32]] = []
        for name in self._prepared.used:
            if self._prepared.roles[name] is Role.NUMERICAL:
                ranks = self._ranks(name, split.numbers[name])
                missing = np.isnan(split.numbers[name]).astype(np.float64)
                dense += [ranks.astype(np.float32)[:, None], missing.astype(np.float32)[:, None]]
                exact += [ranks, missing]
                continue
            codes, size = split.codes[name], len(self._prepared.categories[name])
            if size > MAX_ONE_HOT:
                wide.append(codes)
                continue
            hot = np.zeros((split.num_rows, size + 1), np.float32)
            hot[np.arange(split.num_rows), codes] = np.sqrt(0.5, dtype=np.float32)
            dense.append(hot)
            exact.append(codes.astype(np.float64))
        rows = split.num_rows
        return Points(
            np.hstack(dense) if dense else np.zeros((rows, 0), np.float32),
            np.column_stack(exact) if exact else np.zeros((rows, 0)),
            np.column_stack(wide) if wide else np.zeros((rows, 0), np.int32),
            max(1, len(self._prepared.used)),
        )

    def measures(self) -> NDArray[np.bool_]:
        """Which columns of `exact` are measured (numbers, flags) rather than compared (codes)."""
        flags: list[bool] = []
        for name in self._prepared.used:
            if self._prepared.roles[name] is Role.NUMERICAL:
                flags += [True, True]
            elif len(self._prepared.categories[name]) <= MAX_ONE_HOT:
                flags.append(False)
        return np.array(flags, dtype=np.bool_)

    def _ranks(self, name: str, values: Floats) -> Floats:
        known = self._sorted[name]
        if len(known) == 0:
            return np.full(len(values), 0.5)
        low = np.searchsorted(known, values, side="left")
        high = np.searchsorted(known, values, side="right")
        outside = np.where(values < known[0], -0.5, np.where(values > known[-1], 0.5, 0.0))
        ranks = ((low + high) / 2.0 + outside) / len(known)
        return np.where(np.isnan(values), 0.5, ranks)


def nearest(
    queries: Points,
    reference: Points,
    measured: NDArray[np.bool_],
    *,
    exclude_self: bool = False,
) -> tuple[Floats, NDArray[np.int64]]:
    """Distances and indices of the two nearest reference rows of each query.

    Args:
        queries: Q rows.
        reference: R rows.
        measured: `Encoder.measures()`.
        exclude_self: queries and reference are the same rows; a row is not its own neighbour.

    Returns:
        Distances (Q, 2) in [0, 1] per column (divided by the root of the number of columns; a
        missing number may exceed 1 slightly) and indices (Q, 2); infinity and -1 where the
        reference has too few rows.
    """
    distances = np.full((len(queries), 2), np.inf)
    indices = np.full((len(queries), 2), -1, dtype=np.int64)
    norms = np.einsum("rd,rd->r", reference.dense, reference.dense)

    def search(start: int) -> None:
        tile = slice(start, min(start + QUERY_TILE, len(queries)))
        found = _candidates(queries, reference, norms, tile, exclude_self)
        measured_again = _measure(queries, reference, measured, tile, found)
        order = np.lexsort((found, measured_again), axis=1)[:, :2]
        kept = min(2, order.shape[1])
        distances[tile, :kept] = np.take_along_axis(measured_again, order, axis=1)
        indices[tile, :kept] = np.take_along_axis(found, order, axis=1)

    # One BLAS thread per tile and tiles side by side: BLAS threads that wait for each other lose
    # most of their time on a machine that does other work (measured: 2.7 s instead of 8.6 s).
    num_workers = min(MAX_WORKERS, os.cpu_count() or 1)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(num_workers) as pool:
        for _ in pool.map(search, range(0, len(queries), QUERY_TILE)):
            pass  # raises what a tile raised
    indices[~np.isfinite(distances)] = -1
    return distances / np.sqrt(queries.num_columns), indices


def _candidates(
    queries: Points,
    reference: Points,
    norms: NDArray[np.float32],
    tile: slice,
    exclude_self: bool,
) -> NDArray[np.int64]:
    """Indices of the two nearest rows of each reference tile (-1: none)."""
    points = queries.dense[tile]
    rows = np.arange(len(points))
    found: list[NDArray[np.int64]] = []
    for start in range(0, len(reference), REFERENCE_TILE):
        stop = min(start + REFERENCE_TILE, len(reference))
        squared = norms[start:stop] - 2.0 * (points @ reference.dense[start:stop].T)
        for column in range(queries.wide.shape[1]):
            ours, theirs = queries.wide[tile, column], reference.wide[start:stop, column]
            squared += ours[:, None] != theirs[None, :]
        if exclude_self:
            own = np.arange(tile.start, tile.stop) - start
            inside = (own >= 0) & (own < stop - start)
            squared[rows[inside], own[inside]] = np.inf
        for _ in range(2):
            best = squared.argmin(axis=1)
            usable = np.isfinite(squared[rows, best])
            found.append(np.where(usable, best + start, -1))
            squared[rows, best] = np.inf
    return np.column_stack(found).astype(np.int64)


def _measure(
    queries: Points,
    reference: Points,
    measured: NDArray[np.bool_],
    tile: slice,
    found: NDArray[np.int64],
) -> Floats:
    """Float64 distances of each query to its candidates; infinity for candidate -1."""
    ours, theirs = queries.exact[tile][:, None, :], reference.exact[found]
    difference = ours - theirs
    cost = np.where(measured, difference**2, difference != 0.0).sum(axis=2)
    cost = cost + (queries.wide[tile][:, None, :] != reference.wide[found]).sum(axis=2)
    return np.where(found >= 0, np.sqrt(cost), np.inf)
