"""Rows as bytes, in pieces: replicas encode spans, and the front joins them to an answer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq_module

from components.serving.schemas import Format
from difflm_core.data.schema import Schema
from difflm_core.data.source_form import from_canonical, source_schema, stream_schema
from difflm_core.data.writers import ROW_GROUP_ROWS, delimited_lines, json_lines

pq: Any = pq_module

_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # Arrow IPC


@dataclass(frozen=True)
class Kind:
    """A format of answers.

    Attributes:
        media_type: of the answer.
        suffix: of a file it is saved as; None: shown rather than saved.
    """

    media_type: str
    suffix: str | None


KINDS: dict[Format, Kind] = {
    "json": Kind("application/json", None),
    "ndjson": Kind("application/x-ndjson", ".jsonl"),
    "csv": Kind("text/csv; charset=utf-8", ".csv"),
    "parquet": Kind("application/vnd.apache.parquet", ".parquet"),
    "arrow": Kind("application/vnd.apache.arrow.stream", ".arrows"),
}


def encode(records: pa.RecordBatch, schema: Schema, format: Format | None) -> bytes:
    """A piece of an answer.

    Args:
        records: Canonical records.
        schema: What the columns are.
        format: Of the answer; None keeps canonical records, see `decode_canonical`.
    """
    table = pa.Table.from_batches([records])
    if format == "csv":
        return delimited_lines(from_canonical(table, schema, form="text"), ",")
    if format in ("json", "ndjson"):
        lines = json_lines(from_canonical(table, schema, form="json"), schema)
        return lines if format == "ndjson" else lines.rstrip(b"\n").replace(b"\n", b",")
    if format == "arrow":
        typed = from_canonical(table, schema).cast(stream_schema(schema)).combine_chunks()
        records = typed.to_batches()[0]
    return records.serialize().to_pybytes()


def decode_canonical(piece: bytes, schema: Schema) -> pa.RecordBatch:
    """Canonical records of a piece that was encoded without a format."""
    return pa.ipc.read_record_batch(pa.py_buffer(piece), schema.arrow_schema)


def piece_format(format: Format) -> Format | None:
    """What a replica encodes for an answer; Parquet is written where the pieces are joined."""
    return None if format == "parquet" else format


class Joiner(Protocol):
    """Joins pieces to one answer."""

    def begin(self) -> bytes:
        """What comes before the first piece."""
        ...

    def add(self, piece: bytes) -> bytes:
        """What the next piece adds; maybe nothing yet."""
        ...

    def end(self) -> bytes:
        """What comes after the last piece."""
        ...


@dataclass
class _Plain:
    before: bytes = b""
    between: bytes = b""
    after: bytes = b""
    _num_pieces: int = 0

    def begin(self) -> bytes:
        return self.before

    def add(self, piece: bytes) -> bytes:
        self._num_pieces += 1
        return piece if self._num_pieces == 1 else self.between + piece

    def end(self) -> bytes:
        return self.after


class _Drain(io.RawIOBase):
    """A file that is only written to, and taken away as it grows."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._position += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


class _Parquet:
    """The same bytes as `difflm sample` writes: row groups do not depend on the pieces."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._types = source_schema(schema)
        self._file = _Drain()
        self._writer: Any = pq.ParquetWriter(self._file, self._types, compression="zstd")
        self._held: list[pa.RecordBatch] = []

    def begin(self) -> bytes:
        return self._file.take()

    def add(self, piece: bytes) -> bytes:
        self._held.append(decode_canonical(piece, self._schema))
        while sum(batch.num_rows for batch in self._held) >= ROW_GROUP_ROWS:
            table = pa.Table.from_batches(self._held)
            self._write(table.slice(0, ROW_GROUP_ROWS))
            self._held = table.slice(ROW_GROUP_ROWS).to_batches()
        return self._file.take()

    def end(self) -> bytes:
        if self._held:
            self._write(pa.Table.from_batches(self._held))
        self._writer.close()
        return self._file.take()

    def _write(self, table: pa.Table) -> None:
        rows = from_canonical(table, self._schema).cast(self._types)
        self._writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)


def make_joiner(format: Format, schema: Schema, facts: dict[str, Any]) -> Joiner:
    """A joiner for one answer.

    Args:
        format: Of the answer.
        schema: What the columns are.
        facts: What a JSON answer says beside its rows.
    """
    makers: dict[Format, Callable[[], Joiner]] = {
        "json": lambda: _Plain(
            json.dumps(facts, ensure_ascii=False).encode()[:-1] + b', "rows": [', b",", b"]}\n"
        ),
        "ndjson": _Plain,
        "csv": lambda: _Plain(delimited_lines(_names(schema), ",")),
        "arrow": lambda: _Plain(
            stream_schema(schema).serialize().to_pybytes(), after=_END_OF_STREAM
        ),
        "parquet": lambda: _Parquet(schema),
    }
    return makers[format]()


def _names(schema: Schema) -> pa.Table:
    return pa.table([pa.array([name]) for name in schema.names], names=list(schema.names))
