"""Commands that look at settings and tables, and change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from difflm_core.cli.options import SetOption
from difflm_core.errors import ConfigError

if TYPE_CHECKING:
    from difflm_core.data.schema import Schema

Kind = Literal["table", "json", "code"]


def show(
    overrides: SetOption,
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="Configuration (YAML).")
    ] = None,
) -> None:
    """Print the whole configuration that a file and overrides lead to."""
    from difflm_core.config_file import load_config, to_yaml

    print(to_yaml(load_config(config, overrides)), end="")


def validate(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="Configuration (YAML).")],
    overrides: SetOption,
) -> None:
    """Check a configuration file."""
    from difflm_core.config_file import load_config

    load_config(config, overrides).require_source(config)
    print(f"{config} is valid.")


def docs() -> None:
    """Print the reference of all settings (Markdown)."""
    from difflm_core.config_file import config_markdown

    print(config_markdown(), end="")


def infer(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="CSV, TSV, JSONL or Parquet (documents: also JSON; code: also Python): path, "
            "glob, URI.",
        ),
    ],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write schema.json here.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="Column (documents: dotted path) that a downstream model predicts."
        ),
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option("--missing", help="Spelling of a missing value; may be given several times."),
    ] = None,
    kind: Annotated[Kind, typer.Option("--kind", help="What a record is: as data.kind.")] = "table",
    field: Annotated[
        str | None,
        typer.Option(
            "--field", metavar="PATH", help="Part of a record that is the document: as data.field."
        ),
    ] = None,
) -> None:
    """Find out the kind of each column; edit the result and pass it as data.schema_path.

    Of JSON documents: their JSON Schema.
    """
    found = ""
    if kind != "table":
        if missing:
            raise ConfigError("--missing applies to tables; documents say null themselves")
        schema, found = _infer_documents(source, kind, field, target)
    elif field is not None:
        raise ConfigError("--field applies to documents; add --kind json or --kind code")
    else:
        from difflm_core.data.inference import infer_schema

        schema = infer_schema(source, target=target, missing_values=tuple(missing or ()))
    if output:
        schema.save(output)
        print(output)
    elif kind == "table":
        _print_columns(schema)
    else:
        from difflm_core.data.schema_outline import outline

        if kind == "json":
            print("\n".join(outline(schema.columns[0].json_schema or {})))
        print(found)


def _infer_documents(
    source: str, kind: Kind, field: str | None, target: str | None
) -> tuple[Schema, str]:
    """The schema of a corpus, and how large it is in words."""
    from difflm_core.data.document_profile import DocumentProfile
    from difflm_core.data.documents import open_documents
    from difflm_core.data.json_schema import decide_document_schema
    from difflm_core.data.schema import DataKind

    opened = open_documents(source, DataKind(kind), field=field)
    profile = DocumentProfile(DataKind(kind))
    for batch in opened.batches():
        profile.add(batch)
    size = f"documents: {profile.num_rows:,}, characters of the longest: {profile.longest:,}"
    return decide_document_schema(opened, profile, target=target), size


def _print_columns(schema: Schema) -> None:
    width = max(len(column.name) for column in schema.columns)
    for column in schema.columns:
        notes = [
            "target" if column.name == schema.target else "",
            "may be missing" if column.nullable else "",
            f"from {column.minimum} to {column.maximum}" if column.minimum is not None else "",
            f"form {column.format}" if column.format else "",
        ]
        print(
            f"{column.name:<{width}}  {column.kind:<12} {', '.join(filter(None, notes))}".rstrip()
        )
