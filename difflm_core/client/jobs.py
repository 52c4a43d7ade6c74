"""Jobs: rows that the service writes to files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from pathlib import Path

from difflm_core import storage
from difflm_core.client.answers import JobFile, JobState, ServiceError
from difflm_core.client.connection import Connection, Outage, segment, unexpected
from difflm_core.errors import StageError

_FIRST_POLL_SECONDS = 0.5
_SLOWEST_POLL_SECONDS = 10.0


class Job:
    """A job of the service; it goes on while nobody watches it.

    Attributes:
        state: What the service last said of it.
    """

    def __init__(self, connection: Connection, state: JobState) -> None:
        """Watch a job; use `Client.submit` or `Client.job`."""
        self._connection = connection
        self._path = f"/v1/jobs/{segment(state.id, 'job')}"
        self.state = state

    def __repr__(self) -> str:
        state = self.state
        return f"Job({state.id!r}, {state.status}, {state.num_done:,} of {state.count:,} rows)"

    @property
    def id(self) -> str:
        """Name of the job; `Client.job` finds it again."""
        return self.state.id

    def refresh(self) -> JobState:
        """Ask how far the job is.

        Raises:
            ServiceError: there is no answer, or the job is gone.
        """
        self.state = self._connection.ask(JobState, "GET", self._path)
        return self.state

    def wait(
        self,
        on_progress: Callable[[JobState], object] | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> JobState:
        """Wait until the job has succeeded.

        Args:
            on_progress: Called with the state whenever it has changed.
            timeout_seconds: Longest wait; None for any. The job goes on after it.

        Raises:
            ServiceError: the job failed or was cancelled, or there is no answer.
            TimeoutError: the job is not finished in time.
        """
        clock = self._connection.clock
        end = None if timeout_seconds is None else clock() + timeout_seconds
        told: JobState | None = None
        pause = _FIRST_POLL_SECONDS
        state = self.refresh()
        while True:
            if on_progress is not None and state != told:
                on_progress(state)
            told = state
            if state.is_finished:
                break
            if end is not None:
                left = end - clock()
                if left <= 0:
                    raise TimeoutError(
                        f"Job {state.id} is {state.status} after {timeout_seconds:g} s "
                        f"({state.num_done:,} of {state.count:,} rows); it goes on."
                    )
                pause = min(pause, left)
            self._connection.sleep(pause)
            pause = min(pause * 1.5, _SLOWEST_POLL_SECONDS)
            state = self.refresh()
        self._check_succeeded()
        return state

    def cancel(self) -> JobState:
        """Stop the job.

        Raises:
            ServiceError: refused, or there is no answer.
        """
        self.state = self._connection.ask(JobState, "DELETE", self._path)
        return self.state

    def download(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Copy the files of a job that has succeeded; a file of the same name is replaced.

        Args:
            folder: Where to; it is made if it is not there.

        Returns:
            The files, in the order of their rows.

        Raises:
            ServiceError: the job has not succeeded, or a file cannot be had whole.
            StageError: a file cannot be written.
        """
        state = self.state if self.state.is_finished else self.refresh()
        self._check_succeeded()
        names = [file.name for file in state.files]
        strange = [name for name in names if not _is_plain(name)]
        num_rows = sum(file.rows for file in state.files)
        if strange or len(set(names)) < len(names) or num_rows != state.count:
            found = f"a file called {strange[0]!r}" if strange else f"files of {num_rows:,} rows"
            raise ServiceError(
                f"Job {state.id}: it asked for {state.count:,} rows and lists {found}; nothing "
                "was downloaded. Report it to those who run the service.",
                code="wrong_rows" if not strange else "unexpected",
                detail=f"lists {found}",
            )
        return [self._download(file, Path(folder) / file.name) for file in state.files]

    def _download(self, file: JobFile, target: Path) -> Path:
        path = f"{self._path}/files/{segment(file.name, 'file')}"
        outage = Outage(self._connection)
        furthest = 0
        with writing(target) as temporary, temporary.open("wb") as stream:
            while True:
                try:
                    with self._connection.exchange("GET", path, None, outage) as response:
                        for chunk in self._connection.chunks(response, outage):
                            stream.write(chunk)
                            if stream.tell() > furthest:
                                furthest = stream.tell()
                                outage.progress()
                            if furthest > file.bytes:
                                break
                    if stream.tell() != file.bytes:
                        raise unexpected(
                            response,
                            f"the file has {stream.tell():,} bytes, expected {file.bytes:,}",
                            code="broken",
                            fix="Ask again later.",
                            temporary=stream.tell() < file.bytes,
                        )
                except ServiceError as error:
                    stream.seek(0)
                    stream.truncate()
                    outage.wait_out(error)
                else:
                    return target

    def _check_succeeded(self) -> None:
        state = self.state
        if state.status == "succeeded":
            return
        reasons = {
            "failed": ("job_failed", state.error or "the service does not say why"),
            "cancelled": ("job_cancelled", f"{state.num_done:,} of {state.count:,} rows were done"),
        }
        code, detail = reasons.get(
            state.status, ("unexpected", f"{state.num_done:,} of {state.count:,} rows are done")
        )
        fix = "Submit it again." if state.is_finished else "Call wait() first."
        raise ServiceError(
            f"Job {state.id} ({state.model}): {state.status}: {detail.rstrip('.')}. {fix}",
            code=code,
            detail=detail,
        )


@contextlib.contextmanager
def writing(target: str | os.PathLike[str]) -> Generator[Path]:
    """Give a path to write to; the file appears as `target` when the block succeeds.

    Raises:
        StageError: the disk does not take it.
    """
    try:
        with storage.atomic_output(target) as temporary:
            yield temporary
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        raise StageError(
            f"{os.fspath(target)}: writing failed: {reason}; nothing was left under this name; "
            "free space or check the permissions, and ask again"
        ) from error


def _is_plain(name: str) -> bool:
    """Whether a name stays in its folder, on every system."""
    return name not in ("", ".", "..") and not set(name) & set('/\\:*?"<>|\0')
