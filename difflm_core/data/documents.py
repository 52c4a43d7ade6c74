"""Open a corpus of documents (JSON or code) wherever it is, as a table of one text column.

JSON documents come from JSON Lines, JSON files (an array, or one document), or the rows of a
table; code from Python files, or a text field of any of these. `Source.batches` yields every
document as compact JSON text, or as source text; `Source.canonical_batches` as its canonical form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, cast

import pyarrow as pa

from difflm_core.data.byte_streams import open_bytes
from difflm_core.data.jsonlines import JsonLinesReader
from difflm_core.data.readers import (
    COMPRESSIONS,
    FORMATS,
    FileReader,
    ReadOptions,
    Source,
    expand_files,
    open_source,
)
from difflm_core.data.schema import DOCUMENT_COLUMNS, DataKind, absent_name
from difflm_core.data.strict_json import parse_strictly
from difflm_core.errors import DataError

# Fields that hold code, where none is named.
CODE_FIELDS = ("code", "content", "text")
# Deeper documents are refused: neither a schema nor a grammar of them would be of use.
MAX_DEPTH = 24
_BATCH_ROWS = 4096
_BATCH_CHARACTERS = 1 << 24
_JSON_SUFFIX, _CODE_SUFFIX = ".json", ".py"


@dataclass(frozen=True)
class DocumentOptions:
    """Which part of a record is the document.

    Attributes:
        kind: JSON or code.
        field: Dotted path; None: the whole record, or the first of `CODE_FIELDS`.
    """

    kind: DataKind
    field: str | None = None

    @property
    def schema(self) -> pa.Schema:
        """One text column."""
        return pa.schema([(DOCUMENT_COLUMNS[self.kind], pa.string())])


def open_documents(
    source: str | Sequence[str], kind: DataKind, *, field: str | None = None
) -> Source:
    """Open a corpus of documents.

    Args:
        source: Path, glob, directory or fsspec URI, or a list of these. JSON documents: .jsonl,
            .ndjson, .json, .csv, .tsv or .parquet (rows as flat objects, missing values left out);
            code: .py, or any of the others. Also with .gz, .zst or .bz2.
        kind: JSON or code.
        field: Dotted path of the part of each record that is the document. A list on the way gives
            a document for each of its items; empty parts are left out.

    Raises:
        DataError: nothing is there, or a file cannot be read.
    """
    items = [source] if isinstance(source, str) else list(source)
    suffixes = (*FORMATS, _JSON_SUFFIX, *([_CODE_SUFFIX] if kind is DataKind.CODE else []))

    def accepts(uri: str) -> bool:
        return _suffix(uri) in suffixes

    uris = [uri for item in items for uri in expand_files(item, accepts, suffixes)]
    options = DocumentOptions(kind, field)
    readers = [_reader(uri, options) for uri in uris]
    label = items[0] if len(items) == 1 else f"{items[0]} and {len(items) - 1} more"
    return Source(label, readers, options.schema, is_untyped=False)


def _reader(uri: str, options: DocumentOptions) -> FileReader:
    suffix = _suffix(uri)
    if suffix == _CODE_SUFFIX:
        if options.kind is not DataKind.CODE:
            raise DataError(
                f"{uri}: this is Python code, but data.kind is json; set data.kind to code"
            )
        return WholeFileReader(uri, options, _as_code)
    if suffix == _JSON_SUFFIX:
        return WholeFileReader(uri, options, _as_json)
    if FORMATS.get(suffix, "jsonl") == "jsonl":
        return DocumentLinesReader(uri, options)
    return RowDocumentsReader(uri, options)


def _suffix(uri: str) -> str:
    path = PurePosixPath(uri)
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix.lower()


class DocumentLinesReader(JsonLinesReader):
    """JSON Lines whose objects may be nested."""

    def __init__(self, uri: str, options: DocumentOptions) -> None:
        super().__init__(uri, ReadOptions())
        self._documents = options

    @cached_property
    def schema(self) -> pa.Schema:
        """One text column."""
        return self._documents.schema

    def parse(self, line: str) -> Any:
        """A line as a value; keys that stand twice and NaN are refused."""
        return parse_strictly(line)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the documents of the file in order."""
        parts = (
            part
            for number, record in self._records()
            for part in _parts(record, self._documents, f"{self.label}, line {number}")
        )
        return _batches(parts, self.schema)


