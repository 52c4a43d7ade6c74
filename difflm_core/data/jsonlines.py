"""JSON Lines: one flat object per line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from copy import copy
from functools import cached_property
from typing import Any, cast

import pyarrow as pa

from difflm_core import storage
from difflm_core.data.byte_streams import WHOLE, open_bytes, spans_between
from difflm_core.data.readers import PIECE_BYTES, ReadOptions, compression_of
from difflm_core.errors import DataError

_BATCH_ROWS = 1 << 14
_READ_BYTES = 1 << 20
_INT64 = range(-(2**63), 2**63)


class JsonLinesReader:
    """Reads one JSON Lines file. A first pass finds the keys and the types of their values."""

    def __init__(self, uri: str, options: ReadOptions) -> None:
        self.label = uri
        self._options = options
        self._span = WHOLE

    @cached_property
    def schema(self) -> pa.Schema:
        """Raw columns: every key that occurs, in order, with a type that holds all its values."""
        found: dict[str, set[str]] = {}
        for number, record in self._records():
            for key, value in record.items():
                kinds = found.setdefault(key, set())
                kind = _kind(value)
                if kind == "nested":
                    raise DataError(
                        f"{self.label}, line {number}, key {key!r}: found a nested "
                        f"{'object' if isinstance(value, dict) else 'list'}, expected a number, "
                        "text, true, false or null; flatten it into keys of its own"
                    )
                kinds.add(kind)
        if not found:
            raise DataError(f"{self.label}: the file has no records; expected at least one line")
        return pa.schema([(key, _type_for(kinds)) for key, kinds in found.items()])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the file in order."""
        schema = self.schema
        rows: list[dict[str, Any]] = []
        for _, record in self._records():
            rows.append(record)
            if len(rows) == _BATCH_ROWS:
                yield _batch(rows, schema)
                rows = []
        if rows:
            yield _batch(rows, schema)

    def pieces(self) -> list[JsonLinesReader]:
        """Cut the file between lines; the pieces know the keys and types of the whole file."""
        _ = self.schema
        pieces: list[JsonLinesReader] = []
        for span in spans_between(self.label, self._line_starts()):
            piece = copy(self)
            piece._span = span
            pieces.append(piece)
        return pieces

    def _line_starts(self) -> Iterator[int]:
        if compression_of(self.label) is not None:
            return
        size = storage.size(self.label)
        with storage.open_file(self.label) as file:
            for target in range(PIECE_BYTES, size, PIECE_BYTES):
                file.seek(target)
                file.readline()
                yield file.tell()

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        skipped = 0 if self._span.begin else self._options.skip_lines
        for number, line in enumerate(self._lines(), 1):
            if not line.strip() or number <= skipped:
                continue
            try:
                record = self.parse(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{self.label}, line {number}: not valid JSON at character {error.colno} "
                    f"({error.msg}); expected one object per line"
                ) from None
            except RecursionError:
                raise DataError(
                    f"{self.label}, line {number}: found objects or lists nested too deep; "
                    "flatten them"
                ) from None
            except ValueError as error:
                raise DataError(f"{self.label}, line {number}: {error}") from None
            if not isinstance(record, dict):
                raise DataError(
                    f"{self.label}, line {number}: found a JSON {type(record).__name__}, expected "
                    'one object per line (JSON Lines), such as {"age": 39}'
                )
            yield number, cast("dict[str, Any]", record)

    def parse(self, line: str) -> Any:
        """A line as a value.

        Raises:
            ValueError: it is not JSON, or not acceptable; the message says why.
        """
        return json.loads(line)

    def _lines(self) -> Iterator[str]:
        encoding = self._options.encoding or "utf-8-sig"
        number, rest = 1, b""
        with open_bytes(self.label, self._span) as stream:
            while True:
                chunk = bytes(stream.read(_READ_BYTES))
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop() if chunk else b""
                for line in lines:
                    try:
                        yield line.decode(
                            encoding if number == 1 else encoding.removesuffix("-sig")
                        )
                    except UnicodeDecodeError as error:
                        raise DataError(
                            f"{self.label}: found byte 0x{line[error.start]:02x} at line {number}, "
                            "expected UTF-8 text; save the file as UTF-8, or pass "
                            "encoding='latin-1' if it comes from an older program"
                        ) from None
                    number += 1
                if not chunk:
                    return


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if value not in _INT64:
            return "text"
        return "int" if abs(value) <= 2**53 else "wide"
    if isinstance(value, float):
        return "null" if math.isnan(value) else "float"
    return "text" if isinstance(value, str) else "nested"


def _type_for(kinds: set[str]) -> pa.DataType:
    kinds = kinds - {"null"}
    if not kinds:
        return pa.null()
    if kinds == {"bool"}:
        return pa.bool_()
    if kinds <= {"int", "wide"}:
        return pa.int64()
    return pa.float64() if kinds <= {"int", "float"} else pa.string()


def _batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    arrays: list[pa.Array] = []
    for item in schema:
        values: list[Any] = [row.get(item.name) for row in rows]
        if item.type == pa.string():
            values = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
        arrays.append(pa.array(values, item.type, from_pandas=True))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
