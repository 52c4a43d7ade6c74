"""The command that converts descriptions of tools."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from difflm_core.data.tools import ToolForm
from difflm_core.errors import DataError

if TYPE_CHECKING:
    from collections import Counter

_SKIPPED = "skipped"


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="Tools: .jsonl, .json or .parquet, in the form of OpenAI, BFCL, ToolBench or "
            "Seal-Tools.",
        ),
    ],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Where to write: .jsonl, .parquet.")],
    to: Annotated[ToolForm, typer.Option("--to", help="The form to write.")] = ToolForm.OPENAI,
    field: Annotated[
        str | None,
        typer.Option("--field", metavar="PATH", help="Part of each record that is the tool."),
    ] = None,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="OpenAI functions without the keywords that help to convert them back."
        ),
    ] = False,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out tools that cannot be converted.")
    ] = False,
) -> None:
    """Convert tools to OpenAI functions, or to the form of another collection."""
    from collections import Counter

    import pyarrow as pa

    from difflm_core.data.documents import open_documents
    from difflm_core.data.schema import DOCUMENT_COLUMNS, Column, ColumnKind, DataKind, Schema
    from difflm_core.data.writers import RecordWriter

    opened = open_documents(source, DataKind.JSON, field=field)
    column = Column(name=DOCUMENT_COLUMNS[DataKind.JSON], kind=ColumnKind.JSON, storage="string")
    schema = Schema(columns=(column,))
    counts: Counter[str] = Counter()
    with RecordWriter(target, schema) as writer:
        for label, first_row, batch in opened.located_batches():
            made: list[str] = []
            for number, text in enumerate(batch.column(0).to_pylist(), first_row + 1):
                try:
                    made.append(_converted(text, to, counts, keep_source=not plain))
                except DataError as error:
                    if not skip:
                        raise DataError(
                            f"{label}, tool {number}: {error} (--skip leaves such tools out)"
                        ) from None
                    counts[_SKIPPED] += 1
            texts = pa.array(made, pa.string())
            writer.write(pa.RecordBatch.from_arrays([texts], schema=schema.arrow_schema))
    num_skipped = counts.pop(_SKIPPED, 0)
    read = ", ".join(f"{count:,} {form}" for form, count in sorted(counts.items())) or "none"
    print(f"{target}: {writer.num_rows:,} as {to} (from {read})")
    if num_skipped:
        print(f"Left out, since they cannot be converted: {num_skipped:,}")


def _converted(text: str, to: ToolForm, counts: Counter[str], *, keep_source: bool) -> str:
    """A converted tool as text; its form is counted."""
    from difflm_core.data.tools import convert_tool, tool_form

    tool = json.loads(text)
    made = convert_tool(tool, to, keep_source=keep_source)
    counts[tool_form(tool)] += 1
    return json.dumps(made, ensure_ascii=False, separators=(",", ":"))
