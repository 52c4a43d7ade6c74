"""Parquet files, streamed by row group."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq_module

from difflm_core import storage
from difflm_core.errors import DataError

pq: Any = pq_module
BATCH_ROWS = 1 << 15


class ParquetReader:
    """Reads one Parquet file."""

    def __init__(self, uri: str) -> None:
        self.label = uri

    @contextmanager
    def _open(self) -> Generator[Any]:
        try:
            with storage.open_file(self.label, "rb") as raw, pq.ParquetFile(raw) as file:
                yield file
        except (pa.ArrowException, OSError, EOFError) as error:
            reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise DataError(
                f"{self.label}: found a damaged or truncated Parquet file ({reason}); expected a "
                "complete one; copy or write it again"
            ) from error

    @cached_property
    def schema(self) -> pa.Schema:
        """Raw columns of the file."""
        with self._open() as file:
            return file.schema_arrow.remove_metadata()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the file in order."""
        with self._open() as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS, use_threads=False)
