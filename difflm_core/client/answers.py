"""What the service says, as frozen dataclasses; keys of a newer service are ignored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from difflm_core.errors import DiffLMError

AnswerT = TypeVar("AnswerT")
Scalar = bool | int | float | str
Bound = int | float | str
Light = Literal["good", "fair", "bad", "unknown"]
JobFormat = Literal["parquet", "csv", "jsonl"]
JobStatus = Literal["waiting", "running", "succeeded", "failed", "cancelled"]


class ServiceError(DiffLMError):
    """The service refused, cannot be reached, or answered what cannot be used.

    Attributes:
        status: HTTP status; None if there was no answer.
        code: For programs: the service's own, or one of the client's (`unreachable`, `timeout`,
            `broken`, `too_slow`, `unexpected`, `model_replaced`, `wrong_rows`, `job_failed`,
            `job_cancelled`).
        detail: For people: what was found.
        request_id: What the service's log calls the request.
        retry_after: Seconds after which the service wants to be asked again.
        temporary: Whether the same request may succeed later.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str = "unexpected",
        detail: str = "",
        request_id: str | None = None,
        retry_after: float | None = None,
        temporary: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.retry_after = retry_after
        self.temporary = temporary


@dataclass(frozen=True)
class Model:
    """A model of the service.

    Attributes:
        version: Beginning of the hash of its content; it changes when the model is replaced.
        headline: What its evaluation says in a sentence.
    """

    id: str
    version: str
    num_columns: int
    num_training_rows: int | None
    target: str | None
    headline: str | None


@dataclass(frozen=True)
class Column:
    """A column of a model.

    Attributes:
        categories: Values that are generated; None if there is no closed list.
        minimum: Smallest number or date that is generated.
        conditional: Whether rows can be asked for by its values.
    """

    name: str
    kind: str
    nullable: bool
    is_target: bool
    categories: tuple[Scalar, ...] | None
    minimum: Bound | None
    maximum: Bound | None
    conditional: bool


@dataclass(frozen=True)
class Finding:
    """A line of the evaluation."""

    title: str
    value: str
    light: Light
    sentence: str


@dataclass(frozen=True)
class Quality:
    """What the evaluation of a model says."""

    light: Light
    headline: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class ModelDetails(Model):
    """A model with its columns, card (Markdown) and quality."""

    columns: tuple[Column, ...]
    card: str
    quality: Quality | None


@dataclass(frozen=True)
class ModelList:
    """All models."""

    models: tuple[Model, ...]


@dataclass(frozen=True)
class Limits:
    """What the service allows."""

    keys_required: bool
    rows_per_request: int
    rows_per_job: int
    formats: tuple[str, ...]
    job_formats: tuple[str, ...]


@dataclass(frozen=True)
class JobFile:
    """A file of a job's result."""

    name: str
    bytes: int
    rows: int


@dataclass(frozen=True)
class JobState:
    """A job as the service last described it.

    Attributes:
        num_done: Rows written so far.
        result_uri: Folder of the files, for those who can read the service's storage.
        error: Why it failed.
    """

    id: str
    model: str
    version: str
    status: JobStatus
    count: int
    num_done: int
    seed: int
    format: JobFormat
    created_utc: str
    finished_utc: str | None
    result_uri: str
    files: tuple[JobFile, ...]
    error: str | None

    @property
    def is_finished(self) -> bool:
        """Whether the status is final."""
        return self.status in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class JobList:
    """The caller's jobs, the newest first."""

    jobs: tuple[JobState, ...]


@dataclass(frozen=True)
class FieldProblem:
    """A key of a request that is wrong."""

    field: str
    message: str


@dataclass(frozen=True)
class Problem:
    """The body of an error."""

    code: str
    detail: str
    request_id: str | None = None
    retry_after_seconds: float | None = None
    errors: tuple[FieldProblem, ...] = ()


def parse(kind: type[AnswerT], content: bytes) -> AnswerT | None:
    """Read an answer; None if it is not of this kind."""
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError:
        return None
