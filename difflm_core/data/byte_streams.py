"""Bytes of a file that may be remote and may be compressed."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from difflm_core import storage
from difflm_core.data.readers import compression_of
from difflm_core.errors import DataError


@dataclass(frozen=True)
class Span:
    """A part of a file: bytes `begin` to `end`; None: to its end."""

    begin: int = 0
    end: int | None = None


WHOLE = Span()


@contextmanager
def open_bytes(uri: str, span: Span = WHOLE) -> Generator[Any]:
    """Open a file as an Arrow input stream of its decompressed bytes.

    Args:
        uri: Path or URI of the file.
        span: Part to read, of a file that is not compressed.

    Raises:
        DataError: the file cannot be opened, or is damaged where it is compressed.
    """
    try:
        raw = storage.open_file(uri, "rb")
    except OSError as error:
        raise DataError(f"{uri}: the file cannot be read: {error.strerror or error}") from error
    with raw:
        compression = compression_of(uri)
        try:
            stream: Any = pa.PythonFile(raw if span == WHOLE else _Part(raw, span), mode="r")
            if compression is not None:
                stream = pa.CompressedInputStream(stream, compression)
            with stream:
                yield stream
        except (OSError, zlib.error, EOFError) as error:
            if compression is None:
                raise DataError(f"{uri}: reading failed: {error}") from error
            raise DataError(
                f"{uri}: found damaged or truncated {compression} data ({_first_line(error)}); "
                "expected a complete compressed file; copy it again, or check its ending"
            ) from error


def spans_between(uri: str, cuts: Iterable[int]) -> list[Span]:
    """Spans that make up a file which is cut at ascending offsets; none of them is empty."""
    size = storage.size(uri)
    edges = [0]
    edges += [cut for cut in cuts if 0 < cut < size]
    return [Span(begin, end) for begin, end in zip(edges, [*edges[1:], None], strict=True)]


class _Part:
    """The bytes of a span, as a file that can only be read on."""

    closed = False

    def __init__(self, file: Any, span: Span) -> None:
        file.seek(span.begin)
        self._file = file
        self._left = None if span.end is None else span.end - span.begin

    def read(self, num_bytes: int) -> bytes:
        wanted = num_bytes if self._left is None else min(num_bytes, self._left)
        piece = bytes(self._file.read(wanted))
        if self._left is not None:
            self._left -= len(piece)
        return piece

    def close(self) -> None:
        self.closed = True


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def read_head(uri: str, num_bytes: int) -> bytes:
    """First decompressed bytes of a file (fewer if it is shorter)."""
    pieces: list[bytes] = []
    left = num_bytes
    with open_bytes(uri) as stream:
        while left > 0:
            piece = bytes(stream.read(left))
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
    return b"".join(pieces)
