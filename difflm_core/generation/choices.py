"""What can be generated in each column, so that a caller knows what to ask for."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from difflm_core.codec.loading import AnyCodec
from difflm_core.codec.masses import column_mass
from difflm_core.data.schema import ColumnKind

# Longer lists are no help to anyone.
MAX_CHOICES = 1000

# A value as JSON has it; dates and times are ISO text.
JsonScalar = bool | int | float | str


@dataclass(frozen=True)
class ColumnChoices:
    """What can be generated in a column.

    Attributes:
        name: The column.
        nullable: Whether missing values are generated.
        categories: All values, as in JSON, ascending; None if they are no closed list, or more
            than `MAX_CHOICES`.
        low: Least canonical number, date or time; None where there is none.
        high: Largest one.
        conditional: Whether rows can be asked for by its values.
    """

    name: str
    nullable: bool
    categories: tuple[JsonScalar, ...] | None
    low: Any
    high: Any
    conditional: bool

    @property
    def minimum(self) -> int | float | str | None:
        """The least value, as in JSON."""
        return json_value(self.low)

    @property
    def maximum(self) -> int | float | str | None:
        """The largest value, as in JSON."""
        return json_value(self.high)


def column_choices(codec: AnyCodec, name: str) -> ColumnChoices:
    """What can be generated in the column `name`.

    Raises:
        KeyError: no column has that name.
    """
    column, mass = codec.schema.column(name), column_mass(codec, name)
    if mass is None:
        held = (column.value,) if column.value is not None else ()
        return ColumnChoices(
            name,
            nullable=column.nullable or (column.kind is ColumnKind.CONSTANT and not held),
            categories=held if column.kind is ColumnKind.CONSTANT else None,
            low=None,
            high=None,
            conditional=False,
        )
    categories: tuple[JsonScalar, ...] | None = None
    low = high = None
    if mass.form.is_listed:
        categories = mass.form.categories
    elif mass.low.size:
        if mass.is_listed:
            categories = tuple(json_value(value) for value in mass.values(mass.low))
        if column.kind is not ColumnKind.BOOLEAN:
            low, high = mass.values(np.array([mass.low.min(), mass.high.max()]))
    if categories is not None and len(categories) > MAX_CHOICES:
        categories = None
    return ColumnChoices(name, mass.nullable, categories, low, high, conditional=True)


def json_value(value: Any) -> Any:
    """A canonical value as JSON has it."""
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    return value.as_py() if isinstance(value, pa.Scalar) else value
