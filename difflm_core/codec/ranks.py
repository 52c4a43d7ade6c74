"""The rank of a value in its training distribution, exactly invertible.

A column's distribution is a sequence of *segments*, ascending in value. A value that repeats is a
segment of its own (an atom: low == high) and comes back exactly; values that occur once are pooled
into short intervals, inside which the distribution is taken as uniform, so that decoded numbers
are new rather than copies. The training rows, sorted, are cut into `num_cells` cells of equal
mass; a value is the cell it falls in, plus the residual: where inside the cell, in [0, 1).

Masses are integer row counts and integer-like values (integers, dates, times) stay int64, so that
nothing is lost to rounding where float64 could not tell neighbours apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64] | npt.NDArray[np.float64]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_SEGMENTS = 16_384
# Integers of smaller magnitude are exact in float64.
EXACT_INTEGER = 2**53
# Positions inside a segment are resolved to about 2**-48; wider intervals become atoms.
MAX_WIDTH = 2**44
# Keeps a value of the grid away from its neighbours' rounding error.
GRID_MARGIN = 1 / 64


@dataclass(frozen=True)
class RankTransform:
    """A piecewise-linear distribution function with atoms.

    Attributes:
        low: Lower end of each segment, shape [S], int64 or float64, ascending.
        high: Upper end of each segment, shape [S], same dtype, inclusive.
        edges: Number of rows before each segment's start, shape [S + 1]; the last is the total.
    """

    low: Numbers
    high: Numbers
    edges: Ints

    @property
    def is_integer(self) -> bool:
        """Whether values are int64 on a grid of step one."""
        return bool(np.issubdtype(self.low.dtype, np.integer))

    @classmethod
    def fit(cls, values: Numbers, max_segments: int = MAX_SEGMENTS) -> RankTransform:
        """Fit to `values`, shape [N], any order, no missing values.

        At most `max_segments` segments are kept, half of them for the most frequent atoms.
        """
        distinct, counts = np.unique(values, return_counts=True)
        atom = _choose_atoms(counts, max_segments // 2)
        rows_per_segment = max(1, -(-int(counts[~atom].sum()) // (max_segments // 2)))
        first = _segment_starts(atom, counts, rows_per_segment)
        last = np.append(first[1:], distinct.size) - 1
        low, high = distinct[first].copy(), distinct[last].copy()
        # A pooled segment reaches half-way to its neighbours: every value of the grid then has
        # its share. The outermost ones stop at the extremes that were seen.
        pooled = ~atom[first]
        below = pooled & (first > 0)
        above = pooled & (last < distinct.size - 1)
        low[below] = _half_way(distinct[first[below] - 1], distinct[first[below]], up=True)
        high[above] = _half_way(distinct[last[above]], distinct[last[above] + 1], up=False)
        if np.issubdtype(distinct.dtype, np.integer):
            lonely = pooled & (first == last) & ((high - low).astype(np.uint64) > MAX_WIDTH)
            low[lonely] = high[lonely] = distinct[first[lonely]]
        mass = np.add.reduceat(counts, first)
        return cls(low=low, high=high, edges=np.concatenate([[0], np.cumsum(mass)]))

    def rank(
        self, values: Numbers, num_cells: int, generator: np.random.Generator
    ) -> tuple[Ints, Floats]:
        """Cell and residual of each value, both of shape [N].

        Atoms are spread uniformly over their mass. A value never seen takes the nearest one that
        the segments can express.
        """
        segment = np.clip(np.searchsorted(self.low, values, side="right") - 1, 0, self.low.size - 1)
        low, high = self.low[segment], self.high[segment]
        jitter = generator.random(values.size)
        offset = (np.clip(values, low, high) - low).astype(np.float64)
        width = (high - low).astype(np.float64)
        if self.is_integer:
            atom = width == 0
            grid = GRID_MARGIN + (1 - 2 * GRID_MARGIN) * jitter
            inside = np.where(atom, jitter, (offset + grid) / (width + 1))
        else:
            atom = width == 0
            inside = np.where(atom, jitter, offset / np.where(atom, 1.0, width))
        inside = np.minimum(inside, np.nextafter(1.0, 0.0))
        total = self.edges[-1]
        mass = self.edges[segment + 1] - self.edges[segment]
        start = self.edges[segment] * num_cells  # in units of 1/total of a cell
        cell = (start + np.floor(inside * mass * num_cells).astype(np.int64)) // total
        residual = ((start - cell * total) + inside * mass * num_cells) / total
        return cell, np.clip(residual, 0.0, np.nextafter(1.0, 0.0))

    def value(self, cell: Ints, residual: Floats, num_cells: int) -> Numbers:
        """Value at each cell and residual, shape [N]; floats are not yet rounded to their grid."""
        total = self.edges[-1]
        begin = cell * total
        row = (begin + np.floor(residual * total).astype(np.int64)) // num_cells
        segment = np.searchsorted(self.edges, row, side="right") - 1
        segment = np.clip(segment, 0, self.low.size - 1)
        low, high = self.low[segment], self.high[segment]
        mass = self.edges[segment + 1] - self.edges[segment]
        inside = ((begin - self.edges[segment] * num_cells) + residual * total) / (mass * num_cells)
        inside = np.clip(inside, 0.0, np.nextafter(1.0, 0.0))
        width = (high - low).astype(np.float64)
        if self.is_integer:
            return low + np.minimum(np.floor(inside * (width + 1)), width).astype(np.int64)
        return low + inside * width


def _choose_atoms(counts: npt.NDArray[np.intp], max_atoms: int) -> npt.NDArray[np.bool_]:
    """Mark the values that are kept exactly: those that repeat, the most frequent first."""
    atom = counts >= 2
    if int(atom.sum()) > max_atoms:
        atom &= counts > np.partition(counts, -max_atoms)[-max_atoms]
    return atom


def _segment_starts(
    atom: npt.NDArray[np.bool_], counts: npt.NDArray[np.intp], rows_per_segment: int
) -> npt.NDArray[np.intp]:
    """Index, among the distinct values, of the first one of each segment."""
    new_run = np.ones(atom.size, dtype=bool)
    new_run[1:] = atom[1:] | atom[:-1]
    run_begin = np.maximum.accumulate(np.where(new_run, np.arange(atom.size), 0))
    rows_before = np.cumsum(counts) - counts
    chunk = (rows_before - rows_before[run_begin]) // rows_per_segment
    starts = new_run.copy()
    starts[1:] |= chunk[1:] != chunk[:-1]
    return np.flatnonzero(starts)


def _half_way(left: Numbers, right: Numbers, *, up: bool) -> Numbers:
    """Half-way between neighbours; integers are rounded up or down to the grid."""
    gap = right - left
    if np.issubdtype(left.dtype, np.integer):
        return left + (gap + 1) // 2 if up else left + gap // 2
    return left + gap / 2