@dataclass
class WholeFileReader:
    """A file that is read whole: a JSON array or object, or a Python module.

    Attributes:
        label: Path or URI.
        options: Which part is the document.
        records: Gives the records of its text, each with its place.
    """

    label: str
    options: DocumentOptions
    records: Callable[[str, str], Iterator[tuple[str, Any]]]

    @property
    def schema(self) -> pa.Schema:
        """One text column."""
        return self.options.schema

    def pieces(self) -> Sequence[FileReader]:
        """The file itself."""
        return [self]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the documents of the file in order."""
        with open_bytes(self.label) as stream:
            data = bytes(stream.read())
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise DataError(
                f"{self.label}: found byte 0x{data[error.start]:02x} at line {line}, expected "
                "UTF-8 text; save the file as UTF-8"
            ) from None
        parts = (
            part
            for place, record in self.records(text, self.label)
            for part in _parts(record, self.options, place)
        )
        return _batches(parts, self.schema)


@dataclass
class RowDocumentsReader:
    """The rows of a table as flat objects; what is missing in a row is left out.

    Attributes:
        label: Path or URI.
        options: Which part is the document.
    """

    label: str
    options: DocumentOptions

    @property
    def schema(self) -> pa.Schema:
        """One text column."""
        return self.options.schema

    def pieces(self) -> Sequence[FileReader]:
        """The file itself."""
        return [self]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the documents of the file in order."""
        return _batches(self._documents(), self.schema)

    def _documents(self) -> Iterator[str]:
        row = 0
        source = open_source(self.label)
        # What `writers` make of documents: a table of one column with their texts.
        holds_documents = (
            self.options.kind is DataKind.JSON
            and self.options.field is None
            and source.names == (DOCUMENT_COLUMNS[DataKind.JSON],)
        )
        for batch in source.batches():
            if holds_documents:
                yield from batch.column(0).to_pylist()
                continue
            for record in batch.to_pylist():
                row += 1
                present = {k: _plain(v) for k, v in record.items() if v is not None and v != ""}
                yield from _parts(present, self.options, f"{self.label}, row {row}")


def _plain(value: Any) -> Any:
    """A value of a table as one of JSON."""
    if isinstance(value, str | bool | int | float):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _as_json(text: str, label: str) -> Iterator[tuple[str, Any]]:
    try:
        content = parse_strictly(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{label}, line {error.lineno}: not valid JSON at character {error.colno} "
            f"({error.msg}); expected an array of objects, or one object"
        ) from None
    except RecursionError:
        raise DataError(f"{label}: {_too_deep()}") from None
    except ValueError as error:
        raise DataError(f"{label}: {error}") from None
    items = content if isinstance(content, list) else [content]
    for number, item in enumerate(items, 1):
        yield f"{label}, item {number}", item


def _as_code(text: str, label: str) -> Iterator[tuple[str, Any]]:
    yield label, {"code": text}


def _parts(record: Any, options: DocumentOptions, place: str) -> Iterator[str]:
    """Raw texts of the documents that a record holds."""
    if options.kind is DataKind.CODE:
        path = options.field or _code_field(record, place)
        for value in _selected(record, path.split("."), path, place):
            if not isinstance(value, str):
                raise DataError(
                    f"{place}, field {path!r}: found {_kind_of(value)}, expected code as text; "
                    "name the field that holds it with data.field"
                )
            if value.strip():
                yield value
        return
    values: Iterator[Any] = iter([record])
    if options.field:
        values = _selected(record, options.field.split("."), options.field, place)
    for value in values:
        if value in ({}, [], None, ""):
            continue
        _check_depth(value, place)
        try:
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            text.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{place}: found half of a surrogate pair (such as \\ud800), expected whole "
                "characters; repair the text"
            ) from None
        except ValueError:
            raise DataError(
                f"{place}: found a number that is infinite (such as 1e999) or not a number; "
                "expected finite numbers, or null"
            ) from None
        yield text


def _selected(value: Any, keys: Sequence[str], path: str, place: str) -> Iterator[Any]:
    """Values at a path; a list on the way, or at its end, gives all its items."""
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _selected(item, keys, path, place)
        return
    if not keys:
        yield value
        return
    if not isinstance(value, Mapping) or keys[0] not in value:
        known = list(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else []
        what = absent_name(keys[0], known, what="key") if known else f"found {_kind_of(value)}"
        raise DataError(f"{place}, data.field {path!r}: {what}")
    yield from _selected(cast("Any", value)[keys[0]], keys[1:], path, place)


def _code_field(record: Any, place: str) -> str:
    known = list(record) if isinstance(record, Mapping) else []
    for name in CODE_FIELDS:
        if name in known:
            return name
    found = ", ".join(repr(name) for name in known[:8]) or "none"
    raise DataError(
        f"{place}: found the fields {found}, expected the code in one of {', '.join(CODE_FIELDS)}; "
        "name the field that holds it with data.field"
    )


def _kind_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")


def _check_depth(value: Any, place: str, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise DataError(f"{place}: {_too_deep()}")
    inner: Any = ()
    if isinstance(value, dict):
        inner = cast("dict[str, Any]", value).values()
    elif isinstance(value, list):
        inner = cast("list[Any]", value)
    for item in inner:
        _check_depth(item, place, depth + 1)


def _too_deep() -> str:
    return (
        f"found objects or lists nested more than {MAX_DEPTH} levels deep, expected fewer; select "
        "a part of the document with data.field"
    )


def _batches(texts: Iterator[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Texts in batches of bounded size."""
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if len(held) == _BATCH_ROWS or size > _BATCH_CHARACTERS:
            yield pa.RecordBatch.from_arrays([pa.array(held, pa.string())], schema=schema)
            held, size = [], 0
    if held:
        yield pa.RecordBatch.from_arrays([pa.array(held, pa.string())], schema=schema)
