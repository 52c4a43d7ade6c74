"""Open a table wherever it is, and stream it in batches with bounded memory.

A source is one or more files of one format (CSV, TSV, JSONL or Parquet, plain or compressed), or a
table in memory. `Source.batches` yields *raw* columns: text files give every value as text, so
that nothing is lost before the schema is known; `Source.canonical_batches` yields canonical types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast

import pyarrow as pa

from difflm_core import storage
from difflm_core.data.storage_types import is_supported_type
from difflm_core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from difflm_core.data.schema import Schema

SourceLike: TypeAlias = "str | Path | pa.Table | pa.RecordBatch | pd.DataFrame"
Format = Literal["csv", "jsonl", "parquet"]

BATCH_CELLS = 1 << 20
MAX_BATCH_ROWS = 1 << 16
# Size of a piece of text, and of one of Parquet: about the same table in memory.
PIECE_BYTES = 1 << 25
PIECE_CELLS = 1 << 22

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}


@dataclass(frozen=True)
class ReadOptions:
    """How to read text files; None means "find out from the file".

    Attributes:
        format: File format.
        delimiter: Character between fields.
        column_names: Names of the columns of a file without header.
        header: Whether the first line of a delimited file holds the names.
        encoding: Text encoding.
        skip_lines: Lines to skip before the header or the first record.
    """

    format: Format | None = None
    delimiter: str | None = None
    column_names: tuple[str, ...] | None = None
    header: bool | None = None
    encoding: str | None = None
    skip_lines: int = 0


class FileReader(Protocol):
    """Reads one file."""

    label: str

    @property
    def schema(self) -> pa.Schema:
        """Raw columns of the file."""
        ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the file in order."""
        ...

    def pieces(self) -> Seq[FileReader]:
        """Readers of consecutive parts, which depend on the file alone."""
        ...


