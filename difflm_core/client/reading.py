"""Rows in pages: an interrupted page is asked for again, and what is known of it is skipped."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Generator, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from difflm_core.client.answers import Limits, ServiceError
from difflm_core.client.connection import Connection, Outage, segment, unexpected
from difflm_core.errors import ConfigError

if TYPE_CHECKING:
    import httpx
    import pyarrow as pa

PAGE_MULTIPLE = 1024


class Reading:
    """A table of one seed and one version of a model, read from its first row to its last.

    Args:
        connection: Where from.
        model: Name of the model.
        num_rows: How many rows.
        page_rows: Most rows of a page.
        sampling: The other keys of the request.
    """

    def __init__(
        self,
        connection: Connection,
        model: str,
        num_rows: int,
        page_rows: int,
        sampling: Mapping[str, Any],
    ) -> None:
        if num_rows < 1:
            raise ConfigError(f"num_rows is {num_rows}; expected at least 1")
        self._connection = connection
        self._path = f"/v1/models/{segment(model, 'model')}/generate"
        self._num_rows = num_rows
        self._page_rows = page_rows
        self._sampling = {key: value for key, value in sampling.items() if key != "seed"}
        self._seed: int | None = sampling.get("seed")
        self._version: str | None = None
        self._schema: pa.Schema | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, in their order.

        Raises:
            ServiceError: they cannot be had, or the model was replaced meanwhile.
        """
        outage = Outage(self._connection)
        for first, count in self._pages():
            num_seen = 0
            mark = _Mark(outage)
            while num_seen < count:
                try:
                    for batch in self._page_batches(first, count, num_seen, mark):
                        num_seen += batch.num_rows
                        yield batch
                        outage.progress()  # what the caller did meanwhile is not the service's time
                except ServiceError as error:
                    # A connection that breaks after the last row takes nothing with it.
                    if num_seen < count or not error.temporary:
                        outage.wait_out(error)

    def write_lines(self, file: IO[bytes], kind: str) -> None:
        """Write the rows as the service spells them: `csv` with a header, or `ndjson`.

        Raises:
            ServiceError: they cannot be had, or the model was replaced meanwhile.
        """
        outage = Outage(self._connection)
        header: bytes | None = None
        for first, count in self._pages():
            start = file.tell()
            mark = _Mark(outage)
            while True:
                lines = _Lines(has_header=kind == "csv", keep_header=first == 0)
                try:
                    with self._answer(first, count, kind, outage) as response:
                        for chunk in mark.pass_on(self._connection.chunks(response, outage)):
                            file.write(lines.feed(chunk))
                    if lines.num_rows != count or not lines.is_ended:
                        raise _wrong_rows(response, count, lines.num_rows)
                    if header not in (None, lines.header):
                        raise unexpected(response, "the columns are not those of the page before")
                except ServiceError as error:
                    file.seek(start)
                    file.truncate()
                    outage.wait_out(error)
                else:
                    break
            header = lines.header

    def _pages(self) -> Iterator[tuple[int, int]]:
        """First row and number of rows of each page."""
        size = self._page_rows
        if self._num_rows > PAGE_MULTIPLE:
            most = self._connection.ask(Limits, "GET", "/v1/limits").rows_per_request
            size = min(size, most // PAGE_MULTIPLE * PAGE_MULTIPLE)
            if self._num_rows <= most and self._num_rows <= self._page_rows:
                size = self._num_rows  # at once
            if size == 0:
                raise ConfigError(
                    f"{self._num_rows:,} rows cannot be read in pages: the service gives {most:,} "
                    f"rows at once, a page has {PAGE_MULTIPLE:,} or more. Ask for up to {most:,} "
                    "rows, or use Client.submit."
                )
        for first in range(0, self._num_rows, size):
            yield first, min(size, self._num_rows - first)

    def _page_batches(
        self, first: int, count: int, skip: int, mark: _Mark
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a page after the first `skip`, from one answer."""
        import pyarrow as pa

        position = 0
        with self._answer(first, count, "arrow", mark.outage) as response:
            chunks = mark.pass_on(self._connection.chunks(response, mark.outage))
            source = io.BufferedReader(_Body(chunks))
            with _arrow_errors(response):
                reader: Any = pa.ipc.open_stream(source)
            if self._schema is None:
                self._schema = reader.schema
            elif not reader.schema.equals(self._schema):
                raise unexpected(response, "the columns are not those of the page before")
            while True:
                with _arrow_errors(response):
                    batch: pa.RecordBatch | None = next(reader, None)
                if batch is None:
                    break
                begin, position = position, position + batch.num_rows
                if position > count:
                    raise _wrong_rows(response, count, position)
                if position > skip:
                    yield batch.slice(max(0, skip - begin))
            if position != count:
                raise _wrong_rows(response, count, position)
            source.read(1)  # to the end of the answer, so that the connection serves the next page

    @contextlib.contextmanager
    def _answer(
        self, first: int, count: int, kind: str, outage: Outage
    ) -> Generator[httpx.Response]:
        """Ask for a page once, and check what its answer says of it."""
        body = {"count": count, "first": first, "format": kind, **self._sampling}
        if self._seed is not None:
            body["seed"] = self._seed
        with self._connection.exchange("POST", self._path, body, outage) as response:
            headers = response.headers
            seed, rows, version = (
                headers.get(name, "") for name in ("x-seed", "x-rows", "x-model-version")
            )
            if not (_is_number(seed) and _is_number(rows) and version):
                raise unexpected(
                    response, "the answer lacks one of X-Seed, X-Rows and X-Model-Version"
                )
            if int(rows) != count:
                raise _wrong_rows(response, count)
            if self._version not in (None, version):
                raise unexpected(
                    response,
                    f"the model was replaced while it was read (version {self._version}, now "
                    f"{version})",
                    code="model_replaced",
                    fix="Start again: the rows of two models do not belong together.",
                )
            if self._seed not in (None, int(seed)):
                raise unexpected(
                    response, f"asked for seed {self._seed}, the answer has seed {seed}"
                )
            self._version, self._seed = version, int(seed)
            yield response


class _Mark:
    """How far into a page any answer came: only what lies behind it is progress."""

    def __init__(self, outage: Outage) -> None:
        self.outage = outage
        self._num_bytes = 0

    def pass_on(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The bytes of an answer."""
        num_bytes = 0
        for chunk in chunks:
            num_bytes += len(chunk)
            if num_bytes > self._num_bytes:
                self._num_bytes = num_bytes
                self.outage.progress()
            yield chunk


class _Body(io.RawIOBase):
    """The body of an answer as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer as far as one chunk does."""
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


class _Lines:
    """Counts rows in lines that come in chunks, and takes the header out of CSV.

    A line of CSV may hold line ends between quotes; a quote inside of quotes is doubled, so that
    an even number of quotes lies before the end of every row. JSON escapes its line ends.
    """

    def __init__(self, *, has_header: bool, keep_header: bool) -> None:
        self.num_rows = 0
        self.header = b""
        self.is_ended = False
        self._in_header = has_header
        self._keep_header = keep_header
        self._is_csv = has_header
        self._is_quoted = False

    def feed(self, chunk: bytes) -> bytes:
        """Take a chunk; returns what of it is to be written."""
        pieces = chunk.split(b'"') if self._is_csv else [chunk]
        if self._in_header:
            return self._feed_header(chunk, pieces)
        self.num_rows += sum(piece.count(b"\n") for piece in pieces[self._is_quoted :: 2])
        self._is_quoted ^= len(pieces) % 2 == 0
        if chunk:
            self.is_ended = chunk.endswith(b"\n") and not self._is_quoted
        return chunk

    def _feed_header(self, chunk: bytes, pieces: list[bytes]) -> bytes:
        offset = 0
        for index, piece in enumerate(pieces):
            end = -1 if self._is_quoted else piece.find(b"\n")
            if end >= 0:
                self._in_header = False
                self.header += chunk[: offset + end + 1]
                self.is_ended = True
                rows = self.feed(chunk[offset + end + 1 :])
                return self.header + rows if self._keep_header else rows
            offset += len(piece) + 1
            if index + 1 < len(pieces):
                self._is_quoted = not self._is_quoted
        self.header += chunk
        return b""


@contextlib.contextmanager
def _arrow_errors(response: httpx.Response) -> Generator[None]:
    """A stream that ends early is a connection that broke."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise unexpected(
            response,
            f"the stream of rows broke off: {reason}",
            code="broken",
            fix="Ask again later.",
            temporary=True,
        ) from None


def _wrong_rows(response: httpx.Response, count: int, found: int = 0) -> ServiceError:
    """An error about a number of rows; too few may be an answer that was cut off."""
    said = int(response.headers["x-rows"])
    holds = f" and holds {found:,}" if said == count else ""
    return unexpected(
        response,
        f"asked for {count:,} rows, the answer says {said:,}{holds}",
        code="wrong_rows",
        fix="Report it to those who run the service.",
        temporary=said == count and found < count,
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19
