"""Write canonical records to Parquet, CSV, TSV or JSON Lines, in the form of the source.

Memory does not grow with the number of rows, the file appears under its name only when it is
complete, and the same records give the same bytes however they were cut into batches.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import gzip
import json
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import pyarrow as pa
import pyarrow.compute as pc_module
import pyarrow.parquet as pq_module

from difflm_core import storage
from difflm_core.data.readers import COMPRESSIONS, compression_of
from difflm_core.data.schema import DataKind, Schema
from difflm_core.data.source_form import Form, from_canonical, source_schema
from difflm_core.errors import ConfigError, StageError

pc: Any = pc_module
pq: Any = pq_module

OutputFormat = Literal["parquet", "csv", "tsv", "jsonl"]
ROW_GROUP_ROWS = 1 << 16

_SUFFIXES: dict[str, OutputFormat] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


def output_format(uri: str | Path) -> OutputFormat:
    """Format of an output file by its name.

    Raises:
        ConfigError: the ending is not known.
    """
    path = PurePosixPath(str(uri))
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise ConfigError(
            f"{uri}: found ending {path.suffix!r}, expected one of {', '.join(_SUFFIXES)} "
            f"(text formats also with {', '.join(COMPRESSIONS)}); rename it, or give the format"
        )
    return found


class RecordWriter:
    """Writes one file from a stream of canonical batches.

        with RecordWriter("out.parquet", schema) as writer:
            for batch in batches:
                writer.write(batch)

    Args:
        uri: Where to write: a path or fsspec URI; `.gz`, `.zst` or `.bz2` compresses text formats.
        schema: What the columns are.
        format: File format; None tells it from the name.
    """

    def __init__(
        self,
        uri: str | Path,
        schema: Schema,
        format: OutputFormat | None = None,
    ) -> None:
        self.uri = str(uri)
        self.num_rows = 0
        self._schema = schema
        self._format: OutputFormat = format or output_format(uri)
        if self._format == "parquet" and compression_of(self.uri) is not None:
            raise ConfigError(
                f"{self.uri}: Parquet is compressed inside; remove the ending "
                f"{PurePosixPath(self.uri).suffix!r}"
            )
        self._stack = contextlib.ExitStack()
        self._sink: _Sink | None = None
        self._held: list[pa.RecordBatch] = []
        self._num_held = 0

    def __enter__(self) -> Self:
        """Open a temporary file."""
        with self._explained(), contextlib.ExitStack() as stack:
            path = stack.enter_context(storage.atomic_output(self.uri))
            if self._format == "parquet":
                self._sink = _ParquetSink(path, self._schema)
            else:
                compression = compression_of(self.uri)
                self._sink = _TextSink(path, self._schema, self._format, compression)
            self._stack = stack.pop_all()
        return self

    def write(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Append canonical records."""
        pieces = [batch] if isinstance(batch, pa.RecordBatch) else batch.to_batches()
        for piece in pieces:
            if piece.num_rows:
                self._held.append(piece)
                self._num_held += piece.num_rows
        while self._num_held >= ROW_GROUP_ROWS:
            self._flush(ROW_GROUP_ROWS)

    def _flush(self, num_rows: int) -> None:
        table = pa.Table.from_batches(self._held)
        with self._explained():
            if self._sink is None:
                raise ValueError("RecordWriter is used outside its with block")
            self._sink.write(table.slice(0, num_rows))
        self._held = table.slice(num_rows).to_batches()
        self._num_held -= num_rows
        self.num_rows += num_rows

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the file and give it its name, or remove it if the block failed."""
        try:
            if kind is None and self._num_held:
                self._flush(self._num_held)
            with self._explained():
                if self._sink is not None:
                    self._sink.close()
        except BaseException as failure:
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        with self._explained():
            self._stack.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def _explained(self) -> Any:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error).splitlines()[0]
            raise StageError(
                f"{self.uri}: writing failed: {reason}; nothing was left under this name; free "
                "space or check the permissions, and run again"
            ) from error


class _Sink(Protocol):
    """Takes canonical tables of a fixed number of rows."""

    def write(self, table: pa.Table) -> None: ...

    def close(self) -> None: ...


class _ParquetSink:
    def __init__(self, path: Path, schema: Schema) -> None:
        self._schema = schema
        self._arrow_schema = source_schema(schema)
        self._writer: Any = pq.ParquetWriter(str(path), self._arrow_schema, compression="zstd")

    def write(self, table: pa.Table) -> None:
        """Write one row group."""
        rows = from_canonical(table, self._schema).cast(self._arrow_schema)
        self._writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)

    def close(self) -> None:
        """Write the footer."""
        self._writer.close()


class _TextSink:
    def __init__(
        self, path: Path, schema: Schema, kind: OutputFormat, compression: str | None
    ) -> None:
        self._schema = schema
        self._kind = kind
        self._raw: Any = path.open("wb")
        self._stream: Any = self._raw
        if compression == "gzip":  # No name and no time in the header: the same bytes every time.
            self._stream = gzip.GzipFile("", "wb", 6, self._raw, mtime=0)
        elif compression is not None:
            self._stream = pa.CompressedOutputStream(pa.PythonFile(self._raw, "w"), compression)
        if kind in ("csv", "tsv"):
            names = pa.table([pa.array([name]) for name in schema.names], names=list(schema.names))
            self._stream.write(delimited_lines(names, self._delimiter))

    @property
    def _delimiter(self) -> str:
        return "\t" if self._kind == "tsv" else ","

    def write(self, table: pa.Table) -> None:
        """Write some lines."""
        form: Form = "json" if self._kind == "jsonl" else "text"
        rows = from_canonical(table, self._schema, form=form)
        if self._kind == "jsonl":
            self._stream.write(json_lines(rows, self._schema))
        else:
            self._stream.write(delimited_lines(rows, self._delimiter))

    def close(self) -> None:
        """Flush and close."""
        try:
            self._stream.close()
        finally:
            self._raw.close()


def delimited_lines(table: pa.Table, delimiter: str) -> bytes:
    """Write a table as lines of delimited text, quoting only the cells that need it (RFC 4180)."""
    columns: list[Any] = []
    for column in table.columns:
        array: Any = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(array, pa.DictionaryArray):
            array = array.dictionary.take(array.indices)
        texts: Any = pc.fill_null(array.cast(pa.string()), "")
        special = pc.match_substring_regex(texts, f'["\\r\\n{delimiter}]|^\\s|\\s$')
        if table.num_columns == 1:
            special = pc.or_(special, pc.equal(texts, ""))
        if pc.any(special).as_py():
            doubled = pc.replace_substring(texts, '"', '""')
            quoted = pc.binary_join_element_wise('"', doubled, '"', "")
            texts = pc.if_else(special, quoted, texts)
        columns.append(texts)
    lines = pc.binary_join_element_wise(*columns, delimiter)
    ended = pc.binary_join_element_wise(lines, "\n", "")
    return b"".join(piece.encode() for piece in ended.to_pylist())


def json_lines(table: pa.Table, schema: Schema) -> bytes:
    """Write a table as JSON Lines; a JSON document is a line of its own."""
    if schema.data_kind is DataKind.JSON:
        return "".join(text + "\n" for text in table.column(0).to_pylist()).encode()
    lines = [
        json.dumps(row, ensure_ascii=False, allow_nan=False, default=_json_value)
        for row in table.to_pylist()
    ]
    return "".join(line + "\n" for line in lines).encode()


def _json_value(value: object) -> object:
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
