"""What a table is made of: the schema, and the canonical Arrow type of each kind of column.

Inside the library a batch of records is always an Arrow table in *canonical types*, one type per
`ColumnKind`; a missing value is an Arrow null. `Column.storage` remembers the type in the source,
so that synthetic data is written in the form of the original.

A schema lives in `schema.json`, which a person may read, edit and pass back; `Schema.load` also
accepts the metadata JSON of SDV.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self, cast

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from difflm_core import storage
from difflm_core.data.datetimes import check_format
from difflm_core.data.identifiers import IdentifierPattern
from difflm_core.data.storage_types import TEXT_STORAGE, storage_problem
from difflm_core.errors import SchemaError

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
    # The one column of a corpus of documents; its values are whole records.
    JSON = "json"
    CODE = "code"


class DataKind(StrEnum):
    """What a record is: a row of a table, a JSON document, or a piece of code."""

    TABLE = "table"
    JSON = "json"
    CODE = "code"


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
    ColumnKind.JSON: pa.string(),
    ColumnKind.CODE: pa.string(),
}

NUMERIC_KINDS = (ColumnKind.INTEGER, ColumnKind.FLOAT)
TEMPORAL_KINDS = (ColumnKind.DATETIME, ColumnKind.DATE, ColumnKind.TIME)
# Made anew, or repeated; a table of these alone has nothing to learn.
NOT_LEARNED = (ColumnKind.IDENTIFIER, ColumnKind.CONSTANT)
DOCUMENT_KINDS = (ColumnKind.JSON, ColumnKind.CODE)
# Name of the column that holds the documents of a corpus.
DOCUMENT_COLUMNS = {DataKind.JSON: "document", DataKind.CODE: "code"}

NumberStyle = Literal["plain", "point", "fixed"]


class Column(BaseModel):
    """One column: its name, kind, and the form its values take in the source.

    Attributes:
        name: Name in the source.
        kind: What the values mean.
        storage: Arrow type in the source (`"int64"`, `"timestamp[ns]"`, ...), or `"text"` for the
            untyped columns of a delimited file.
        nullable: Whether values may be missing.
        missing_values: Spellings that mean "missing" besides the empty cell and null; the first
            one is the spelling that is written (`""` stands for the empty cell).
        decimals: Digits after the point of a float, or None for full precision.
        number_style: How a number is spelled in a text file: `plain` (`2`, `0.5`), `point`
            (`2.0`, `0.5`) or `fixed` (always `decimals` digits: `2.00`, `0.50`).
        minimum: Smallest value allowed, a number or an ISO string; None takes it from the data.
        maximum: Largest value allowed, likewise.
        format: `strptime` format of a date or time that is stored as text or as an integer; `%-d`
            and the like are parts without leading zeros.
        pattern: Form of an identifier, see `IdentifierPattern`.
        value: The one value of a constant column, None when every cell is missing.
        true_value: Spelling of true of a boolean stored as text.
        false_value: Spelling of false of a boolean stored as text.
        distinct: Number of distinct values found (approximate when large); information only.
        json_schema: JSON Schema (draft 2020-12) of the documents of a `json` column.
        note: A remark of the inference for the person who reads the schema.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: ColumnKind
    storage: str = TEXT_STORAGE
    nullable: bool = False
    missing_values: tuple[str, ...] = ()
    decimals: int | None = Field(default=None, ge=0, le=18)
    number_style: NumberStyle | None = None
    minimum: int | float | str | None = None
    maximum: int | float | str | None = None
    format: str | None = None
    pattern: str | None = None
    value: str | None = None
    true_value: str | None = None
    false_value: str | None = None
    distinct: int | None = Field(default=None, ge=0)
    json_schema: dict[str, Any] | None = None
    note: str | None = None

    @property
    def arrow_type(self) -> pa.DataType:
        """Canonical Arrow type of this column."""
        return CANONICAL_TYPES[self.kind]

    @property
    def is_untyped(self) -> bool:
        """Whether the source is a delimited file, where every value is a piece of text."""
        return self.storage == TEXT_STORAGE

    @model_validator(mode="after")
    def _check(self) -> Self:
        problem = self._problem()
        if problem is not None:
            raise ValueError(problem)
        return self

    def _problem(self) -> str | None:
        """What is inconsistent in this column, with its fix, or None."""
        if not self.name.strip():
            return "the name is empty; give the column a name"
        if (problem := storage_problem(self.storage)) is not None:
            return problem
        if (self.true_value is None) != (self.false_value is None):
            return "true_value and false_value belong together; give both or neither"
        if self.true_value is not None and self.true_value == self.false_value:
            return f"true_value and false_value are both {self.true_value!r}; they must differ"
        return self._kind_problem() or self._bounds_problem()

    def _kind_problem(self) -> str | None:
        kind = self.kind
        allowed = {
            "decimals": kind in NUMERIC_KINDS,
            "number_style": kind in NUMERIC_KINDS,
            "format": kind in TEMPORAL_KINDS,
            "pattern": kind is ColumnKind.IDENTIFIER,
            "value": kind is ColumnKind.CONSTANT,
            "true_value": kind is ColumnKind.BOOLEAN,
            "json_schema": kind is ColumnKind.JSON,
            "minimum": kind in NUMERIC_KINDS + TEMPORAL_KINDS,
            "maximum": kind in NUMERIC_KINDS + TEMPORAL_KINDS,
        }
        for field, ok in allowed.items():
            if getattr(self, field) is not None and not ok:
                return f"{field} does not apply to kind '{kind}'; remove it or change kind"
        if self.format is not None:
            return check_format(self.format, str(kind))
        if self.pattern is not None:
            try:
                IdentifierPattern.parse(self.pattern)
            except SchemaError as error:
                return str(error)
        return None

    def _bounds_problem(self) -> str | None:
        bounds = (self.minimum, self.maximum)
        for field, bound in zip(("minimum", "maximum"), bounds, strict=True):
            if bound is None:
                continue
            if self.kind in NUMERIC_KINDS and isinstance(bound, str):
                return (
                    f"{field} is the text {bound!r}; a column of kind '{self.kind}' needs a number"
                )
            if self.kind in TEMPORAL_KINDS and not isinstance(bound, str):
                return (
                    f"{field} is {bound!r}; kind '{self.kind}' needs ISO text such as '2024-01-31'"
                )
        low, high = bounds
        if low is not None and high is not None and cast("Any", low) > cast("Any", high):
            return f"minimum {low!r} is above maximum {high!r}; swap or correct them"
        return None