@dataclass
class Source:
    """A table that can be read any number of times, in a fixed row order.

    Attributes:
        label: How errors call the source.
        readers: One reader per file.
        schema: Raw columns, the same for all files.
        is_untyped: Whether every value is text because the format has no types (CSV, TSV).
        columns: Columns to read, None for all.
        is_pandas: Whether the source is a pandas DataFrame.
    """

    label: str
    readers: list[FileReader]
    schema: pa.Schema
    is_untyped: bool
    columns: tuple[str, ...] | None = None
    is_pandas: bool = False
    _names: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        names = self.schema.names if self.columns is None else self.columns
        self._names = tuple(names)

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in order."""
        return self._names

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield raw batches of all files, in order."""
        for _, _, batch in self.located_batches():
            yield batch

    def pieces(self) -> list[Source]:
        """Sources of consecutive parts of the table, to be read side by side.

        Where it is cut depends on its files alone: text between records, Parquet between row
        groups, compressed text and tables in memory not at all.
        """
        return [
            replace(self, readers=[part]) for reader in self.readers for part in reader.pieces()
        ]

    def located_batches(self) -> Iterator[tuple[str, int, pa.RecordBatch]]:
        """Yield raw batches with the name of their file and the number of their first row in it."""
        wanted = pa.schema([self.schema.field(name) for name in self._names])
        limit = max(1, min(MAX_BATCH_ROWS, BATCH_CELLS // max(1, len(self._names))))
        for reader in self.readers:
            row = 0
            for batch in reader.batches():
                for start in range(0, batch.num_rows, limit):
                    piece = _conform(batch.slice(start, limit), wanted, reader.label)
                    yield reader.label, row, piece
                    row += piece.num_rows

    def canonical_batches(self, schema: Schema, first_row: int = 0) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the canonical types of a schema.

        Args:
            schema: What the columns are.
            first_row: For a piece: rows of its file before it, for row numbers in errors.

        Raises:
            DataError: a value does not fit its column; file, row and column are named.
            SchemaError: a column of the schema is not in the source.
        """
        from difflm_core.data.canonical import to_canonical_batch

        for label, row, batch in self.located_batches():
            yield to_canonical_batch(batch, schema, source=label, first_row=first_row + row)


def _conform(batch: pa.RecordBatch, wanted: pa.Schema, label: str) -> pa.RecordBatch:
    """Bring a batch into the column order and the types that all files share."""
    if batch.schema.equals(wanted):
        return batch
    arrays: list[pa.Array] = []
    for item in wanted:
        array = batch.column(item.name)
        if array.type != item.type:
            try:
                array = array.cast(item.type)
            except pa.ArrowInvalid:
                raise DataError(
                    f"{label}, column {item.name!r}: found {array.type} values that do not fit "
                    f"{item.type}, the type expected from the other files; convert the column"
                ) from None
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=wanted)


def open_source(
    source: SourceLike | Seq[str | Path],
    *,
    columns: Seq[str] | None = None,
    format: Format | None = None,
    delimiter: str | None = None,
    column_names: Seq[str] | None = None,
    header: bool | None = None,
    encoding: str | None = None,
    skip_lines: int = 0,
) -> Source:
    """Open a table.

    Args:
        source: Path, glob, directory of shards, fsspec URI, a list of these, a pandas DataFrame or
            an Arrow table. Files end in .csv .tsv .jsonl .ndjson or .parquet, also with .gz, .zst
            or .bz2; other endings are recognised by content.
        columns: Columns to read; None reads all.
        format: File format; None tells it from the name or the content.
        delimiter: Field separator of a delimited file; None finds it.
        column_names: Names for delimited files without a header line.
        header: True: the first line holds names, whatever they look like. False: it holds data,
            and columns are called `column_1` and so on unless `column_names` are given.
        encoding: Text encoding, by default UTF-8 or what the byte order mark says.
        skip_lines: Lines before the header, or before the data, to skip.

    Raises:
        DataError: nothing is there, a file cannot be read, or files do not agree.
        SchemaError: `columns` has a name that does not exist.
    """
    from difflm_core.data.schema import check_names_exist

    options = ReadOptions(
        format=format,
        delimiter=delimiter,
        column_names=tuple(column_names) if column_names else None,
        header=header,
        encoding=encoding,
        skip_lines=skip_lines,
    )
    if isinstance(source, str | Path) or (
        isinstance(source, list | tuple) and all(isinstance(item, str | Path) for item in source)
    ):
        opened = _open_files(cast("Any", source), options)
    else:
        opened = _open_memory(source)
    check_columns(opened.schema, opened.label)
    if columns is not None:
        check_names_exist(columns, opened.schema.names, source=opened.label)
        opened = Source(
            opened.label,
            opened.readers,
            opened.schema,
            opened.is_untyped,
            tuple(columns),
            opened.is_pandas,
        )
    return opened


def _open_memory(source: Any) -> Source:
    from difflm_core.data.frames import FrameReader

    reader = FrameReader(source)
    return Source(
        reader.label, [reader], reader.schema, is_untyped=False, is_pandas=reader.is_pandas
    )


def _open_files(source: str | Path | Seq[str | Path], options: ReadOptions) -> Source:
    items = [source] if isinstance(source, str | Path) else list(source)
    if not items:
        raise DataError("found an empty list of files, expected at least one path")
    uris = [
        uri
        for item in items
        for uri in expand_files(
            str(item), lambda name: bool(options.format or _format_of_name(name)), FORMATS
        )
    ]
    label = str(items[0]) if len(items) == 1 else f"{items[0]} and {len(items) - 1} more"
    readers: list[FileReader] = []
    formats: dict[str, str] = {}
    for uri in uris:
        kind = options.format or file_format(uri)
        formats.setdefault(kind, uri)
        readers.append(_file_reader(uri, kind, options))
    if len(formats) > 1:
        raise DataError(
            f"{label}: found files of different formats ({', '.join(formats.values())}); "
            "expected one format; name the files with a glob such as 'folder/*.csv'"
        )
    return Source(label, readers, _common_schema(readers), is_untyped="csv" in formats)


def _file_reader(uri: str, kind: str, options: ReadOptions) -> FileReader:
    if kind == "parquet":
        from difflm_core.data.parquet_files import ParquetReader

        return ParquetReader(uri)
    if kind == "jsonl":
        from difflm_core.data.jsonlines import JsonLinesReader

        return JsonLinesReader(uri, options)
    from difflm_core.data.delimited import DelimitedReader

    return DelimitedReader(uri, options)


def expand_files(uri: str, accepts: Callable[[str], bool], expected: Iterable[str]) -> list[str]:
    """Files behind a path, glob, directory or URI, sorted.

    Args:
        uri: Where they are.
        accepts: Which files of a directory are meant.
        expected: Endings of these, for messages.

    Raises:
        DataError: there are none.
    """
    if any(char in uri for char in "*?[") and not storage.exists(uri):
        found = [name for name in storage.glob(uri) if not name.endswith(storage.TEMPORARY_SUFFIX)]
        if not found:
            raise DataError(f"{uri}: no file matches; expected at least one; check the path")
        return found
    if not storage.exists(uri):
        raise DataError(f"{uri}: there is no such file or directory; check the path{_near(uri)}")
    if not storage.is_dir(uri):
        return [uri]
    found = [
        storage.join(uri, info.path)
        for info in storage.list_files(uri)
        if accepts(info.path) and not PurePosixPath(info.path).name.startswith((".", "_"))
    ]
    if not found:
        raise DataError(
            f"{uri}: the directory has no data files; expected files ending in "
            f"{', '.join(expected)} (also with {', '.join(COMPRESSIONS)})"
        )
    return found


def _near(uri: str) -> str:
    """Nearest file name in the same directory, as a hint."""
    import difflib

    if not storage.is_local(uri):
        return ""
    path = storage.local_path(uri)
    if not path.parent.is_dir():
        return f" (the directory {path.parent} does not exist either)"
    names = [entry.name for entry in path.parent.iterdir()][:10_000]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" (nearest: {near[0]!r})" if near else ""


def compression_of(uri: str) -> str | None:
    """Compression of a file by its name, or None."""
    return COMPRESSIONS.get(PurePosixPath(uri).suffix.lower())


def _format_of_name(uri: str) -> Format | None:
    path = PurePosixPath(uri)
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return FORMATS.get(path.suffix.lower())


def file_format(uri: str) -> Format:
    """Format of a file by its name, else by its first bytes."""
    found = _format_of_name(uri)
    if found is not None:
        return found
    from difflm_core.data.byte_streams import read_head

    head = read_head(uri, 64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PAR1"):
        return "parquet"
    return "jsonl" if head.startswith((b"{", b"[")) else "csv"


def _common_schema(readers: list[FileReader]) -> pa.Schema:
    """Columns that all files share: the same names in any order, types that can be reconciled."""
    first = readers[0]
    schema = first.schema
    for reader in readers[1:]:
        absent = [name for name in schema.names if name not in reader.schema.names]
        extra = [name for name in reader.schema.names if name not in schema.names]
        if absent or extra:
            what = f"lacks column {absent[0]!r}" if absent else f"has an extra column {extra[0]!r}"
            raise DataError(
                f"{reader.label}: {what} compared with {first.label}; "
                "expected the same columns in every file"
            )
        try:
            schema = pa.unify_schemas(
                [schema.remove_metadata(), reader.schema.remove_metadata()],
                promote_options="permissive",
            )
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            name = next(
                name
                for name in schema.names
                if schema.field(name).type != reader.schema.field(name).type
            )
            raise DataError(
                f"{reader.label}, column {name!r}: found type {reader.schema.field(name).type}, "
                f"expected {schema.field(name).type} as in {first.label}; convert the column"
            ) from None
    return schema.remove_metadata()


def check_columns(schema: pa.Schema, label: str) -> None:
    """Refuse tables whose columns cannot be told apart or cannot be modelled.

    Raises:
        DataError: no columns, an empty or repeated name, or a nested type.
    """
    names = cast("list[str]", schema.names)
    if not names:
        raise DataError(f"{label}: the table has no columns; expected at least one")
    for position, name in enumerate(names, 1):
        if not name.strip():
            hint = " (an index saved by pandas? write it with index=False)" if position == 1 else ""
            raise DataError(
                f"{label}: column {position} has an empty name; expected a name{hint}; "
                "name it in the file, or pass column_names"
            )
        if name in names[: position - 1]:
            raise DataError(
                f"{label}: column name {name!r} appears more than once "
                f"(columns {names.index(name) + 1} and {position}); expected unique names; "
                "rename one"
            )
    for item in schema:
        if not is_supported_type(item.type):
            raise DataError(
                f"{label}, column {item.name!r}: found type {item.type}, expected numbers, text, "
                "truth values, dates or times; flatten or convert the column"
            )
