"""Commands that look at settings and tables, and change nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from difflm_core.cli.options import SetOption


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
        str, typer.Argument(metavar="SOURCE", help="CSV, TSV, JSONL or Parquet: path, glob, URI.")
    ],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write schema.json here.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Column that a downstream model predicts.")
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option("--missing", help="Spelling of a missing value; may be given several times."),
    ] = None,
) -> None:
    """Find out the kind of each column; edit the result and pass it as data.schema_path."""
    from difflm_core.data.inference import infer_schema

    schema = infer_schema(source, target=target, missing_values=tuple(missing or ()))
    if output:
        schema.save(output)
        print(output)
        return
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
