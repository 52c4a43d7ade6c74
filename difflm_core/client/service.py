"""The client: models, rows and jobs of one service."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from difflm_core.client.answers import (
    JobFormat,
    JobList,
    JobState,
    Limits,
    Model,
    ModelDetails,
    ModelList,
    Scalar,
)
from difflm_core.client.connection import Connection, segment
from difflm_core.client.jobs import Job, writing
from difflm_core.client.reading import PAGE_MULTIPLE, Reading
from difflm_core.errors import ConfigError

if TYPE_CHECKING:
    import httpx
    import pandas as pd
    import pyarrow as pa

KEY_VARIABLE = "DIFFLM_API_KEY"
ROW_GROUP_ROWS = 1 << 16
_WIRE_FORMATS = {".parquet": "arrow", ".csv": "csv", ".jsonl": "ndjson"}
Time = datetime.date | datetime.time
Condition = Scalar | Time | Sequence[Scalar | Time] | Mapping[str, Scalar | Time | None]
Conditions = Mapping[str, Condition]


class Client:
    """A service that makes rows; use it in a `with` block. Threads may share it.

    Every way of asking for rows takes `temperature`, `top_p` and `conditions`: by column a value,
    a list of values, or `{"min": ..., "max": ...}`, which every row meets.

    Args:
        url: Where the service is.
        key: Key of the service; None takes the environment variable DIFFLM_API_KEY.
        page_rows: Most rows of a request, a multiple of 1024; larger tables are read in pages.
        max_retries: How often in a row a request is sent again before anything new came.
        deadline_seconds: Longest time without anything new, waits included.
        connect_seconds: Longest time to connect.
        read_seconds: Longest silence of the service.
        insecure: Whether the key may be sent over http to another machine.
        transport: What sends requests, in place of the network.
        sleep: How to wait.
        clock: Seconds of a clock that only moves forward.

    Raises:
        ConfigError: an argument is wrong.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        page_rows: int = 65_536,
        max_retries: int = 5,
        deadline_seconds: float = 600.0,
        connect_seconds: float = 5.0,
        read_seconds: float = 120.0,
        insecure: bool = False,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if page_rows < 1 or page_rows % PAGE_MULTIPLE:
            raise ConfigError(f"page_rows is {page_rows}; expected a multiple of {PAGE_MULTIPLE:,}")
        self._page_rows = page_rows
        self._connection = Connection(
            url,
            key=os.environ.get(KEY_VARIABLE) if key is None else key,
            insecure=insecure,
            max_retries=max_retries,
            deadline_seconds=deadline_seconds,
            connect_seconds=connect_seconds,
            read_seconds=read_seconds,
            transport=transport,
            sleep=sleep,
            clock=clock,
        )

    def __repr__(self) -> str:
        return f"Client({self._connection.url!r})"

    def __enter__(self) -> Self:
        """Use the client in a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def limits(self) -> Limits:
        """What the service allows."""
        return self._connection.ask(Limits, "GET", "/v1/limits")

    def models(self) -> tuple[Model, ...]:
        """All models."""
        return self._connection.ask(ModelList, "GET", "/v1/models").models

    def model(self, name: str) -> ModelDetails:
        """A model with its columns, card and quality.

        Raises:
            ServiceError: there is none of this name.
        """
        return self._connection.ask(ModelDetails, "GET", f"/v1/models/{segment(name, 'model')}")

    def sample(
        self,
        model: str,
        num_rows: int,
        *,
        seed: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        conditions: Conditions | None = None,
    ) -> pd.DataFrame:
        """Make exactly `num_rows` rows, with the dtypes that `DiffLM.sample` gives.

        Args:
            model: Name of the model.
            num_rows: How many.
            seed: Same seed, same rows; None: a new one.
            temperature: Softmax temperature; 1 keeps the learned distribution.
            top_p: Probability mass kept at each token.
            conditions: What every row meets, by column.

        Raises:
            ConfigError: an argument is wrong.
            ServiceError: refused, or not to be had in time.
        """
        from difflm_core.data.source_form import typed_dataframe

        table = self.sample_table(
            model,
            num_rows,
            seed=seed,
            temperature=temperature,
            top_p=top_p,
            conditions=conditions,
        )
        return typed_dataframe(table, {field.name for field in table.schema if field.nullable})

    def sample_table(
        self,
        model: str,
        num_rows: int,
        *,
        seed: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        conditions: Conditions | None = None,
    ) -> pa.Table:
        """Make exactly `num_rows` rows as an Arrow table; see `sample`."""
        import pyarrow as pa

        from difflm_core.data.source_form import from_stream

        sampling = _sampling(seed, temperature, top_p, conditions)
        reading = self._reading(model, num_rows, sampling)
        return from_stream(pa.Table.from_batches(list(reading.batches())))

    def stream(
        self,
        model: str,
        num_rows: int,
        *,
        seed: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        conditions: Conditions | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Make exactly `num_rows` rows, batch by batch; memory does not grow. See `sample`."""
        sampling = _sampling(seed, temperature, top_p, conditions)
        return self._reading(model, num_rows, sampling).batches()

    def sample_to(
        self,
        output: str | os.PathLike[str],
        model: str,
        num_rows: int,
        *,
        seed: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        conditions: Conditions | None = None,
    ) -> None:
        """Write exactly `num_rows` rows to a .parquet, .csv or .jsonl file; see `sample`.

        Memory does not grow with `num_rows`; the file appears when it is complete. CSV and JSON
        Lines are spelled as the training table was.

        Raises:
            ConfigError: an argument is wrong.
            ServiceError: refused, or not to be had in time.
            StageError: the file cannot be written.
        """
        suffix = PurePosixPath(os.fspath(output)).suffix
        wire = _WIRE_FORMATS.get(suffix.lower())
        if wire is None:
            raise ConfigError(
                f"{os.fspath(output)}: found ending {suffix!r}, expected one of "
                f"{', '.join(_WIRE_FORMATS)}; rename it"
            )
        sampling = _sampling(seed, temperature, top_p, conditions)
        reading = self._reading(model, num_rows, sampling)
        with writing(output) as path:
            if wire == "arrow":
                _write_parquet(str(path), reading.batches())
            else:
                with path.open("wb") as file:
                    reading.write_lines(file, wire)

    def submit(
        self,
        model: str,
        num_rows: int,
        *,
        format: JobFormat = "parquet",
        seed: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        conditions: Conditions | None = None,
    ) -> Job:
        """Let the service write `num_rows` rows to files; see `sample`.

        Raises:
            ServiceError: refused, or no answer. A job that the service may have taken is never
                submitted twice: the message says so.
        """
        body = {"model": model, "count": num_rows, "format": format}
        body |= _sampling(seed, temperature, top_p, conditions)
        state = self._connection.ask(JobState, "POST", "/v1/jobs", body, repeatable=False)
        return Job(self._connection, state)

    def jobs(self) -> tuple[Job, ...]:
        """The jobs of this key, the newest first."""
        states = self._connection.ask(JobList, "GET", "/v1/jobs").jobs
        return tuple(Job(self._connection, state) for state in states)

    def job(self, job_id: str) -> Job:
        """A job that was submitted before.

        Raises:
            ServiceError: there is none of this name.
        """
        state = self._connection.ask(JobState, "GET", f"/v1/jobs/{segment(job_id, 'job')}")
        return Job(self._connection, state)

    def _reading(self, model: str, num_rows: int, sampling: Mapping[str, Any]) -> Reading:
        return Reading(self._connection, model, num_rows, self._page_rows, sampling)


