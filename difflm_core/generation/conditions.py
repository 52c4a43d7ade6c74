"""Conditions: rows by the caller's values.

A condition asks, by column, for a value, for one of several, for a range, or for missing values.
Generation draws again what does not meet them (`drawing.py`), so the rows that are left follow the
model's distribution given the conditions, exactly (docs/adr/0023). Everything is checked before
any row is made, against the schema and against what the codec can write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc_module

from difflm_core.codec.loading import AnyCodec
from difflm_core.codec.text import TextCodec
from difflm_core.data.schema import absent_name
from difflm_core.errors import ConfigError
from difflm_core.generation.condition_text import read_where
from difflm_core.generation.condition_values import Piece, ValueReader

pc: Any = pc_module


@dataclass(frozen=True)
class Condition:
    """What one column must hold; a row meets it by any of the parts.

    Attributes:
        name: The column.
        values: Canonical values.
        ranges: Canonical bounds, both included; None: unbounded.
        missing: Whether missing values are asked for; no other part ever matches one.
        share: About the share of the training rows that meet it.
    """

    name: str
    values: tuple[Any, ...] = ()
    ranges: tuple[tuple[Any, Any], ...] = ()
    missing: bool = False
    share: float = 1.0

    @classmethod
    def of_pieces(cls, name: str, pieces: Sequence[Piece]) -> Self:
        """Join what a column was asked for."""
        single = [piece.low for piece in pieces if piece.is_single]
        ranges = [(p.low, p.high) for p in pieces if not p.is_single and not p.is_missing]
        return cls(
            name,
            values=tuple(dict.fromkeys(single)),
            ranges=tuple(dict.fromkeys(ranges)),
            missing=any(piece.is_missing for piece in pieces),
            share=min(1.0, sum(piece.share for piece in pieces)),
        )

    def mask(self, values: Any) -> pa.BooleanArray:
        """Which canonical values of the column meet it, shape [B]; never null."""
        parts: list[Any] = []
        if self.values:
            # A null is in no set: the set holds none.
            parts.append(pc.is_in(values, value_set=pa.array(list(self.values), values.type)))
        for low, high in self.ranges:
            bounds: list[Any] = []
            if low is not None:
                bounds.append(pc.greater_equal(values, pa.scalar(low, values.type)))
            if high is not None:
                bounds.append(pc.less_equal(values, pa.scalar(high, values.type)))
            parts.append(pc.fill_null(reduce(pc.and_, bounds), False))
        if self.missing:
            parts.append(pc.is_null(values))
        return reduce(pc.or_, parts)


@dataclass(frozen=True)
class Conditions:
    """What every row must meet.

    Attributes:
        columns: A condition for each column that has one, in the order of the schema.
    """

    columns: tuple[Condition, ...] = ()

    @classmethod
    def parse(cls, wanted: Mapping[str, Any] | Sequence[str], codec: AnyCodec) -> Self:
        """Check and compile what a caller asks for.

        Args:
            wanted: By column: a value as in JSON (a number, text, true or false, an ISO date or
                time, None for a missing value), a list of them, or `{"min": ..., "max": ...}`,
                both included. A date in a column of datetimes stands for the whole day. Or texts
                such as `"age=30..40"`; see `condition_text.py`.
            codec: Of the model.

        Raises:
            ConfigError: a column or value does not exist or cannot be generated, or rows cannot
                be asked for by the column.
        """
        if isinstance(codec, TextCodec):
            if wanted:
                raise ConfigError(
                    "conditions: documents are made without conditions in this release; expected "
                    "none. Filter what is made, or train on the documents that are wanted."
                )
            return cls()
        if not isinstance(wanted, Mapping):
            wanted = read_where(wanted, codec)
        names = codec.schema.names
        for name in wanted:
            if name not in names:
                raise ConfigError(f"conditions: {absent_name(str(name), names)}")
        found: list[Condition] = []
        for name in names:
            if name in wanted:
                pieces = ValueReader(codec, name).read(wanted[name])
                if pieces:  # what a constant holds anyway is no condition
                    found.append(Condition.of_pieces(name, pieces))
        return cls(tuple(found))

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.columns)

    @property
    def expected_share(self) -> float:
        """Rough share of the rows that meet them, as if columns were independent."""
        return math.prod(condition.share for condition in self.columns)

    def mask(self, records: pa.RecordBatch) -> pa.BooleanArray:
        """Which canonical records meet all of them, shape [B]; never null."""
        every: Any = pa.array([True] * records.num_rows, pa.bool_())
        for condition in self.columns:
            every = pc.and_(every, condition.mask(records.column(condition.name)))
        return every
