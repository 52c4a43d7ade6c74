"""What a table is made of: the schema, and the canonical Arrow type of each kind of column.

Inside the library a batch of records is always an Arrow table in *canonical types*, one type per
`ColumnKind`; a missing value is an Arrow null. `Column.storage` remembers the type in the source,
so that synthetic data is written in the form of the original.
"""

from __future__ import annotations

from enum import StrEnum

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

SCHEMA_FORMAT_VERSION = 1


class ColumnKind(StrEnum):
    """What the values of a column mean, and therefore how they are modelled."""

    CATEGORICAL = "categorical"
    INTEGER = "integer"
    FLOAT = "float"
    BOOLEAN = "boolean"
    DATETIME = "datetime"
    DATE = "date"
    TIME = "time"
    IDENTIFIER = "identifier"
    TEXT = "text"
    CONSTANT = "constant"


CANONICAL_TYPES: dict[ColumnKind, pa.DataType] = {
    ColumnKind.CATEGORICAL: pa.string(),
    ColumnKind.INTEGER: pa.int64(),
    ColumnKind.FLOAT: pa.float64(),
    ColumnKind.BOOLEAN: pa.bool_(),
    ColumnKind.DATETIME: pa.timestamp("us"),
    ColumnKind.DATE: pa.date32(),
    ColumnKind.TIME: pa.time64("us"),
    ColumnKind.IDENTIFIER: pa.string(),
    ColumnKind.TEXT: pa.string(),
    ColumnKind.CONSTANT: pa.string(),
}


class Column(BaseModel):
    """One column: its name, kind, and the form its values take in the source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: ColumnKind
    storage: str = "string"
    nullable: bool = False
    missing_values: tuple[str, ...] = ()
    decimals: int | None = None
    minimum: int | float | str | None = None
    maximum: int | float | str | None = None
    format: str | None = None
    pattern: str | None = None
    value: str | None = None

    @property
    def arrow_type(self) -> pa.DataType:
        """Canonical Arrow type of this column."""
        return CANONICAL_TYPES[self.kind]


class Schema(BaseModel):
    """The columns of a table, in order, and the column a downstream model predicts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = SCHEMA_FORMAT_VERSION
    columns: tuple[Column, ...]
    target: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def arrow_schema(self) -> pa.Schema:
        """Canonical Arrow schema of the records."""
        return pa.schema([(column.name, column.arrow_type) for column in self.columns])

    def column(self, name: str) -> Column:
        """Return the column called `name`.

        Raises:
            KeyError: no column has that name.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)
