"""CSV and TSV files: find the dialect, stream every column as text, explain what is wrong."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc_module
import pyarrow.csv as arrow_csv_module

from difflm_core import storage
from difflm_core.data.byte_streams import WHOLE, Span, open_bytes, read_head, spans_between
from difflm_core.data.readers import COMPRESSIONS, PIECE_BYTES, ReadOptions, compression_of
from difflm_core.errors import DataError

pc: Any = pc_module
arrow_csv: Any = arrow_csv_module

_HEAD_BYTES = 1 << 18
_BLOCK_BYTES = 1 << 22
_DELIMITERS = ",;\t|"
_UTF_8 = ("utf-8", "utf8")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is written.

    Attributes:
        delimiter: Character between fields.
        encoding: Text encoding.
        names: Column names.
        has_header: Whether the first record holds the names.
        pads_fields: Whether every delimiter is followed by a space that is not data.
        has_rows: Whether anything follows the header.
    """

    delimiter: str
    encoding: str
    names: tuple[str, ...]
    has_header: bool
    pads_fields: bool
    has_rows: bool = True


class DelimitedReader:
    """Reads one delimited file, or a part of it."""

    def __init__(self, uri: str, options: ReadOptions) -> None:
        self.label = uri
        self._options = options
        self._span = WHOLE

    @property
    def schema(self) -> pa.Schema:
        """Raw columns of the file, all text."""
        return pa.schema([(name, pa.string()) for name in self.dialect.names])

    @cached_property
    def dialect(self) -> Dialect:
        """How the file is written, from its first bytes and the options.

        Raises:
            DataError: the file is empty, its encoding is wrong, or it has no header.
        """
        head = read_head(self.label, _HEAD_BYTES)
        encoding = self._options.encoding or next(
            (name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), "utf-8"
        )
        if b"\0" in head and not encoding.lower().startswith(
            ("utf-16", "utf-32", "utf16", "utf32")
        ):
            raise DataError(
                f"{self.label}: found binary data (zero bytes), expected text; "
                "is it of another format, or compressed under a plain name?"
            )
        try:
            decoder = codecs.getincrementaldecoder(encoding)()
            text = decoder.decode(head, final=len(head) < _HEAD_BYTES).removeprefix("\ufeff")
        except UnicodeDecodeError:
            raise self._encoding_error(encoding) from None
        except LookupError:
            raise DataError(
                f"{self.label}: found encoding {encoding!r}, expected a name that Python knows, "
                "such as 'utf-8' or 'latin-1'"
            ) from None
        lines = text.split("\n", self._options.skip_lines)
        text = lines[-1] if len(lines) > self._options.skip_lines else ""
        if not text.strip():
            raise DataError(
                f"{self.label}: the file is empty; expected a header line and at least one row"
            )
        whole = len(head) < _HEAD_BYTES
        if not whole:  # The last line may be cut.
            text = text[: text.rfind("\n") + 1] or text
        delimiter = self._options.delimiter or self._find_delimiter(text)
        dialect = self._read_header(text, delimiter, encoding)
        only_header = whole and dialect.has_header and len(_records(text, delimiter, 2)) == 1
        return replace(dialect, has_rows=not only_header)

    def _find_delimiter(self, text: str) -> str:
        path = PurePosixPath(self.label)
        path = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
        if path.suffix.lower() in (".tsv", ".tab"):
            return "\t"
        best, best_score = ",", (0.8, 0)
        for delimiter in _DELIMITERS:
            rows = _records(text, delimiter, 100)
            width = len(rows[0]) if rows else 1
            agree = sum(len(row) == width for row in rows) / max(1, len(rows))
            if width > 1 and (agree, width) > best_score:
                best, best_score = delimiter, (agree, width)
        return best

    def _read_header(self, text: str, delimiter: str, encoding: str) -> Dialect:
        options = self._options
        rows = _records(text, delimiter, 200)
        fields = [field for row in rows[:100] for field in row[1:]]
        padded = [field for field in fields if field[:1] == " "]
        pads_fields = bool(fields) and delimiter != "\t" and len(padded) >= 0.99 * len(fields)
        if pads_fields and any(field[1:2] == '"' for field in padded):
            raise DataError(
                f"{self.label}: found a space before quoted fields, expected "
                f"'{delimiter}\"' without a space; remove the spaces after the delimiter"
            )
        first = tuple(field.strip() if pads_fields else field for field in rows[0])
        if options.column_names is not None:
            names = options.column_names
            if len(names) != len(first):
                raise DataError(
                    f"{self.label}: column_names has {len(names)} names, the first row has "
                    f"{len(first)} fields; expected as many names as fields"
                )
            return Dialect(delimiter, encoding, names, first == names, pads_fields)
        if options.header is False:
            names = tuple(f"column_{number}" for number in range(1, len(first) + 1))
            return Dialect(delimiter, encoding, names, False, pads_fields)
        numeric = sum(bool(re.fullmatch(r"[+-]?\d*\.?\d+", field.strip())) for field in first)
        if options.header is None and numeric and numeric * 2 >= len(first):
            raise DataError(
                f"{self.label}: the first line looks like data, not like a header "
                f"({numeric} of {len(first)} names are numbers); expected column names; pass "
                "column_names if the file has no header, or header=True if these are names"
            )
        return Dialect(delimiter, encoding, first, True, pads_fields)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the file in order, every column as text ("" where a cell is empty).

        Raises:
            DataError: a row has too many or too few fields, or the text is in another encoding.
        """
        dialect = self.dialect
        if not dialect.has_rows:
            return
        ragged: list[Any] = []
        num_rows, last_cell = 0, ""

        def on_invalid(row: Any) -> str:
            ragged.append(row)
            return "error"

        try:
            with open_bytes(self.label, self._span) as stream:
                for _ in range(0 if self._span.begin else self._options.skip_lines):
                    _skip_line(stream)
                reader = self._open(stream, on_invalid)
                names = list(dialect.names)
                for batch in reader:
                    columns = batch.columns
                    if dialect.pads_fields:
                        columns = [pc.utf8_trim_whitespace(column) for column in columns]
                    num_rows += batch.num_rows
                    last_cell = columns[-1][-1].as_py() if batch.num_rows else last_cell
                    yield pa.RecordBatch.from_arrays(columns, names=names)
        except pa.ArrowInvalid as error:
            raise self._explain(error, ragged, num_rows) from None
        except UnicodeDecodeError:
            raise self._encoding_error(dialect.encoding) from None
        if "\n" in last_cell and self._num_quotes() % 2:
            num_rows += self._rows_before()
            raise DataError(
                f"{self.label}: row {num_rows} has a quote that is opened and never closed; "
                "expected a closing quote before the end of the file; close or remove it"
            )

    def pieces(self) -> list[DelimitedReader]:
        """Cut the file between records; the pieces know the dialect of the whole file."""
        is_plain = self.dialect.encoding.lower() in _UTF_8 and compression_of(self.label) is None
        cuts: Iterable[int] = ()
        if is_plain and storage.size(self.label) > PIECE_BYTES:
            with open_bytes(self.label) as stream:
                cuts = list(_record_starts(stream, self.dialect.delimiter, PIECE_BYTES))
        return [self._part(span) for span in spans_between(self.label, cuts)]

    def _part(self, span: Span) -> DelimitedReader:
        part = copy(self)
        part._span = span
        return part

    def _rows_before(self) -> int:
        """Rows of the file before this part of it; for errors only, since they are read again."""
        if not self._span.begin:
            return 0
        before = self._part(Span(0, self._span.begin))
        return sum(batch.num_rows for batch in before.batches())

    def _num_quotes(self) -> int:
        total = 0
        with open_bytes(self.label, self._span) as stream:
            while chunk := bytes(stream.read(_BLOCK_BYTES)):
                total += chunk.count(b'"')
        return total

    def _open(self, stream: Any, on_invalid: Any) -> Any:
        dialect = self.dialect
        unique = [f"c{number}" for number in range(len(dialect.names))]
        return arrow_csv.open_csv(
            stream,
            read_options=arrow_csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                column_names=unique,
                skip_rows_after_names=int(self._has_header),
                encoding="utf8" if dialect.encoding.lower() in _UTF_8 else dialect.encoding,
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=dialect.delimiter,
                newlines_in_values=True,
                invalid_row_handler=on_invalid,
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(unique, pa.string()),
                strings_can_be_null=False,
                check_utf8=True,
            ),
        )

    @property
    def _has_header(self) -> bool:
        return self.dialect.has_header and not self._span.begin

    def _explain(self, error: Exception, ragged: list[Any], num_rows: int) -> DataError:
        if ragged:
            row = ragged[-1]
            before = self._rows_before()
            number = before + row.number - int(self._has_header) if row.number else None
            where = f"row {number}" if number else f"a row after row {before + num_rows}"
            return DataError(
                f"{self.label}: {where} has {row.actual_columns} fields, expected "
                f"{row.expected_columns} as in the first line; correct the row (a delimiter inside "
                f"a value needs quotes), or pass another delimiter than {self.dialect.delimiter!r}"
            )
        text = str(error)
        if "UTF8" in text or "UTF-8" in text:
            return self._encoding_error(self.dialect.encoding)
        if "straddling" in text or "too large" in text:
            return DataError(
                f"{self.label}: a row is longer than {_BLOCK_BYTES >> 20} MiB, probably because a "
                "quote is never closed; close the quote"
            )
        # Arrow appends the offending row after the last colon; a row must not be shown.
        reason = re.sub(r"(Expected \d+ columns, got \d+).*", r"\1", text.splitlines()[0])[:120]
        return DataError(f"{self.label}: not a valid delimited file: {reason}")

    def _encoding_error(self, encoding: str) -> DataError:
        """Find the first byte that does not decode, and say where it is."""
        decoder = codecs.getincrementaldecoder(encoding)()
        line, position = 1, 0
        with open_bytes(self.label) as stream:
            while True:
                chunk = bytes(stream.read(1 << 20))
                pending = len(decoder.getstate()[0])
                try:
                    decoder.decode(chunk, final=not chunk)
                except UnicodeDecodeError as error:
                    at = error.start - pending
                    line += chunk[: max(0, at)].count(b"\n")
                    byte = error.object[error.start]
                    return DataError(
                        f"{self.label}: found byte 0x{byte:02x} at line {line} (byte "
                        f"{position + at}), expected {encoding} text; save the file as UTF-8, or "
                        "pass encoding='latin-1' (or 'cp1252') if it comes from an older program"
                    )
                if not chunk:
                    return DataError(f"{self.label}: the text is not valid {encoding}")
                line += chunk.count(b"\n")
                position += len(chunk)


def _record_starts(stream: Any, delimiter: str, distance: int) -> Iterator[int]:
    """Offsets, about `distance` bytes apart, at which records begin.

    A line feed ends a record where the quotes before it are even in number. That holds as long as
    each one that opens stands at the start of a field, as the parser has it; where one does not,
    the rest of the file is left whole.
    """
    before_field = np.frombuffer(delimiter.encode() + b'\r\n"', dtype=np.uint8)
    offset = num_quotes = 0
    target, last = distance, b"\n"
    while chunk := bytes(stream.read(_BLOCK_BYTES)):
        if not offset and chunk.startswith(codecs.BOM_UTF8):
            chunk = chunk.replace(codecs.BOM_UTF8, b"\n\n\n", 1)
        data = np.frombuffer(last + chunk, dtype=np.uint8)  # the first byte was seen before
        quotes = np.flatnonzero(data[1:] == ord('"'))
        opening = quotes[num_quotes % 2 :: 2]
        if not np.isin(data[opening], before_field).all():
            return
        while target < offset + len(chunk):
            feeds = np.flatnonzero(data[1 + target - offset :] == ord("\n")) + target - offset
            outside = (num_quotes + np.searchsorted(quotes, feeds)) % 2 == 0
            if not outside.any():
                break
            start = offset + int(feeds[np.argmax(outside)]) + 1
            yield start
            target = start + distance
        num_quotes += len(quotes)
        offset += len(chunk)
        target = max(target, offset)
        last = chunk[-1:]


def _records(text: str, delimiter: str, limit: int) -> list[list[str]]:
    """First non-empty records of a text."""
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            if row:
                rows.append(row)
            if len(rows) >= limit:
                break
    except csv.Error:
        pass
    return rows


def _skip_line(stream: Any) -> None:
    while True:
        byte = bytes(stream.read(1))
        if byte in (b"\n", b""):
            return
