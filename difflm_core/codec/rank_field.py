"""Columns with a closed or ordered set of values: categories, numbers, dates and times.

The first token is either missing, one whole value (every category, every value of a
low-cardinality number, and any value that carries much of the mass), or the most significant
digit of the value's rank among the rest; the further digits follow in their own slots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from difflm_core.codec.fields import CodecOptions, Floats, Ids, Mask, find_missing
from difflm_core.codec.grammar import Slot
from difflm_core.codec.numbers import NumberForm
from difflm_core.codec.ranks import Numbers, RankTransform, distance
from difflm_core.data.schema import Column, ColumnKind


@dataclass(frozen=True)
class RankField:
    """A column with a closed or ordered set of values.

    Tokens of the first slot, from `start`: missing (if `nullable`), the whole values, the digits.

    Attributes:
        form: The column's values as numbers.
        nullable: Whether there is a missing token.
        whole: Values with their own token, ascending, shape [H].
        ranks: Distribution of all other values; None when there are none.
        base: Symbols per digit.
        num_digits: Digits per rank.
        usual: The most frequent category (its number), which stands for a category never seen
            when there is no missing token.
        order: Relative position in [0, 1] of each token of the first slot in the column's
            distribution, NaN where there is none.
    """

    form: NumberForm
    nullable: bool
    whole: Numbers
    ranks: RankTransform | None
    base: int
    num_digits: int
    usual: int
    order: Floats

    @classmethod
    def fit(cls, column: Column, values: pa.Array, options: CodecOptions) -> RankField:
        """Choose the tokens of `column` from a sample of its canonical `values`."""
        present = values.drop_null()
        form = NumberForm.fit(column, present)
        numbers = form.to_numbers(present)
        distinct, counts = np.unique(numbers, return_counts=True)
        usual = int(distinct[np.argmax(counts)]) if form.is_listed and distinct.size else 0
        base, num_digits = options.digit_base, options.num_digits
        whole, rest = _split(column, numbers, distinct, counts, options, len(values))
        ranks = None
        if rest.size and form.is_listed:
            num_digits = 1  # as many as give each category a cell
            while base**num_digits < distinct.size:
                num_digits += 1
            ranks = RankTransform.of_categories(rest, base**num_digits)
        elif rest.size:
            ranks = RankTransform.fit(rest, base**num_digits)
        nullable = column.nullable or values.null_count > 0
        field = cls(form, nullable, whole, ranks, base, num_digits, usual, np.empty(0))
        return replace(field, order=field._token_order(numbers))

    @property
    def column(self) -> Column:
        """The column."""
        return self.form.column

    @property
    def num_residuals(self) -> int:
        """Number of residuals per record: one when ranks are cut into cells."""
        return int(self.ranks is not None)

    @property
    def first_size(self) -> int:
        """Number of tokens of the first slot."""
        return int(self.nullable) + self.whole.size + (self.base if self.ranks else 0)

    def _token_order(self, numbers: Numbers) -> Floats:
        order = np.full(self.first_size, np.nan)
        if not self.form.is_ordered or not numbers.size:
            return order
        values = self.whole
        if self.ranks:
            cells_per_digit = self.base ** (self.num_digits - 1)
            cell = np.arange(self.base) * cells_per_digit + cells_per_digit // 2
            values = np.concatenate([values, self.ranks.value(cell, np.zeros(self.base))])
        ascending = np.sort(numbers)
        below = np.searchsorted(ascending, values, side="left")
        upto = np.searchsorted(ascending, values, side="right")
        order[int(self.nullable) :] = (below + upto) / (2 * numbers.size)
        return order

    def slots(self, start: int) -> list[Slot]:
        """Slots of this field when its token ids begin at `start`."""
        slots = [Slot(start, start + self.first_size)]
        if self.ranks:
            digits = (slots[0].stop - self.base, slots[0].stop)
            for _ in range(self.num_digits - 1):
                begin = slots[-1].stop + (slots[-1].idle is not None)
                slot = Slot(begin, begin + self.base, gate=digits, idle=begin + self.base)
                slots.append(slot)
                digits = (slot.start, slot.stop)
        return slots

    def vocab_order(self) -> Floats:
        """Relative position of every token id of this field, shape [V]; NaN: unordered."""
        fine = np.append((np.arange(self.base) + 0.5) / self.base, np.nan)
        if not self.form.is_ordered:
            fine[:] = np.nan
        extra = self.num_digits - 1 if self.ranks else 0
        return np.concatenate([self.order, *[fine] * extra])

    def encode(
        self, values: pa.Array, slots: list[Slot], generator: np.random.Generator
    ) -> tuple[Ids, Floats]:
        """Token ids [B, T] and residuals [B, num_residuals] of canonical `values`.

        A number never seen takes the nearest one that can be expressed. A category never seen is
        missing if the column is nullable, and else the most frequent category.

        Raises:
            DataError: a value is missing, NaN or infinite that may not be.
        """
        missing = find_missing(values, column=self.column.name, nullable=self.nullable)
        numbers = self.form.to_numbers(values.drop_null() if missing.any() else values)
        present = np.flatnonzero(~missing)
        if self.form.is_listed and numbers.size and numbers.min() < 0:
            if self.nullable:
                present, numbers = present[numbers >= 0], numbers[numbers >= 0]
            else:
                numbers = np.where(numbers < 0, self.usual, numbers)
        ids = np.empty((len(values), len(slots)), dtype=np.int64)
        ids[:, 0] = slots[0].start
        for k, slot in enumerate(slots[1:], start=1):
            ids[:, k] = slot.stop  # idle
        residuals = np.zeros((len(values), self.num_residuals))
        whole = self._nearest_whole(numbers)
        begin = slots[0].start + int(self.nullable)
        if self.whole.size:
            ids[present, 0] = begin + whole
        if self.ranks:
            is_rest = np.ones(numbers.size, dtype=bool)
            if self.whole.size:
                is_rest = self.whole[whole] != numbers
            ranked = self.ranks.rank(numbers[is_rest], generator)
            rows, cell, residual = present[is_rest], ranked.cell, ranked.residual
            stray = ranked.nearest != numbers[is_rest]
            if self.whole.size and stray.any():  # a value never seen: a whole one may be nearer
                asked, near_whole = numbers[is_rest], self.whole[whole[is_rest]]
                keep = distance(asked, near_whole) >= distance(asked, ranked.nearest)
                rows, cell, residual = rows[keep], cell[keep], residual[keep]
            residuals[rows, 0] = residual
            for k in range(self.num_digits - 1, -1, -1):
                offset = slots[k].start if k else begin + self.whole.size
                ids[rows, k] = offset + cell % self.base
                cell = cell // self.base
        return ids, residuals

    def _nearest_whole(self, numbers: Numbers) -> Ids:
        """Index of the whole value nearest to each number; zeros where there are no such values."""
        if not self.whole.size:
            return np.zeros(numbers.size, dtype=np.int64)
        index = np.minimum(np.searchsorted(self.whole, numbers), self.whole.size - 1)
        off = np.flatnonzero(self.whole[index] != numbers)
        if off.size:
            right = index[off]
            left = np.maximum(right - 1, 0)
            ahead = distance(numbers[off], self.whole[right])
            behind = distance(numbers[off], self.whole[left])
            index[off] = np.where(behind < ahead, left, right)
        return index

    def decode(self, ids: Ids, slots: list[Slot], residuals: Floats) -> tuple[pa.Array, Mask, str]:
        """Canonical values of token ids [B, T]; none is ever rejected."""
        token = ids[:, 0] - slots[0].start - int(self.nullable)
        missing = token < 0
        dtype = self.ranks.low.dtype if self.ranks else self.whole.dtype
        if self.whole.size:
            numbers = self.whole[np.clip(token, 0, self.whole.size - 1)]
        else:
            numbers = np.zeros(len(ids), dtype=dtype)
        if self.ranks:
            is_rest = token >= self.whole.size
            cell = token[is_rest] - self.whole.size
            for k in range(1, self.num_digits):
                cell = cell * self.base + ids[is_rest, k] - slots[k].start
            numbers[is_rest] = self.ranks.value(cell, residuals[is_rest, 0])
        return self.form.from_numbers(numbers, missing), np.ones(len(ids), dtype=bool), ""

    def to_json(self) -> dict[str, Any]:
        """JSON part of the saved form."""
        return {
            "type": "rank",
            "form": self.form.to_json(),
            "nullable": self.nullable,
            "has_ranks": self.ranks is not None,
            "base": self.base,
            "num_digits": self.num_digits,
            "usual": self.usual,
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Array part of the saved form."""
        arrays: dict[str, npt.NDArray[Any]] = {"whole": self.whole, "order": self.order}
        if self.ranks:
            arrays |= {"low": self.ranks.low, "high": self.ranks.high, "edges": self.ranks.edges}
        return arrays

    @classmethod
    def load(
        cls, column: Column, data: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
    ) -> RankField:
        """Inverse of `to_json` and `arrays`."""
        base, num_digits = data["base"], data["num_digits"]
        ranks = None
        if data["has_ranks"]:
            low, high, edges = arrays["low"], arrays["high"], arrays["edges"]
            ranks = RankTransform(low, high, edges, base**num_digits)
        return cls(
            form=NumberForm.from_json(column, data["form"]),
            nullable=data["nullable"],
            whole=arrays["whole"],
            ranks=ranks,
            base=base,
            num_digits=num_digits,
            usual=data["usual"],
            order=arrays["order"],
        )


def _split(
    column: Column,
    numbers: Numbers,
    distinct: Numbers,
    counts: npt.NDArray[np.intp],
    options: CodecOptions,
    num_rows: int,
) -> tuple[Numbers, Numbers]:
    """Values that get their own token, and the numbers (with repeats) that are left for ranks."""
    nothing = numbers[:0]
    if column.kind is ColumnKind.BOOLEAN:
        return np.array([0, 1], dtype=np.int64), nothing  # whatever the sample happened to hold
    if column.kind is ColumnKind.CATEGORICAL:
        few = distinct.size <= options.max_category_tokens
    else:
        # Numbers that hardly repeat are not a list of values, however few there are.
        few = distinct.size <= options.max_value_tokens and 2 * distinct.size <= numbers.size
    if few:
        return distinct, nothing
    whole = distinct[counts > options.frequent_mass * num_rows]
    if column.kind is not ColumnKind.CATEGORICAL:
        whole = whole[counts[np.searchsorted(distinct, whole)] > 1]
    return whole, numbers[~np.isin(numbers, whole)]
