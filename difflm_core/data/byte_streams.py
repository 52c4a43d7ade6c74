"""Bytes of a file that may be remote and may be compressed."""

from __future__ import annotations

import zlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from difflm_core import storage
from difflm_core.data.readers import compression_of
from difflm_core.errors import DataError


@contextmanager
def open_bytes(uri: str) -> Generator[Any]:
    """Open a file as an Arrow input stream of its decompressed bytes.

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
            stream: Any = pa.PythonFile(raw, mode="r")
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
