"""The training distribution of each column, as the model itself knows it.

Whoever compares a synthetic table with the one it was learned from needs the histograms of the
training table, and has perhaps only the model. The codec holds the share of each token and the
distribution function of what is ranked, which say as much without a training row.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from difflm_core.codec.loading import AnyCodec
from difflm_core.codec.masses import ColumnMass, column_mass
from difflm_core.codec.numbers import NumberForm
from difflm_core.data.schema import ColumnKind
from difflm_core.generation.choices import JsonScalar, json_value

MAX_LABELS = 30
NUM_BINS = 30
# Share of the values that the outermost bins take in from beyond the edges, at either end.
TAIL = 0.005

_LAST_DATE = datetime.date.max.toordinal() - datetime.date(1970, 1, 1).toordinal()
_MICROS_PER_DAY = 86_400_000_000
# Latest date or time that Python knows, in days or microseconds.
_LATEST = {
    ColumnKind.DATE: _LAST_DATE,
    ColumnKind.TIME: _MICROS_PER_DAY - 1,
    ColumnKind.DATETIME: (_LAST_DATE + 1) * _MICROS_PER_DAY - 1,
}


@dataclass(frozen=True)
class ColumnDistribution:
    """Shares of the training values of a column: of labels, or of bins.

    Attributes:
        name: The column.
        labels: Values as in JSON, for a column with few: the most frequent first, numbers and
            dates ascending; None if there are bins.
        edges: Bounds of bins, ascending, one more than `shares`; numbers, or ISO dates and times.
            A bin holds its lower bound and not its upper one, the last one both; the first and
            the last one also hold what lies beyond the edges. None if there are labels.
        shares: Shares of the rows that have a value.
        missing: Share of the rows that have none.
    """

    name: str
    labels: tuple[JsonScalar, ...] | None
    edges: tuple[int | float | str, ...] | None
    shares: tuple[float, ...]
    missing: float


def training_distributions(codec: AnyCodec) -> list[ColumnDistribution]:
    """Distributions of all columns but those of free text and identifiers.

    Shares of labels add up to less than 1 if rare ones are left out. A constant has one label.
    """
    found: list[ColumnDistribution] = []
    for column in codec.schema.columns:
        mass = column_mass(codec, column.name)
        if mass is not None:
            found.append(_distribution(column.name, mass))
        elif column.kind is ColumnKind.CONSTANT:
            held = () if column.value is None else (column.value,)
            found.append(
                ColumnDistribution(column.name, held, None, (1.0,) * len(held), 1.0 - len(held))
            )
    return found


def _distribution(name: str, mass: ColumnMass) -> ColumnDistribution:
    kind, missing = mass.form.column.kind, mass.missing
    present = float(mass.share.sum())
    if present <= 0:
        return ColumnDistribution(name, (), None, (), missing)
    shares = mass.share / present
    unordered = kind in (ColumnKind.CATEGORICAL, ColumnKind.BOOLEAN)
    if not unordered and not (mass.is_listed and mass.low.size <= MAX_LABELS):
        bounds = _edges(mass)
        if bounds is not None:
            edges = tuple(_json_edge(mass.form, bound) for bound in bounds)
            return ColumnDistribution(name, None, edges, _bin_shares(mass, bounds), missing)
    order = np.argsort(-shares, kind="stable")[:MAX_LABELS] if unordered else range(shares.size)
    values = mass.values(mass.low)
    labels = tuple(json_value(values[i]) for i in order)
    return ColumnDistribution(name, labels, None, tuple(float(shares[i]) for i in order), missing)


def _edges(mass: ColumnMass) -> list[int] | list[float] | None:
    """Equally wide bins between the outer quantiles, as numbers; None for a single value."""
    low, high = _quantile(mass, TAIL), _quantile(mass, 1 - TAIL)
    if mass.is_integer:
        first, last = math.floor(low), math.floor(high)
        width = max(1, -(-(last - first + 1) // NUM_BINS))
        num_bins = -(-(last - first + 1) // width)
        return [first + width * k for k in range(num_bins + 1)]
    if low == high:  # nearly all rows hold one value
        low, high = float(mass.low.min()), float(mass.high.max())
    if low == high:
        return None
    # Half-way sums, lest the difference of two huge numbers overflow.
    parts = np.arange(NUM_BINS + 1) / NUM_BINS
    return [float(bound) for bound in low * (1 - parts) + high * parts]


def _quantile(mass: ColumnMass, level: float) -> int | float:
    """The least number with at least `level` of the present values up to it, by bisection."""
    present = float(mass.share.sum())

    def reaches(number: int | float) -> bool:
        # Rounding of the sum of shares must not decide.
        return mass.share_up_to(number, inclusive=True) >= (level - 1e-12) * present

    if mass.is_integer:
        low, high = int(mass.low.min()), int(mass.high.max())
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if reaches(middle) else (middle + 1, high)
        return low
    ends = np.unique(np.concatenate([mass.low, mass.high]))
    left, right = 0, ends.size - 1
    while left < right:
        middle = (left + right) // 2
        left, right = (left, middle) if reaches(float(ends[middle])) else (middle + 1, right)
    if not left:
        return float(ends[0])
    below, above = float(ends[left - 1]), float(ends[left])
    start = mass.share_up_to(below, inclusive=True)
    stop = mass.share_up_to(above, inclusive=False)  # an atom may stand at the upper end
    inside = (level * present - start) / (stop - start) if stop > start else 1.0
    inside = min(max(inside, 0.0), 1.0)
    return above if inside == 1.0 else below * (1 - inside) + above * inside


def _bin_shares(mass: ColumnMass, bounds: list[int] | list[float]) -> tuple[float, ...]:
    present = float(mass.share.sum())
    inner = [mass.share_up_to(bound, inclusive=False) / present for bound in bounds[1:-1]]
    return tuple(float(share) for share in np.diff([0.0, *inner, 1.0]).clip(min=0.0))


def _json_edge(form: NumberForm, bound: int | float) -> Any:
    """A bound in the unit of the column; one may lie beyond what the column holds."""
    kind, ticks = form.column.kind, bound * form.step
    if kind is ColumnKind.FLOAT:
        return float(ticks / 10**form.decimals) if form.decimals is not None else float(bound)
    if kind is ColumnKind.INTEGER:
        return int(ticks)
    ticks = min(int(ticks), _LATEST[kind])
    if kind is ColumnKind.DATE:
        return (datetime.date(1970, 1, 1) + datetime.timedelta(days=ticks)).isoformat()
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=ticks)
    return moment.time().isoformat() if kind is ColumnKind.TIME else moment.isoformat()