def _sampling(
    seed: int | None, temperature: float, top_p: float, conditions: Conditions | None
) -> dict[str, Any]:
    """The keys of a request that say how rows are drawn."""
    plain = {name: _plain(value) for name, value in (conditions or {}).items()}
    return {"seed": seed, "temperature": temperature, "top_p": top_p, "conditions": plain}


def _plain(value: Any) -> Any:
    """A value of a condition as JSON has it: also of NumPy and pandas."""
    if isinstance(value, Mapping):
        return {key: _plain(bound) for key, bound in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(member) for member in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else value


def _write_parquet(path: str, batches: Iterator[pa.RecordBatch]) -> None:
    """Write batches in row groups of one size, however they were cut."""
    import pyarrow as pa
    import pyarrow.parquet as pq_module

    pq: Any = pq_module
    writer: Any = None
    held: list[pa.RecordBatch] = []
    num_held = 0
    try:
        for batch in batches:
            if writer is None:
                writer = pq.ParquetWriter(path, batch.schema, compression="zstd")
            held.append(batch)
            num_held += batch.num_rows
            if num_held >= ROW_GROUP_ROWS:
                table = pa.Table.from_batches(held)
                whole = num_held // ROW_GROUP_ROWS * ROW_GROUP_ROWS
                writer.write_table(table.slice(0, whole), row_group_size=ROW_GROUP_ROWS)
                held = table.slice(whole).to_batches()
                num_held -= whole
        if held:
            writer.write_table(pa.Table.from_batches(held), row_group_size=ROW_GROUP_ROWS)
    finally:
        if writer is not None:
            writer.close()
