"""SDV metadata JSON as a partial schema: it declares kinds and formats, the data gives the rest."""

from __future__ import annotations

from typing import Any, cast

from difflm_core.data.datetimes import check_format
from difflm_core.data.identifiers import IdentifierPattern
from difflm_core.errors import SchemaError

_INTEGERS = {"Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"}


def is_sdv_metadata(content: dict[str, Any]) -> bool:
    """Whether a JSON object is SDV metadata, of one table or of several."""
    return "METADATA_SPEC_VERSION" in content or isinstance(content.get("tables"), dict)


def schema_fields_from_sdv(content: dict[str, Any], source: str) -> dict[str, Any]:
    """Fields of a `Schema` from SDV metadata.

    Args:
        content: The metadata, single-table (`columns`) or multi-table with one table (`tables`).
        source: Name of the file in errors.

    Raises:
        SchemaError: more than one table, or a type that is not known.
    """
    table: dict[str, Any] = content
    if "tables" in content:
        tables = cast("dict[str, Any]", content["tables"])
        if len(tables) != 1:
            raise SchemaError(
                f"{source}: the SDV metadata describes {len(tables)} tables ({', '.join(tables)}); "
                "expected one table; keep one"
            )
        table = next(iter(tables.values()))
    found: Any = table.get("columns")
    if not isinstance(found, dict) or not found:
        raise SchemaError(f"{source}: the SDV metadata has no columns; expected 'columns'")
    columns = cast("dict[str, dict[str, Any]]", found)
    return {"columns": [_column(name, fields, source) for name, fields in columns.items()]}


def _column(name: str, fields: dict[str, Any], source: str) -> dict[str, Any]:
    sdtype = fields.get("sdtype")
    column: dict[str, Any] = {"name": name}
    if sdtype == "categorical":
        return column | {"kind": "categorical"}
    if sdtype == "boolean":
        return column | {"kind": "boolean"}
    if sdtype == "numerical":
        kind = "integer" if fields.get("computer_representation") in _INTEGERS else "float"
        # Without a representation SDV means any number; whole ones then have 0 decimals.
        return column | {"kind": kind}
    if sdtype == "datetime":
        return column | _datetime(fields, f"{source}, column {name!r}")
    if sdtype in ("id", "primary_key"):
        return column | _identifier(fields)
    if sdtype == "text":
        return column | {"kind": "text"}
    if isinstance(sdtype, str) and sdtype:
        # Personal information (email, phone_number, ssn, first_name, ...).
        return column | {"kind": "text"}
    raise SchemaError(
        f"{source}, column {name!r}: found sdtype {sdtype!r}; expected categorical, boolean, "
        "numerical, datetime, id, text or a personal type such as email"
    )


def _datetime(fields: dict[str, Any], where: str) -> dict[str, Any]:
    fmt = fields.get("datetime_format")
    if not isinstance(fmt, str):
        return {"kind": "datetime"}
    for kind in ("date", "datetime", "time"):
        problem = check_format(fmt, kind)
        if problem is None:
            return {"kind": kind, "format": fmt}
    raise SchemaError(f"{where}: {check_format(fmt, 'datetime')}")


def _identifier(fields: dict[str, Any]) -> dict[str, Any]:
    pattern = fields.get("regex_format")
    if not isinstance(pattern, str):
        return {"kind": "identifier"}
    try:
        IdentifierPattern.parse(pattern.removeprefix("^").removesuffix("$"))
    except SchemaError:
        return {"kind": "identifier"}  # A form outside the language: inferred from the data.
    return {"kind": "identifier", "pattern": pattern.removeprefix("^").removesuffix("$")}
