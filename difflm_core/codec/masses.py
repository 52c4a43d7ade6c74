"""How the training rows are spread over the values of a column, as the codec knows it.

The codec keeps the share of every token and the distribution function of what is ranked
(`ranks.py`); together they say where the training values lie, without a training row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from difflm_core.codec.numbers import NumberForm
from difflm_core.codec.rank_field import RankField
from difflm_core.codec.ranks import Numbers
from difflm_core.codec.records import RecordCodec
from difflm_core.codec.text import TextCodec

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ColumnMass:
    """Distribution of a column's training values: atoms, and intervals of even density.

    An integer-like interval of `low .. high` holds `high - low + 1` equally frequent values.
    Whole values may lie inside intervals.

    Attributes:
        form: What the numbers mean.
        nullable: Whether the codec can write a missing value.
        missing: Share of the rows without a value.
        low: Lower ends, ascending, shape [S].
        high: Upper ends, inclusive, shape [S].
        share: Share of all rows in each, shape [S].
        is_listed: Whether single values are all there is.
    """

    form: NumberForm
    nullable: bool
    missing: float
    low: Numbers
    high: Numbers
    share: Floats
    is_listed: bool

    @property
    def is_integer(self) -> bool:
        """Whether the numbers lie on a grid of step one."""
        return bool(np.issubdtype(self.low.dtype, np.integer))

    def values(self, numbers: Numbers) -> list[Any]:
        """Canonical values of numbers, as Python has them."""
        present = np.zeros(len(numbers), dtype=bool)
        return self.form.from_numbers(numbers, present).to_pylist()

    def holds(self, low: int | float | None, high: int | float | None) -> bool:
        """Whether a value of `low .. high` can be written (None: unbounded)."""
        fits = np.ones(self.low.size, dtype=bool)
        if low is not None:
            fits &= self.high >= low
        if high is not None:
            fits &= self.low <= high
        return bool(fits.any())

    def share_up_to(self, number: int | float, *, inclusive: bool) -> float:
        """Share of all rows whose value lies below `number`, or on it if `inclusive`."""
        low, high = self.low.astype(np.float64), self.high.astype(np.float64)
        reached = low <= number if inclusive else low < number
        if self.is_integer:
            inside = np.clip((float(number) - low + inclusive) / (high - low + 1), 0.0, 1.0)
        else:
            # Halves: the distance of two huge numbers overflows.
            width = high / 2 - low / 2
            share = (np.clip(number, low, high) / 2 - low / 2) / np.where(width > 0, width, 1.0)
            inside = np.where(width > 0, share, 1.0)
        return float((self.share * np.where(reached, inside, 0.0)).sum())

    def share_between(self, low: int | float | None, high: int | float | None) -> float:
        """Share of all rows whose value lies in `low .. high` (None: unbounded)."""
        upto = 1.0 - self.missing if high is None else self.share_up_to(high, inclusive=True)
        below = 0.0 if low is None else self.share_up_to(low, inclusive=False)
        return max(0.0, upto - below)


def column_mass(codec: RecordCodec | TextCodec, name: str) -> ColumnMass | None:
    """Distribution of a column's training values; None for text, identifiers and constants."""
    if isinstance(codec, TextCodec):
        return None
    field = codec.fields.get(name)
    if not isinstance(field, RankField):
        return None
    start = codec.first_token(name)
    shares = codec.token_share[start : start + field.first_size]
    begin = int(field.nullable)
    low, high = field.whole, field.whole
    share = shares[begin : begin + field.whole.size]
    if field.ranks is not None:
        rows = np.diff(field.ranks.edges)
        ranked = shares[begin + field.whole.size :].sum() * rows / rows.sum()
        low = np.concatenate([low, field.ranks.low])
        high = np.concatenate([high, field.ranks.high])
        share = np.concatenate([share, ranked])
    order = np.argsort(low, kind="stable")
    return ColumnMass(
        form=field.form,
        nullable=field.nullable,
        missing=float(shares[:begin].sum()),
        low=low[order],
        high=high[order],
        share=share[order],
        is_listed=field.ranks is None or field.form.is_listed,
    )
