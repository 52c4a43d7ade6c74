"""The rank of a value in its training distribution, invertible.

A column's distribution is a sequence of *segments*, ascending in value. A value that repeats is a
segment of its own (an atom: low == high) and comes back exactly; values that occur once are pooled
into short intervals, inside which the distribution is taken as uniform, so that decoded numbers
are new rather than copies. The training rows, sorted, are cut into cells of equal mass; a value is
the cell it falls in, plus the residual: where inside the cell, in [0, 1).

Masses are integer row counts and integer-like values (integers, dates, times) stay int64, so that
nothing is lost to rounding where float64 could not tell neighbours apart. A position inside a
segment is exact to about 48 bits: integers come back exactly unless more than `MAX_SEGMENTS / 2`
different ones occur once and neighbours lie 2**40 apart; floats come back to about 1e-12 of the
distance to the neighbouring values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# int64 on a grid of step one, or float64.
Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MAX_SEGMENTS = 16_384
# Widest interval of integers around a value that occurs once, for at most one row per cell; the
# position inside loses a bit whenever the rows per cell double.
MAX_WIDTH = 2**44
# Keeps a value away from its neighbours' rounding error, in steps of the grid.
MARGIN = 1 / 64
_BELOW_ONE = float(np.nextafter(1.0, 0.0))
_LARGEST_U64 = float(2**64 - 2**11)


class Ranked(NamedTuple):
    """Ranks of N values.

    Attributes:
        cell: Cell of each value, shape [N].
        residual: Position inside the cell, shape [N], in [0, 1).
        nearest: The value that the rank stands for, shape [N]; another one than was asked for if
            no segment holds that.
    """

    cell: Ints
    residual: Floats
    nearest: Numbers


@dataclass(frozen=True)
class RankTransform:
    """A piecewise-linear distribution function with atoms.

    Attributes:
        low: Lower end of each segment, shape [S], int64 or float64, ascending.
        high: Upper end of each segment, shape [S], same dtype, inclusive.
        edges: Number of rows before each segment's start, shape [S + 1]; the last is the total.
        num_cells: Number of cells that the rows are cut into.
    """

    low: Numbers
    high: Numbers
    edges: Ints
    num_cells: int

    @property
    def is_integer(self) -> bool:
        """Whether values are int64 on a grid of step one."""
        return bool(np.issubdtype(self.low.dtype, np.integer))

    @classmethod
    def fit(
        cls, values: Numbers, num_cells: int, max_segments: int = MAX_SEGMENTS
    ) -> RankTransform:
        """Fit to `values`, shape [N], any order, no missing values.

        At most about `max_segments` segments are kept, half of them for the most frequent atoms.
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
            widest = max(1, MAX_WIDTH * num_cells // max(num_cells, values.size))
            lonely = pooled & (first == last)
            value = distinct[first[lonely]]
            low[lonely] = _at_most_below(value, low[lonely], widest // 2)
            high[lonely] = _at_most_above(value, high[lonely], widest // 2)
        mass = np.add.reduceat(counts, first)
        edges = np.concatenate([[0], np.cumsum(mass)])
        return cls(low, high, edges.astype(np.int64), num_cells)

    @classmethod
    def of_categories(cls, values: Numbers, num_cells: int) -> RankTransform:
        """Fit to category indices; every category has whole cells of its own, by its frequency."""
        distinct, counts = np.unique(values, return_counts=True)
        cells = 1 + counts * (num_cells - distinct.size) // counts.sum()
        cells[np.argmax(counts)] += num_cells - cells.sum()
        edges = np.concatenate([[0], np.cumsum(cells)])
        return cls(distinct, distinct, edges.astype(np.int64), num_cells)

    def rank(self, values: Numbers, generator: np.random.Generator) -> Ranked:
        """Rank each of N values.

        Atoms are spread uniformly over their mass. A value that no segment holds takes the nearest
        one that a segment does.
        """
        segment, nearest = self._locate(values)
        low = self.low[segment]
        width = _distance(low, self.high[segment])
        offset = _distance(low, nearest)
        jitter = MARGIN + (1 - 2 * MARGIN) * generator.random(values.size)
        if self.is_integer:
            inside = (offset + jitter) / (width + 1)
        else:
            atom = width == 0
            inside = np.where(atom, jitter, offset / np.where(atom, 1.0, width))
        inside = np.minimum(inside, _BELOW_ONE)
        total = int(self.edges[-1])
        start = self.edges[segment] * self.num_cells  # in units of 1 / total of a cell
        beyond = inside * ((self.edges[segment + 1] - self.edges[segment]) * self.num_cells)
        cell = np.minimum((start + np.floor(beyond).astype(np.int64)) // total, self.num_cells - 1)
        residual = ((start - cell * total) + beyond) / total
        return Ranked(cell, np.clip(residual, 0.0, _BELOW_ONE), nearest)

    def _locate(self, values: Numbers) -> tuple[Ints, Numbers]:
        """Segment of each value, and the nearest value inside it."""
        segment = np.maximum(np.searchsorted(self.low, values, side="right") - 1, 0)
        nearest = np.maximum(values, self.low[segment])
        stray = np.flatnonzero(nearest > self.high[segment])
        if stray.size:
            value, before = nearest[stray], segment[stray]
            after = np.minimum(before + 1, self.low.size - 1)
            ahead = _distance(value, self.low[after])
            behind = _distance(self.high[before], value)
            forward = (after > before) & (ahead < behind)
            segment[stray] = np.where(forward, after, before)
            nearest[stray] = np.where(forward, self.low[after], self.high[before])
        return segment, nearest

    def value(self, cell: Ints, residual: Floats) -> Numbers:
        """Value at each cell and residual, shape [N]; floats are not yet rounded to their grid."""
        total = int(self.edges[-1])
        begin = cell * total
        row = (begin + np.floor(residual * total).astype(np.int64)) // self.num_cells
        segment = np.clip(np.searchsorted(self.edges, row, side="right") - 1, 0, self.low.size - 1)
        low, high = self.low[segment], self.high[segment]
        beyond = (begin - self.edges[segment] * self.num_cells) + residual * total
        mass = (self.edges[segment + 1] - self.edges[segment]) * self.num_cells
        inside = np.clip(beyond / mass, 0.0, _BELOW_ONE)
        if self.is_integer:
            width = high.view(np.uint64) - low.view(np.uint64)
            steps = np.floor(inside * (width.astype(np.float64) + 1))
            offset = np.minimum(np.minimum(steps, _LARGEST_U64).astype(np.uint64), width)
            return (low.view(np.uint64) + offset).view(np.int64)
        return np.clip(low * (1 - inside) + high * inside, low, high)


def _choose_atoms(counts: npt.NDArray[np.intp], max_atoms: int) -> Mask:
    """Mark the values that are kept exactly: those that repeat, the most frequent first."""
    atom = counts >= 2
    if int(atom.sum()) > max_atoms:
        atom &= counts > np.partition(counts, -max_atoms)[-max_atoms]
    return atom


def _segment_starts(
    atom: Mask, counts: npt.NDArray[np.intp], rows_per_segment: int
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
    if np.issubdtype(left.dtype, np.integer):
        gap = right.view(np.uint64) - left.view(np.uint64)  # also right beyond 2**63
        half = gap // np.uint64(2) + (gap % np.uint64(2) if up else np.uint64(0))
        return (left.view(np.uint64) + half).view(np.int64)
    return np.clip(left / 2 + right / 2, left, right)


def _at_most_below(value: Numbers, low: Numbers, distance: int) -> Numbers:
    """The lower end `low`, moved up to lie at most `distance` below `value`."""
    far = value.view(np.uint64) - low.view(np.uint64) > distance
    return np.where(far, value - np.where(far, distance, 0), low)


def _at_most_above(value: Numbers, high: Numbers, distance: int) -> Numbers:
    """The upper end `high`, moved down to lie at most `distance` above `value`."""
    far = high.view(np.uint64) - value.view(np.uint64) > distance
    return np.where(far, value + np.where(far, distance, 0), high)


def _distance(left: Numbers, right: Numbers) -> Floats:
    """How far `right` lies above `left` (never below it), without overflow."""
    if np.issubdtype(left.dtype, np.integer):
        return (right.view(np.uint64) - left.view(np.uint64)).astype(np.float64)
    with np.errstate(over="ignore"):
        return right - left


def distance(left: Numbers, right: Numbers) -> Floats:
    """Absolute difference of two arrays of numbers, without overflow of integers."""
    return _distance(np.minimum(left, right), np.maximum(left, right))