class Schema(BaseModel):
    """The columns of a table, in order, and the column a downstream model predicts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = SCHEMA_FORMAT_VERSION
    target: str | None = None
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def data_kind(self) -> DataKind:
        """What a record is."""
        kinds = [column.kind for column in self.columns if column.kind in DOCUMENT_KINDS]
        return DataKind(kinds[0].value) if kinds else DataKind.TABLE

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

    def with_target(self, target: str | None) -> Schema:
        """Return this schema with another target.

        Raises:
            SchemaError: no column has that name; the nearest names are given.
        """
        if target is not None and self.data_kind is DataKind.TABLE:
            check_names_exist([target], self.names, what="target column")
        return self.model_copy(update={"target": target})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.format_version != SCHEMA_FORMAT_VERSION:
            raise ValueError(
                f"format_version is {self.format_version}; this version of the library reads "
                f"{SCHEMA_FORMAT_VERSION}; infer the schema again"
            )
        if not self.columns:
            raise ValueError("there are no columns; a schema needs at least one")
        seen: set[str] = set()
        for name in self.names:
            if name in seen:
                raise ValueError(f"column name {name!r} appears twice; make the names unique")
            seen.add(name)
        if len(self.columns) > 1:
            for column in self.columns:
                if column.kind in DOCUMENT_KINDS:
                    raise ValueError(
                        f"column {column.name!r} of kind '{column.kind}' holds whole records and "
                        "must be the only one; remove the others, or change its kind"
                    )
        is_table = self.data_kind is DataKind.TABLE  # of documents, the target is a path
        if is_table and self.target is not None and self.target not in seen:
            raise ValueError(absent_name(self.target, self.names, what="target column"))
        return self

    def to_json(self) -> str:
        """Return the text of `schema.json`: one block per column, unset fields left out."""
        always = {"name", "kind", "storage", "nullable"}
        columns: list[dict[str, Any]] = []
        for column in self.columns:
            fields = column.model_dump(mode="json")
            defaults = {name: info.default for name, info in Column.model_fields.items()}
            columns.append(
                {
                    key: value
                    for key, value in fields.items()
                    if key in always or (value != defaults[key] and value != [])
                }
            )
        content = {
            "format_version": self.format_version,
            "target": self.target,
            "columns": columns,
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write `schema.json`."""
        storage.write_text(str(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Read `schema.json`, or SDV metadata JSON.

        Raises:
            SchemaError: the file is absent, is not JSON, or describes an inconsistent schema; the
                message names the file, the column, what was found and what was expected.
        """
        try:
            text = storage.read_text(str(path)).removeprefix("\ufeff")
        except FileNotFoundError:
            raise SchemaError(
                f"{path}: there is no such file; expected a schema.json or SDV metadata JSON"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise SchemaError(f"{path}: the schema cannot be read: {error}") from error
        return cls.from_json(text, source=str(path))

    @classmethod
    def from_json(cls, text: str, source: str = "schema") -> Schema:
        """Parse the text of a schema or of SDV metadata; `source` names it in errors.

        Raises:
            SchemaError: as for `load`.
        """
        from difflm_core.data.sdv import is_sdv_metadata, schema_fields_from_sdv

        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise SchemaError(
                f"{source}: not valid JSON at line {error.lineno} column {error.colno}: {error.msg}"
            ) from None
        if not isinstance(content, dict):
            raise SchemaError(
                f"{source}: found a JSON {type(content).__name__}, expected an object"
            )
        fields = cast("dict[str, Any]", content)
        if is_sdv_metadata(fields):
            fields = schema_fields_from_sdv(fields, source)
        elif "columns" not in fields:
            raise SchemaError(
                f"{source}: found keys {sorted(fields)}, expected 'columns' (and 'target'), "
                "or SDV metadata with 'tables'"
            )
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise SchemaError(_explain(error, fields, source)) from None


def _explain(error: ValidationError, fields: dict[str, Any], source: str) -> str:
    """Turn the first problem that pydantic found into one line: file, column, found, expected."""
    problem = error.errors(include_url=False)[0]
    place, message = list(problem["loc"]), problem["msg"].removeprefix("Value error, ")
    where = source
    if len(place) >= 2 and place[0] == "columns" and isinstance(place[1], int):
        column: Any = fields["columns"][place[1]]
        name = cast("dict[str, Any]", column).get("name") if isinstance(column, dict) else None
        where += f", column {name!r}" if name else f", column number {place[1] + 1}"
        place = place[2:]
    key = ".".join(str(part) for part in place)
    if problem["type"] == "extra_forbidden":
        known: Iterable[str] = Column.model_fields if "column" in where else cls_fields()
        return f"{where}: {absent_name(key, known, what='key')}"
    if problem["type"] == "missing":
        return f"{where}: '{key}' is absent; add it"
    if key:
        return f"{where}: {key} is {problem['input']!r}; {_lower_first(message)}"
    return f"{where}: {message}"


def cls_fields() -> list[str]:
    """Names of the top-level keys of a schema."""
    return list(Schema.model_fields)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def absent_name(name: str, known: Iterable[str], what: str = "column") -> str:
    """Message for a name that does not exist, with the nearest ones that do."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    folded = {other.casefold(): other for other in names}
    if not near and name.casefold() in folded:
        near = [folded[name.casefold()]]
    if near:
        hint = f"nearest: {', '.join(repr(other) for other in near)}"
    else:
        shown = ", ".join(repr(other) for other in names[:12])
        hint = f"found: {shown}{', ...' if len(names) > 12 else ''}"
    return f"{what} {name!r} does not exist; {hint}"


def check_names_exist(
    wanted: Iterable[str], known: Iterable[str], *, what: str = "column", source: str | None = None
) -> None:
    """Refuse names that are not among `known`.

    Raises:
        SchemaError: the first absent name, with the nearest ones.
    """
    names = list(known)
    for name in wanted:
        if name not in names:
            prefix = f"{source}: " if source else ""
            raise SchemaError(prefix + absent_name(name, names, what=what))
