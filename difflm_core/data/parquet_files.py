"""Parquet files, streamed by row group."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq_module

from difflm_core import storage
from difflm_core.data.readers import PIECE_CELLS
from difflm_core.errors import DataError

pq: Any = pq_module
BATCH_ROWS = 1 << 15


class ParquetReader:
    """Reads one Parquet file, or some of its row groups."""

    def __init__(self, uri: str, groups: range | None = None) -> None:
        self.label = uri
        self._groups = groups

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
            groups = None if self._groups is None else list(self._groups)
            yield from file.iter_batches(BATCH_ROWS, groups, use_threads=False)

    def pieces(self) -> list[ParquetReader]:
        """Cut the file between row groups; a piece has `PIECE_CELLS` cells or a little more."""
        with self._open() as file:
            metadata = file.metadata
            rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            enough = max(1, PIECE_CELLS // max(1, metadata.num_columns))
        pieces: list[ParquetReader] = []
        begin = held = 0
        for index, count in enumerate(rows):
            held += count
            if held >= enough or index == len(rows) - 1:
                pieces.append(ParquetReader(self.label, range(begin, index + 1)))
                begin, held = index + 1, 0
        return pieces or [self]
