"""Tables in memory: pandas DataFrames and anything Arrow can take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from difflm_core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


class FrameReader:
    """Reads a pandas DataFrame, an Arrow table, or an object with the Arrow stream protocol."""

    def __init__(self, source: Any) -> None:
        self.is_pandas = type(source).__module__.partition(".")[0] == "pandas"
        self.label = "DataFrame" if self.is_pandas else "table"
        if self.is_pandas:
            self._table = _from_pandas(source)
        elif isinstance(source, pa.Table):
            self._table = source
        elif isinstance(source, pa.RecordBatch):
            self._table = pa.Table.from_batches([source])
        elif hasattr(source, "__arrow_c_stream__"):
            self._table = pa.table(source)
        else:
            raise DataError(
                f"found a {type(source).__name__}, expected a path, a pandas DataFrame or an "
                "Arrow table"
            )

    @property
    def schema(self) -> pa.Schema:
        """Raw columns of the table."""
        return self._table.schema.remove_metadata()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the table in order."""
        yield from self._table.replace_schema_metadata(None).to_batches()

    def pieces(self) -> list[FrameReader]:
        """A table in memory is one piece."""
        return [self]


def _from_pandas(frame: pd.DataFrame) -> pa.Table:
    if not hasattr(frame, "columns"):
        raise DataError(
            f"found a pandas {type(frame).__name__}, expected a DataFrame; use .to_frame()"
        )
    names = [_column_name(name) for name in frame.columns]
    arrays: list[pa.Array] = []
    for position, name in enumerate(names):
        series: Any = frame.iloc[:, position]
        try:
            array: Any = pa.array(series, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            array = _mixed(series, name)
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        if str(series.dtype).startswith("string") and array.type == pa.string():
            # Arrow has one text type for objects and for pandas' own strings: keep them apart.
            array = array.cast(pa.large_string())
        arrays.append(array)
    return pa.Table.from_arrays(arrays, names=names)


def _column_name(name: object) -> str:
    if isinstance(name, tuple):
        raise DataError(
            "DataFrame: found columns with several levels; expected one level; "
            "join the levels, e.g. df.columns = ['_'.join(c) for c in df.columns]"
        )
    return str(name)


def _mixed(series: Any, name: str) -> pa.Array:
    """Column of Python objects of several types, as text."""
    texts: list[str | None] = []
    for value, missing in zip(series.tolist(), series.isna().tolist(), strict=True):
        if isinstance(value, list | dict | set | tuple | bytes):
            raise DataError(
                f"DataFrame, column {name!r}: found values of type {type(value).__name__}, "
                "expected numbers, text, truth values, dates or times; flatten the column"
            )
        texts.append(None if missing else str(value))
    return pa.array(texts, pa.string())
